"""All forms that ``objective`` of ``find_meis`` takes: sums, objectives of the stimulus, functions of responses."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from conftest import find, linear_model, read, video_model
from lightning.pytorch import Callback

import mei_lightning as ml
from mei_lightning.models.base import weights_digest
from mei_lightning.objectives import CombinedNeuronObjective, FunctionObjective, SurroundObjective, neuron_objective

NEURONS = [("monday", 0), ("tuesday", 1), ("monday", 3)]
OTHERS = [("monday", 2), ("monday", 1), ("tuesday", 0)]
QUICK = {"time_steps": 8, "max_steps": 10, "restarts": 2, "norm": 6.0}
MEAN = ml.MeanReducer()


def peak(traces):
    return traces.amax(dim=1)


class Peak(ml.NeuronObjective):
    def score(self, traces):
        return traces.amax(dim=1)


class Weighed(ml.NeuronObjective):
    """As in the docstring of ``NeuronObjective``."""

    def __init__(self, model, neurons, response_reducer, factors):
        super().__init__(model, neurons, response_reducer)
        self.factors = list(factors)

    def select_rows(self, rows):
        super().select_rows(rows)
        self.factors = [self.factors[row] for row in rows]

    def score(self, traces):
        return super().score(traces) * traces.new_tensor(self.factors)


class Contrast(ml.Objective):
    """Of the stimulus alone."""

    def forward(self, stimulus):
        green, uv = stimulus.abs().mean(dim=(2, 3, 4)).T
        return uv - green


def difference(model):
    """Has settings by row, other neurons, another reducer, and a term that is not of neurons."""
    first = ml.TargetLevelObjective(model, NEURONS, MEAN, level=[0.4, 0.9, 1.4])
    last = 0.1 * ml.IncreaseObjective(model, 2, "monday", MEAN)
    return first - 0.5 * ml.NeuronObjective(model, OTHERS, ml.MaxReducer()) + last


def responses_by_hand(model, meis, neurons):
    """Responses ``[rows, time']`` of a neuron for each row, by a call of the model itself for each."""
    shown = torch.from_numpy(meis["stimulus"].values)
    with torch.no_grad():
        rows = [model(shown[[row]], session)[0, :, index] for row, (session, index) in enumerate(neurons)]
    return torch.stack(rows).numpy()


def difference_by_hand(model, meis):
    own, others, third = (
        responses_by_hand(model, meis, neurons) for neurons in (NEURONS, OTHERS, [("monday", 2)] * len(NEURONS))
    )
    return -np.square(own.mean(axis=1) - [0.4, 0.9, 1.4]) - 0.5 * others.max(axis=1) + 0.1 * third.mean(axis=1)


FORMS = {
    "sum": difference,
    "sum that begins with no neurons": lambda model: 2 * Contrast() - ml.NeuronObjective(model, NEURONS, MEAN),
    "settings by row": lambda model: partial(Weighed, factors=[1.0, -1.0, 2.0]),
    "of the stimulus": lambda model: Contrast() + ml.IncreaseObjective(model, 1, "tuesday", MEAN),
    "function of responses": lambda model: peak,
}


def test_the_mei_of_a_difference_of_linear_neurons_is_the_difference_of_their_kernels():
    model = linear_model(neurons=3)
    up, down = (ml.NeuronObjective(model, neurons, MEAN) for neurons in ([0, 2], [1, 0]))

    meis = find(model, [0, 2], objective=up - 0.5 * down, time_steps=4, norm=2.0, restarts=1)

    kernels = model.network.kernels.detach()
    best = kernels[[0, 2]] - 0.5 * kernels[[1, 0]]
    norms = best.flatten(1).norm(dim=1)
    np.testing.assert_allclose(meis["stimulus"], best * (2.0 / norms.view(-1, 1, 1, 1, 1)), atol=5e-3)
    np.testing.assert_allclose(meis["score"], 2.0 * norms, rtol=1e-4)


def test_scores_and_traces_are_those_of_the_models_own_responses():
    model = video_model()
    meis = find(model, NEURONS, objective=difference(model), **QUICK)
    np.testing.assert_allclose(meis["score"], difference_by_hand(model, meis), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(meis["response"], responses_by_hand(model, meis, NEURONS), rtol=1e-4, atol=1e-5)
    plain = find(model, NEURONS, **QUICK)
    assert (meis["score"].values > difference_by_hand(model, plain) + 0.05).all()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_row_is_the_same_alone_and_in_a_batch(form):
    model = video_model()
    whole = find(model, NEURONS, objective=form(model), **QUICK)
    # One place, so that each neuron is computed after the other.
    streamed = find(model, NEURONS, objective=form(model), rows_per_device=2, **QUICK)
    for name in ("stimulus", "score", "response"):
        np.testing.assert_allclose(streamed[name], whole[name], rtol=1e-4, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(streamed["steps"], whole["steps"])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_rows_can_be_selected_again_and_again_and_moved_to_another_model(form):
    model, stimulus = video_model(), torch.randn(3, 2, 8, 6, 5, generator=torch.Generator().manual_seed(0))
    groups = ml.NeuronObjective(model, NEURONS, MEAN).groups
    objective = neuron_objective(form(model), model, groups, None)
    before = objective.traces_and_scores(stimulus)
    torch.testing.assert_close(objective(stimulus), before[1])

    part = objective.on(model).for_rows([2, 0, 1, 0]).for_rows([3, 0, 0])

    assert part.groups == [groups[0], groups[2], groups[2]]
    for values, expected in zip(part.traces_and_scores(stimulus[[0, 2, 2]]), before, strict=True):
        torch.testing.assert_close(values, expected[[0, 2, 2]])
    for values, expected in zip(objective.traces_and_scores(stimulus), before, strict=True):
        torch.testing.assert_close(values, expected)
    assert part.describe().startswith(objective.describe()[:5])


def test_terms_of_neurons_move_to_another_model_and_the_others_keep_theirs():
    model, other, third = (video_model(seed) for seed in range(3))
    stimulus = torch.randn(3, 2, 8, 6, 5, generator=torch.Generator().manual_seed(0))
    own, foreign = ml.NeuronObjective(model, NEURONS, MEAN), ml.NeuronObjective(third, NEURONS, MEAN)
    plain = ml.IncreaseObjective(model, 1, "monday", MEAN)

    moved = (plain - 2 * (foreign - own)).on(other)

    # The first term of neurons is of the third model, and so is what moves.
    expected = plain(stimulus) - 2 * ml.NeuronObjective(other, NEURONS, MEAN)(stimulus) + 2 * own(stimulus)
    torch.testing.assert_close(moved(stimulus), expected)
    assert moved.model is other


def test_a_plain_function_is_as_good_as_a_class():
    model = video_model()
    meis, same = (find(model, NEURONS, objective=objective, **QUICK) for objective in (peak, Peak))
    for name in ("stimulus", "score", "response", "steps"):
        np.testing.assert_allclose(meis[name], same[name], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(meis["score"], responses_by_hand(model, meis, NEURONS).max(axis=1), rtol=1e-4)
    assert meis.attrs["score"] == "peak"


@pytest.mark.parametrize(
    "function",
    [
        lambda traces, share=0.5: share * traces.mean(dim=1),
        partial(torch.amax, dim=1),
        torch.nn.Sequential(torch.nn.Linear(6, 1), torch.nn.Flatten(0)),
    ],
    ids=["default argument", "partial", "network"],
)
def test_functions_are_whatever_takes_one_argument(function):
    meis = find(video_model(), NEURONS[:1], objective=function, **QUICK)
    with torch.no_grad():
        expected = function(torch.from_numpy(meis["response"].values))
    np.testing.assert_allclose(meis["score"], expected, rtol=1e-4)


@pytest.mark.slow
def test_what_takes_three_arguments_makes_an_objective():
    made = find(video_model(), NEURONS, objective=lambda model, neurons, reducer: difference(model), **QUICK)
    given = find(video_model(), NEURONS, objective=difference(video_model()), **QUICK)
    np.testing.assert_allclose(made["stimulus"], given["stimulus"], atol=1e-5)


def test_a_setting_that_is_not_filled_in_is_named_before_any_work():
    with pytest.raises(
        TypeError, match=r"ContrastObjective: missing .* 'others'\..*partial\(ContrastObjective, others="
    ):
        find(video_model(), NEURONS, objective=ml.ContrastObjective, **QUICK)


def test_an_objective_of_the_stimulus_scores_every_row_and_keeps_its_model():
    model, other = video_model(), video_model(seed=1)
    other.train().requires_grad_(True)
    before = weights_digest(other)
    meis = find(model, NEURONS, objective=ml.IncreaseObjective(other, [1, 3], "monday", MEAN), **QUICK)
    assert weights_digest(other) == before
    assert other.training
    assert all(weight.requires_grad and weight.grad is None for weight in other.parameters())
    other.eval()
    one, another = (responses_by_hand(other, meis, [("monday", index)] * 3).mean(axis=1) for index in (1, 3))
    np.testing.assert_allclose(meis["score"], (one + another) / 2, rtol=1e-4)
    np.testing.assert_allclose(meis["response"], responses_by_hand(model, meis, NEURONS), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("fast_path", [True, False])
def test_a_sum_on_the_digital_twin_with_and_without_a_prepared_copy(twin, fast_path):
    neurons = [("session_1", 0), ("session_1", 1)]
    objective = ml.NeuronObjective(twin, neurons, MEAN) - 0.5 * ml.OneHotObjective(twin, neurons, MEAN)
    module = ml.MEIModule(twin, neurons, objective=objective, search="quick", max_steps=3, fast_path=fast_path)
    meis = find(twin, neurons, objective=objective, search="quick", max_steps=3, fast_path=fast_path)
    expected = find(twin, neurons, objective=objective, search="quick", max_steps=3, fast_path=not fast_path)
    assert isinstance(module.objective, CombinedNeuronObjective)
    np.testing.assert_allclose(meis["stimulus"], expected["stimulus"], atol=1e-3)
    responses = twin(torch.from_numpy(meis["stimulus"].values), "session_1").mean(dim=1).detach().double()
    own = responses[[0, 1], [0, 1]]
    by_hand = own - 0.5 * (own - responses.logsumexp(dim=1) + np.log(responses.shape[1]))
    np.testing.assert_allclose(meis["score"], by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_steps_are_computed_on_the_prepared_copy_by_all_terms(twin):
    neurons = [("session_1", 0), ("session_1", 1)]
    objective = ml.NeuronObjective(twin, neurons, MEAN) - 0.5 * Peak(twin, neurons, MEAN)

    def gradients_of_the_model_itself(fast_path):
        calls = []
        core = next(part for part in twin.modules() if isinstance(part, torch.nn.Conv3d))
        hook = core.register_forward_hook(lambda module, *_: calls.append(module is core and torch.is_grad_enabled()))
        find(twin, neurons, objective=objective, search="quick", max_steps=3, fast_path=fast_path)
        hook.remove()
        return sum(calls)

    # Before any step the model itself is tried out once.
    assert gradients_of_the_model_itself(fast_path=False) > 1
    assert gradients_of_the_model_itself(fast_path=True) == 1


def test_random_members_of_an_ensemble_move_all_terms():
    ensemble = ml.Ensemble([linear_model(seed=0), linear_model(seed=1)])
    up, down = (ml.NeuronObjective(ensemble, [index], MEAN) for index in (0, 1))
    options = {"time_steps": 4, "norm": 2.0, "restarts": 1, "robustness": [ml.RandomMember()], "max_steps": 1}

    meis = find(ensemble, [0], objective=up - 0.5 * down, optimizer=partial(torch.optim.SGD, lr=1e4), **options)

    # After one very long step the stimulus has the direction of the gradient, which is that of one member.
    found = torch.from_numpy(meis["stimulus"].values).flatten()
    kernels = torch.stack([member.network.kernels[0] - 0.5 * member.network.kernels[1] for member in ensemble.members])
    cosines = torch.cosine_similarity(kernels.detach().flatten(1), found, dim=1)
    assert cosines.max() > 0.999, cosines
    by_hand = (kernels.detach().flatten(1) @ found).mean()
    np.testing.assert_allclose(meis["score"], by_hand, rtol=1e-4)


def test_random_members_are_refused_where_the_objective_has_a_model_of_its_own():
    ensemble = ml.Ensemble([video_model(0), video_model(1)])
    plain = ml.IncreaseObjective(ensemble, 0, "monday", MEAN)
    with pytest.raises(TypeError, match=r"RandomMember\(\) needs the objective of neurons of an Ensemble"):
        find(ensemble, NEURONS, objective=plain, robustness=[ml.RandomMember()], **QUICK)


class Interruption(Callback):
    def on_train_epoch_end(self, trainer, module):
        if trainer.global_step >= 12:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_goes_on_in_its_store_and_no_other(tmp_path):
    options = {**QUICK, "rows_per_device": 2}
    whole = find(video_model(), NEURONS, objective=difference(video_model()), **options)
    options["directory"] = tmp_path
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        find(video_model(), NEURONS, objective=difference(video_model()), callbacks=[Interruption()], **options)
    assert np.isfinite(read(tmp_path)["score"]).sum() == 1
    meis = find(video_model(), NEURONS, objective=difference(video_model()), **options)
    np.testing.assert_allclose(meis["stimulus"], whole["stimulus"], atol=1e-5)
    np.testing.assert_array_equal(meis["steps"], whole["steps"])
    described = json.loads(meis.attrs["configuration"])["objective"]
    assert described == {"class": "CombinedNeuronObjective", "repr": meis.attrs["score"]}
    assert meis.attrs["score"].startswith(
        "1.0 * TargetLevelObjective(MeanReducer(axis=0), level=[0.4, 0.9, 1.4]) + -0.5 * NeuronObjective("
        "MaxReducer(axis=0)) of monday/2, monday/1, tuesday/0 on RetinaModel with weights "
    )
    assert meis.attrs["score"].endswith(
        ", neuron_indices=[2], data_key='monday', response_reducer=MeanReducer(axis=0))"
    )
    with pytest.raises(ValueError, match=r"objective.*: it was"):
        find(video_model(), NEURONS, objective=1.5 * difference(video_model()), **options)
    with pytest.raises(ValueError, match=r"objective.*: it was"):
        find(video_model(), NEURONS, objective=peak, **options)


def _weighed_pair(model, neurons, factor):
    return Peak(model, NEURONS, MEAN) + factor * ml.NeuronObjective(model, neurons, MEAN)


SEVERAL = {
    "sums": lambda: [
        _weighed_pair(video_model(), NEURONS, 1.0),
        _weighed_pair(video_model(), NEURONS, 1.0000001),
        _weighed_pair(video_model(), OTHERS, 1.0),
        Peak(video_model(), NEURONS, MEAN) + ml.NeuronObjective(video_model(1), NEURONS, MEAN),
        Peak(video_model(), NEURONS, MEAN) + ml.NeuronObjective(video_model(2), NEURONS, MEAN),
    ],
    "of the stimulus": lambda: [
        ml.IncreaseObjective(video_model(), 1, "monday", MEAN),
        ml.IncreaseObjective(video_model(), 2, "monday", MEAN),
        ml.IncreaseObjective(video_model(1), 1, "monday", MEAN),
        ml.ContrastiveNeuronObjective(video_model(), [1], [[2]], "monday", MEAN),
        ml.ContrastiveNeuronObjective(video_model(), [1], [[3]], "monday", MEAN),
        SurroundObjective(ml.NeuronObjective(video_model(), NEURONS, MEAN), torch.zeros(3, 2, 8, 6, 5), FREE),
        SurroundObjective(ml.NeuronObjective(video_model(), OTHERS, MEAN), torch.zeros(3, 2, 8, 6, 5), FREE),
        SurroundObjective(ml.NeuronObjective(video_model(), NEURONS, MEAN), torch.zeros(3, 2, 8, 6, 5), ~FREE),
        FunctionObjective(peak),
        FunctionObjective(scalar),
        FunctionObjective(partial(peak, share=1)),
    ],
}
FREE = torch.arange(6)[:, None].expand(1, 1, 1, 6, 5) > 2


@pytest.mark.parametrize("make", SEVERAL.values(), ids=SEVERAL)
def test_descriptions_tell_objectives_apart_and_are_the_same_of_the_same(make):
    described = [objective.describe() for objective in make()]
    assert len(set(described)) == len(described)
    assert described == [objective.describe() for objective in make()]
    assert " at 0x" not in "".join(described)


def test_results_have_the_reducer_of_the_objective_that_was_given():
    model, window = video_model(), ml.SliceMeanReducer(axis=0, start=1, length=3)
    meis = find(model, NEURONS, objective=ml.NeuronObjective(model, NEURONS, window), **QUICK)
    same = find(model, NEURONS, reducer=window, **QUICK)
    np.testing.assert_allclose(meis["stimulus"], same["stimulus"], atol=1e-5)
    assert meis.attrs == same.attrs


def scalar(traces):
    return traces.mean()


REFUSALS = {
    "a number": (lambda model: 3, TypeError, r"objective=3 is none .*Give a subclass of NeuronObjective"),
    "a name": (lambda model: "peak", TypeError, r"objective='peak' is none .*a function of one argument"),
    "another class": (lambda model: ml.MaxReducer, TypeError, "objective=MaxReducer is none"),
    "a class of objectives": (lambda model: Contrast, TypeError, r"made before: Contrast\(\.\.\.\)"),
    "two arguments": (lambda model: lambda traces, share: traces, TypeError, "lambda> is none"),
    "other neurons": (
        lambda model: ml.NeuronObjective(model, OTHERS, MEAN) - Contrast(),
        ValueError,
        "The objective is of monday/2, monday/1, tuesday/0, but the run's neurons are monday/0, tuesday/1, monday/3",
    ),
    "another order": (lambda model: ml.NeuronObjective(model, NEURONS[::-1], MEAN), ValueError, "in the same order"),
    "another model": (lambda model: Peak(video_model(1), NEURONS, MEAN), ValueError, "other weights than the run's"),
    "one number for all rows": (lambda model: scalar, ValueError, r"objective=scalar made a result of shape \(\)"),
}


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_is_no_objective_of_the_run_is_refused(make, error, message):
    model = video_model()
    with pytest.raises(error, match=message):
        find(model, NEURONS, objective=make(model), **QUICK)


def test_two_reducers_are_refused():
    model = video_model()
    with pytest.raises(ValueError, match=r"reducer=MaxReducer\(axis=0\), but the objective has MeanReducer\(axis=0\)"):
        find(model, NEURONS, objective=Peak(model, NEURONS, MEAN), reducer=ml.MaxReducer(), **QUICK)


def test_sums_of_different_numbers_of_rows_are_refused():
    model = video_model()
    with pytest.raises(ValueError, match=r"different numbers of rows \(NeuronObjective 3, Peak 2\)"):
        ml.NeuronObjective(model, NEURONS, MEAN) - Peak(model, NEURONS[:2], MEAN)
    with pytest.raises(TypeError, match="unsupported operand"):
        Contrast() - peak
