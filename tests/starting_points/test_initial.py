"""What optimisations start from."""

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import (
    NO_LIMIT,
    STILL_FORMAT,
    assert_same_meis,
    find,
    fit,
    linear_model,
    read,
    results,
    still_model,
    video_model,
)

import mei_lightning as ml
from mei_lightning.cli.main import main
from mei_lightning.models.natural_movies import naturalistic_movies
from mei_lightning.neurons import group_of, seed_of_row
from mei_lightning.starting_points.noise import pink_noise
from mei_lightning.starting_points.seeded_noise import initial_stimulus

NEURONS = [("monday", 0), ("tuesday", 1), ("monday", 3)]
FREE = ml.MaximalNorm(1e6)
"""A constraint that changes nothing."""


def starts(model, neurons, initial, restarts=3, constraint=FREE, **options):
    """The initial stimuli of each neuron, ``[neurons, restarts, ...]``."""
    module = ml.MEIModule(model, neurons, initial=initial, restarts=restarts, constraint=constraint, **options)
    return torch.stack([module.problem.starts(number) for number in range(len(neurons))])


# Noise


def test_white_noise_is_the_default_to_the_last_bit():
    seeds = [seed_of_row(5, group_of(NEURONS[1]), restart) for restart in range(3)]
    expected = initial_stimulus(seeds, (2, 8, 6, 5))
    for initial in (None, ml.WhiteNoise()):
        assert torch.equal(starts(video_model(), NEURONS, initial, time_steps=8, seed=5)[1], expected)
    small = starts(video_model(), NEURONS, ml.WhiteNoise(0.01), time_steps=8, seed=5)
    torch.testing.assert_close(small[1], 0.01 * expected)
    assert "initial" not in ml.MEIModule(video_model(), NEURONS, initial=ml.WhiteNoise()).configuration


def slope(frequencies, amplitudes):
    return np.polyfit(np.log(frequencies), np.log(amplitudes), 1)[0]


def test_amplitudes_of_pink_noise_fall_as_one_over_f_in_space_and_in_time():
    white = torch.randn(40, 2, 32, 24, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    power = (np.abs(np.fft.fftn(pink_noise(white).numpy(), axes=(2, 3, 4))) ** 2).mean(axis=(0, 1))
    hertz, rows, columns = (np.fft.fftfreq(size) for size in power.shape)
    radius = np.hypot(rows[:, None], columns)
    assert slope(hertz[1:16], np.sqrt(power[1:16].mean(axis=(1, 2)))) == pytest.approx(-1, abs=0.05)
    assert slope(radius[radius > 0.05], np.sqrt(power.mean(axis=0)[radius > 0.05])) == pytest.approx(-1, abs=0.05)
    # Apart from that all frequencies are alike: there is no preferred direction in space, or in space and time.
    flat = power * np.maximum(np.abs(hertz), 1 / 32)[:, None, None] ** 2 * np.maximum(radius, 1 / 24) ** 2
    assert flat.std() / flat.mean() == pytest.approx(1 / np.sqrt(80), rel=0.5)


@pytest.mark.parametrize("model", [video_model(), still_model()], ids=["movie", "still"])
def test_pink_noise_has_its_amplitude_and_differs_from_restart_to_restart(model):
    neurons = NEURONS if model.has_sessions else [0, 4, 2]
    noise = starts(model, neurons, ml.PinkNoise(0.3)).flatten(2)
    torch.testing.assert_close(noise.square().mean(dim=2).sqrt(), torch.full((3, 3), 0.3))
    similarity = torch.nn.functional.cosine_similarity(noise.flatten(0, 1)[:, None], noise.flatten(0, 1), dim=2)
    assert similarity.fill_diagonal_(0).abs().max() < 0.95
    # By its seed, and nothing else.
    assert torch.equal(starts(model, neurons[1:2], ml.PinkNoise(0.3)).flatten(2)[0], noise[1])


def test_a_start_from_nearly_nothing_grows_to_what_the_norm_allows():
    model = linear_model()
    found = find(model, [0], initial=ml.WhiteNoise(1e-3), constraint=ml.MaximalNorm(2.0), time_steps=4, restarts=1)
    kernel = model.network.kernels[0].detach()
    assert found["score"].item() == pytest.approx(2.0 * kernel.norm().item(), rel=1e-3)


# Given stimuli


@pytest.fixture(scope="module")
def meis(tmp_path_factory):
    """An earlier run, and its directory."""
    directory = tmp_path_factory.mktemp("earlier")
    return find(video_model(), NEURONS, time_steps=8, norm=3.0, directory=directory).load(), directory


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dataset", "store", "array", "tensor", "npy"])
def test_given_stimuli_are_found_by_label_or_in_order(meis, form, tmp_path):
    meis, directory = meis
    order = [2, 0] if form in ("dataset", "store") else [0, 1, 2]
    values = meis["stimulus"].values
    np.save(tmp_path / "stimuli.npy", values)
    given = {
        "dataset": meis,
        "store": directory / "meis.zarr",
        "array": values,
        "tensor": torch.from_numpy(values),
        "npy": str(tmp_path / "stimuli.npy"),
    }[form]
    neurons = [NEURONS[number] for number in order]
    found = starts(video_model(), neurons, ml.GivenStimuli(given, noise=0.25), time_steps=8)
    np.testing.assert_array_equal(found[:, 0], values[order])
    noise = (found[:, 1:] - found[:, :1]).flatten(2)
    torch.testing.assert_close(noise.norm(dim=2), torch.full((len(order), 2), 0.25 * 3.0), rtol=1e-4, atol=0)
    for number, neuron in enumerate(neurons):
        seed = seed_of_row(0, group_of(neuron), 2)
        white = initial_stimulus([seed], (2, 8, 6, 5)).flatten()
        assert torch.cosine_similarity(noise[number, 1], white, dim=0) > 0.9999


def test_one_stimulus_for_all_neurons(meis):
    given = meis[0]["stimulus"].values[1]
    found = starts(video_model(), NEURONS, ml.GivenStimuli(given), time_steps=8)
    for number in range(3):
        np.testing.assert_array_equal(found[number, 0], given)


def test_an_earlier_run_is_gone_on_from(meis):
    options = {"time_steps": 8, "norm": 3.0, "restarts": 1}
    found = find(video_model(), NEURONS, initial=ml.GivenStimuli(meis[0]), **options)
    assert (found["score"].values >= meis[0]["score"].values * (1 - 1e-5)).all()
    few = find(video_model(), NEURONS, initial=ml.GivenStimuli(meis[0]), **options, max_steps=1)
    assert (few["score"].values > 0.999 * meis[0]["score"].values).all()


def test_what_is_not_given_is_refused_before_any_work(meis, tmp_path):
    meis, directory = meis
    options = {"time_steps": 8}

    def refused(match, given, error=ValueError, neurons=NEURONS, **more):
        with pytest.raises(error, match=match):
            ml.MEIModule(video_model(), neurons, initial=ml.GivenStimuli(given), **{**options, **more})

    refused(
        r"no given stimulus for tuesday/0: they are for monday/0, tuesday/1, monday/3", meis, neurons=[("tuesday", 0)]
    )
    refused(r"have shape \(2, 8, 6, 5\) .* the model's \(2, 9, 6, 5\). Choose time_steps", meis, time_steps=9)
    refused("2 stimuli are given for 3 neurons", meis["stimulus"].values[:2])
    refused(r"shape \(6, 5\) should be \[channels, time, height, width\]", np.ones((6, 5)))
    broken = meis["stimulus"].values.copy()
    broken[1, 0, 0, 0, 0] = np.nan
    refused("of tuesday/1 are not finite in single precision, or not there yet", broken)
    refused("of monday/0, tuesday/1, monday/3 are not finite in single precision", np.full((2, 8, 6, 5), 1e39))
    refused(r"of monday/0, tuesday/1, monday/3 are 0 everywhere.*WhiteNoise\(0.01\)", np.zeros((2, 8, 6, 5)))
    refused("There is no array at none.npy", "none.npy", FileNotFoundError)
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    refused("objects.npy holds no array of numbers", tmp_path / "objects.npy")
    given = ml.GivenStimuli(meis, noise=0.25)
    with pytest.raises(ValueError, match=r"^initial=GivenStimuli\(shape=\(3, 2, 8, 6, 5\), noise=0.25\): Implicit"):
        ml.MEIModule(video_model(), NEURONS, time_steps=8, initial=given, parameterization=ml.ImplicitNetwork())
    refused("There is no store of MEIs at", tmp_path / "none.zarr", FileNotFoundError)
    refused(r"Do you mean .*meis.zarr", directory)
    refused("dimensions neuron, y, x are no MEIs", xr.Dataset({"stimulus": (("neuron", "y", "x"), np.ones((1, 2, 2)))}))
    with pytest.raises(ValueError, match=r"GivenStimuli\(noise=-1\) has to be a positive share"):
        ml.GivenStimuli(meis, noise=-1)


def test_meis_of_another_model_are_warned_of(meis, recwarn):
    def warnings():
        return [str(warning.message) for warning in recwarn if "given stimuli" in str(warning.message)]

    starts(video_model(), NEURONS, ml.GivenStimuli(meis[0]), time_steps=8)
    starts(video_model(1), NEURONS, ml.GivenStimuli(meis[0]["stimulus"].values), time_steps=8)
    assert not warnings()
    starts(video_model(1), NEURONS, ml.GivenStimuli(meis[1] / "meis.zarr"), time_steps=8)
    (warning,) = warnings()
    for model in (video_model(), video_model(1)):
        digest = ml.MEIModule(model, NEURONS, time_steps=8).configuration["weights_digest"]
        assert f"'VideoNetwork' with weights {digest[:12]}" in warning


@pytest.mark.parametrize("size", [1e-20, 1e30])
def test_given_stimuli_of_any_size_are_scaled_to_the_norm(size, meis):
    given = meis[0]["stimulus"].values[0]
    expected = starts(video_model(), NEURONS[:1], ml.GivenStimuli(given), time_steps=8)
    found = starts(video_model(), NEURONS[:1], ml.GivenStimuli(size * given), time_steps=8, constraint=None, norm=3.0)
    torch.testing.assert_close(found / size, expected)


# What the model suggests


def test_the_receptive_field_of_a_linear_cell_is_its_filter(simulated):
    table = simulated.neurons
    linear = table[table["type"].isin(["on_sustained", "on_transient", "off_sustained", "off_transient"])].head(6)
    neurons = list(zip(linear["session"], linear["index"].tolist(), strict=True))
    for frames in (21, 24):
        found = starts(simulated, neurons, ml.LinearReceptiveField(), time_steps=frames)
        for own, (session, index) in zip(found, neurons, strict=True):
            seen = simulated.linear_filter(session, index)
            # The mean response has the filter at each of its response frames.
            expected = torch.zeros(2, frames, 18, 16)
            for response in range(frames - 20):
                expected[:, response : response + 21] += seen
            assert torch.cosine_similarity(own[0].flatten(), expected.flatten(), dim=0) > 0.9999
            assert own[0].square().mean().sqrt().item() == pytest.approx(1.0, rel=1e-4)


def test_the_receptive_field_around_noise_against_small_differences():
    model = video_model().double()
    constraint = ml.NormAndRange(norm=4.0)
    found = starts(model, NEURONS[:1], ml.LinearReceptiveField(), constraint=constraint, time_steps=8)[0]
    generator = torch.Generator().manual_seed(0)
    for restart in range(3):
        seed = seed_of_row(0, group_of(NEURONS[0]), restart)
        x = (
            constraint(initial_stimulus([seed], (2, 8, 6, 5)).double())[0]
            if restart
            else torch.zeros(2, 8, 6, 5).double()
        )

        def response(stimulus):
            return model(stimulus[None], "monday")[0, :, 0].mean().item()

        steps = torch.randn(40, *x.shape, generator=generator, dtype=torch.float64)
        rises = torch.tensor([(response(x + 1e-5 * step) - response(x - 1e-5 * step)) / 2e-5 for step in steps])
        along = (steps * found[restart]).flatten(1).sum(dim=1)
        assert torch.cosine_similarity(along, rises.double(), dim=0) > 0.999999


class Threshold(torch.nn.Module):
    """Silent up to a threshold."""

    def forward(self, image):
        return torch.relu(image[:, 0, :1, 0] - 0.2)


def test_what_has_no_gradient_starts_from_noise():
    model = ml.RetinaModel(Threshold(), STILL_FORMAT, 1)
    found = starts(model, [0], ml.LinearReceptiveField(), restarts=8, constraint=ml.NormAndRange(norm=6.0))[0]
    noise = starts(model, [0], None, restarts=8)[0]
    noise *= 6 / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    seen = noise[:, 0, 0, 0, 0] > 0.2
    seen[0] = False
    assert 0 < seen.sum() < 7
    torch.testing.assert_close(found[~seen], noise[~seen])
    assert (found[seen].flatten(1)[:, 1:] == 0).all()


@pytest.mark.parametrize("frames", [31, 24])
def test_the_best_clips_are_found_by_trying_all(simulated, frames):
    neurons = [("session_1", 3), ("session_2", 5)]
    constraint = ml.NormAndRange(norm=10.0, ranges=[(-1.0, 2.0), (-1.5, 1.0)])
    found = starts(simulated, neurons, ml.BestNaturalClip(clips=12), constraint=constraint, time_steps=frames)
    clips = [naturalistic_movies(1, frames, torch.Generator().manual_seed(number)) for number in range(12)]
    shown = constraint(torch.cat(clips))
    for own, (session, index) in zip(found, neurons, strict=True):
        responses = simulated(shown, session)[:, :, index].mean(dim=1).tolist()
        best = sorted(range(12), key=lambda number: -responses[number])[:3]
        torch.testing.assert_close(own, shown[best])


def test_more_restarts_than_clips_are_refused():
    with pytest.raises(ValueError, match=r"BestNaturalClip\(clips=2\) has too few clips for 3 restarts"):
        ml.MEIModule(video_model(), NEURONS, time_steps=8, restarts=3, initial=ml.BestNaturalClip(clips=2))


@pytest.mark.parametrize(
    "wrong", [lambda: ml.WhiteNoise(0), lambda: ml.PinkNoise(float("nan")), lambda: ml.BestNaturalClip(0)]
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\((amplitude|clips)=(0|nan)\) has"):
        wrong()


# In runs


class Mine(ml.InitialStimuli):
    """A kind of a user's own."""

    def __call__(self, neuron, seeds):
        return torch.full((len(seeds), *neuron.shape), 0.5) + torch.arange(len(seeds)).view(-1, 1, 1, 1, 1)

    def __repr__(self):
        return "Mine()"


def test_a_kind_of_ones_own_that_makes_another_shape_is_refused():
    class Wrong(Mine):
        def __call__(self, neuron, seeds):
            return super().__call__(neuron, seeds)[0]

    with pytest.raises(
        ValueError, match=r"Mine\(\) made stimuli of shape \(2, 8, 6, 5\); it should be \(3, 2, 8, 6, 5\)"
    ):
        starts(video_model(), NEURONS, Wrong(), time_steps=8)


ALL_KINDS = {
    "field": ml.LinearReceptiveField(),
    "clip": ml.BestNaturalClip(clips=5),
    "mine": Mine(),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*ALL_KINDS, "given"])
def test_runs_start_where_they_should_in_any_batch_and_after_an_interruption(kind, meis, tmp_path):
    initial = ml.GivenStimuli(meis[0]) if kind == "given" else ALL_KINDS[kind]
    options = {"time_steps": 8, "norm": 3.0, "max_steps": 10, "restarts": 2, "initial": initial, "fast_path": False}
    whole = find(video_model(), NEURONS, **options)
    assert_same_meis(find(video_model(), NEURONS[1:2], **options), whole.isel(neuron=[1]))
    module = ml.MEIModule(video_model(), NEURONS, **options, rows_per_device=4)
    fit(module, 6, directory=tmp_path)
    assert "pending" in read(tmp_path).status
    again = ml.MEIModule(video_model(), NEURONS, **options, rows_per_device=4)
    assert_same_meis(results(fit(again, NO_LIMIT, ml.RowConvergence(), directory=tmp_path / "anew")), whole)


def test_a_run_with_another_start_is_not_continued(meis, tmp_path):
    options = {"time_steps": 8, "max_steps": 2, "directory": tmp_path}
    given = meis[0]["stimulus"].values
    find(video_model(), NEURONS, initial=ml.GivenStimuli(given), **options)
    find(video_model(), NEURONS, initial=ml.GivenStimuli(given), **options)
    given = given.copy()
    given[2, 1, 3, 2, 2] += 1e-3
    with pytest.raises(ValueError, match=r'initial\.sha256: it was "\w+", now it is "\w+"\n'):
        find(video_model(), NEURONS, initial=ml.GivenStimuli(given), **options)
    with pytest.raises(ValueError, match=r"initial: it was GivenStimuli\(.*noise=0.5\), now it is nothing"):
        find(video_model(), NEURONS, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("{class_path: mei_lightning.LinearReceptiveField}", ml.LinearReceptiveField()),
        ("{class_path: mei_lightning.GivenStimuli, init_args: {stimuli: one.npy, noise: 0.1}}", None),
    ],
)
def test_on_the_command_line(yaml, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mei-lightning"])
    one = np.random.default_rng(0).standard_normal((2, 24, 18, 16)).astype(np.float32)
    np.save("one.npy", one)
    (tmp_path / "start.yaml").write_text(f"""
model:
  retina: simulated
  neurons: [[session_1, 0]]
  time_steps: 24
  max_steps: 1
  initial: {yaml}
""")
    main(
        [
            "fit",
            "--config=start.yaml",
            "--trainer.enable_progress_bar=false",
            "--results.directory=results",
            "--results.report=false",
        ]
    )
    expected = expected or ml.GivenStimuli(one, noise=0.1)
    found = find("simulated", [("session_1", 0)], time_steps=24, max_steps=1, initial=expected)
    written = xr.open_zarr("results/meis.zarr").load()
    np.testing.assert_array_equal(written["stimulus"], found["stimulus"])
    assert written.attrs == found.attrs
