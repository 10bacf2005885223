"""Responses of neurons of many sessions to one batch, against each neuron's response on its own."""

import warnings
from copy import deepcopy
from functools import cache, partial

import numpy as np
import pytest
import torch
from conftest import video_model
from hypothesis import given, settings
from hypothesis import strategies as st
from read_out_cases import (
    MAKE,
    cases,
    needs_openretina,
    neurons_of,
    openretina_network,
    wrap,
)

import mei_lightning as ml
from mei_lightning.models.base import weights_digest
from mei_lightning.models.read_out import SessionReadOut
from mei_lightning.neurons import Neuron


def model_of(name, dtype=torch.float32):
    return MAKE[name]().to(dtype)


@cache
def reference_of(name):
    """The same model in double precision, on which nothing but its own forward is called."""
    return MAKE[name]().double()


def read_out_of(model, rows, neurons):
    return (model.read_out if isinstance(model, ml.RetinaModel) else lambda *args: SessionReadOut(model, *args))(
        rows, neurons
    )


def stimuli(model, rows, seed=0):
    dtype = next(iter(model.state_dict().values())).dtype
    shape = model.stimulus_shape(1) if isinstance(model, ml.RetinaModel) else (1, 2, 1, 6, 5)
    frames = 4 + (model.stimulus_format.frames_lost if isinstance(model, ml.RetinaModel) else 2)
    if isinstance(model, ml.RetinaModel) and model.stimulus_format.is_still:
        frames = 1
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, shape[1], frames, *shape[3:], generator=generator, dtype=torch.float64).to(dtype)


def one_by_one(model, stimulus, rows, neurons):
    """Responses ``[len(neurons), time']``, each from a call of the model with one stimulus."""
    responses = []
    for row, neuron in zip(rows, neurons, strict=True):
        session = {} if neuron.session is None else {"data_key": neuron.session}
        responses.append(model(stimulus[row : row + 1], **session)[0, :, neuron.index])
    return torch.stack(responses)


def responses_and_gradient(respond, stimulus):
    stimulus = stimulus.clone().requires_grad_()
    responses = respond(stimulus)
    weights = torch.linspace(-1, 2, responses.numel(), dtype=responses.dtype).view_as(responses)
    (gradient,) = torch.autograd.grad((weights * responses).sum(), stimulus)
    return responses.detach(), gradient


def check_against_one_by_one(model, reference, stimulus, rows, neurons):
    found = responses_and_gradient(read_out_of(model, rows, neurons), stimulus)
    expected = responses_and_gradient(lambda x: one_by_one(reference, x, rows, neurons), stimulus)
    assert found[0].dtype == torch.float64
    assert found[0].isfinite().all()
    for values, right in zip(found, expected, strict=True):
        torch.testing.assert_close(values, right, rtol=1e-9, atol=1e-9 * right.abs().max().item())


@pytest.mark.parametrize("name", cases())
@given(data=st.data())
@settings(max_examples=12)
def test_responses_and_gradients_are_those_of_each_neuron_alone(name, data):
    model, reference = model_of(name, torch.float64), reference_of(name)
    pair = st.tuples(st.integers(0, 2), st.sampled_from(neurons_of(model)))
    rows, neurons = zip(*data.draw(st.lists(pair, min_size=1, max_size=9)), strict=True)
    check_against_one_by_one(model, reference, stimuli(model, 3), rows, neurons)


@pytest.mark.parametrize("name", cases("own network", "digital twin", "openretina, Gaussian masks"))
@pytest.mark.parametrize("sizes", [(40, 0, 1), (1, 33, 64), (32, 32, 2), (0, 31, 0)])
def test_groups_of_any_size_share_a_stimulus(name, sizes):
    model, reference = model_of(name, torch.float64), reference_of(name)
    generator = np.random.default_rng(0)
    rows = generator.permutation(np.repeat(np.arange(3), sizes)).tolist()
    known = neurons_of(model)
    neurons = [known[i] for i in generator.integers(len(known), size=len(rows))]
    check_against_one_by_one(model, reference, stimuli(model, 3), rows, neurons)


@pytest.mark.parametrize("name", cases())
@given(data=st.data())
@settings(max_examples=8)
def test_the_score_of_a_row_does_not_depend_on_the_batch(name, data):
    model = model_of(name)
    known = st.sampled_from([(neuron.session, neuron.index) for neuron in neurons_of(model)])
    target = st.one_of(known, st.lists(known, min_size=1, max_size=3))
    targets = data.draw(st.lists(target, min_size=2, max_size=6))
    stimulus = stimuli(model, len(targets))
    objective = ml.NeuronObjective(model, targets, ml.MeanReducer())

    def alone(row):
        score = ml.NeuronObjective(model, [targets[row]], ml.MeanReducer())
        value, gradient = responses_and_gradient(score, stimulus[[row]])
        return value[0], gradient[0] / torch.linspace(-1, 2, 1)

    some = data.draw(st.lists(st.integers(0, len(targets) - 1), min_size=1, max_size=8))
    for rows, scored in ((list(range(len(targets))), objective), (some, objective.for_rows(some))):
        batch = stimulus[rows].requires_grad_()
        scores = scored(batch)
        (gradient,) = torch.autograd.grad(scores.sum(), batch)
        for place, row in enumerate(rows):
            value, gradient_alone = alone(row)
            # Scores are sums of terms of the order of 1, and may cancel.
            torch.testing.assert_close(scores[place].detach(), value, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(
                gradient[place], gradient_alone, rtol=1e-5, atol=1e-5 * gradient_alone.abs().max().item()
            )


def cores_of(model):
    return [part for name, part in model.named_modules() if name.split(".")[-1] == "core"]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *[(name, 1) for name in ("digital twin", "openretina, Gaussian masks", "openretina, points")],
        *[(name, 2) for name in ("openretina, ensemble", "ensemble of openretina")],
        ("openretina, any mask", 1),
    ],
)
def test_cores_run_once_for_all_sessions(name, count):
    if "openretina" in name:
        pytest.importorskip("openretina")
    model = MAKE[name]()
    targets = [(neuron.session, neuron.index) for neuron in neurons_of(model)]
    assert len({session for session, _ in targets}) == 3
    objective = ml.NeuronObjective(model, [*targets, targets[:2]], ml.MeanReducer())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    batches = []
    assert len(cores_of(model)) == count
    for core in cores_of(model):
        core.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    for _ in range(2):
        objective(stimuli(model, len(targets) + 1))
    assert batches == [len(targets) + 1] * 2 * count


@pytest.mark.parametrize("name", cases())
def test_responses_of_every_neuron_to_every_stimulus(name):
    model, reference = model_of(name, torch.float64), reference_of(name)
    known = neurons_of(model)
    # More neurons than are computed at a time, and not in the order of their sessions.
    neurons = [known[i] for i in np.random.default_rng(0).integers(len(known), size=40)]
    stimulus = stimuli(model, 3)

    found = responses_and_gradient(read_out_of(model, None, neurons), stimulus)

    def respond(x):
        return torch.stack([one_by_one(reference, x, [row] * len(neurons), neurons) for row in range(3)], dim=1)

    for values, right in zip(found, responses_and_gradient(respond, stimulus), strict=True):
        torch.testing.assert_close(values, right, rtol=1e-9, atol=1e-9 * right.abs().max().item())


def test_any_model_is_called_once_for_each_session_with_each_of_its_rows_once():
    model, calls = video_model(), []
    model.network.register_forward_pre_hook(
        lambda _, inputs, options: calls.append((options["data_key"], len(inputs[0]))), with_kwargs=True
    )
    monday, tuesday = Neuron("monday", 1), Neuron("tuesday", 2)
    model.read_out([3, 0, 3, 1, 3], [monday, tuesday, monday, monday, tuesday])(stimuli(model, 4))
    assert calls == [("monday", 2), ("tuesday", 2)]


@pytest.mark.parametrize("name", cases("digital twin", "openretina, Gaussian masks"))
def test_a_neuron_that_is_not_a_number_keeps_to_its_own_row(name):
    model = MAKE[name]()
    session = next(iter(model.neurons_per_session))
    readout = model.network.readout[session]
    weights = readout.weight[1] if name == "digital twin" else readout.features[0, :, 0, 1]
    rows, indices = [0, 1, 2, 2, 2, 3], [0, 1, 2, 0, 3, 3]
    neurons = [Neuron(session, index) for index in indices]
    healthy = responses_and_gradient(model.read_out(rows, neurons), stimuli(model, 4))
    weights[:] = np.nan
    sick = responses_and_gradient(model.read_out(rows, neurons), stimuli(model, 4))
    assert model(stimuli(model, 4), data_key=session)[:, :, 1].isnan().all()
    assert sick[0][1].isnan().all()
    assert sick[1][1].isnan().all()
    others = [0, 2, 3, 4, 5]
    torch.testing.assert_close(sick[0][others], healthy[0][others])
    torch.testing.assert_close(sick[1][[0, 2, 3]], healthy[1][[0, 2, 3]])


@needs_openretina
def test_gaussian_masks_of_openretina_with_extreme_settings():
    """Wide, narrow, far away and missing masks; weights that openretina has not yet clipped; sessions that differ."""
    model = wrap(openretina_network()).double()
    readouts = model.network.readout
    with torch.no_grad():
        readouts["a"].mask_log_var.copy_(torch.tensor([50.0, -50.0, 1.0, -1.0]))
        readouts["b"].mask_mean.copy_(torch.tensor([[9.0, -9.0], [np.nan, 0.0], [0.1, 0.2]]))
        readouts["c"].features.normal_(generator=torch.Generator().manual_seed(0))
        readouts["b"].features.neg_()
    readouts["a"].gaussian_var_scale, readouts["a"].gaussian_mean_scale = 0.5, 2.0
    readouts["c"].positive = False
    reference = deepcopy(model)
    neurons = neurons_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_against_one_by_one(model, reference, stimuli(model, 3), [i % 3 for i in range(len(neurons))], neurons)
    assert readouts["b"].features.min() < 0
    assert reference.network.readout["b"].features.min() == 0


@needs_openretina
def test_sessions_with_different_nonlinearities():
    model = wrap(openretina_network()).double()
    model.network.readout["b"].nonlinearity_function = torch.nn.functional.elu
    reference, calls = deepcopy(model), []
    model.network.core.register_forward_hook(lambda *_: calls.append(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_out = model.read_out([0, 1] * 6, neurons_of(model))
    calls.clear()
    stimulus = stimuli(model, 2)
    expected = one_by_one(reference, stimulus, [0, 1] * 6, neurons_of(model))
    torch.testing.assert_close(read_out(stimulus), expected, rtol=1e-9, atol=1e-9)
    assert len(calls) == 1


@needs_openretina
@pytest.mark.parametrize("odd", ["hook", "neurons that inhibit each other"])
def test_an_odd_network_is_computed_session_by_session_with_one_warning(odd):
    model = wrap(openretina_network()).double()
    if odd == "hook":
        model.network.register_forward_hook(lambda _module, _inputs, responses: responses.square())
    else:
        inhibition = partial(torch.softmax, dim=-1)
        for readout in model.network.readout.values():
            readout.nonlinearity_function = inhibition
    rows, neurons = [i % 2 for i in range(12)], neurons_of(model)
    with pytest.warns(UserWarning, match=r"'mine' does not answer as its core and readout do.*takes longer"):
        model.read_out(rows, neurons)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_against_one_by_one(model, model, stimuli(model, 2), rows, neurons)


@pytest.mark.parametrize("name", cases())
def test_a_read_out_runs_where_it_is_moved_without_reading_values(name):
    """On the device "meta" there are no values: whatever would wait for them fails."""
    model = MAKE[name]()
    neurons = neurons_of(model)
    rows = [place % 3 for place in range(len(neurons))]
    stimulus = stimuli(model, 3)
    shape = one_by_one(model, stimulus, rows, neurons).shape
    responses = read_out_of(model, rows, neurons).to("meta")(stimulus.to("meta"))
    assert responses.device.type == "meta"
    assert responses.shape == shape


@pytest.mark.parametrize("name", cases())
def test_a_read_out_leaves_the_model_as_it_was(name):
    model = MAKE[name]()
    parts = list(model.modules())
    for place, part in enumerate(parts):
        draws = type(part).__name__ in ("Dropout", "BatchNorm3d", "PointGaussianReadout")
        part.training = place % 3 == 0 and not draws
    for place, weight in enumerate(model.parameters()):
        weight.requires_grad_(place % 2 == 0)

    def facts():
        return (
            weights_digest(model),
            list(model.state_dict()),
            [(part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.modules()],
            [(weight.requires_grad, weight.grad) for weight in model.parameters()],
            torch.get_rng_state().tolist(),
        )

    before, mean = facts(), ml.MeanReducer()
    objective = ml.NeuronObjective(model, [(neuron.session, neuron.index) for neuron in neurons_of(model)][:5], mean)
    stimulus = stimuli(model, 5).requires_grad_()
    torch.autograd.grad(objective.for_rows([4, 4, 0])(stimulus[[4, 4, 0]]).sum(), stimulus)
    assert facts() == before
    assert [id(part) for part in parts] == [id(part) for part in model.modules()]
    kept = {value.data_ptr() for value in model.state_dict().values()}
    assert {value.data_ptr() for value in objective.state_dict().values()} <= kept


@needs_openretina
def test_a_network_in_training_mode_does_not_learn_from_being_looked_at():
    model = MAKE["openretina, Gaussian masks"]().train()
    before, random_state = weights_digest(model), torch.get_rng_state()
    model.read_out([0], neurons_of(model)[:1])
    assert weights_digest(model) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(part.training for part in model.modules())


def test_what_cannot_be_read_out_is_refused():
    model, neuron = video_model(), Neuron("monday", 0)
    for rows, neurons in (([], []), ([0, 1], [neuron])):
        with pytest.raises(ValueError, match=rf"at least one neuron: {len(rows)} and {len(neurons)}"):
            model.read_out(rows, neurons)
    for name in ("own network", "digital twin"):
        with pytest.raises(IndexError, match="has no neuron -1"):
            model_of(name).read_out([0], [Neuron(next(iter(model_of(name).neurons_per_session)), -1)])
        with pytest.raises(ValueError, match="no session 'sunday'"):
            model_of(name).read_out([0], [Neuron("sunday", 0)])
