"""The best stimulus of a neuron, moved in time and optimised again."""

import numpy as np
import pytest
import torch
from conftest import NO_LIMIT, assert_same_meis, find, fit, read, results, still_model, video_model
from lightning.pytorch import Callback
from torch import nn

import mei_lightning as ml
from mei_lightning.optimization.search import MultiStart

FRAMES = 16
WEAK, STRONG = 3, 7
"""A quarter of the duration apart."""


class EarlyOrLate(nn.Module):
    """``u^4 + gain v^4`` of two frames u and v: a stimulus of either frame alone is a local optimum."""

    def __init__(self, gains, weak, strong):
        super().__init__()
        self.gains = nn.Parameter(torch.tensor(gains))
        self.weak, self.strong = weak, strong

    def forward(self, stimulus):
        drive = stimulus.mean(dim=(1, 3, 4))
        weak, strong = drive[:, self.weak] ** 4, drive[:, self.strong] ** 4
        return (weak[:, None] + strong[:, None] * self.gains)[:, None]


def early_or_late(gains, weak=WEAK, strong=STRONG, frames=FRAMES):
    facts = ml.StimulusFormat(("white",), 3, 3, frame_rate=10.0, frames_lost=frames - 1)
    return ml.RetinaModel(EarlyOrLate(gains, weak, strong), facts, len(gains))


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
    # What the shift has found belongs to the best start; those that met it, or lagged behind it, have no score.
    scores = meis["restart_scores"].values
    assert scores.shape == (24, 3)
    np.testing.assert_allclose(np.nanmax(scores, axis=1), best, rtol=1e-2)
    assert np.isnan(scores).any()
    assert set(meis["status"].values) == {"converged"}


@pytest.mark.slow
def test_shifts_lose_nothing():
    neurons = [("monday", 0), ("monday", 2), ("tuesday", 1)]
    options = {"time_steps": 16, "seed": 3}
    plain = find(video_model(), neurons, restarts=3, **options)
    shifted = find(video_model(), neurons, **options)
    assert (shifted["score"] >= plain["score"] - 1e-5 * abs(plain["score"])).all()


class ActiveRows(Callback):
    """Notes how many rows there are to compute after each check."""

    def __init__(self):
        self.after_checks = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.after_checks.append(int(pl_module.active.sum()))


def test_starts_that_meet_end_there_and_count_as_alike():
    # A linear neuron: one optimum only.
    filters = torch.randn(8, FRAMES * 9, generator=torch.Generator().manual_seed(0))
    facts = ml.StimulusFormat(("white",), 3, 3, frame_rate=10.0, frames_lost=FRAMES - 1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(FRAMES * 9, 8, bias=False), nn.Unflatten(1, (1, 8)))
    network[1].weight.data = filters
    rows = ActiveRows()
    module = ml.MEIModule(ml.RetinaModel(network, facts, 8), list(range(8)), time_steps=FRAMES, norm=3.0)
    meis = results(fit(module, NO_LIMIT, ml.RowConvergence(), rows))
    np.testing.assert_allclose(meis["score"], 3.0 * filters.norm(dim=1), rtol=1e-3)
    assert (np.isfinite(meis["restart_scores"]).sum("restart") == 1).all()
    assert (meis["restart_similarity"] > 0.85).all()
    assert meis["score_spread"].isnull().all()
    assert rows.after_checks[:2] == [24, 8]


def test_a_shifted_stimulus_that_comes_back_is_not_followed_to_the_end(monkeypatch):
    # One optimum only, to which everything comes back.
    def run():
        rows = ActiveRows()
        module = ml.MEIModule(early_or_late([1e4]), [0], time_steps=FRAMES, norm=3.0)
        trainer = fit(module, NO_LIMIT, ml.RowConvergence(), rows)
        assert results(trainer)["score"].item() == pytest.approx(1e4, rel=1e-3)
        return rows.after_checks

    followed_for_a_while = run()
    monkeypatch.setattr("mei_lightning.optimization.search._SHIFTED_MEETS", 2.0)
    followed_to_the_end = run()
    assert sum(followed_for_a_while) < sum(followed_to_the_end)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["_LAG_WITH_HOPE", "_LAG_OF_KEPT_STARTS", "_LAG_OF_SHIFTED"])
def test_rows_that_are_far_behind_are_not_followed_to_the_end(monkeypatch, rule):
    # Two optima, so that the row of the worse one never comes to where the better one is.
    neurons = list(range(24))

    def run():
        rows = ActiveRows()
        # Several starts are followed after the trial.
        search = "thorough" if rule == "_LAG_OF_KEPT_STARTS" else "normal"
        module = ml.MEIModule(early_or_late([1.5] * 24), neurons, time_steps=FRAMES, norm=3.0, search=search)
        # Patient, for both optima are reached in a few steps.
        meis = results(fit(module, NO_LIMIT, ml.RowConvergence(patience=12), rows))
        np.testing.assert_allclose(meis["score"], 1.5, rtol=1e-2)
        return sum(rows.after_checks)

    with_the_rule = run()
    monkeypatch.setattr(f"mei_lightning.optimization.search.{rule}", float("inf"))
    assert with_the_rule < run()


@pytest.mark.slow
@pytest.mark.parametrize("later", [1, -1])
def test_a_better_optimum_one_frame_away_is_found_however_little_better_it_is(monkeypatch, later):
    # Shifts are by 3 and 12 frames.
    frames, gain = 48, 1.01
    model, neurons = early_or_late([gain] * 24, weak=20, strong=20 + later, frames=frames), list(range(24))

    def scores():
        return find(model, neurons, time_steps=frames, norm=3.0)["score"].values

    np.testing.assert_allclose(scores(), gain, rtol=1e-3)
    monkeypatch.setattr("mei_lightning.optimization.search._LAG_OF_FRAME_SHIFTED", -float("inf"))
    not_nudged = scores()
    assert (np.isclose(not_nudged, gain, rtol=1e-3) | np.isclose(not_nudged, 1.0, rtol=1e-3)).all()
    assert (not_nudged < 1.005).any()


@pytest.mark.slow
def test_a_nudged_stimulus_that_is_no_better_ends_soon(monkeypatch):
    model = early_or_late([1.0] * 8, weak=20, strong=21, frames=48)

    def run():
        rows = ActiveRows()
        module = ml.MEIModule(model, list(range(8)), time_steps=48, norm=3.0)
        meis = results(fit(module, NO_LIMIT, ml.RowConvergence(), rows))
        np.testing.assert_allclose(meis["score"], 1.0, rtol=1e-3)
        return sum(rows.after_checks)

    soon = run()
    monkeypatch.setattr(MultiStart, "hardly_better", lambda search, values: torch.zeros_like(values) > 0)
    assert soon < run()


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "check_interval"), [(3, 4), (7, 4), (24, 4), (3, 3), (7, 1)])
def test_any_number_of_rows_finds_the_same_with_shifts(rows, check_interval):
    neurons = [("monday", 0), ("monday", 2), ("tuesday", 1), ("monday", 1)]
    options = {"time_steps": 16, "max_steps": 30, "fast_path": False, "check_interval": check_interval}

    def find_with(neurons, **rows):
        module = ml.MEIModule(video_model(), neurons, **options, **rows)
        return results(fit(module, NO_LIMIT, ml.RowConvergence()))

    together = find_with(neurons, rows_per_device=rows)
    for number, neuron in enumerate(neurons):
        assert_same_meis(together.isel(neuron=[number]), find_with([neuron]), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "check_interval"), [(3, 4), (7, 3), (7, 1)])
def test_any_number_of_rows_finds_the_same_with_nudges(rows, check_interval):
    model, neurons = early_or_late([1.01] * 6, weak=20, strong=21, frames=48), list(range(6))

    def find_with(neurons, **rows):
        module = ml.MEIModule(model, neurons, time_steps=48, norm=3.0, check_interval=check_interval, **rows)
        return results(fit(module, NO_LIMIT, ml.RowConvergence()))

    together = find_with(neurons, rows_per_device=rows)
    for neuron in neurons:
        assert_same_meis(together.isel(neuron=[neuron]), find_with([neuron]), atol=1e-4)


@pytest.mark.slow
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
    assert shifts(video_model(), time_steps=16, search="quick") == []
    assert shifts(video_model(), time_steps=16, search="thorough") == [1, 4, 2, -2]
    assert shifts(video_model(), time_steps=16, restarts=2) == []
    assert shifts(video_model(), time_steps=16, optimizer=torch.optim.Adam) == []
    assert shifts(still_model()) == []


@pytest.mark.parametrize(("status", "gain"), [(ml.Status.DUPLICATE, 1.5e-5), (ml.Status.PRUNED, 1e-3)])
def test_a_moved_row_that_was_given_up_does_not_take_the_place_of_a_start(status, gain):
    """It may be better by more than rounding, but not by so much that it would have been followed."""
    module = ml.MEIModule(video_model(), [("monday", 0)])
    first_shifted, rows = module.rows.starts, module.rows.starts + len(module.problem.shifts)
    module.neuron_in_slot[0] = 0
    module.status[:] = int(status)
    module.status[0] = int(ml.Status.CONVERGED)
    module.best_value[:] = 1.0
    module.best_value[0] = 2.0
    module.best_value[first_shifted] = 2.0 * (1 + gain)
    module.rows.adopt_moved()
    assert module.status.tolist()[0] == ml.Status.CONVERGED
    assert module.best_value[0] == 2.0
    assert (module.status[first_shifted:rows] == int(ml.Status.EMPTY)).all()
