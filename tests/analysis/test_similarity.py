"""The most similar MEIs, against shifts by hand."""

import numpy as np
import pytest
import xarray as xr
from conftest import find, video_model

import mei_lightning as ml


def dataset(stimuli, pixel_size=50.0):
    stimuli = np.asarray(stimuli, dtype=np.float32)
    labels = [f"a/{number}" for number in range(len(stimuli))]
    attrs = {} if pixel_size is None else {"pixel_size": pixel_size}
    unit = "pixel" if pixel_size is None else "um"
    return xr.Dataset(
        {
            "stimulus": (("neuron", "channel", "time", "y", "x"), stimuli),
            "score": ("neuron", np.ones(len(stimuli))),
            "status": ("neuron", np.full(len(stimuli), "converged", dtype="U12")),
        },
        {
            "neuron": labels,
            "session": ("neuron", ["a"] * len(stimuli)),
            "index": ("neuron", range(len(stimuli))),
            "y": ("y", np.arange(stimuli.shape[3]), {"units": unit}),
            "x": ("x", np.arange(stimuli.shape[4]), {"units": unit}),
        },
        attrs,
    )


def shifted(stimulus, dy, dx):
    """The stimulus moved by some pixels; what leaves the image is lost."""
    height, width = stimulus.shape[-2:]
    result = np.zeros_like(stimulus)
    for y in range(height):
        for x in range(width):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                result[..., y, x] = stimulus[..., y - dy, x - dx]
    return result


def cosine(one, other):
    return (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)


def test_similarities_are_those_of_the_best_shift():
    generator = np.random.default_rng(0)
    stimuli = generator.standard_normal((6, 2, 3, 5, 4))
    stimuli[4] = shifted(stimuli[0], 2, -1)
    found = ml.most_similar_meis(dataset(stimuli), "a/0", n=10)
    assert found.sizes["neuron"] == 5
    assert (np.diff(found) <= 0).all()
    for other, value, y, x in zip(found["index"].values, found.values, found.shift_y, found.shift_x, strict=True):
        by_shift = {
            (dy, dx): np.sum(shifted(stimuli[0], dy, dx) * stimuli[other])
            / np.linalg.norm(stimuli[0])
            / np.linalg.norm(stimuli[other])
            for dy in range(-4, 5)
            for dx in range(-3, 4)
        }
        assert value == pytest.approx(max(by_shift.values()), abs=1e-6)
        assert by_shift[(int(y) // 50, int(x) // 50)] == pytest.approx(value, abs=1e-6)
    assert found["neuron"].values[0] == "a/4"
    assert (found.shift_y.values[0], found.shift_x.values[0]) == (100, -50)


def test_place_and_norm_do_not_matter_but_sign_time_and_colour_do():
    pattern = np.zeros((2, 4, 12, 10))
    pattern[0, 1:3, 2:4, 2:5], pattern[1, 2, 3, 3] = 1.0, -2.0
    stimuli = [
        pattern,
        3 * shifted(pattern, 6, 4),
        -shifted(pattern, 6, 4),
        pattern[::-1],
        pattern[:, ::-1],
        np.full_like(pattern, np.nan),
    ]
    meis = dataset(stimuli, pixel_size=None)
    meis["score"][5] = np.nan
    found = ml.most_similar_meis(meis, ("a", 0), n=9)
    assert found["neuron"].values[0] == "a/1"
    assert found.values[0] == pytest.approx(1.0)
    assert (found.shift_y.values[0], found.shift_x.values[0]) == (6, 4)
    assert found.shift_y.attrs["units"] == "pixel"
    assert found.sizes["neuron"] == 4
    assert (found.values[1:] < 0.9).all()
    # What is shifted beyond the image is missing.
    cut = dataset([pattern, shifted(pattern, 0, 7)])
    half = cosine(shifted(pattern, 0, 7), shifted(pattern, 0, 7)) * np.linalg.norm(shifted(pattern, 0, 7))
    assert ml.most_similar_meis(cut, "a/0").values == pytest.approx(half / np.linalg.norm(pattern))


def test_a_user_finds_cells_of_the_same_type_by_their_meis(simulated):
    types = ["color_opponent", "on_sustained", "off_transient"]
    chosen = ml.NeuronSelection(sessions=["session_1", "session_2"], where={"type": types})
    meis = find(simulated, chosen, search="quick")
    table = simulated.neurons.set_index(["session", "index"])

    found = ml.most_similar_meis(meis, "session_1/0", n=5)

    same = [table.loc[pair, "type"] for pair in zip(found.session.values, found["index"].values, strict=True)]
    assert same == [table.loc[("session_1", 0), "type"]] * 5
    assert (found > 0.85).all()
    for session, index, y, x in zip(
        found.session.values, found["index"].values, found.shift_y.values, found.shift_x.values, strict=True
    ):
        distance = table.loc[(session, index), ["y", "x"]] - table.loc[("session_1", 0), ["y", "x"]]
        np.testing.assert_allclose([y / 50, x / 50], distance.astype(float), atol=1.0)


def test_what_cannot_be_compared_is_refused():
    meis = find(video_model(), [("monday", 1), ("tuesday", 2)], time_steps=6, max_steps=1, restarts=1)
    with pytest.raises(ValueError, match="no neuron 'monday/0'"):
        ml.most_similar_meis(meis, ("monday", 0))
    with pytest.raises(ValueError, match="n=0"):
        ml.most_similar_meis(meis, "monday/1", n=0)
    meis["score"][0], meis["status"][0] = np.nan, "pending"
    with pytest.raises(ValueError, match="'monday/1' has no MEI: its status is 'pending'"):
        ml.most_similar_meis(meis, "monday/1")
    assert ml.most_similar_meis(meis, "tuesday/2").sizes["neuron"] == 0
