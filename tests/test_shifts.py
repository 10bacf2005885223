"""The best stimulus of a neuron, shifted in time and optimised again."""

import numpy as np
import pytest
import torch
from conftest import NO_LIMIT, assert_same_meis, find, fit, read, results, still_model, video_model
from lightning.pytorch import Callback
from torch import nn

import mei_lightning as ml

FRAMES = 16
WEAK, STRONG = 3, 7
"""A quarter of the duration apart."""


class EarlyOrLate(nn.Module):
    """``u^4 + gain v^4`` of two frames u and v: a stimulus of either frame alone is a local optimum."""

    def __init__(self, gains):
        super().__init__()
        self.gains = nn.Parameter(torch.tensor(gains))

    def forward(self, stimulus):
        drive = stimulus.mean(dim=(1, 3, 4))
        weak, strong = drive[:, WEAK] ** 4, drive[:, STRONG] ** 4
        return (weak[:, None] + strong[:, None] * self.gains)[:, None]


def early_or_late(gains):
    facts = ml.StimulusFormat(("white",), 3, 3, frame_rate=10.0, frames_lost=FRAMES - 1)
    return ml.RetinaModel(EarlyOrLate(gains), facts, len(gains))


def test_a_shift_leads_from_a_worse_optimum_to_a_better_one():
    model, neurons = early_or_late([1.5] * 24), list(range(24))
    options = {"time_steps": FRAMES, "norm": 3.0}
    # All of the norm in one frame of 9 pixels: a mean of 1, to the power of 4.
    best, worse = 1.5, 1.0
    plain = find(model, neurons, restarts=1, **options)["score"].values
    assert (np.isclose(plain, best, rtol=1e-2) | np.isclose(plain, worse, rtol=1e-2)).all()
    assert 3 < np.isclose(plain, worse, rtol=1e-2).sum() < 21
    meis = find(model, neurons, **options)
    np.testing.assert_allclose(meis["score"], best, rtol=1e-2)
    # What the shift has found belongs to the start that it began from; the others are as they were.
    scores = meis["restart_scores"].values
    assert scores.shape == (24, 2)
    np.testing.assert_allclose(scores.max(axis=1), best, rtol=1e-2)
    assert 3 < np.isclose(scores, worse, rtol=1e-2).sum() < 24
    assert set(meis["status"].values) == {"converged"}


def test_shifts_lose_nothing():
    neurons = [("monday", 0), ("monday", 2), ("tuesday", 1)]
    options = {"time_steps": 16, "seed": 3}
    plain = find(video_model(), neurons, restarts=2, **options)
    shifted = find(video_model(), neurons, **options)
    assert (shifted["score"] >= plain["score"] - 1e-5 * abs(plain["score"])).all()
    for neuron in range(3):
        other = 1 - int(plain["best_restart"][neuron])
        assert shifted["restart_scores"].values[neuron, other] == pytest.approx(
            plain["restart_scores"].values[neuron, other]
        )
        assert shifted["steps"][neuron] >= plain["steps"][neuron]


class ActiveRows(Callback):
    """Notes how many rows there are to compute after each check."""

    def __init__(self):
        self.after_checks = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.after_checks.append(int(pl_module.active.sum()))


def test_a_shifted_stimulus_that_comes_back_is_not_followed_to_the_end(monkeypatch):
    # One optimum only, to which everything comes back.
    def run():
        rows = ActiveRows()
        module = ml.MEIModule(early_or_late([1e4]), [0], time_steps=FRAMES, norm=3.0)
        trainer = fit(module, NO_LIMIT, ml.RowConvergence(), rows)
        assert results(trainer)["score"].item() == pytest.approx(1e4, rel=1e-3)
        return rows.after_checks

    followed_for_a_while = run()
    monkeypatch.setattr("mei_lightning.population._SAME_PLACE", 2.0)
    followed_to_the_end = run()
    assert sum(followed_for_a_while) < sum(followed_to_the_end)


@pytest.mark.parametrize("rows", [2, 5, 16])
def test_any_number_of_rows_finds_the_same_with_shifts(rows):
    neurons = [("monday", 0), ("monday", 2), ("tuesday", 1), ("monday", 1)]
    options = {"time_steps": 16, "max_steps": 30, "fast_path": False}
    together = find(video_model(), neurons, rows_per_device=rows, **options)
    for number, neuron in enumerate(neurons):
        assert_same_meis(together.isel(neuron=[number]), find(video_model(), [neuron], **options), atol=1e-4)


def test_a_run_that_is_stopped_between_start_and_shift_continues(tmp_path):
    neurons = [("monday", 0), ("monday", 2), ("tuesday", 1)]
    options = {"time_steps": 16, "max_steps": 30, "fast_path": False}
    expected = find(video_model(), neurons, **options)

    def module():
        return ml.MEIModule(video_model(), neurons, **options)

    for steps in (12, 24, 36):
        fit(module(), steps, ml.RowConvergence(), directory=tmp_path)
    fit(module(), NO_LIMIT, ml.RowConvergence(), directory=tmp_path)
    assert_same_meis(read(tmp_path), expected, atol=1e-4)


def test_who_says_how_many_starts_there_are_gets_no_shifts():
    def shifts(model, **options):
        neuron = ("monday", 0) if model.has_sessions else 0
        return ml.MEIModule(model, [neuron], **options).configuration["shifts"]

    assert shifts(video_model(), time_steps=16) == [1, 4]
    assert shifts(video_model(), time_steps=16, effort="quick") == []
    assert shifts(video_model(), time_steps=16, effort="thorough") == [1, 4, 2, -2]
    assert shifts(video_model(), time_steps=16, restarts=2) == []
    assert shifts(video_model(), time_steps=16, optimizer=torch.optim.Adam) == []
    assert shifts(still_model()) == []
