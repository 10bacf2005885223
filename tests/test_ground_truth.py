"""MEIs of the simulated retina against what is known of its cells."""

import numpy as np
import pytest
import torch

from mei_lightning import SimulatedRetina, find_meis

LINEAR = ("on_sustained", "on_transient", "off_sustained", "off_transient")
NORM = 10.0


@pytest.fixture(scope="module")
def retina():
    return SimulatedRetina()


def neurons_of(retina, types):
    table = retina.neurons[retina.neurons["type"].isin(types)]
    return list(zip(table["session"], table["index"].tolist(), strict=True))


@pytest.fixture(scope="module")
def linear_meis(retina):
    # One response frame: the window of the stimulus is as long as the filter.
    return find_meis(retina, neurons_of(retina, LINEAR), time_steps=21, norm=NORM, progress_bar=False)


def test_mei_of_every_linear_neuron_is_its_filter(retina, linear_meis):
    for session, index, mei in zip(
        linear_meis.session.values, linear_meis["index"].values, linear_meis.stimulus.values, strict=True
    ):
        expected = retina.linear_filter(session, int(index)).numpy()
        cosine = (mei * expected).sum() / np.linalg.norm(mei) / np.linalg.norm(expected)
        assert cosine >= 0.999, (session, index)


def test_score_of_every_linear_neuron_is_the_analytic_maximum(retina, linear_meis):
    for session, index, score in zip(
        linear_meis.session.values, linear_meis["index"].values, linear_meis.score.values, strict=True
    ):
        # By Cauchy and Schwarz the largest drive under a norm is the norm times the filter's.
        drive = NORM * retina.linear_filter(session, int(index)).norm()
        expected = retina.linear_response(session, int(index), drive).item()
        assert score == pytest.approx(expected, rel=1e-3), (session, index)


def spots(generator, frames, y, x, count):
    """Flickering and stepping spots of all sizes and colours on a receptive field."""
    rows, columns = np.arange(18)[:, None] - y, np.arange(16) - x
    time = np.arange(frames) / 30
    stimuli = []
    for number in range(count):
        shape = np.exp(-0.5 * (rows**2 + columns**2) / generator.uniform(0.7, 6) ** 2)
        flicker = np.sin(2 * np.pi * generator.uniform(0.2, 8) * time + generator.uniform(0, 6.3))
        step = (time > generator.uniform(0, time[-1])) - 0.5
        stimuli.append((flicker if number % 2 else step)[:, None, None] * shape)
    return np.stack(stimuli)[:, None] * colors(generator, count)


def gratings(generator, frames, count):
    """Gratings of all directions, frequencies and colours."""
    rows, columns, time = np.arange(18)[:, None], np.arange(16), np.arange(frames)[:, None, None] / 30
    stimuli = []
    for _ in range(count):
        direction = generator.uniform(0, 2 * np.pi)
        along = np.cos(direction) * columns + np.sin(direction) * rows
        cycles = generator.uniform(0.02, 0.3) * along - generator.uniform(0.5, 8) * time
        stimuli.append(np.sin(2 * np.pi * cycles + generator.uniform(0, 6.3)))
    return np.stack(stimuli)[:, None] * colors(generator, count)


def colors(generator, count):
    choices = np.array([(1, 1), (1, 0), (0, 1), (1, -1), (-1, 1), (-1, -1), (-1, 0), (0, -1)])
    return choices[generator.integers(len(choices), size=count)][:, :, None, None, None]


NONLINEAR = ("on_off", "direction_selective", "suppressed_by_contrast", "color_opponent")


@pytest.fixture(scope="module")
def nonlinear_meis(retina):
    return find_meis(retina, neurons_of(retina, NONLINEAR), time_steps=40, norm=NORM, progress_bar=False)


@pytest.mark.slow
@pytest.mark.parametrize("session", ["session_1", "session_2", "session_3"])
def test_meis_beat_noise_gratings_and_spots(retina, nonlinear_meis, session):
    generator = np.random.default_rng(0)
    meis = nonlinear_meis.sel(neuron=nonlinear_meis.session == session)
    places = retina.neurons.set_index(["session", "index"]).loc[session].loc[meis["index"].values]
    rivals = [generator.standard_normal((1000, 2, 40, 18, 16)), gratings(generator, 40, 1000)]
    rivals += [spots(generator, 40, y, x, 50) for y, x in places[["y", "x"]].to_numpy(float)]
    best = np.full(len(places), -np.inf)
    for part in np.array_split(np.concatenate(rivals), 10):
        norms = np.linalg.norm(part.reshape(len(part), -1), axis=1)[:, None, None, None, None]
        with torch.no_grad():
            responses = retina(torch.from_numpy((NORM * part / norms).astype(np.float32)), session)
        best = np.maximum(best, responses.mean(1).amax(0).numpy()[meis["index"].values])
    losers = places[meis.score.values <= best]
    assert losers.empty, losers


@pytest.mark.slow
def test_direction_selective_meis_move_in_the_preferred_direction(retina, nonlinear_meis):
    types = retina.neurons.set_index(["session", "index"])
    checked = 0
    for session, index, mei in zip(
        nonlinear_meis.session.values, nonlinear_meis["index"].values, nonlinear_meis.stimulus.values, strict=True
    ):
        cell = types.loc[(session, int(index))]
        if cell["type"] != "direction_selective":
            continue
        # Motion is where the energy of the space-time spectrum is: a wave sin(k x - w t) has k and w of equal sign.
        spectrum = np.abs(np.fft.fftn(mei.sum(axis=0))) ** 2
        hertz, rows, columns = np.meshgrid(*(np.fft.fftfreq(size) for size in spectrum.shape), indexing="ij")
        energy = spectrum * -np.sign(hertz)
        velocity = (energy * np.sign(columns)).sum(), (energy * np.sign(rows)).sum()
        direction = np.deg2rad(cell["direction"])
        along = velocity[0] * np.cos(direction) + velocity[1] * np.sin(direction)
        across = -velocity[0] * np.sin(direction) + velocity[1] * np.cos(direction)
        assert along > 0, (session, index)
        assert abs(across) < 0.2 * along, (session, index)
        checked += 1
    assert checked == 24


@pytest.mark.slow
def test_only_the_opponent_type_has_green_and_uv_of_opposite_sign(retina, nonlinear_meis, linear_meis):
    types = retina.neurons.set_index(["session", "index"])["type"]
    for meis in (nonlinear_meis, linear_meis):
        for session, index, mei in zip(meis.session.values, meis["index"].values, meis.stimulus.values, strict=True):
            correlation = (mei[0] * mei[1]).sum() / np.linalg.norm(mei[0]) / np.linalg.norm(mei[1])
            if types[(session, int(index))] == "color_opponent":
                assert correlation < -0.5, (session, index)
            else:
                assert correlation > 0.5, (session, index)
