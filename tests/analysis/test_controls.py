"""Standard stimuli are what their names say, and MEIs are compared with them fairly."""

import re

import numpy as np
import pytest
import torch
from conftest import STILL_FORMAT, VIDEO_FORMAT, find, linear_model, still_model, video_model
from scipy.integrate import quad

import mei_lightning as ml
from mei_lightning.analysis.standard_stimuli import StandardStimulus, standard_stimuli
from mei_lightning.models.simulated import STIMULUS_FORMAT

RANGES = [(-0.5, 3.0), (-0.7, 3.0)]


def compare(model, meis, **options):
    return ml.compare_with_standard_stimuli(model, meis, accelerator="cpu", progress_bar=False, **options)


def named(stimuli, *parts):
    return [stimulus for stimulus in stimuli if all(part in stimulus.name for part in parts)]


@pytest.mark.parametrize(
    ("stimulus_format", "time_steps", "kinds"),
    [
        (STIMULUS_FORMAT, 40, 5),
        (STILL_FORMAT, 1, 5),
        (ml.StimulusFormat(("grey",), 5, 31, frame_rate=2.0), 7, 5),
        (ml.StimulusFormat(("red", "green", "blue"), 12, 9, 60.0, 12.5), 20, 5),
    ],
)
def test_stimuli_for_any_model(stimulus_format, time_steps, kinds):
    stimuli = standard_stimuli(stimulus_format, time_steps, num_movies=3)
    names = [stimulus.name for stimulus in stimuli]
    assert len(set(names)) == len(names)
    assert len({stimulus.kind for stimulus in stimuli}) == kinds
    shape = (len(stimulus_format.channel_names), time_steps, stimulus_format.height, stimulus_format.width)
    for stimulus, again in zip(stimuli, standard_stimuli(stimulus_format, time_steps, num_movies=3), strict=True):
        made = stimulus.make()
        assert made.shape == shape
        assert made.isfinite().all()
        assert made.any(), stimulus.name
        assert torch.equal(made, again.make())


@pytest.fixture(scope="module")
def stimuli():
    return standard_stimuli(STIMULUS_FORMAT, 40, num_movies=2)


def test_spots_are_where_they_are_said_to_be(stimuli):
    y, x = np.mgrid[:18, :16] * 50.0
    inside = 0
    for spot in named(stimuli, "ON spot,", "200 um", "green and UV"):
        image = spot.make()[0, -1].numpy()
        stated = tuple(map(float, re.search(r"\((-?\d+), (-?\d+)\) um", spot.name).groups()))
        if min(stated) >= 150 and stated[0] <= 700 and stated[1] <= 600:
            centre = (image * y).sum() / image.sum(), (image * x).sum() / image.sum()
            np.testing.assert_allclose(centre, stated, atol=5)
            assert 2 * np.sqrt(image.sum() / np.pi) * 50 == pytest.approx(200, abs=8)
            inside += 1
        assert not spot.make()[:, :20].any()
    assert inside == 20
    covered = sum(spot.make()[0, -1] for spot in named(stimuli, "ON spot,", "200 um", "green and UV"))
    assert covered.min() > 0


@pytest.mark.parametrize("direction", range(0, 360, 45))
def test_bars_and_gratings_move_as_they_are_said_to(stimuli, direction):
    moving = named(stimuli, f"direction {direction} degrees", "green and UV")
    assert len(moving) == 8
    angle = np.deg2rad(direction)
    for stimulus in moving:
        # Motion is where the energy of the space-time spectrum is: a wave sin(k x - w t) has k and w of equal sign.
        spectrum = np.abs(np.fft.fftn(stimulus.make()[0].numpy())) ** 2
        hertz, rows, columns = np.meshgrid(*(np.fft.fftfreq(size) for size in spectrum.shape), indexing="ij")
        energy = spectrum * -np.sign(hertz)
        velocity = (energy * columns).sum(), (energy * rows).sum()
        along = velocity[0] * np.cos(angle) + velocity[1] * np.sin(angle)
        assert along > 0, stimulus.name
        assert along == pytest.approx(np.hypot(*velocity), rel=0.05), stimulus.name


def test_a_bar_crosses_the_image_at_its_speed(stimuli):
    (bar,) = named(stimuli, "ON bar moving at 750 um/s in direction 0 degrees", "green against UV")
    movie = bar.make()
    assert torch.equal(movie[0], -movie[1])
    places = (movie[0] * torch.arange(16.0)).sum((1, 2)) / movie[0].sum((1, 2))
    # 750 um/s are half a pixel in a frame.
    steps = torch.diff(places)[8:28]
    torch.testing.assert_close(steps, torch.full_like(steps, 0.5), atol=0.05, rtol=0)
    assert movie[0].amax(0).min() > 0.9


def test_gratings_and_chirps_have_their_frequencies(stimuli):
    (grating,) = named(stimuli, "grating of 320 um, 2 Hz in direction 90 degrees", "green and UV")
    course = grating.make()[0, :, 3, 3].double().numpy()
    np.testing.assert_allclose(course[15:], course[:-15], atol=1e-5)
    profile = grating.make()[0, 0, :, 0].double()
    # A period of 320 um is 6.4 pixels.
    np.testing.assert_allclose(profile, torch.cos(2 * np.pi * (torch.arange(18) - 8.5) / 6.4), atol=1e-5)

    (chirp,) = named(stimuli, "chirp of frequency ON, UV")
    movie = chirp.make()
    assert not movie[0].any()
    assert torch.equal(movie[1], movie[1, :, :1, :1].expand(40, 18, 16))
    # The frequency rises from 0.5 to 8 Hz in 40 frames of 1/30 s; the phase is its integral.
    seconds = np.arange(40) / 30
    phase = [quad(lambda time: 0.5 + 7.5 * time * 30 / 40, 0, end)[0] for end in seconds]
    np.testing.assert_allclose(movie[1, :, 0, 0], np.sin(2 * np.pi * np.array(phase)), atol=1e-4)


# Comparison


def test_the_best_stimulus_is_that_of_single_calls():
    targets = [("tuesday", 2), [("monday", 1), ("tuesday", 0)], ("monday", 3)]
    model = video_model()
    meis = find(model, targets, time_steps=6, norm=5.0, ranges=RANGES, max_steps=10, restarts=1)
    # More stimuli than are computed at a time.
    stimuli = standard_stimuli(VIDEO_FORMAT, 6, num_movies=5)[::20]
    assert len(stimuli) > 32
    found = compare(model, meis, stimuli=stimuli)

    constraint = ml.NormAndRange(5.0, RANGES)
    responses = np.empty((3, len(stimuli)))
    for column, stimulus in enumerate(stimuli):
        shown = constraint(stimulus.make()[None])
        for row, target in enumerate(targets):
            members = [target] if isinstance(target, tuple) else target
            traces = [model(shown, data_key=session)[0, :, index] for session, index in members]
            responses[row, column] = torch.stack(traces).mean()
    kinds = np.array([stimulus.kind for stimulus in stimuli])
    for kind in found["kind"].values:
        best = np.where(kinds == kind, responses, -np.inf)
        np.testing.assert_allclose(found.standard_response.sel(kind=kind), best.max(axis=1), rtol=1e-4)
        names = [stimuli[column].name for column in best.argmax(axis=1)]
        assert found.standard_stimulus.sel(kind=kind).values.tolist() == names
    np.testing.assert_allclose(found.mei_response, meis.score, rtol=1e-5)
    np.testing.assert_allclose(found.excitation_ratio, meis.score / responses.max(axis=1), rtol=1e-4)
    assert found.standard_kind.values.tolist() == kinds[responses.argmax(axis=1)].tolist()


def test_no_stimulus_of_the_norm_excites_a_linear_cell_more_than_its_filter(simulated):
    chosen = ml.NeuronSelection(sessions=["session_2"], where={"type": ["on_transient", "off_sustained"]})
    meis = find(simulated, chosen, time_steps=21, norm=10.0, restarts=1)
    found = compare(simulated, meis)
    assert (found.excitation_ratio >= 1).all()
    assert (found.excitation_ratio < 5).all()
    assert set(found["type"].values) == {"on_transient", "off_sustained"}
    # By Cauchy and Schwarz, and the angle between the filter and the stimulus.
    stimuli = {stimulus.name: stimulus for stimulus in standard_stimuli(STIMULUS_FORMAT, 21)}
    for number, (session, index) in enumerate(zip(found.session.values, found["index"].values, strict=True)):
        kernel = simulated.linear_filter(session, int(index))
        best = stimuli[found.standard_stimulus.sel(kind="spot").values[number]].make()
        drive = 10 * (kernel * best).sum() / best.norm()
        expected = simulated.linear_response(session, int(index), drive)
        assert found.standard_response.sel(kind="spot").values[number] == pytest.approx(expected.item(), rel=1e-4)


def test_still_images():
    meis = find(still_model(), range(3), max_steps=5, restarts=1)
    found = compare(still_model(), meis)
    assert np.isfinite(found.excitation_ratio).all()
    assert found["kind"].values.tolist() == ["chirp", "spot", "bar", "grating", "natural-like movie"]


def test_a_response_that_is_not_positive_has_no_ratio():
    meis = find(linear_model(), [0, 1], time_steps=4, norm=3.0, max_steps=3, restarts=1)
    opposite = [StandardStimulus("worst", "worst", lambda: -linear_model().network.kernels[0].detach())]
    found = compare(linear_model(), meis, stimuli=opposite)
    assert found.standard_response[0, 0] == pytest.approx(
        -3 * linear_model().network.kernels[0].norm().item(), rel=1e-4
    )
    assert np.isnan(found.excitation_ratio[0])


def test_neurons_without_an_mei_are_left_out():
    meis = find(video_model(), [("monday", 0), ("monday", 1)], time_steps=6, max_steps=2, restarts=1)
    complete = compare(video_model(), meis)
    meis.stimulus[0], meis.score[0], meis.status[0] = np.nan, np.nan, "pending"
    found = compare(video_model(), meis)
    assert np.isnan(found.excitation_ratio[0])
    assert np.isnan(found.mei_response[0])
    np.testing.assert_allclose(found.excitation_ratio[1], complete.excitation_ratio[1], rtol=1e-5)
    np.testing.assert_allclose(found.standard_response[1], complete.standard_response[1], rtol=1e-5)
    assert found.standard_response[0].isnull().all()
    assert found.standard_kind.values.tolist() == ["", complete.standard_kind.values[1]]
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(video_model(), meis.isel(neuron=[0]))


@pytest.mark.slow
def test_each_mei_is_compared_at_its_own_norm():
    targets = [("monday", 0), ("monday", 1), ("tuesday", 1)]
    meis = find(video_model(), targets, time_steps=6, norm=4.0, max_steps=2, restarts=1)
    at_norm = {norm: compare(video_model(), meis.assign(stimulus=meis.stimulus * (norm / 4))) for norm in (4.0, 6.0)}
    meis.stimulus[1] *= 1.5
    found = compare(video_model(), meis)
    # A stimulus that is not finite has no norm to compare at.
    meis.stimulus[2, 0, 0] = np.nan
    broken = compare(video_model(), meis)
    assert np.isnan(broken.excitation_ratio[2])
    np.testing.assert_allclose(broken.excitation_ratio[:2], found.excitation_ratio[:2], rtol=1e-5)
    for name in ("mei_response", "standard_response", "excitation_ratio"):
        np.testing.assert_allclose(found[name][[0, 2]], at_norm[4.0][name][[0, 2]], rtol=1e-5)
        np.testing.assert_allclose(found[name][1], at_norm[6.0][name][1], rtol=1e-5)


@pytest.mark.slow
def test_a_user_compares_meis_with_standard_stimuli(simulated):
    chosen = ml.NeuronSelection(
        sessions=["session_1"], where={"type": ["direction_selective", "on_sustained"]}, sample=5
    )
    meis = find(simulated, chosen, search="quick")

    ratio = compare(simulated, meis).excitation_ratio.to_dataframe().groupby("type").excitation_ratio.median()

    # No spot moves, and no bar is where a cell with a small receptive field would need it.
    assert ratio["on_sustained"] > 1.2
    assert ratio["direction_selective"] > 2 * ratio["on_sustained"]
