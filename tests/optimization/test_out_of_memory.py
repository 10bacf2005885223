"""Fewer rows at a time where memory is full, without the memory: what is computed, and what is said."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mei_lightning.exceptions import FullMemoryError
from mei_lightning.objectives import Objective
from mei_lightning.optimization import out_of_memory
from mei_lightning.optimization.out_of_memory import ObjectiveInParts, RowsAtATime


def full():
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The memory of the device is full")
@given(rows=st.integers(0, 40), room=st.integers(1, 40), most=st.none() | st.integers(1, 40))
def test_every_row_is_computed_once_in_parts_that_fit(rows, room, most):
    def compute(part):
        size = part.stop - part.start
        assert most is None or size <= most
        return list(range(part.start, part.stop)) if size <= room else full()

    at_a_time = RowsAtATime(most)
    with pytest.MonkeyPatch.context() as patch:
        # Hundreds of times all memory would be looked through for garbage.
        patch.setattr(out_of_memory, "garbage_collection_cuda", lambda: None)
        assert [row for part in at_a_time.results(compute, rows) for row in part] == list(range(rows))
    # What did not fit once is not tried again.
    assert at_a_time.most is None or at_a_time.most <= max(room, most or 0)


@pytest.mark.slow
def test_it_is_said_once():
    at_a_time = RowsAtATime()
    with pytest.warns(UserWarning, match="full with 16 rows at a time.*rows_per_device=8 begins with that") as said:
        at_a_time.results(lambda part: full() if part.stop - part.start > 3 else None, 16)
    assert len(said) == 1
    assert at_a_time.most == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The memory of the device is full")
def test_without_room_for_a_single_row_it_ends():
    with pytest.raises(FullMemoryError, match=r"full with a single row.*Take shorter stimuli"):
        RowsAtATime().results(lambda part: full(), 4)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["MPS backend out of memory", "CUDA error: out of memory"])
def test_memory_is_full_by_other_names(text):
    def compute(part):
        if part.stop - part.start > 1:
            raise RuntimeError(text)
        return part.start

    with pytest.warns(UserWarning, match="full with 4 rows"):
        assert RowsAtATime().results(compute, 4) == [0, 1, 2, 3]


def test_other_errors_are_none_of_its_business():
    def compute(part):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        RowsAtATime().results(compute, 4)


class Cubes(Objective):
    """The sum of cubes of each row, times a weight of its own, as long as there are few rows."""

    def __init__(self, weights, room):
        super().__init__()
        self.weights, self.room = weights, room

    def forward(self, stimulus):
        if len(stimulus) > self.room:
            full()
        return torch.tensor(self.weights) * stimulus.pow(3).flatten(1).sum(dim=1)

    def for_rows(self, rows):
        return Cubes([self.weights[row] for row in rows], self.room)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The memory of the device is full")
@pytest.mark.parametrize("room", [1, 2, 5, 100])
def test_scores_and_gradient_in_parts_are_those_of_the_whole(room):
    stimulus = torch.randn(5, 1, 2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows, weights, of_loss = [4, 0, 3, 3, 1], [1.0, -2.0, 0.5, 3.0, 0.0], torch.tensor([1.0, -1.0, 2.0, 0.0, 0.5])

    objective = ObjectiveInParts(Cubes(weights, room), rows, RowsAtATime())
    scores = objective(stimulus)
    (gradient,) = torch.autograd.grad((of_loss * scores).sum(), stimulus)

    own = torch.tensor([weights[row] for row in rows])
    torch.testing.assert_close(scores, own * stimulus.detach().pow(3).flatten(1).sum(dim=1))
    torch.testing.assert_close(gradient, (of_loss * own).view(-1, 1, 1, 1, 1) * 3 * stimulus.detach().square())
    with torch.no_grad():
        torch.testing.assert_close(objective(stimulus), scores)
