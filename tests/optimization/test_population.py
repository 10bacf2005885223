"""Any number of neurons in a bounded number of rows, in runs that may be interrupted."""

from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import (
    NO_LIMIT,
    STILL_FORMAT,
    FailingNetwork,
    StillNetwork,
    assert_same_meis,
    count_computations,
    find,
    fit,
    read,
    results,
    still_model,
    video_model,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

import mei_lightning as ml
from mei_lightning.acceleration import memory
from mei_lightning.acceleration.memory import rows_that_fit
from mei_lightning.optimization.strategies import deal, strategy_for

OPTIMIZERS = {
    "power method": ml.AdaptivePowerMethod,
    "SGD": partial(torch.optim.SGD, lr=2.0),
    "momentum": partial(torch.optim.SGD, lr=0.5, momentum=0.8),
    "Adam": partial(torch.optim.Adam, lr=0.05),
}
NEURONS = 7
# Far from what rounding could turn, and such that neurons take different numbers of steps.
CONVERGENCE = {name: ml.RowConvergence(relative_gain=2e-3, patience=2) for name in OPTIMIZERS}
CONVERGENCE["power method"] = ml.RowConvergence(relative_gain=5e-3, patience=1)


@cache
def small_model():
    return ml.RetinaModel(StillNetwork(neurons=NEURONS), STILL_FORMAT, NEURONS)


def small_module(neurons, optimizer, restarts, **options):
    # The hooks are on the network itself, not on a faster copy of it.
    options = {"max_steps": 24, "check_interval": 4, "fast_path": False, **options}
    return ml.MEIModule(small_model(), neurons, optimizer=OPTIMIZERS[optimizer], restarts=restarts, **options)


@cache
def alone(neuron, optimizer, restarts):
    """The MEI of a neuron in a run of its own, in which all rows are there from the first step to the last."""
    return results(fit(small_module([neuron], optimizer, restarts), NO_LIMIT, CONVERGENCE[optimizer]))


# Streaming


@pytest.mark.slow
@given(
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    restarts=st.integers(1, 3),
    rows=st.integers(1, 12),
    check_interval=st.integers(1, 5),
    neurons=st.lists(st.integers(0, NEURONS - 1), min_size=1, max_size=NEURONS, unique=True),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_any_number_of_rows_finds_what_each_neuron_finds_alone(optimizer, restarts, rows, check_interval, neurons):
    check_streaming(optimizer, restarts, max(rows, restarts), check_interval, neurons)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_places_that_become_free_at_different_checks(optimizer):
    neurons = [1, 0, 2, 6, 4, 5, 3] if optimizer == "power method" else [4, 0, 3, 6, 1, 5, 2]
    meis = check_streaming(optimizer, 1, 3, 1, neurons)
    assert len(np.unique(meis["steps"][:3])) > 1


def check_streaming(optimizer, restarts, rows, check_interval, neurons):
    expected = [alone(neuron, optimizer, restarts) for neuron in neurons]
    seen = []
    # Once the model has been tried out, for which it is shown two stimuli.
    module = small_module(neurons, optimizer, restarts, rows_per_device=rows, check_interval=check_interval)
    hook = small_model().network.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    try:
        meis = results(fit(module, NO_LIMIT, CONVERGENCE[optimizer]))
    finally:
        hook.remove()
    # No more rows than allowed at any time, and at first as many as there are whole neurons in them.
    assert max(seen) <= rows
    assert max(seen[:3]) == restarts * min(rows // restarts, len(neurons))
    assert meis["neuron"].values.tolist() == [str(neuron) for neuron in neurons]
    for number, one in enumerate(expected):
        assert_same_meis(meis.isel(neuron=[number]), one)
    return meis


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_place_is_free_of_what_was_in_it(optimizer):
    """After a neuron that answers NaN and one whose gradient is NaN, the next one finds what it finds alone."""
    model = ml.RetinaModel(FailingNetwork(), STILL_FORMAT, {"monday": 5, "tuesday": 1})
    neurons = [("monday", 2), ("monday", 0), ("tuesday", 0), ("monday", 4), ("monday", 1), ("monday", 3)]
    options = {"max_steps": 15, "restarts": 2, "optimizer": OPTIMIZERS[optimizer]}
    with pytest.warns(UserWarning, match="stimuli ended with"):
        meis = find(model, neurons, rows_per_device=2, **options)
    assert meis["status"].values[[0, 2, 4]].tolist() == ["not finite", "not finite", "no gradient"]
    for number in (1, 3, 5):
        assert_same_meis(meis.isel(neuron=[number]), find(model, [neurons[number]], **options))


def test_places_are_filled_while_others_are_busy():
    """Two places: as soon as one is free the next neuron is there, and none waits for the other place."""
    seen = []

    class Places(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            seen.append(module.neuron_in_slot.tolist())

    needed = [int(alone(neuron, "power method", 1)["steps"][0]) for neuron in range(NEURONS)]
    module = small_module(list(range(NEURONS)), "power method", 1, rows_per_device=2, check_interval=2)
    fit(module, NO_LIMIT, CONVERGENCE["power method"], Places())
    waiting, places, expected = list(range(NEURONS)), [None, None], []
    left = [0, 0]
    while waiting or any(left):
        for place in range(2):
            if not left[place]:
                places[place] = waiting.pop(0) if waiting else None
                # A place is free again at the first check after the last step.
                left[place] = 0 if places[place] is None else -(-needed[places[place]] // 2)
        expected += [[-1 if number is None else number for number in places]] * 2
        left = [max(checks - 1, 0) for checks in left]
    assert seen == expected


@pytest.mark.slow
def test_by_default_as_many_rows_are_computed_as_fit(monkeypatch):
    monkeypatch.setattr("mei_lightning.optimization.slot_module.rows_that_fit", lambda *_: 7)
    seen = {}

    class Rows(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            seen.setdefault(module.rows.starts, []).append(int(module.active.sum()))

    for restarts in (1, 2, 3, 8):
        fit(small_module(list(range(NEURONS)), "power method", restarts, max_steps=9), NO_LIMIT, Rows())
    assert [max(rows) for rows in seen.values()] == [7, 6, 7, 8]
    # Two of three restarts get to the end: two neurons begin, one more when four rows are left, and another.
    assert seen[3][0] == 6
    # A neuron is computed even if its restarts are more rows than fit.
    assert seen[8][0] == 8


# Continuing


def run_of_five(optimizer, max_steps, directory=None):
    """How many steps of rows were computed, and the trainer."""
    module = small_module([3, 0, 6, 2, 5], optimizer, 2, rows_per_device=4, max_steps=20, check_interval=5)
    counts = count_computations(module)
    trainer = fit(module, max_steps, directory=directory)
    return sum(rows for rows, has_gradient in counts if has_gradient), trainer


@cache
def whole_run_of_five(optimizer):
    row_steps, trainer = run_of_five(optimizer, NO_LIMIT)
    assert row_steps == 5 * 2 * 20
    return results(trainer)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("interrupted", "done"), [(7, 0), (20, 2), (25, 2), (27, 2)])
def test_a_run_that_was_interrupted_continues_and_ends_as_if_it_had_not_been(tmp_path, optimizer, interrupted, done):
    """Two places of two rows for five neurons; after 20 steps the first two are done."""
    row_steps, trainer = run_of_five(optimizer, interrupted, tmp_path)
    assert trainer.global_step == interrupted
    status = read(tmp_path)["status"].values.tolist()
    assert status[:done] == ["step limit"] * done
    assert set(status[done : done + 2]) == {"interrupted"}
    assert set(status[done + 2 :]) == {"pending"}
    row_steps, _ = run_of_five(optimizer, NO_LIMIT, tmp_path)
    assert row_steps == (5 - done) * 2 * 20
    assert_same_meis(read(tmp_path), whole_run_of_five(optimizer))
    row_steps, _ = run_of_five(optimizer, NO_LIMIT, tmp_path)
    assert row_steps == 0


@pytest.mark.slow
def test_find_meis_continues_after_ctrl_c(tmp_path):
    class Impatient(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 14:
                raise KeyboardInterrupt

    class Begun(Callback):
        def __init__(self):
            self.neurons = set()

        def on_train_batch_start(self, trainer, module, *_):
            self.neurons |= {module.labels[number] for number in module.neuron_in_slot.tolist() if number >= 0}

    neurons = [("monday", 0), ("tuesday", 1), ("monday", 3), ("tuesday", 2)]
    options = {"time_steps": 6, "restarts": 2, "max_steps": 20, "rows_per_device": 2, "directory": tmp_path / "run"}
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        find(video_model(), neurons, callbacks=[Impatient()], **options)
    assert read(tmp_path / "run")["status"].values.tolist()[1:] == ["interrupted", "pending", "pending"]
    begun = Begun()
    continued = find(video_model(), neurons, callbacks=[begun], **options)
    assert begun.neurons == {"tuesday/1", "monday/3", "tuesday/2"}
    whole = find(video_model(), neurons, **{**options, "directory": None, "rows_per_device": None})
    assert_same_meis(continued.load(), whole)
    xr.testing.assert_identical(continued, read(tmp_path / "run"))


def test_sigterm_keeps_what_was_found_and_does_not_pass_for_success(tmp_path):
    class Terminates(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 6:
                raise SIGTERMException

    module = ml.MEIModule(still_model(), [0, 1], restarts=2, rows_per_device=2, max_steps=5, check_interval=5)
    with pytest.raises(SystemExit) as caught:
        fit(module, NO_LIMIT, Terminates(), directory=tmp_path)
    assert caught.value.code == 128 + 15
    assert read(tmp_path)["status"].values.tolist() == ["step limit", "interrupted"]


@pytest.mark.parametrize(("restarts", "finalists"), [(2, 1), (4, 2), (16, 8)])
def test_the_starts_that_get_farthest_in_the_trial_go_on(restarts, finalists):
    """Against plain runs of all starts: to the end of the trial, and to the end."""
    model, neurons = still_model(), [0, 3]
    # Small steps, with which the starts are far apart still when the trial ends.
    slow = partial(ml.AdaptivePowerMethod, start=0.02)
    plain = {"max_steps": 8 + 9, "check_interval": 3, "fast_path": False, "optimizer": slow}
    search = ml.MultiStart(starts=restarts, keep=finalists, shifts=())
    meis = results(fit(ml.MEIModule(model, neurons, search=search, **plain), NO_LIMIT))
    assert meis.sizes["restart"] == restarts
    differences = []

    for number, neuron in enumerate(neurons):
        population = ml.MEIModule(model, [neuron], restarts=restarts, **plain)
        scores = {}
        # The stimulus after the last step is scored when a run ends, but not yet when the trial ends.
        for steps in (8 - 1, 8 + 9):
            module = ml.StimulusModule(
                ml.NeuronObjective(model, [neuron] * restarts, ml.MeanReducer()),
                population.problem.starts(0),
                constraint=population.constraint,
                optimizer=slow,
            )
            fit(module, steps)
            scores[steps] = module.best_score.numpy()
        kept = np.flatnonzero(np.isfinite(meis["restart_scores"].values[number]))
        assert len(kept) == finalists
        trial = scores[8 - 1]
        assert trial[kept].min() >= np.sort(trial)[-finalists] * (1 - 2e-4)
        differences.append((trial[kept].min() - trial.min()) / trial.max())
        expected = scores[8 + 9][kept]
        np.testing.assert_allclose(meis["restart_scores"].values[number][kept], expected, rtol=1e-4)
        assert meis["best_restart"].values[number] in kept
        assert meis["score"].values[number] == pytest.approx(expected.max(), rel=1e-4)
        spread = expected.std() / expected.max()
        if finalists > 1:
            assert meis["score_spread"].values[number] == pytest.approx(spread, rel=0.05, abs=1e-5)
    # The worst starts would not have passed.
    assert max(differences) > 1e-3


@pytest.mark.slow
def test_a_run_continues_with_another_number_of_rows(tmp_path):
    neurons = list(range(NEURONS))
    for rows, max_steps in ((2, 9), (4, 7), (6, 3)):
        module = small_module(neurons, "Adam", 2, rows_per_device=rows)
        fit(module, max_steps, CONVERGENCE["Adam"], directory=tmp_path)
        assert "pending" in read(tmp_path)["status"].values or "interrupted" in read(tmp_path)["status"].values
    fit(small_module(neurons, "Adam", 2, rows_per_device=14), NO_LIMIT, CONVERGENCE["Adam"], directory=tmp_path)
    for neuron in neurons:
        assert_same_meis(read(tmp_path).isel(neuron=[neuron]), alone(neuron, "Adam", 2))


def test_find_meis_with_several_devices_needs_a_directory():
    with pytest.raises(ValueError, match="devices=2 needs a directory"):
        find(still_model(), [0, 1], devices=2)


# Who computes what


@given(free=st.lists(st.integers(0, 9), min_size=1, max_size=6), waiting=st.lists(st.integers(), unique=True))
def test_neurons_are_dealt_in_order_and_evenly(free, waiting):
    left = list(waiting)
    dealt = deal(left, free)
    count = min(len(waiting), sum(free))
    assert left == waiting[count:]
    assert len(dealt) == len(free)
    assert sorted((number for own in dealt for number in own), key=waiting.index) == waiting[:count]
    for own in dealt:
        assert own == sorted(own, key=waiting.index)
    free_after = [places - len(own) for places, own in zip(free, dealt, strict=True)]
    assert min(free_after) >= 0
    # Nobody is given a neuron while another has clearly more room.
    for own, room in zip(dealt, free_after, strict=True):
        assert not own or room + 1 >= max(free_after)


@pytest.mark.parametrize(
    ("devices", "num_nodes", "strategy"),
    [(1, 1, "auto"), ("1", 1, "auto"), ([2], 1, "auto"), (1, 2, "sharded")]
    + [(devices, 1, "sharded") for devices in (2, [0, 1], "auto", -1, "2")],
)
def test_one_device_needs_no_strategy(devices, num_nodes, strategy):
    assert strategy_for(devices, num_nodes) == strategy


# Memory


def rows_with(monkeypatch, model, free, processes=1, in_blocks=False):
    monkeypatch.setattr(memory, "free_memory", lambda device: float(free))
    monkeypatch.setattr(memory, "most_rows", lambda device, in_blocks: 256)
    objective = ml.NeuronObjective(model, [("session_1", 0)], ml.MeanReducer())
    row = torch.randn(model.stimulus_shape(40))
    return rows_that_fit(objective, row, torch.device("cpu"), processes, in_blocks)


def test_more_rows_fit_into_more_memory(monkeypatch, twin):
    rows = [rows_with(monkeypatch, twin, free) for free in (0, 1e6, 1e8, 2e8, 4e8, 1e9, 1e11, float("inf"))]
    assert rows[0] == rows[1] == 1
    assert rows[-1] == rows[-2] == 256
    assert rows == sorted(rows)
    assert len(set(rows)) > 4
    assert rows[4] == pytest.approx(2 * rows[3], abs=2)
    assert rows_with(monkeypatch, twin, 4e8, processes=2) == rows[3]


def test_longer_stimuli_leave_room_for_fewer_rows(monkeypatch, twin):
    monkeypatch.setattr(memory, "free_memory", lambda device: 2e8)
    objective = ml.NeuronObjective(twin, [("session_1", 0)], ml.MeanReducer())
    short, long = (
        rows_that_fit(objective, torch.randn(twin.stimulus_shape(frames)), torch.device("cpu")) for frames in (40, 80)
    )
    assert 1 < long < 0.7 * short


def peak_of_allocated_memory(model, neurons):
    """Bytes, by torch's own profiler, in a run of three steps of four rows for each neuron."""
    module = ml.MEIModule(
        model,
        [("session_1", number) for number in range(neurons)],
        time_steps=40,
        max_steps=3,
        restarts=4,
        rows_per_device=4 * neurons,
        check_interval=3,
    )
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        fit(module, NO_LIMIT)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return np.cumsum([event.nbytes() for event in events]).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["twin", "simulated"])
def test_the_estimate_is_about_what_a_run_takes(monkeypatch, request, name):
    model = request.getfixturevalue(name)
    measured = (peak_of_allocated_memory(model, 21) - peak_of_allocated_memory(model, 1)) / 80
    assert measured > 4 * np.prod(model.stimulus_shape(40))
    # So many more rows for so much more memory: so it is said how much one is thought to take.
    less, more = (rows_with(monkeypatch, model, free, in_blocks=name == "twin") for free in (2e8, 4e8))
    estimated = 0.5 * 2e8 / (more - less)
    assert 1 / 4 < estimated / measured < 4, (estimated, measured)


def test_free_memory_is_that_of_the_machine_or_less():
    (total,) = (
        line for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines() if line.startswith("MemTotal")
    )
    assert 0 < memory.free_memory(torch.device("cpu")) <= 1024 * int(total.split()[1])
    assert np.isfinite(memory.free_memory(torch.device("cpu")))
