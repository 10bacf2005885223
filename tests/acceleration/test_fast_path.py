"""Prepared models against the originals: responses and stimulus gradients."""

import json
import re
import threading
import warnings
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from conftest import NO_LIMIT, STILL_FORMAT, find, fit, results, video_model
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from read_out_cases import MAKE, cases, neurons_of, openretina_network, wrap
from torch import nn
from torch.nn import functional as F

import mei_lightning as ml
from mei_lightning.acceleration.block_objective import ObjectiveInBlocks
from mei_lightning.acceleration.blocks import (
    ROWS_FIRST,
    ROWS_LAST,
    ROWS_PER_BLOCK,
    in_blocks,
    map_row_chunks,
    sizes_of_blocks,
    threads_reserved_for_blocks,
    using_threads,
)
from mei_lightning.acceleration.fast_convolutions import WAYS, FastConvolutions
from mei_lightning.acceleration.frozen_core import FrozenCore, NotUnderstood, frozen_core
from mei_lightning.acceleration.prepare import _agrees_in_smaller_blocks, prepare
from mei_lightning.acceleration.spectral_convolution import Convolution, SpectralConvolution, plans
from mei_lightning.acceleration.verification import copy_of
from mei_lightning.models.base import StimulusFormat, weights_digest

needs_openretina = pytest.mark.skipif(find_spec("openretina") is None, reason="openretina is not installed")
RETINA_MODELS = [name for name in MAKE if name != "own network, not wrapped"]
REWRITTEN = [
    *("digital twin", "openretina, Gaussian masks", "openretina, points", "openretina, any mask"),
    *("openretina, own forward", "openretina, ensemble", "ensemble of openretina"),
]


def shape_of(model, rows, more_frames=4):
    frames = 1 if model.stimulus_format.is_still else model.stimulus_format.frames_lost + more_frames
    return model.stimulus_shape(frames, rows)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def responses_and_gradient(respond, stimulus):
    stimulus = stimulus.clone().requires_grad_()
    responses = respond(stimulus)
    weights = random(*responses.shape, seed=1, dtype=responses.dtype)
    (gradient,) = torch.autograd.grad((weights * responses).sum(), stimulus)
    return responses.detach(), gradient


def check_equal(found, expected, share):
    for values, right in zip(found, expected, strict=True):
        torch.testing.assert_close(values, right, rtol=0, atol=share * right.abs().max().item())


@pytest.mark.parametrize("name", cases(*RETINA_MODELS))
def test_a_prepared_model_is_the_original(name):
    model = MAKE[name]()
    fast = prepare(model, shape_of(model, 3))
    neurons = neurons_of(model)
    rows = [place % 3 for place in range(len(neurons))]
    for shape in {shape_of(model, 3), shape_of(model, 3, 7)}:
        stimulus = random(*shape, dtype=torch.float32)
        expected = responses_and_gradient(model.read_out(rows, neurons), stimulus)
        check_equal(responses_and_gradient(fast.read_out(rows, neurons), stimulus), expected, 2e-5)
        session = next(iter(model.neurons_per_session)) or None
        expected = responses_and_gradient(lambda x, s=session: model(x, data_key=s), stimulus)
        check_equal(responses_and_gradient(lambda x, s=session: fast(x, data_key=s), stimulus), expected, 2e-5)
    assert fast.neurons.equals(model.neurons)
    assert fast.neurons_per_session == model.neurons_per_session
    assert fast.has_sessions == model.has_sessions
    assert fast.stimulus_format == model.stimulus_format
    assert fast.name == model.name
    assert len(fast.members) == len(model.members)
    assert prepare(model, shape_of(model, 5)) is fast


@pytest.mark.parametrize("name", cases(*REWRITTEN))
def test_cores_that_are_understood_are_rewritten(name):
    model = MAKE[name]()
    fast = prepare(model, shape_of(model, 2))
    cores = [part for part in fast.modules() if isinstance(part, FrozenCore)]
    assert len(cores) == len(model.members)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases("digital twin", "openretina, Gaussian masks", "own network"))
@given(rows=st.lists(st.integers(0, 4), min_size=1, max_size=8))
@settings(max_examples=10)
def test_rows_do_not_depend_on_their_neighbours(name, rows):
    model = MAKE[name]()
    fast, neurons = prepare(model, shape_of(model, 5)), neurons_of(model)
    stimulus = random(*shape_of(model, 5), dtype=torch.float32)
    targets = [(neurons[row % len(neurons)].session, neurons[row % len(neurons)].index) for row in range(5)]

    def scores(chosen):
        objective = ml.NeuronObjective(fast, [targets[row] for row in chosen], ml.MeanReducer())
        batch = stimulus[chosen].requires_grad_()
        values = objective(batch)
        return values.detach(), torch.autograd.grad(values.sum(), batch)[0]

    together = scores(rows)
    for place, row in enumerate(rows):
        check_equal([values[[place]] for values in together], scores([row]), 1e-5)


@pytest.mark.parametrize("name", cases(*RETINA_MODELS))
def test_the_original_stays_as_it_is(name):
    model = MAKE[name]()
    for place, weight in enumerate(model.parameters()):
        weight.requires_grad_(place % 2 == 0)
    model.read_out([0], neurons_of(model)[:1])

    def facts():
        return (
            weights_digest(model),
            list(model.state_dict()),
            [
                (id(part), part.training, len(part._forward_hooks), len(part._forward_pre_hooks))
                for part in model.modules()
            ],
            [(id(weight), weight.data_ptr(), weight.requires_grad, weight.grad) for weight in model.parameters()],
            torch.get_rng_state().tolist(),
        )

    before = facts()
    fast = prepare(model, shape_of(model, 2))
    responses_and_gradient(fast.read_out([0], neurons_of(model)[:1]), random(*shape_of(model, 1), dtype=torch.float32))
    assert facts() == before
    fast.double()
    assert facts() == before


def test_new_weights_are_prepared_anew():
    model = MAKE["digital twin"]()
    fast = prepare(model, shape_of(model, 2))
    with torch.no_grad():
        model.network.core[0][0].weight.mul_(1.1)
    again = prepare(model, shape_of(model, 2))
    assert again is not fast
    stimulus, neurons = random(*shape_of(model, 1), dtype=torch.float32), neurons_of(model)[:1]
    expected = responses_and_gradient(model.read_out([0], neurons), stimulus)
    check_equal(responses_and_gradient(again.read_out([0], neurons), stimulus), expected, 2e-5)


@pytest.mark.parametrize("name", cases("digital twin", "openretina, Gaussian masks"))
def test_what_does_not_compute_the_same_is_dropped_with_one_warning(name, monkeypatch):
    model = MAKE[name]()
    forward = FrozenCore.forward
    monkeypatch.setattr(FrozenCore, "forward", lambda self, stimulus: forward(self, stimulus) * 1.0001)
    with pytest.warns(UserWarning, match=f"'{model.name}' runs as it is.*differ") as warned:
        fast = prepare(model, shape_of(model, 2))
    assert len(warned) == 1
    assert not any(isinstance(part, FrozenCore) for part in fast.modules())
    stimulus, neurons = random(*shape_of(model, 1), dtype=torch.float32), neurons_of(model)[:1]
    expected = responses_and_gradient(model.read_out([0], neurons), stimulus)
    check_equal(responses_and_gradient(fast.read_out([0], neurons), stimulus), expected, 2e-5)


def test_own_sequential_networks_are_rewritten():
    network = nn.Sequential(
        nn.Conv3d(1, 3, (2, 3, 3), stride=(1, 2, 1), padding=(1, 0, 2)),
        nn.BatchNorm3d(3, affine=False),
        nn.ELU(0.7),
        nn.Dropout3d(),
        nn.MaxPool3d((1, 2, 3)),
        nn.Sequential(nn.Conv3d(3, 4, 1, bias=False), nn.Conv3d(4, 2, (2, 1, 1)), nn.ELU()),
        nn.Conv3d(2, 5, (1, 2, 2)),
        nn.Flatten(3),
    )
    with torch.no_grad():
        network[1].running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    core = network[:-1].eval().double()
    stimulus = random(3, 1, 5, 11, 9)
    check_equal(
        responses_and_gradient(frozen_core(core, (1, 5, 11, 9)), stimulus),
        responses_and_gradient(core, stimulus),
        1e-12,
    )
    for odd in (nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(5, 5, 1, groups=5), nn.Conv3d(5, 5, 1, dilation=2)):
        with pytest.raises(NotUnderstood):
            frozen_core(nn.Sequential(*core, odd.double()), (1, 5, 11, 9))
    with pytest.raises(NotUnderstood, match="BatchNorm3d"):
        frozen_core(core.train(), (1, 5, 11, 9))
    with pytest.raises(NotUnderstood, match="of 1 of 2 channels"):
        frozen_core(core.eval(), (2, 5, 11, 9))


def test_a_hook_of_the_users_has_its_effect_on_a_prepared_model():
    model = MAKE["digital twin"]()
    model.network.core[0][0].register_forward_hook(lambda part, given, features: features.flip(2))
    fast = prepare(model, shape_of(model, 2))
    stimulus, neurons = random(*shape_of(model, 1), dtype=torch.float32), neurons_of(model)[:1]
    expected = responses_and_gradient(model.read_out([0], neurons), stimulus)
    check_equal(responses_and_gradient(fast.read_out([0], neurons), stimulus), expected, 2e-5)
    unhooked = responses_and_gradient(MAKE["digital twin"]().read_out([0], neurons), stimulus)
    assert not torch.allclose(expected[1], unhooked[1])


@needs_openretina
@pytest.mark.parametrize("kind", ["separable", "custom_separable", "full", "time_independent"])
@pytest.mark.parametrize("pool", [None, 2])
def test_all_convolutions_of_openretina(kind, pool):
    from openretina.modules.core.base_core import SimpleCoreWrapper

    with torch.random.fork_rng():
        torch.manual_seed(0)
        core = SimpleCoreWrapper(
            (2, 3, 4), (4, 3), (5, 3), 0.0, 0.0, 0.0, 0.0, 0.0, 0, pool, None, False, (0, 1, 2), None, kind
        )
        for layer in core.features:
            nn.init.normal_(layer.bias.bias)
            nn.init.normal_(layer.norm.running_mean)
    core.double().eval()
    stimulus = random(2, 2, 9, 11, 12)
    check_equal(
        responses_and_gradient(frozen_core(core, (2, 9, 11, 12)), stimulus),
        responses_and_gradient(core, stimulus),
        1e-6,
    )


@given(data=st.data())
@settings(max_examples=40)
def test_spectral_convolutions_are_convolutions(data):
    axis = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2), st.integers(0, 4))
    kernel, stride, before, after, more = zip(*data.draw(st.tuples(axis, axis, axis)), strict=True)
    size = [max(1, k - b - a) + m for k, b, a, m in zip(kernel, before, after, more, strict=True)]
    rows, channels_in, channels_out = (data.draw(st.integers(1, 3)) for _ in range(3))
    weight, bias = random(channels_out, channels_in, *kernel), random(channels_out)
    convolution = Convolution(weight, bias, stride, tuple(zip(before, after, strict=True)))
    values = random(rows, channels_in, *size, seed=2)
    zeros = [count for pair in reversed(convolution.padding) for count in pair]
    expected = responses_and_gradient(lambda x: F.conv3d(F.pad(x, zeros), weight, bias, stride), values)
    assert tuple(expected[0].shape[2:]) == convolution.output_size(size)
    for plan in plans(convolution, size):
        spectral = SpectralConvolution(convolution, size, plan)
        found = responses_and_gradient(partial(rows_last, spectral), values)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        in_single = responses_and_gradient(partial(rows_last, spectral.float()), values.float())
        for part, right in zip(in_single, expected, strict=True):
            torch.testing.assert_close(part.double(), right, rtol=0, atol=1e-5 * max(1.0, right.abs().max().item()))


def rows_last(convolution, stimulus):
    return convolution(stimulus.permute(2, 3, 4, 1, 0)).permute(4, 3, 0, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 4, 7, 16, 37])
def test_a_convolution_of_many_values_in_single_precision(rows):
    """Its products have from one to thousands of columns, and treat some at a time."""
    weight, bias, values = random(16, 2, 5, 5, 5), random(16), random(rows, 2, 20, 12, 10, seed=2)
    expected = responses_and_gradient(lambda x: F.conv3d(x, weight, bias), values)
    convolution = Convolution(weight, bias)
    for plan in plans(convolution, values.shape[2:]):
        single = SpectralConvolution(convolution, values.shape[2:], plan).float()
        found = responses_and_gradient(partial(rows_last, single), values.float())
        check_equal([part.double() for part in found], expected, 1e-5)


@given(data=st.data())
@settings(max_examples=40)
def test_input_gradients_of_convolutions(data):
    kernel = data.draw(st.tuples(*[st.integers(1, 4)] * 3))
    padding = tuple(data.draw(st.integers(0, size - 1)) for size in kernel)
    size = [k + data.draw(st.integers(0, 4)) for k in kernel]
    rows, channels_in, channels_out = (data.draw(st.integers(1, 3)) for _ in range(3))
    weight, values = random(channels_out, channels_in, *kernel), random(rows, channels_in, *size, seed=2)
    _, expected = responses_and_gradient(lambda x: F.conv3d(x, weight, padding=padding), values)
    gradient = random(*F.conv3d(values, weight, padding=padding).shape, seed=1)
    for way in WAYS.values():
        torch.testing.assert_close(way(gradient, weight, padding, values.shape), expected, rtol=1e-9, atol=1e-9)


def test_convolutions_are_intercepted_with_and_without_names():
    weight, bias, values = random(3, 2, 2, 3, 3), random(3), random(2, 2, 5, 6, 7)
    for convolve in (
        lambda x: F.conv3d(x, weight, bias, 1, (1, 0, 2)),
        lambda x: F.conv3d(input=x, weight=weight, padding=[1, 0, 2], bias=bias),
        lambda x: torch.conv3d(x, weight, stride=(1, 1, 1)),
        lambda x: F.conv3d(x, weight, stride=2),
        lambda x: F.conv3d(x, weight, padding="same"),
        lambda x: F.conv3d(x[0], weight),
        lambda x: F.conv3d(x, weight.clone().requires_grad_()),
    ):
        expected = responses_and_gradient(convolve, values)
        with FastConvolutions():
            check_equal(responses_and_gradient(convolve, values), expected, 1e-12)
    with FastConvolutions() as convolutions, torch.no_grad():
        F.conv3d(values, weight)
    assert not convolutions.ways


def test_a_model_that_is_not_understood_says_so_once(caplog):
    class Squares(nn.Module):
        def forward(self, stimulus):
            return stimulus.square().mean(dim=(1, 3, 4))[..., None]

    model = ml.RetinaModel(Squares(), StimulusFormat(("grey",), 4, 5, 30.0), 1)
    with caplog.at_level("INFO"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            prepare(model, (2, 1, 3, 4, 5))
    assert sum("runs as it is" in record.message for record in caplog.records) == 1


def test_convolutions_keep_their_way_whatever_the_number_of_rows():
    model = video_model()
    fast = prepare(model, shape_of(model, 2))
    ways = dict(fast.convolutions.ways)
    for rows in (1, 7):
        neurons = neurons_of(model)[:1] * rows
        responses_and_gradient(fast.read_out(range(rows), neurons), random(*shape_of(model, rows), dtype=torch.float32))
    assert fast.convolutions.ways == ways


@needs_openretina
def test_a_network_in_training_mode_is_prepared_as_in_evaluation():
    model = wrap(openretina_network())
    expected = model.read_out([0], neurons_of(model)[:1])(random(*shape_of(model, 1), dtype=torch.float32))
    model.train()
    fast = prepare(model, shape_of(model, 1))
    found = fast.read_out([0], neurons_of(model)[:1])(random(*shape_of(model, 1), dtype=torch.float32))
    check_equal([found], [expected], 1e-5)
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_a_model_that_computes_in_single_precision_only_is_prepared(padding_mode):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            convolution = nn.Conv3d(1, 3, (2, 3, 3), padding_mode=padding_mode)
            self.core = nn.Sequential(convolution, nn.ELU(), nn.MaxPool3d((1, 2, 1)))

        def forward(self, stimulus):
            return self.core(stimulus).flatten(3).mean(3).mT @ torch.linspace(1, 2, 6).view(3, 2)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ml.RetinaModel(Network(), StimulusFormat(("grey",), 5, 6, 30.0), 2)
    fast = prepare(model, (2, 1, 4, 5, 6))
    assert any(isinstance(part, FrozenCore) for part in fast.modules()) == (padding_mode == "zeros")
    assert (fast.convolutions is None) == (padding_mode == "zeros")
    stimulus = random(2, 1, 4, 5, 6, dtype=torch.float32)
    check_equal(responses_and_gradient(fast, stimulus), responses_and_gradient(model, stimulus), 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases("digital twin", "openretina, Gaussian masks"))
def test_bfloat16_is_close_and_says_how_close(name, caplog):
    model = MAKE[name]()
    with caplog.at_level("INFO"):
        fast = prepare(model, shape_of(model, 2), precision="bfloat16")
    assert re.search(r"bfloat16: responses are off by \S+, gradients by \S+ ", caplog.text)
    assert prepare(model, shape_of(model, 2)) is not fast
    stimulus, neurons = random(*shape_of(model, 2), dtype=torch.float32), neurons_of(model)[:2]
    expected = responses_and_gradient(model.read_out([0, 1], neurons), stimulus)
    found = responses_and_gradient(fast.read_out([0, 1], neurons), stimulus)
    for values, right in zip(found, expected, strict=True):
        assert values.dtype == torch.float32
        assert 1e-5 < (values - right).norm() / right.norm() < 0.1


def test_options_that_cannot_be_had_are_refused(monkeypatch):
    model = video_model()
    with pytest.raises(ValueError, match=r"float16.*float32, bfloat16"):
        prepare(model, shape_of(model, 1), precision="float16")
    with pytest.raises(ValueError, match=r"bfloat16.*no core"):
        prepare(model, shape_of(model, 1), precision="bfloat16")

    def no_compiler(_):
        raise OSError("no compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(RuntimeError, match=r"cannot compile.*no compiler.*compile=False"):
        prepare(model, shape_of(model, 1), compile=True)


@pytest.mark.slow
def test_convolutions_that_are_better_as_they_are_stay_so():
    for channels, size in ((16, (6, 16, 16)), (80, (16, 16, 16))):
        network = nn.Sequential(nn.Conv3d(1, channels, 1), nn.Tanh(), nn.Conv3d(channels, channels, 3), nn.Flatten(3))
        network.append(nn.AdaptiveAvgPool2d((4, 1))).append(nn.Flatten(2))
        model = ml.RetinaModel(network, StimulusFormat(("grey",), *size[1:], 30.0), 4)
        fast = prepare(model, (1, 1, *size))
        assert isinstance(fast.network.network[2], nn.Conv3d)
        assert len(fast.convolutions.ways) >= 1
        stimulus = random(1, 1, *size, dtype=torch.float32)
        check_equal(responses_and_gradient(fast, stimulus), responses_and_gradient(model, stimulus), 2e-5)


def test_a_model_that_cannot_be_copied_runs_as_it_is(caplog):
    model = video_model()
    model.network.lock = threading.Lock()
    with caplog.at_level("INFO"):
        fast = prepare(model, model.stimulus_shape(6))
    assert "cannot be copied" in caplog.text
    stimulus = torch.randn(model.stimulus_shape(6), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fast(stimulus, data_key="monday"), model(stimulus, data_key="monday"))


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 40])
def test_features_of_a_row_are_the_same_to_the_last_bit_in_any_batch(twin, rows):
    fast = prepare(twin, twin.stimulus_shape(24))
    core = next(part for part in fast.modules() if isinstance(part, FrozenCore))
    stimulus = torch.randn(twin.stimulus_shape(24, num_batches=40), generator=torch.Generator().manual_seed(0))
    chosen = torch.randperm(40, generator=torch.Generator().manual_seed(rows))[:rows]
    with torch.no_grad():
        assert torch.equal(core(stimulus[chosen]), core(stimulus)[chosen])


def test_a_prepared_model_feels_neither_the_batch_nor_the_number_of_threads(twin):
    fast = prepare(twin, twin.stimulus_shape(24))
    stimulus = torch.randn(twin.stimulus_shape(24, num_batches=37), generator=torch.Generator().manual_seed(0))
    neurons = [ml.Neuron(f"session_{1 + number % 3}", number % 30) for number in range(37)]

    def step(chosen):
        own = stimulus[chosen].clone().requires_grad_()
        responses = fast.read_out(range(len(chosen)), [neurons[number] for number in chosen])(own)
        return responses.detach(), *torch.autograd.grad(responses.square().sum(), own)

    together = step(list(range(37)))
    for chosen, threads in (([5], 1), ([36, 0, 5, 7], 1), (list(range(20)), 1), (list(range(37)), 2), ([3, 30], 3)):
        with using_threads(threads):
            alone = step(chosen)
        for values, among_others in zip(alone, together, strict=True):
            assert torch.equal(values, among_others[chosen])


def test_threads_compute_what_one_computes_and_leave_their_number_alone():
    values = torch.randn(3, 2, 4 * ROWS_PER_BLOCK + 3, dtype=torch.float64, requires_grad=True)

    def function(block):
        assert block.shape == (3, 2, ROWS_PER_BLOCK)
        assert torch.get_num_threads() == 1
        return block.square().sum(dim=0) * torch.arange(2)[:, None]

    for threads in (1, 2, 5):
        with using_threads(threads):
            result = in_blocks(function, values)
            (gradient,) = torch.autograd.grad(result.sin().sum(), values, retain_graph=True)
            torch.testing.assert_close(torch.autograd.grad(result.sin().sum(), values)[0], gradient)
            assert torch.get_num_threads() == threads
            with torch.no_grad():
                assert torch.equal(in_blocks(function, values), result)
        expected = values.square().sum(dim=0) * torch.arange(2)[:, None]
        torch.testing.assert_close(result, expected)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected.sin().sum(), values)[0])


@given(rows=st.integers(0, 300), threads=st.integers(1, 9), smallest=st.sampled_from([4, ROWS_PER_BLOCK]))
@settings(max_examples=100)
def test_blocks_hold_all_rows_and_keep_all_threads_busy(rows, threads, smallest):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        sizes = sizes_of_blocks(rows, smallest)
    finally:
        torch.set_num_threads(before)
    assert sum(sizes[:-1]) < rows <= sum(sizes) or rows == 0 == len(sizes)
    assert all(size % smallest == 0 and size <= ROWS_PER_BLOCK for size in sizes)
    # Dealt to the threads in turn, as threads that take the next one when they are done would.
    assert max(sum(sizes[thread::threads]) for thread in range(threads)) < rows / threads + smallest


def test_smaller_blocks_are_used_only_where_they_give_the_same_bits(twin, monkeypatch):
    shape = twin.stimulus_shape(25)
    monkeypatch.setattr("mei_lightning.acceleration.prepare._agrees_in_smaller_blocks", lambda *_: False)
    objective = ml.NeuronObjective(prepare(twin, shape), [("session_1", 0)], ml.MeanReducer())
    sizes = []
    monkeypatch.setattr(FrozenCore, "forward", noting_rows(FrozenCore.forward, sizes))
    ObjectiveInBlocks(objective, [0] * 3)(random(3, *shape[1:], dtype=torch.float32))
    assert sizes == [ROWS_PER_BLOCK]
    monkeypatch.undo()

    def by_number_of_rows(core, stimulus):
        return plain(core, stimulus) * (1 + 1e-7 * (len(stimulus) < ROWS_PER_BLOCK))

    plain = FrozenCore.forward
    monkeypatch.setattr(FrozenCore, "forward", by_number_of_rows)
    assert not _agrees_in_smaller_blocks(prepare(twin, shape), shape)


def noting_rows(forward, sizes):
    def noting(core, stimulus):
        sizes.append(len(stimulus))
        return forward(core, stimulus)

    return noting


@pytest.mark.parametrize("name", cases("digital twin", "openretina, Gaussian masks", "ensemble of openretina"))
def test_read_outs_taken_from_one_of_all_neurons_are_the_originals(name):
    model = MAKE[name]()
    stimulus = random(*shape_of(model, 3), dtype=torch.float32)
    fast = prepare(model, stimulus.shape)
    neurons = neurons_of(model)
    for rows, chosen in (([0, 1, 2], neurons[:3]), ([2, 0], neurons[1:3]), (None, neurons), ([1, 1, 0], neurons[-3:])):
        found = fast.read_out(rows, chosen)(stimulus)
        torch.testing.assert_close(found, model.read_out(rows, chosen)(stimulus), rtol=1e-4, atol=1e-5)


def test_scores_in_blocks_are_the_objectives_own_whatever_shares_their_block(twin):
    fast = prepare(twin, twin.stimulus_shape(24))
    neurons = [(f"session_{1 + number % 3}", number % 30) for number in range(37)]
    neurons[4] = [neurons[4], neurons[5]]
    stimulus = torch.randn(twin.stimulus_shape(24, num_batches=37), generator=torch.Generator().manual_seed(0))
    weights = torch.linspace(-1, 2, 37)
    objective = ml.NeuronObjective(fast, neurons, ml.MaxReducer())

    def step(scored, chosen):
        own = stimulus[chosen].clone().requires_grad_()
        scores = scored(own)
        (scores * weights[chosen]).sum().backward()
        with torch.no_grad():
            assert torch.equal(scored(own), scores)
        return scores.detach(), own.grad

    everything = list(range(37))
    together = step(ObjectiveInBlocks(objective, everything), everything)
    for values, expected in zip(together, step(objective, everything), strict=True):
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)
    for chosen, threads in (([5], 1), ([36, 0, 4, 7], 2), (list(range(20)), 1), (everything, 3)):
        with using_threads(threads):
            alone = step(ObjectiveInBlocks(objective, chosen), chosen)
        for values, among_others in zip(alone, together, strict=True):
            assert torch.equal(values, among_others[chosen])


def test_a_few_rows_at_a_time_are_all_rows():
    def double(rows):
        values[rows] *= 2
        sizes.append(len(values[rows]))

    for threads in (1, 2, 3):
        values, sizes = torch.arange(43.0), []
        with using_threads(threads), threads_reserved_for_blocks():
            map_row_chunks(double, 43, torch.device("cpu"))
        assert torch.equal(values, 2 * torch.arange(43.0))
        assert max(sizes) <= 16
    values, sizes = torch.arange(11.0), []
    with using_threads(2):
        map_row_chunks(double, 11, torch.device("cpu"))
    assert sizes == [11]


def test_an_error_in_a_thread_is_raised():
    def fail(block):
        raise ValueError("no such block")

    with using_threads(2), pytest.raises(ValueError, match="no such block"):
        in_blocks(fail, torch.ones(2, ROWS_PER_BLOCK + 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", cases("digital twin", "openretina, Gaussian masks"))
def test_meis_with_and_without_the_fast_path_agree(name):
    model = MAKE[name]()
    neurons = [(session, 0) for session in list(model.neurons_per_session)[:3]]
    options = {"time_steps": model.stimulus_format.frames_lost + 4, "restarts": 3, "max_steps": 20}
    fast, plain = (find(model, neurons, fast_path=fast_path, **options) for fast_path in (True, False))
    np.testing.assert_allclose(fast["score"], plain["score"], rtol=1e-4)
    np.testing.assert_array_equal(fast["best_restart"], plain["best_restart"])


@pytest.mark.slow
def test_meis_in_bfloat16_are_as_good_and_scored_by_the_model_itself(twin, caplog):
    neurons = [("session_1", 5), ("session_1", 7), ("session_2", 3)]
    options = {"time_steps": 44, "search": "quick"}
    with caplog.at_level("INFO"):
        low = find(twin, neurons, fast_path="bfloat16", **options)
    assert "computes in bfloat16: responses are off by" in caplog.text
    plain = find(twin, neurons, **options)
    assert not np.array_equal(low["stimulus"], plain["stimulus"])
    np.testing.assert_allclose(low["score"], plain["score"], rtol=0.02)
    for number, (session, index) in enumerate(neurons):
        with torch.no_grad():
            response = twin(torch.from_numpy(low["stimulus"].values[number : number + 1]), data_key=session)
        assert low["score"].values[number] == pytest.approx(response[0, :, index].mean().item(), rel=1e-5)
    assert json.loads(low.attrs["configuration"])["fast_path"] == "bfloat16"
    assert "fast_path" not in json.loads(plain.attrs["configuration"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fast_path": "float16"}, "fast_path='float16': choose True, False or 'bfloat16'"),
        ({"fast_path": "bfloat16", "optimizer": torch.optim.Adam}, "'bfloat16' with Adam"),
    ],
)
def test_precisions_that_cannot_work_are_refused(twin, options, message):
    with pytest.raises(ValueError, match=message):
        ml.MEIModule(twin, [("session_1", 5)], **options)


def test_a_model_that_is_not_understood_does_not_compute_in_bfloat16(simulated):
    message = r"fast_path='bfloat16' .*no core of the model 'simulated' could be rewritten.*Use fast_path=True"
    with pytest.raises(ValueError, match=message):
        find(simulated, [("session_1", 0)], fast_path="bfloat16")


class ThreadsInEpochs(Callback):
    """Checks that PyTorch's own threads stay out of the way of those that compute blocks."""

    def on_train_epoch_end(self, trainer, pl_module):
        assert torch.get_num_threads() == 1


def test_threads_are_given_back_after_a_failure(twin):
    class Fails(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            assert torch.get_num_threads() == 1
            raise RuntimeError("enough")

    with using_threads(2):
        with pytest.raises(RuntimeError, match="enough"):
            fit(ml.MEIModule(twin, [("session_1", 3)]), NO_LIMIT, Fails())
        assert torch.get_num_threads() == 2


def test_threads_stay_with_a_model_that_is_not_rewritten():
    class Threads(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            assert torch.get_num_threads() == 2

    with using_threads(2):
        fit(ml.MEIModule(video_model(), [("monday", 0)]), 10, Threads())


@pytest.mark.slow
def test_a_run_finds_the_same_meis_to_the_last_bit_with_any_number_of_threads(twin):
    def run(threads):
        module = ml.MEIModule(twin, [("session_1", 3), ("session_2", 8), ("session_3", 1)], restarts=7, max_steps=25)
        with using_threads(threads):
            trainer = fit(module, NO_LIMIT, ml.RowConvergence(), ThreadsInEpochs())
            assert torch.get_num_threads() == threads
            return results(trainer)

    one, two = run(1), run(2)
    for name in ("stimulus", "steps", "best_restart", "status"):
        np.testing.assert_array_equal(one[name], two[name])
    # The original model has the last word, whose sums depend on threads.
    np.testing.assert_allclose(one["score"], two["score"], rtol=1e-6)


class Spectral(nn.Module):
    """Weighs the frequencies of an image by complex numbers."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(7, 4, dtype=torch.complex64, generator=generator))
        self.readout = nn.Parameter(torch.randn(28, 3, generator=generator))

    def forward(self, image):
        return (torch.fft.rfft2(image) * self.weight).abs().flatten(1) @ self.readout


@pytest.mark.filterwarnings("error:Casting complex values")
def test_complex_weights_keep_their_imaginary_parts():
    model = ml.RetinaModel(Spectral(), STILL_FORMAT, 3)
    meis = find(model, [0, 2], max_steps=5)
    with torch.no_grad():
        responses = model(torch.from_numpy(meis["stimulus"].values))[:, 0]
    np.testing.assert_allclose(meis["score"], [responses[0, 0], responses[1, 2]], rtol=1e-5)


class Sparse(nn.Module):
    """A linear readout most of whose weights are none."""

    def __init__(self):
        super().__init__()
        weight = torch.randn(3, 42, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter((weight * (weight > 1)).to_sparse())

    def forward(self, image):
        return torch.sparse.mm(self.weight, image.flatten(1).T).T


def test_sparse_weights_are_taken():
    model = ml.RetinaModel(Sparse(), STILL_FORMAT, 3)
    kernel = model.network.weight.detach().to_dense()[1]
    meis = find(model, [1], norm=2.0)
    np.testing.assert_allclose(meis["score"], [2.0 * kernel.norm()], rtol=1e-3)
    other = Sparse()
    with torch.no_grad():
        other.weight.values()[0] += 1
    assert weights_digest(model.network) != weights_digest(other)


class NormBefore(nn.Module):
    """A core inside a network, behind batch norm, as openretina's recurrent cores have it."""

    def __init__(self, nonlinearity=F.elu):
        super().__init__()
        torch.manual_seed(0)
        self.kernel = nn.Parameter(torch.randn(3, 2, 3, 3, 3) * 0.2)
        self.norm = nn.BatchNorm3d(3)
        self.norm.running_var.uniform_(0.5, 2.0)
        self.norm.running_mean.normal_()
        self.core = nn.Sequential(nn.Conv3d(3, 4, (11, 5, 5)), nn.ELU())
        self.nonlinearity = nonlinearity

    def forward(self, stimulus):
        features = self.nonlinearity(self.norm(F.conv3d(stimulus, self.kernel)))
        return F.softplus(self.core(features).mean((3, 4)).mT)


@pytest.mark.parametrize("nonlinearity", [F.elu, torch.tanh, F.softplus, lambda features: features])
def test_a_core_behind_batch_norm_stays_prepared_and_has_the_right_gradient(nonlinearity, recwarn):
    facts = ml.StimulusFormat(("green", "UV"), 14, 12, 30.0)
    model = ml.RetinaModel(NormBefore(nonlinearity), facts, 4)
    fast = prepare(model, model.stimulus_shape(30, 2))
    assert any(isinstance(part, FrozenCore) for part in fast.modules())
    assert not [warning for warning in recwarn if "runs as it is" in str(warning.message)]
    generator = torch.Generator().manual_seed(0)
    stimulus = torch.randn(2, 2, 30, 14, 12, generator=generator, dtype=torch.float64)
    double = copy_of(model).double()
    # As blocks lay out stimuli, and as all others do.
    for order, back in (((0, 1, 2, 3, 4), (0, 1, 2, 3, 4)), (ROWS_LAST, ROWS_FIRST)):
        own = stimulus.float().permute(order).contiguous().permute(back).requires_grad_()
        (gradient,) = torch.autograd.grad(fast.read_out([0, 1], [ml.Neuron(None, 0)] * 2)(own).sum(), own)
        move = torch.randn(stimulus.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            rise = (double(stimulus + 1e-5 * move) - double(stimulus - 1e-5 * move))[..., 0].sum() / 2e-5
        assert (gradient.double() * move).sum().item() == pytest.approx(rise.item(), rel=1e-3)
