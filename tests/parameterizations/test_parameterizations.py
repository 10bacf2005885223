"""What stimuli are made from: the facts of each parameterisation, and what it costs in response."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import STILL_FORMAT, VIDEO_FORMAT, assert_same_meis, find, fit, linear_model, still_model, video_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mei_lightning as ml
from mei_lightning.cli.main import main
from mei_lightning.parameterizations import feasible_stimulus
from mei_lightning.results.configuration import as_data

FORMAT = ml.StimulusFormat(("green", "UV"), height=18, width=16, frame_rate=30.0, pixel_size=50.0)
SHAPE = (3, 2, 40, 18, 16)
ALL = [ml.Fourier(), ml.LowRank(2), ml.Pyramid(), ml.ImplicitNetwork(hidden=8)]
NAMES = ["Fourier", "low rank", "pyramid", "implicit network"]
NEURONS = [("monday", 0), ("tuesday", 1), [("monday", 1), ("tuesday", 2)]]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# What stimuli can be


def frequencies():
    """Temporal (Hz) and spatial (cycles per mm) frequencies of all entries of numpy's transform."""
    time, height, width = np.meshgrid(
        np.fft.fftfreq(40, 1 / 30), np.fft.fftfreq(18, 0.05), np.fft.fftfreq(16, 0.05), indexing="ij"
    )
    return np.abs(time), np.hypot(height, width)


@pytest.mark.parametrize(
    ("temporal", "spatial"), [((None, 5.0), None), ((1.5, 6.0), (None, 4.0)), (None, (2.0, 6.0)), ((2.25, 2.25), None)]
)
def test_bands_hold_by_numpys_transform_and_hold_all_that_is_within(temporal, spatial):
    made = ml.Fourier(temporal, spatial).for_stimuli(SHAPE, FORMAT)
    stimulus = noise(*SHAPE).double()
    shown = made(made.parameters_of(stimulus))
    hertz, cycles = frequencies()
    within = np.ones(SHAPE[2:], bool)
    for frequency, (low, high) in ((hertz, temporal or (None, None)), (cycles, spatial or (None, None))):
        within &= (frequency >= (low or 0) - 1e-9) & (frequency <= (np.inf if high is None else high) + 1e-9)
    spectrum = np.fft.fftn(stimulus.numpy(), axes=(2, 3, 4)) * within
    np.testing.assert_allclose(shown, np.fft.ifftn(spectrum, axes=(2, 3, 4)).real, atol=1e-6)


def test_cycles_per_degree_are_cycles_per_millimetre_of_the_same_retina():
    in_degrees = ml.Fourier(spatial=(0.05, 0.2), micrometres_per_degree=31.0).for_stimuli(SHAPE, FORMAT)
    in_mm = ml.Fourier(spatial=(0.05 / 0.031, 0.2 / 0.031)).for_stimuli(SHAPE, FORMAT)
    assert torch.equal(in_degrees.chosen, in_mm.chosen)
    assert 0 < len(in_mm.chosen) < 40 * 18 * 16


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_amplitudes_made_from_equal_parameters_fall_off_with_frequency(decay):
    made = ml.Fourier(decay=decay).for_stimuli(SHAPE)
    amplitude = np.abs(np.fft.fftn(made(noise(2000, 1, 40 * 18 * 16)[:200]).numpy(), axes=(2, 3, 4)))
    mean = np.sqrt(np.square(amplitude).mean(axis=(0, 1)))
    grid = np.meshgrid(*(np.fft.fftfreq(side) for side in (40, 18, 16)), indexing="ij")
    frequency = np.maximum(np.sqrt(sum(np.square(part) for part in grid)), 1 / 40)
    slope, _ = np.polyfit(np.log(frequency).ravel(), np.log(mean).ravel(), 1)
    assert slope == pytest.approx(-decay, abs=0.02)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_low_rank_is_the_nearest_by_numpys_singular_values(rank):
    made = ml.LowRank(rank).for_stimuli(SHAPE)
    stimulus = noise(*SHAPE).double()
    shown = made(made.parameters_of(stimulus)).flatten(3).numpy()
    left, values, right = np.linalg.svd(stimulus.flatten(3).numpy(), full_matrices=False)
    np.testing.assert_allclose(shown, (left[..., :rank] * values[..., None, :rank]) @ right[..., :rank, :], atol=1e-9)
    anything = made(noise(3, 2, rank * (40 + 18 * 16))).flatten(3).numpy()
    assert (np.linalg.matrix_rank(anything, tol=1e-3) == rank).all()


def test_coarse_levels_of_a_pyramid_are_smooth_and_a_sample_weighs_more_the_coarser():
    made = ml.Pyramid(3).for_stimuli(SHAPE)
    sizes = [40 * 18 * 16, 20 * 9 * 8, 10 * 5 * 4]
    parts = torch.eye(3).repeat_interleave(torch.tensor(sizes), dim=1)[:, None] * noise(3, 1, sum(sizes))
    energies = made(parts).square().flatten(1).sum(1) / torch.tensor(sizes)
    # A level's samples weigh sqrt(2) times those of the next finer one; neighbours overlap, which noise averages out.
    torch.testing.assert_close(energies, torch.tensor([1.0, 2.0, 4.0]), rtol=0.15, atol=0)
    spectrum = np.abs(np.fft.fft(made(parts).numpy(), axis=2)) ** 2
    fast = spectrum[:, :, 11:20].sum(axis=(1, 2, 3, 4)) / spectrum.sum(axis=(1, 2, 3, 4))
    assert (np.diff(fast) < 0).all()
    assert fast[2] < 0.02


def test_an_implicit_network_is_two_layers_of_sines_of_the_coordinates():
    made = ml.ImplicitNetwork(hidden=8, frequency=12.0).for_stimuli(SHAPE)
    parameters = made.parameters_of(noise(*SHAPE))
    network = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    axes = [np.linspace(-1 + 1 / side, 1 - 1 / side, side) for side in SHAPE[2:]]
    place = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)).float()
    for row, shown in zip(parameters, made(parameters), strict=True):
        start = 0
        for layer, unit in zip(network, (12 / 3, np.sqrt(6 / 8), np.sqrt(6 / 8)), strict=True):
            values = float(unit) * row[start : start + layer.weight.numel() + layer.bias.numel()]
            layer.weight.data = values[: layer.weight.numel()].view(layer.in_features, -1).T
            layer.bias.data = values[layer.weight.numel() :]
            start += len(values)
        expected = network[2](network[1](network[0](place).sin()).sin())
        torch.testing.assert_close(shown, expected.permute(3, 0, 1, 2), atol=1e-5, rtol=1e-5)
    assert start == parameters.shape[1]


def test_weights_of_an_implicit_network_depend_on_the_rows_own_stimulus_only():
    made = ml.ImplicitNetwork().for_stimuli(SHAPE)
    stimulus = noise(*SHAPE)
    before = torch.random.get_rng_state()
    parameters = made.parameters_of(stimulus)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(made.parameters_of(stimulus[[2, 0]]), parameters[[2, 0]])
    assert (parameters[0] != parameters[1]).all()
    assert parameters.abs().max() <= 1
    assert parameters.std() == pytest.approx(1 / np.sqrt(3), rel=0.05)


@given(st.tuples(*(st.integers(1, most) for most in (2, 3, 7, 6, 5))), st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_parameters_are_found_again(shape, seed):
    stimulus = noise(*shape, seed=seed).double()
    levels = 1 + int(np.log2(max(shape[2:])))
    exact = [ml.Fourier(), ml.LowRank(min(shape[2], shape[3] * shape[4])), ml.Pyramid(levels)]
    for parameterization in exact:
        made = parameterization.for_stimuli(shape)
        torch.testing.assert_close(made(made.parameters_of(stimulus)), stimulus, atol=1e-5, rtol=0)
    made = ml.LowRank(1).for_stimuli(shape)
    once = made(made.parameters_of(stimulus))
    torch.testing.assert_close(made(made.parameters_of(once)), once, atol=1e-9, rtol=0)


@pytest.mark.parametrize("parameterization", ALL, ids=NAMES)
def test_gradients_are_those_of_finite_differences(parameterization):
    shape = (2, 2, 4, 3, 3)
    made = parameterization.for_stimuli(shape).double()
    parameters = made.parameters_of(noise(*shape).double()).requires_grad_()
    assert torch.autograd.gradcheck(made, parameters)


# The gradient that a constraint leaves


def test_on_a_sphere_the_tangential_part_of_a_gradient_is_left():
    stimulus, gradient = noise(3, 2, 4, 3, 3).double().requires_grad_(), noise(3, 2, 4, 3, 3, seed=1).double()
    shares = []
    shown = feasible_stimulus(stimulus, ml.FixedNorm(2.0), shares.append)
    shown.backward(gradient)
    y, g = shown.detach().flatten(1).numpy(), gradient.flatten(1).numpy()
    tangential = g - (g * y).sum(1, keepdims=True) / 4.0 * y
    # The gradient is probed over a tenth of the norm, along which the sphere bends.
    cosine = (stimulus.grad.flatten(1).numpy() * tangential).sum(1) / np.linalg.norm(tangential, axis=1)
    np.testing.assert_array_less(0.995, cosine / stimulus.grad.flatten(1).norm(dim=1).numpy())
    np.testing.assert_allclose(shares[0], np.linalg.norm(tangential, axis=1) / np.linalg.norm(g, axis=1), rtol=0.03)
    stimulus.grad = None
    feasible_stimulus(stimulus, ml.FixedNorm(2.0), shares.append).backward(-shown.detach())
    assert stimulus.grad.abs().max() < 1e-9
    assert shares[1].max() < 1e-9


def test_at_a_bound_what_leads_inwards_is_left():
    stimulus = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 1, 5).requires_grad_()
    # A loss's gradient: the stimulus goes against it.
    gradient = torch.tensor([1.0, -0.1, 0.1, -1.0, 0.1]).view_as(stimulus)
    feasible_stimulus(stimulus, ml.ChannelRange([(-1, 1)]), lambda share: None).backward(gradient)
    torch.testing.assert_close(stimulus.grad.flatten(), torch.tensor([0.0, -0.1, 0.1, 0.0, 0.1]))


@pytest.mark.slow
def test_a_row_that_its_range_lets_no_further_has_converged_and_one_without_gradient_is_dead():
    model = linear_model()
    model.network.kernels[1] = 0
    module = ml.StimulusModule(
        ml.NeuronObjective(model, [0, 1], ml.MeanReducer()),
        noise(2, 2, 4, 6, 5),
        constraint=ml.ChannelRange([(-1, 1), (-0.5, 2)]),
        parameterization=ml.Fourier(decay=0.0),
    )
    with pytest.warns(UserWarning, match="1 of 2 stimuli ended with 'no gradient': row_1"):
        fit(module, 200)
    assert [ml.Status(int(status)).label for status in module.status] == ["converged", "no gradient"]
    kernel = model.network.kernels[0]
    corner = torch.stack([kernel[0].sign(), torch.where(kernel[1] > 0, 2.0, -0.5)])
    torch.testing.assert_close(module.best_stimulus[0], corner)


# What it costs in response


@pytest.fixture(scope="module")
def cells(simulated):
    """A linear neuron of each type, an ON-OFF and a direction-selective one, and the scores of free stimuli."""
    neurons = [("session_1", index) for index in range(6)]
    assert simulated.neurons["type"][:6].tolist()[4:] == ["on_off", "direction_selective"]
    return neurons, find(simulated, neurons, time_steps=30, norm=10.0)["score"].values


@pytest.mark.slow
@pytest.mark.parametrize("ranges", [None, [(-0.2, 0.3), (-0.3, 0.2)]])
def test_separable_cells_lose_nothing_by_low_rank(simulated, cells, ranges):
    neurons, free = cells
    if ranges is not None:
        free = find(simulated, neurons, time_steps=30, norm=10.0, ranges=ranges)["score"].values
    meis = find(simulated, neurons, time_steps=30, norm=10.0, ranges=ranges, parameterization=ml.LowRank(1))
    assert (meis["score"].values[:5] >= 0.99 * free[:5]).all()
    # A moving stimulus is not separable, but of rank 2.
    assert meis["score"].values[5] < 0.8 * free[5]
    rank_2 = find(simulated, neurons[5:], time_steps=30, norm=10.0, ranges=ranges, parameterization=ml.LowRank(2))
    assert rank_2["score"].values >= 0.98 * free[5]
    if ranges is None:
        ranks = np.linalg.matrix_rank(meis["stimulus"].values.reshape(6, 2, 30, -1), tol=1e-3)
        assert (ranks == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", [ml.Fourier(), ml.Fourier(decay=1.0), ml.Pyramid()], ids=repr)
def test_what_can_make_every_stimulus_finds_as_good_ones(simulated, cells, parameterization):
    neurons, free = cells
    meis = find(simulated, neurons, time_steps=30, norm=10.0, parameterization=parameterization)
    assert (meis["score"].values >= 0.98 * free).all()


def test_a_band_limited_mei_of_a_linear_neuron_is_its_filter_within_the_band(simulated):
    limited = ml.Fourier(temporal=(None, 6.0), spatial=(None, 5.0))
    meis = find(simulated, [("session_1", 0), ("session_1", 3)], time_steps=21, norm=10.0, parameterization=limited)
    hertz = np.abs(np.fft.fftfreq(21, 1 / 30))
    cycles = np.hypot(np.fft.fftfreq(18, 0.05)[:, None], np.fft.fftfreq(16, 0.05))
    for index, mei in zip((0, 3), meis["stimulus"].values, strict=True):
        spectrum = np.fft.fftn(simulated.linear_filter("session_1", index).numpy(), axes=(1, 2, 3))
        spectrum = spectrum * (hertz[:, None, None] <= 6.0 + 1e-9) * (cycles <= 5.0 + 1e-9)
        expected = np.fft.ifftn(spectrum, axes=(1, 2, 3)).real
        assert (mei * expected).sum() / np.linalg.norm(mei) / np.linalg.norm(expected) > 0.995
    spectrum = np.abs(np.fft.fft(meis["stimulus"].values, axis=2))
    assert spectrum[:, :, hertz > 6.1].max() < 1e-4 * spectrum.max()


@pytest.mark.slow
def test_an_implicit_network_finds_useful_stimuli_with_adam(simulated, cells):
    neurons, free = cells
    adam = partial(torch.optim.Adam, lr=0.03)
    meis = find(
        simulated,
        neurons[:4],
        time_steps=30,
        norm=10.0,
        optimizer=adam,
        max_steps=100,
        restarts=1,
        parameterization=ml.ImplicitNetwork(),
    )
    assert (meis["score"].values >= 0.93 * free[:4]).all()


def test_an_implicit_network_warns_of_the_default_optimizer(simulated, recwarn):
    options = {"time_steps": 22, "max_steps": 1, "restarts": 1, "parameterization": ml.ImplicitNetwork(hidden=4)}
    find(simulated, [("session_1", 0)], optimizer=partial(torch.optim.Adam, lr=0.03), **options)
    assert not [warning for warning in recwarn if "ImplicitNetwork" in str(warning.message)]
    find(simulated, [("session_1", 0)], **options)
    (warning,) = (str(warning.message) for warning in recwarn if "ImplicitNetwork" in str(warning.message))
    assert "ImplicitNetwork(hidden=4, frequency=10) with the default optimizer finds poor stimuli" in warning
    assert "optimizer=functools.partial(torch.optim.Adam, lr=0.03)" in warning


# Behind the seam


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", ALL, ids=NAMES)
@pytest.mark.parametrize("optimizer", [ml.AdaptivePowerMethod, partial(torch.optim.SGD, lr=0.5)], ids=["power", "SGD"])
def test_an_mei_is_the_same_alone_and_in_a_batch(parameterization, optimizer):
    options = {"time_steps": 8, "max_steps": 6, "optimizer": optimizer, "parameterization": parameterization}
    model = video_model().double()
    batch = find(model, NEURONS, **options)
    for number, neuron in enumerate(NEURONS):
        assert_same_meis(find(model, [neuron], **options), batch.isel(neuron=[number]))


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", ALL, ids=NAMES)
def test_neurons_stream_through_few_rows_on_the_fast_path_too(twin, parameterization):
    neurons = [("session_1", 0), ("session_2", 3), ("session_1", 6)]
    options = {"time_steps": 24, "max_steps": 6, "search": "quick", "parameterization": parameterization}
    many = find(twin, neurons, **options)
    few = find(twin, neurons, rows_per_device=2, **options)
    assert_same_meis(few, many)


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", ALL, ids=NAMES)
def test_the_fast_path_goes_the_same_way(twin, parameterization):
    # Two steps: an implicit network's first steps are large, and multiply rounding by a hundred each.
    options = {"time_steps": 24, "max_steps": 2, "search": "quick", "parameterization": parameterization}
    neurons = [("session_1", 0), ("session_2", 3), ("session_1", 6)]
    slow = find(twin, neurons, fast_path=False, **options)
    np.testing.assert_allclose(find(twin, neurons, **options)["score"], slow["score"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", ALL, ids=NAMES)
def test_stimuli_withstand_perturbations_in_any_batch(parameterization):
    robustness = [ml.Jitter(space=1), ml.Noise(0.1)]
    options = {"time_steps": 8, "max_steps": 6, "robustness": robustness, "parameterization": parameterization}
    model = video_model().double()
    batch = find(model, NEURONS, **options)
    assert_same_meis(find(model, NEURONS[1:2], **options), batch.isel(neuron=[1]))
    undisturbed = find(model, NEURONS, **{**options, "robustness": ()})
    assert not np.isclose(batch["stimulus"], undisturbed["stimulus"]).all()


def test_what_stimuli_begin_from_is_what_the_nearest_parameters_make():
    mine = xr.DataArray(noise(2, 8, 6, 5).numpy(), dims=("channel", "time", "y", "x"))
    initial = ml.GivenStimuli(mine)
    module = ml.MEIModule(video_model(), NEURONS[:1], time_steps=8, initial=initial, parameterization=ml.LowRank(1))
    left, values, right = np.linalg.svd(mine.values.reshape(2, 8, 30), full_matrices=False)
    expected = (left[..., :1] * values[..., None, :1]) @ right[..., :1, :]
    expected = torch.from_numpy(expected).view(1, 2, 8, 6, 5)
    torch.testing.assert_close(module.best_stimulus[:1], module.constraint(expected), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"GivenStimuli.*ImplicitNetwork.*no parameters for given stimuli"):
        ml.MEIModule(video_model(), NEURONS[:1], time_steps=8, initial=initial, parameterization=ml.ImplicitNetwork())


@pytest.mark.parametrize("parameterization", ALL, ids=NAMES)
def test_shifts_begin_with_the_shifted_best_stimulus_if_its_parameters_can_be_found(parameterization):
    module = ml.MEIModule(video_model(), NEURONS, parameterization=parameterization)
    assert bool(module.problem.shifts) == (not isinstance(parameterization, ml.ImplicitNetwork))
    assert module.rows.starts == (3 if module.problem.shifts else 4)
    if isinstance(parameterization, ml.LowRank) or not module.problem.shifts:
        return
    best = noise(2, 2, 22, 6, 5)
    _, begun = module.space.initial_parameters(best.roll(3, dims=2))
    torch.testing.assert_close(begun, module.constraint(best.roll(3, dims=2)), atol=1e-5, rtol=1e-5)


def test_all_rows_may_end_between_two_checks():
    options = {"time_steps": 8, "restarts": 1, "parameterization": ml.LowRank(1)}
    # Steps that change nothing: all rows have converged after 6, and the next check is after 8.
    meis = find(video_model(), NEURONS, optimizer=partial(torch.optim.SGD, lr=1e-9), **options)
    assert (meis["steps"] == 6).all()
    assert (meis["status"] == "converged").all()


@pytest.mark.slow
def test_still_images_have_parameterizations_too():
    free = find(still_model(), [0, 3])
    for parameterization in (ml.Fourier(), ml.Pyramid(2), ml.ImplicitNetwork()):
        adam = {"optimizer": partial(torch.optim.Adam, lr=0.03)} if not parameterization.finds_parameters else {}
        meis = find(still_model(), [0, 3], parameterization=parameterization, **adam)
        assert (meis["score"].values > 0.9 * free["score"].values).all(), parameterization


class Mirrored(ml.Parameterization):
    """One half of a picture, and its mirror image."""

    def forward(self, parameters):
        return torch.cat([parameters, parameters.flip(3)], dim=3)

    def parameters_of(self, stimulus):
        return (stimulus + stimulus.flip(3))[:, :, :, : stimulus.shape[3] // 2] / 2


def test_a_parameterization_of_ones_own():
    meis = find(linear_model(), [0, 2], time_steps=4, norm=2.0, parameterization=Mirrored())
    kernels = linear_model().network.kernels[[0, 2]]
    expected = kernels + kernels.flip(3)
    expected = 2 * expected / expected.flatten(1).norm(dim=1).view(2, 1, 1, 1, 1)
    np.testing.assert_allclose(meis["stimulus"], expected, atol=2e-2)


@pytest.mark.slow
def test_results_say_what_stimuli_are_made_from_and_are_not_continued_with_something_else(tmp_path):
    options = {"time_steps": 8, "max_steps": 3, "directory": tmp_path}
    meis = find(video_model(), NEURONS, parameterization=ml.LowRank(1), **options)
    expected = {"class": "LowRank", "arguments": {"rank": 1}}
    assert json.loads(meis.attrs["configuration"])["parameterization"] == expected
    for other in (ml.LowRank(2), None):
        with pytest.raises(ValueError, match="parameterization"):
            find(video_model(), NEURONS, parameterization=other, **options)
    find(video_model(), NEURONS, parameterization=ml.LowRank(1), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mei_lightning.LowRank", "--model.parameterization.rank=2"], ml.LowRank(2)),
        (
            ["mei_lightning.Fourier", "--model.parameterization.temporal=[null, 8.0]"],
            ml.Fourier(temporal=(None, 8.0)),
        ),
        (["mei_lightning.Pyramid", "--model.parameterization.levels=2"], ml.Pyramid(2)),
        (["mei_lightning.ImplicitNetwork"], ml.ImplicitNetwork()),
    ],
)
def test_on_the_command_line(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--model.max_steps=1", "--model.restarts=1", "--model.time_steps=22", "--model.retina=simulated"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.logger=false", "--results.report=false"]
    neuron = ["--model.neurons=[[session_1, 0]]", "--results.directory=results"]
    main(["fit", *options, *quiet, *neuron, f"--model.parameterization={arguments[0]}", *arguments[1:]])
    configuration = json.loads(xr.open_zarr("results/meis.zarr").attrs["configuration"])
    assert configuration["parameterization"] == as_data(expected)


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ml.LowRank(0), r"rank=0"),
        (lambda: ml.LowRank(41).for_stimuli(SHAPE), r"rank=41.*40 frame.*at most 40"),
        (lambda: ml.Pyramid(0), r"levels=0"),
        (lambda: ml.Pyramid(8).for_stimuli(SHAPE), r"levels=8.*same single sample"),
        (lambda: ml.ImplicitNetwork(hidden=0), r"hidden=0"),
        (lambda: ml.ImplicitNetwork(frequency=-1.0), r"frequency=-1"),
        (lambda: ml.Fourier(temporal=(5.0, 2.0)), r"temporal=\(5.0, 2.0\).*empty"),
        (lambda: ml.Fourier(spatial=(1.0,)), r"spatial=\(1.0,\)"),
        (lambda: ml.Fourier(decay=-1.0), r"decay=-1"),
        (lambda: ml.Fourier(micrometres_per_degree=0.0), r"micrometres_per_degree=0"),
        (lambda: ml.Fourier((None, 5.0)).for_stimuli(SHAPE), r"in Hz.*frame rate"),
        (
            lambda: ml.Fourier((None, 5.0)).for_stimuli((1, 1, 1, 7, 6), STILL_FORMAT),
            r"still images have no frame rate: leave temporal out.$",
        ),
        # Nyquist's frequency is half the frame rate, and half a cycle per pixel of 50 um along each side.
        (
            lambda: ml.Fourier((20.0, None), (None, 1e9)).for_stimuli(SHAPE, FORMAT),
            r"its temporal ones are 0 and 0.75 to 15 Hz, and its spatial ones 0 and 1.11 to 14.1 cycles per mm. Choose",
        ),
        (
            lambda: ml.Fourier((20.0, None)).for_stimuli((1, 2, 1, 6, 5), VIDEO_FORMAT),
            r"its temporal ones are 0 Hz. Choose other bands, or a longer stimulus",
        ),
        (lambda: ml.Fourier(spatial=(None, 5.0)).for_stimuli(SHAPE), r"size of a pixel"),
        (lambda: ml.Fourier(temporal=(20.0, None)).for_stimuli(SHAPE, FORMAT), r"40 frames of 18 x 16.*no frequency"),
        (lambda: ml.Pyramid().for_stimuli((2, 3, 4)), r"\[rows, channels, time, height, width\]"),
        (
            lambda: ml.StimulusModule(
                lambda x: x.flatten(1).sum(1),
                torch.ones(1, 2, 6, 6, 5),
                constraint=ml.FixedNorm(1.0),
                parameterization=ml.Fourier((2.0, None)).for_stimuli((1, 2, 6, 6, 5), VIDEO_FORMAT),
            ),
            r"Row\(s\) 0 of the initial stimulus are zero",
        ),
        (
            lambda: ml.StimulusModule(
                lambda x: x.flatten(1).sum(1),
                torch.ones(1, 2, 8, 6, 5),
                parameterization=ml.LowRank().for_stimuli((1, 2, 6, 6, 5)),
            ),
            r"LowRank.*made for stimuli of \(2, 6, 6, 5\), not \(2, 8, 6, 5\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
