"""The simulated retina does what its documentation says of every cell type."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import correlate

from mei_lightning.models.natural_movies import naturalistic_movies
from mei_lightning.models.simulated import LINEAR_TYPES, SimulatedRetina

TYPES = {
    *LINEAR_TYPES,
    "on_off",
    "direction_selective",
    "suppressed_by_contrast",
    "color_opponent",
}


@pytest.fixture(scope="module")
def retina() -> SimulatedRetina:
    return SimulatedRetina()


def cells(retina, *types):
    table = retina.neurons
    return table[table["type"].isin(types)]


def responses(retina, stimulus):
    """Responses [batch, time', neurons] in the order of the table."""
    return torch.cat([retina(stimulus, data_key=session) for session in retina.neurons_per_session], dim=2)


def full_field(time_course):
    """A stimulus of one uniform value per frame and channel, [1, 2, time, 18, 16], from [time] or [2, time]."""
    time_course = torch.as_tensor(time_course, dtype=torch.float32).expand(2, -1)
    return time_course[None, :, :, None, None].expand(1, 2, -1, 18, 16)


def spot(y, x, radius=2.5):
    rows, columns = torch.arange(18.0)[:, None], torch.arange(16.0)
    return ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).float()


def step_spots(retina, contrast, channels=(1.0, 1.0)):
    """For each neuron, a spot on its centre that steps from 0 to a contrast at frame 30 of 60; its own response."""
    onset = (torch.arange(60) >= 30).float()[:, None, None] * contrast
    table = retina.neurons
    stimulus = torch.stack([onset * spot(y, x) for y, x in zip(table["y"], table["x"], strict=True)])
    stimulus = stimulus[:, None] * torch.tensor(channels)[:, None, None, None]
    return responses(retina, stimulus).diagonal(dim1=0, dim2=2).T


def by_type(retina, values, *types):
    return values[torch.tensor(retina.neurons["type"].isin(types).to_numpy())]


def test_a_user_asks_for_responses_of_a_session(retina):
    stimulus = torch.randn(retina.stimulus_shape(time_steps=40, num_batches=3))
    assert stimulus.shape == (3, 2, 40, 18, 16)
    assert retina(stimulus, data_key="session_1").shape == (3, 20, retina.neurons_per_session["session_1"])
    assert retina.name == "simulated"
    assert retina.stimulus_format.frames_lost == 20
    assert not any(parameter.requires_grad for parameter in retina.parameters())


def test_table_of_neurons(retina):
    table = retina.neurons
    assert list(table.columns) == ["session", "index", "type", "y", "x", "direction"]
    for session, count in retina.neurons_per_session.items():
        rows = table[table["session"] == session]
        assert list(rows["index"]) == list(range(count))
        assert set(rows["type"]) == TYPES
        assert set(rows["type"].iloc[:8]) == TYPES
    directional = table["type"] == "direction_selective"
    assert table.loc[~directional, "direction"].isna().all()
    assert set(table.loc[directional, "direction"]) == {0.0, 90.0, 180.0, 270.0}
    assert table["y"].between(2, 15).all()
    assert table["x"].between(2, 13).all()
    assert not table.duplicated(["y", "x"]).any()


def test_linear_cells_equal_a_correlation_with_their_filter(retina):
    stimulus = torch.randn(1, 2, 30, 18, 16, generator=torch.Generator().manual_seed(1))
    for session, index in cells(retina, *LINEAR_TYPES)[["session", "index"]].itertuples(index=False):
        linear_filter = retina.linear_filter(session, index)
        assert linear_filter.shape == (2, 21, 18, 16)
        drive = correlate(stimulus[0].double().numpy(), linear_filter.double().numpy(), mode="valid")[0, :, 0, 0]
        expected = retina.linear_response(session, index, torch.from_numpy(drive))
        actual = retina(stimulus, data_key=session)[0, :, index]
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_filter_is_the_best_stimulus_of_its_norm(retina):
    session, index = cells(retina, "on_transient")[["session", "index"]].iloc[0]
    linear_filter = retina.linear_filter(session, index)
    best = 10 * linear_filter / linear_filter.norm()
    score = retina(best[None], data_key=session)[0, 0, index]
    torch.testing.assert_close(score, retina.linear_response(session, index, 10 * linear_filter.norm()))
    other = torch.randn(500, 2, 21, 18, 16) + best
    other = 10 * other / other.flatten(1).norm(dim=1)[:, None, None, None, None]
    assert (retina(other, data_key=session)[:, 0, index] < score).all()


def test_on_cells_like_light_and_off_cells_dark(retina):
    light, dark = step_spots(retina, 2.0), step_spots(retina, -2.0)
    before = light[:, 9]
    for polarity, liked, disliked in (("on", light, dark), ("off", dark, light)):
        types = [f"{polarity}_sustained", f"{polarity}_transient"]
        rest = by_type(retina, before, *types)
        liked_after = by_type(retina, liked[:, 10:], *types)
        disliked_after = by_type(retina, disliked[:, 10:], *types)
        assert (liked_after.amax(1) > 3 * rest).all()
        assert (disliked_after[:, :5].amin(1) < 0.5 * rest).all()


def test_sustained_cells_go_on_and_transient_cells_stop(retina):
    for polarity, contrast in (("on", 2.0), ("off", -2.0)):
        after = step_spots(retina, contrast)
        rest = after[:, 9:10]
        kept = (after[:, -1:] - rest) / (after.amax(1, keepdim=True) - rest)
        assert (by_type(retina, kept, f"{polarity}_sustained") > 0.6).all()
        assert (by_type(retina, kept, f"{polarity}_transient") < 0.3).all()


def test_on_off_cells_like_both(retina):
    for contrast in (2.0, -2.0):
        after = by_type(retina, step_spots(retina, contrast), "on_off")
        assert (after[:, 10:].amax(1) > 3 * after[:, 9]).all()


def test_direction_selective_cells_prefer_their_direction(retina):
    y, x = torch.arange(18.0)[:, None], torch.arange(16.0)
    peaks = {}
    for direction in range(0, 360, 45):
        angle = math.radians(direction)
        along = (x - 7.5) * math.cos(angle) + (y - 8.5) * math.sin(angle)
        front = (-18 + 0.65 * torch.arange(75.0))[:, None, None]
        bar = 2.0 * ((along - front).abs() < 1.5).float()
        for contrast in (1.0, -1.0):
            peaks[direction, contrast] = responses(retina, contrast * bar.expand(1, 2, -1, -1, -1)).amax(1)[0]
    for row, preferred in cells(retina, "direction_selective")["direction"].items():
        for contrast in (1.0, -1.0):
            at = {direction: peaks[direction, contrast][row].item() for direction in range(0, 360, 45)}
            assert max(at, key=at.__getitem__) == preferred
            assert at[preferred] > 2 * at[(preferred + 180) % 360]


def test_contrast_suppresses_suppressed_by_contrast_cells_and_excites_on_off_cells(retina):
    flicker = torch.arange(80) // 4 % 2 * 2.0 - 1
    mean = responses(retina, full_field(flicker)).mean((0, 1))
    rest = responses(retina, full_field(torch.zeros(21)))[0, 0]
    assert (by_type(retina, mean / rest, "suppressed_by_contrast") < 0.8).all()
    assert (by_type(retina, mean / rest, "on_off") > 1.5).all()


def test_a_stimulus_can_excite_suppressed_by_contrast_cells(retina):
    bright = responses(retina, full_field(torch.full((40,), 2.0))).mean(1)[0]
    rest = responses(retina, full_field(torch.zeros(21)))[0, 0]
    assert (by_type(retina, bright / rest, "suppressed_by_contrast") > 1.2).all()


def test_only_opponent_cells_are_opponent(retina):
    """The gradient at rest has opposite signs of green and UV in the centre of opponent cells, equal elsewhere."""
    for session, index, cell_type, y, x, _ in retina.neurons.itertuples(index=False):
        if cell_type in ("direction_selective", "on_off"):
            continue
        stimulus = torch.zeros(1, 2, 21, 18, 16, requires_grad=True)
        (gradient,) = torch.autograd.grad(retina(stimulus, data_key=session)[0, 0, index], stimulus)
        green, uv = (gradient[0] * spot(y, x, 1.5)).sum((2, 3))
        peak = uv.abs().argmax()
        assert (green[peak] * uv[peak] < 0).item() == (cell_type == "color_opponent")


def test_future_frames_do_not_matter(retina):
    generator = torch.Generator().manual_seed(2)
    stimulus = torch.randn(2, 2, 50, 18, 16, generator=generator)
    changed = stimulus.clone()
    changed[:, :, 35:] = torch.randn(2, 2, 15, 18, 16, generator=generator)
    before, after = responses(retina, stimulus), responses(retina, changed)
    torch.testing.assert_close(before[:, :15], after[:, :15])
    assert ((before - after)[:, 15].abs() > 0).all()


def test_same_every_time_and_global_random_state_untouched(retina):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    again = SimulatedRetina()
    assert torch.equal(torch.get_rng_state(), state)
    assert again.neurons.equals(retina.neurons)
    for name, value in retina.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize(
    ("session", "index", "message"),
    [
        ("session_9", 0, "no session 'session_9'.*session_1, session_2, session_3"),
        ("session_1", 36, "neurons 0 to 35, not 36"),
        ("session_1", -1, "neurons 0 to 35, not -1"),
        ("session_1", 5, "type 'direction_selective'.*on_sustained, on_transient, off_sustained, off_transient"),
    ],
)
def test_asking_for_a_filter_that_does_not_exist(retina, session, index, message):
    with pytest.raises(ValueError, match=message):
        retina.linear_filter(session, index)
    with pytest.raises(ValueError, match=message):
        retina.linear_response(session, index, torch.zeros(1))


def test_naturalistic_movies_are_seeded_scaled_and_coloured(retina):
    state = torch.get_rng_state()
    movies = naturalistic_movies(60, 45, torch.Generator().manual_seed(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(movies, naturalistic_movies(60, 45, torch.Generator().manual_seed(4)))
    assert movies.shape == (60, 2, 45, 18, 16)
    assert movies.isfinite().all()
    assert movies.mean().abs() < 0.2
    assert 0.5 < movies.std() < 1.5
    green, uv = movies.transpose(0, 1).flatten(1)
    assert 0.05 < torch.corrcoef(torch.stack([green, uv]))[0, 1] < 0.9
    rates = responses(retina, movies)
    assert ((rates.mean((0, 1)) > 0.1) & (rates.mean((0, 1)) < 5)).all()
    assert (rates.std((0, 1)) > 0.2).all()
