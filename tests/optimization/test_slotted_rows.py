"""Rows in slots, against lists of Python: two slots or three, of two starts and up to two moved copies each."""

import math

import numpy as np
import pytest
import torch

from mei_lightning.optimization.row_state import Status
from mei_lightning.optimization.slotted_rows import SlottedRows

STARTS = 2
GIVEN_UP = (Status.PRUNED, Status.DUPLICATE)
DONE = (Status.CONVERGED, Status.STEP_LIMIT, Status.NO_GRADIENT, Status.NOT_FINITE, *GIVEN_UP)


def rows_of(slots=3, moved=2):
    """Rows whose stimulus is their number, with a neuron in each slot and 10 times its number as its steps."""
    size = STARTS + moved
    numbers = torch.arange(float(slots * size))
    rows = SlottedRows(numbers.view(-1, 1, 1, 1, 1).clone(), STARTS, size)
    rows.neuron_in_slot[:] = 100 + torch.arange(slots)
    rows.status[:] = int(Status.CONVERGED)
    rows.steps[:] = 10 * numbers.int()
    rows.best_value[:] = rows.best_score[:] = 1.0
    return rows


def test_new_rows_are_empty_and_belong_to_nobody():
    rows = SlottedRows(torch.zeros(9, 1, 1, 2, 2), starts=2, size=3)
    assert rows.status.tolist() == [Status.EMPTY] * 9
    assert rows.neuron_in_slot.tolist() == [-1] * 3
    assert rows.shifted.tolist() == rows.frame_shifted.tolist() == [False] * 3
    assert rows.values.tolist() == [[-math.inf] * 3] * 3
    assert not rows.at_rest.any()


def test_a_checkpoint_says_who_is_where_and_what_was_shifted():
    rows, again = rows_of(), SlottedRows(torch.zeros(12, 1, 1, 1, 1), STARTS, 4)
    rows.shifted[1] = rows.frame_shifted[2] = True
    again.load_state_dict(rows.state_dict())
    assert again.neuron_in_slot.tolist() == [100, 101, 102]
    assert again.shifted.tolist() == [False, True, False]
    assert again.frame_shifted.tolist() == [False, False, True]


def test_rows_of_slots_are_those_after_the_slots_before():
    rows = rows_of()
    assert rows.numbers.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert rows.rows_of([2, 0]).tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert rows.starts_of((2, 0)).tolist() == [[8, 9], [0, 1]]
    assert rows.by_slot(rows.best_stimulus.flatten()).tolist() == rows.numbers.tolist()


def test_the_search_sees_values_steps_and_what_is_active():
    rows = rows_of(slots=2, moved=1)
    rows.status[1], rows.status[5] = int(Status.ACTIVE), int(Status.EMPTY)
    rows.best_value[:] = torch.arange(6.0)
    rows.frame_shifted[1] = True
    seen = rows.for_search()
    assert seen.values.tolist() == [[0, 1, 2], [3, 4, -math.inf]]
    assert seen.steps.tolist() == [[0, 10, 20], [30, 40, 50]]
    assert seen.active.tolist() == [[False, True, False], [False, False, False]]
    assert seen.frame_shifted.tolist() == [False, True]


def test_a_slot_is_at_rest_if_it_has_a_neuron_and_none_of_its_rows_is_active():
    rows = rows_of(slots=4, moved=1)
    rows.neuron_in_slot[:] = torch.tensor([0, -1, 7, 8])
    rows.status[8], rows.status[9] = int(Status.ACTIVE), int(Status.EMPTY)
    assert rows.at_rest.tolist() == [True, False, False, True]


def test_a_neuron_comes_into_a_slot_that_forgets_what_was_there():
    rows = rows_of()
    rows.shifted[:] = rows.frame_shifted[:] = True
    rows.generations[:] = 3
    rows.occupy([2, 0], [40, 0])
    assert rows.generations.tolist() == [0, 3, 0]
    assert rows.neuron_in_slot.tolist() == [0, 101, 40]
    assert rows.shifted.tolist() == rows.frame_shifted.tolist() == [False, True, False]
    started, moved = [Status.CONVERGED] * 2, [Status.EMPTY] * 2
    assert rows.by_slot(rows.status).tolist() == [started + moved, [Status.CONVERGED] * 4, started + moved]


def test_a_slot_is_free_after_its_neuron_has_left():
    rows = rows_of()
    assert rows.release([]) == 0
    assert rows.release([2, 0]) == sum(10 * row for row in (0, 1, 2, 3, 8, 9, 10, 11))
    assert rows.neuron_in_slot.tolist() == [-1, 101, -1]
    assert rows.by_slot(rows.status).tolist() == [[Status.EMPTY] * 4, [Status.CONVERGED] * 4, [Status.EMPTY] * 4]
    assert rows.by_slot(rows.steps).tolist() == [[0] * 4, [40, 50, 60, 70], [0] * 4]
    assert rows.release([2]) == 0


@pytest.mark.parametrize(
    ("values", "status", "best"),
    [
        ((1.0, 2.0), (Status.CONVERGED, Status.CONVERGED), 1),
        ((2.0, 1.0), (Status.CONVERGED, Status.CONVERGED), 0),
        ((-2.0, -1.0), (Status.CONVERGED, Status.CONVERGED), 1),
        # Equal but for rounding.
        ((1.0, 1.0 + 1e-6), (Status.CONVERGED, Status.CONVERGED), 0),
        ((1.0, 1.0), (Status.DUPLICATE, Status.CONVERGED), 1),
        ((1.0, 1.0), (Status.PRUNED, Status.CONVERGED), 1),
        ((-1.0, -1.0), (Status.PRUNED, Status.CONVERGED), 1),
        ((1.0, 1.0), (Status.CONVERGED, Status.PRUNED), 0),
        ((1.0, 1.0), (Status.PRUNED, Status.DUPLICATE), 0),
        # The search has given up one that was better.
        ((1.0, 1.001), (Status.CONVERGED, Status.PRUNED), 1),
        ((1.001, 1.0), (Status.DUPLICATE, Status.CONVERGED), 0),
        ((-math.inf, 1.0), (Status.NOT_FINITE, Status.CONVERGED), 1),
        ((-math.inf, -math.inf), (Status.NOT_FINITE, Status.NOT_FINITE), 0),
        # Steps of an optimisation that none of the others has ended yet.
        ((3.0, 1.0), (Status.ACTIVE, Status.CONVERGED), 0),
    ],
)
def test_the_best_start(values, status, best):
    """Whatever the moved copies, and the other slots."""
    rows = rows_of()
    rows.best_value[:] = 50.0
    rows.best_value[4:6] = torch.tensor(values)
    rows.status[4:6] = torch.tensor(status, dtype=torch.int8)
    assert rows.best_starts().tolist() == [0, best, 0]
    assert rows.best_rows().tolist() == [0, 4 + best, 8]


def test_rows_that_were_given_up():
    rows = rows_of(slots=2, moved=2)
    rows.status[:] = torch.tensor([*Status], dtype=torch.int8)
    assert [Status(int(status)) for status in rows.status[rows.given_up]] == list(GIVEN_UP)


def first_of_the_best(values, good_enough):
    """The place of the best value, and of equal ones the first; None if there is none."""
    places = [place for place, value in enumerate(values) if good_enough(value)]
    return min(places, key=lambda place: (-values[place], place)) if places else None


def adopted(slots):
    """What becomes of the rows of slots, each a dict; the steps of copies that led nowhere."""
    lost = 0
    for slot in slots:
        copies = slot["rows"][STARTS:]
        if any(row["status"] == Status.ACTIVE for row in slot["rows"]) or slot["neuron"] < 0:
            continue
        if all(row["status"] == Status.EMPTY for row in copies):
            continue
        starts = slot["rows"][:STARTS]
        best = starts[max(range(STARTS), key=lambda place: (starts[place]["value"], -place))]
        values = [-math.inf if row["status"] in (*GIVEN_UP, Status.EMPTY) else row["value"] for row in copies]
        place = first_of_the_best(values, math.isfinite)
        if place is not None and copies[place]["value"] > best["value"]:
            won = copies[place]
            best.update(stimulus=won["stimulus"], score=won["score"], value=won["value"], status=won["status"])
            best["steps"] += won["steps"]
            won["steps"] = 0
        for row in copies:
            lost += row["steps"]
            row.update(status=Status.EMPTY, steps=0)
    return lost


@pytest.mark.parametrize("moved", [1, 3])
def test_what_moved_copies_have_become_is_taken_by_the_best_start_if_it_is_better(moved):
    generator = np.random.default_rng(moved)
    gained = 0
    for _ in range(60):
        rows = rows_of(slots=3, moved=moved)
        count = len(rows)
        # Values that are equal, or differ by much more than rounding; no two of starts are equal.
        rows.best_value[:] = torch.from_numpy(generator.choice([-math.inf, -2.0, 1.0, 1.5, 3.0], count))
        rows.best_value.view(3, -1)[:, 0] = torch.from_numpy(generator.choice([0.5, 2.0], 3))
        rows.best_score[:] = rows.best_value + 7
        status = generator.choice([Status.EMPTY, Status.ACTIVE, *DONE], count, p=[0.2, 0.02, *[0.13] * 6])
        rows.status[:] = torch.from_numpy(status)
        rows.status.view(3, -1)[:, :STARTS] = int(Status.CONVERGED)
        rows.neuron_in_slot[generator.integers(3)] = generator.choice([-1, 0])
        slots = [
            {
                "neuron": int(rows.neuron_in_slot[slot]),
                "rows": [
                    {
                        "stimulus": float(rows.best_stimulus[row]),
                        "score": float(rows.best_score[row]),
                        "value": float(rows.best_value[row]),
                        "status": int(rows.status[row]),
                        "steps": int(rows.steps[row]),
                    }
                    for row in numbers
                ],
            }
            for slot, numbers in enumerate(rows.numbers.tolist())
        ]
        before = rows.best_stimulus.clone()
        assert rows.adopt_moved() == adopted(slots)
        gained += int((rows.best_stimulus != before).sum())
        expected = [row for slot in slots for row in slot["rows"]]
        assert rows.best_stimulus.flatten().tolist() == [row["stimulus"] for row in expected]
        assert rows.best_score.tolist() == [row["score"] for row in expected]
        assert rows.best_value.tolist() == [row["value"] for row in expected]
        assert rows.status.tolist() == [row["status"] for row in expected]
        assert rows.steps.tolist() == [row["steps"] for row in expected]
    assert gained > 10


@pytest.mark.parametrize("value", [1.0, -100.0])
@pytest.mark.parametrize(("gain", "taken"), [(1e-6, False), (1e-4, True)])
def test_a_moved_copy_that_is_better_by_rounding_only_is_not_taken(value, gain, taken):
    rows = rows_of(slots=1, moved=1)
    rows.best_value[:] = value
    rows.best_value[2] += gain * abs(value)
    rows.adopt_moved()
    assert rows.best_stimulus.flatten().tolist() == [2.0 if taken else 0.0, 1.0, 2.0]


def test_of_moved_copies_that_are_equal_but_for_rounding_the_first_is_taken():
    rows = rows_of(slots=1, moved=2)
    rows.best_value[2:] = torch.tensor([2.0, 2.0 + 1e-6])
    rows.adopt_moved()
    assert rows.best_stimulus[0] == 2.0
