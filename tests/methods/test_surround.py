"""Exciting and suppressing surrounds."""

import numpy as np
import pytest
import torch
from conftest import linear_model, video_model

import mei_lightning as ml
from mei_lightning.methods.surround import centre_mask
from mei_lightning.objectives import SurroundObjective

QUIET = {"progress_bar": False, "search": "quick"}
LINEAR = [("session_1", i) for i in range(4)]


def cosine(one, other):
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("suppressing", [False, True])
def test_the_surround_of_a_linear_cell_is_its_filters(simulated, suppressing):
    """In a window of one response frame, by Cauchy and Schwarz: the filter outside of the centre, up to its sign."""
    surrounds = ml.find_surrounds(simulated, LINEAR, suppressing, time_steps=21, norm=10.0, surround_norm=4.0, **QUIET)
    for number, (session, index) in enumerate(LINEAR):
        outside = ~surrounds["centre_mask"].values[number]
        found = (surrounds["stimulus"] - surrounds["centre"]).values[number]
        expected = simulated.linear_filter(session, index).numpy() * outside
        assert cosine(found, expected) * (-1 if suppressing else 1) > 0.999
        assert np.linalg.norm(found) == pytest.approx(4.0, rel=1e-5)


@pytest.mark.slow
def test_the_surround_of_a_cell_with_a_suppressive_surround_has_the_opposite_sign_of_its_centre(simulated):
    exciting, suppressing = (
        ml.find_surrounds(simulated, LINEAR, suppressing=way, time_steps=30, norm=10.0, **QUIET)
        for way in (False, True)
    )
    for surrounds, sign in ((exciting, -1), (suppressing, 1)):
        for number in range(len(LINEAR)):
            outside = ~surrounds["centre_mask"].values[number]
            centre = surrounds["centre"].values[number].sum(axis=(2, 3))
            surround = (surrounds["stimulus"] * outside).values[number].sum(axis=(2, 3))
            assert cosine(centre, surround) * sign > 0.95
    assert (exciting["score"] > 1.1 * exciting["centre_score"]).all()
    assert (suppressing["score"] < 0.9 * suppressing["centre_score"]).all()


def test_the_centre_is_the_meis_and_scores_are_the_models(simulated):
    neurons = [("session_1", 4), [("session_1", 0), ("session_2", 0)]]
    ranges = [(-0.654, 6.269), (-0.913, 6.269)]
    surrounds = ml.find_surrounds(simulated, neurons, time_steps=24, norm=8.0, ranges=ranges, max_steps=10, **QUIET)
    meis = ml.find_meis(simulated, neurons, time_steps=24, norm=8.0, ranges=ranges, **QUIET)
    inside = surrounds["centre_mask"]
    xr_mei = (meis["stimulus"] * inside).transpose(*meis["stimulus"].dims)
    np.testing.assert_array_equal(surrounds["centre"], xr_mei)
    np.testing.assert_array_equal((surrounds["stimulus"] * inside).transpose(*xr_mei.dims), xr_mei)
    for name, scores in (("stimulus", "score"), ("centre", "centre_score")):
        objective = ml.NeuronObjective(simulated, neurons, ml.MeanReducer())
        np.testing.assert_allclose(objective(torch.from_numpy(surrounds[name].values)), surrounds[scores], rtol=1e-4)
    for channel, (low, high) in enumerate(ranges):
        assert surrounds["stimulus"][:, channel].min() >= low - 1e-5
        assert surrounds["stimulus"][:, channel].max() <= high + 1e-5


@pytest.mark.parametrize(("suppressing", "sign"), [(False, 1), (True, -1)])
def test_the_best_start_is_kept(simulated, suppressing, sign):
    # After one step starts still differ; the first of three is the only one of one.
    options = {"suppressing": suppressing, "time_steps": 24, "norm": 8.0, "max_steps": 1, **QUIET}
    one, three = (ml.find_surrounds(simulated, LINEAR, starts=starts, **options)["score"] for starts in (1, 3))
    assert (sign * (three - one) >= 0).all()
    assert (sign * (three - one) > 0).any()


def test_rows_keep_their_own_centres():
    model = video_model()
    generator = torch.Generator().manual_seed(0)
    free = torch.rand(3, 1, 1, 6, 5, generator=generator) > 0.5
    centre = torch.randn(3, 2, 8, 6, 5, generator=generator) * ~free
    surround = torch.randn(3, 2, 8, 6, 5, generator=generator)
    plain = ml.NeuronObjective(model, [("monday", 0), ("monday", 1), ("tuesday", 2)], ml.MeanReducer())
    expected = -plain(torch.where(free, surround, centre))
    objective = SurroundObjective(plain, centre, free, suppressing=True)
    torch.testing.assert_close(objective(surround), expected)
    torch.testing.assert_close(objective.for_rows([2, 0])(surround[[2, 0]]), expected[[2, 0]])
    with pytest.raises(ValueError, match="not 0 everywhere in the surround"):
        SurroundObjective(plain, centre + 1, free)


def test_the_centre_is_one_region_without_holes():
    strength = np.zeros((7, 9))
    strength[1:6, 1:6] = 1
    strength[3, 3] = 0.01  # a hole
    strength[2, 2] = 2  # the strongest
    strength[6, 6] = 1  # touches the region at a corner
    strength[3, 8] = 1.9  # another region
    stimulus = strength * np.random.default_rng(0).choice([-1, 1], (2, 5, 1, 1))
    expected = np.zeros((7, 9), dtype=bool)
    expected[1:6, 1:6] = expected[6, 6] = True
    np.testing.assert_array_equal(centre_mask(stimulus, 0.4), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": 0}, "starts=0"),
        ({"centre": 1.5}, "least=1.5 has to be a share"),
        ({"constraint": ml.FixedNorm(1.0)}, "norm and ranges in place of a constraint"),
        ({"centre": 1e-6}, "no room for a surround: the centre of 1 fills the image"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ml.find_surrounds(linear_model(), [1], time_steps=4, **QUIET, **options)
