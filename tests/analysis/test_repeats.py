"""MEIs beside those of repeats: neurons whose optima are known in closed form, and whose starts find them or not."""

import json

import numpy as np
import pytest
import torch
from conftest import still_model
from torch import nn

import mei_lightning as ml
from mei_lightning.analysis.repeats import repeats_of_neurons, repeats_table

NORM = 1.0
STARTS = ml.MultiStart(starts=1, keep=1, shifts=())


def filters(count, seed=0):
    """Orthonormal filters of 12 by 12 pixels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(144, count, generator=generator))[0].T


class Cells(nn.Module):
    """A linear cell, a phase-invariant one, and one with two different optima of equal response."""

    def __init__(self):
        super().__init__()
        self.kernels = nn.Parameter(filters(5))

    def forward(self, image):
        drive = image.flatten(1) @ self.kernels.T
        energy = drive[:, 1:3].square().sum(dim=1).sqrt()
        return torch.stack([drive[:, 0], energy, drive[:, 3:].amax(dim=1)], dim=1)


def retina(network, pixels=12):
    return ml.RetinaModel(network, ml.StimulusFormat(("grey",), height=pixels, width=pixels))


@pytest.fixture(scope="module")
def of_cells():
    # Of 7 runs from one start each some find one optimum of the third cell, some the other.
    return ml.find_meis(retina(Cells()), "all", norm=NORM, search=STARTS, repeats=6, progress_bar=False)


def test_what_is_one_optimum_is_told_from_what_is_two(of_cells):
    assert of_cells["optima"].values.tolist() == [1, 1, 2]
    same = of_cells["optimum"].values == 0
    assert same[:2].all()
    assert set(of_cells["optimum"].values[2].tolist()) == {0, 1}
    phase_invariant = of_cells.isel(neuron=1)
    assert phase_invariant["repeat_similarity"].min() < 0.5
    np.testing.assert_allclose(phase_invariant["aligned_similarity"], 1, atol=1e-3)
    two = of_cells.isel(neuron=2)
    np.testing.assert_allclose(two["aligned_similarity"], two["optimum"] == 0, atol=1e-3)
    np.testing.assert_allclose(two["repeat_score"], two["score"], rtol=1e-3)


def test_optima_are_those_of_the_filters(of_cells):
    kernels = filters(5).numpy()
    stimuli = of_cells["repeat_stimulus"].values[2].reshape(6, -1)
    own = np.argmax(of_cells["stimulus"].values[2].reshape(-1) @ kernels[3:].T)
    nearest = np.argmax(stimuli @ kernels[3:].T, axis=1)
    np.testing.assert_array_equal(nearest == own, of_cells["optimum"].values[2] == 0)


def test_numbers_of_each_neuron(of_cells):
    numbers = repeats_of_neurons(of_cells)
    np.testing.assert_allclose(numbers["repeats_alike"], [1, 1, 0], atol=1e-3)
    assert (numbers["chance_of_better"] < 0.01).all()


def test_table_counts_repeats(of_cells):
    meis = of_cells.isel(repeat=[0, 1]).copy(deep=True)
    meis["repeat_score"][:] = meis["score"].values[:, None] * np.array([[1.0, 0.9], [1.005, 1.2], [0.5, np.nan]])
    table = repeats_table(meis)
    assert table["neurons"].tolist() == [3, 2]
    np.testing.assert_allclose(table["as_good"], [2 / 3, 0])
    np.testing.assert_allclose(table["worse"], [1 / 3, 1 / 2])
    np.testing.assert_allclose(table["better"], [0, 1 / 2])
    assert table.loc[1, "same_optimum"] == 1
    assert np.isnan(table.loc[2, "same_optimum"])


@pytest.mark.slow
def test_an_mei_at_another_time_is_the_same():
    """A cell that takes the best of a filter at two times answers as well to either, and not to their mixture."""

    class AtTwoTimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(filters(1)[0].view(1, 1, 3, 12, 4))

        def forward(self, video):
            drive = (video.unfold(2, 3, 1).movedim(-1, 2) * self.kernel[:, :, :, None]).sum(dim=(1, 2, 4, 5))
            return drive[:, [0, -1]].amax(dim=1)[:, None, None]

    model = ml.RetinaModel(AtTwoTimes(), ml.StimulusFormat(("grey",), frame_rate=30, height=12, width=4, frames_lost=8))
    meis = ml.find_meis(model, [0], norm=NORM, time_steps=9, search=STARTS, repeats=6, progress_bar=False)
    assert meis["repeat_similarity"].min() < 0.1
    np.testing.assert_allclose(meis["aligned_similarity"], 1, atol=1e-3)
    assert meis["optima"].item() == 1


@pytest.mark.slow
def test_cells_of_the_simulated_retina_that_have_one_mei_at_any_phase():
    model = ml.load_model("simulated")
    neurons = ml.NeuronSelection(where={"type": "direction_selective"})
    meis = ml.find_meis(model, neurons, repeats=3, progress_bar=False)
    assert meis["repeat_similarity"].min() < -0.5
    assert (repeats_of_neurons(meis)["repeats_alike"] >= 0.95).all()
    assert (meis["optima"] == 1).all()


@pytest.mark.slow
def test_repeats_are_what_runs_with_other_seeds_find(tmp_path):
    options = {"norm": NORM, "search": STARTS, "progress_bar": False}
    model = retina(Cells())
    meis = ml.find_meis(model, [0, 2], seed=4, repeats=2, directory=tmp_path, **options)
    for repeat in (1, 2):
        alone = ml.find_meis(model, [0, 2], seed=4 + repeat, **options)
        np.testing.assert_array_equal(meis["repeat_stimulus"].sel(repeat=repeat), alone["stimulus"])
        np.testing.assert_array_equal(meis["repeat_score"].sel(repeat=repeat), alone["score"])
    assert ml.open_repeats(tmp_path).identical(meis)
    again = ml.find_meis(model, [0, 2], seed=4, repeats=3, directory=tmp_path, **options)
    assert again["repeat"].values.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(again["repeat_stimulus"].values[:, :2], meis["repeat_stimulus"])


def test_what_cannot_be_repeated_is_refused_before_any_work(tmp_path):
    model = retina(Cells())
    given = ml.GivenStimuli(torch.ones(1, 1, 1, 12, 12))
    for options, about in (
        ({"repeats": -1}, "repeats=-1"),
        ({"repeats": 2, "per_member": True}, "per_member=True and repeats=2"),
        ({"repeats": 2, "norm": [1.0, 2.0]}, r"norm=\[1.0, 2.0\] with repeats=2"),
        ({"repeats": 2, "initial": given, "restarts": 1}, "the same stimuli with any seed"),
    ):
        with pytest.raises(ValueError, match=about):
            ml.find_meis(model, [0], directory=tmp_path / "none", progress_bar=False, **options)
    assert not (tmp_path / "none").exists()
    with pytest.raises(FileNotFoundError, match="no comparison of repeats"):
        ml.open_repeats(tmp_path)


def test_a_comparison_of_other_meis_is_not_opened(tmp_path):
    ml.find_meis(still_model(), [0], search="quick", repeats=1, directory=tmp_path, progress_bar=False)
    attributes = tmp_path / "repeats.zarr" / ".zattrs"
    attributes.write_text(json.dumps(json.loads(attributes.read_text()) | {"repeats_digest": "another"}))
    (tmp_path / "repeats.zarr" / ".zmetadata").unlink()
    with pytest.raises(FileNotFoundError, match="older than the MEIs"):
        ml.open_repeats(tmp_path)
