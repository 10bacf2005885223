"""The time of the parts of a step, for ``gpu_check.py``."""

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from gpu_check_setup import RANGES, Check, Row, attempt, neurons_of
from torch import Tensor

import mei_lightning as ml

# What has no public name.
from mei_lightning.acceleration.fused_projection import fused_projection
from mei_lightning.acceleration.prepare import prepare
from mei_lightning.constraints.projection import _project

FRAMES = 50
NORM = 30.0
MOST_ROWS_AS_IT_IS = 256


def time_of_parts(check: Check) -> Iterator[Row]:
    """Milliseconds of the response and its gradient, on a prepared model and as it is, and of the projection."""
    shape = check.low_res.stimulus_shape(FRAMES, check.sizes.rows[0])
    for model in (check.low_res, check.ensemble):
        parts: dict[str, Callable[[], ml.RetinaModel]] = {
            "prepared": partial(prepare, model, shape, check.device),
            "prepared, bfloat16": partial(prepare, model, shape, check.device, precision="bfloat16"),
            "as it is": lambda model=model: copy.deepcopy(model).to(check.device),  # type: ignore[misc]
        }
        for part, make in parts.items():
            rows = [count for count in check.sizes.rows if part != "as it is" or count <= MOST_ROWS_AS_IT_IS]
            row = {"part": f"response and gradient, {part}", "model": model.name}
            yield attempt(row, partial(time_of_gradients, check, make, rows))
    kernel = fused_projection(torch.zeros(1, 1, 1, device=check.device), _project)
    yield attempt(
        {"part": "projection" if kernel is None else "projection, one kernel"}, partial(time_of_projection, check)
    )
    if kernel is not None:
        yield attempt({"part": "projection, plain"}, partial(time_of_plain_projection, check))


def time_of_gradients(check: Check, make: Callable[[], ml.RetinaModel], rows: Sequence[int]) -> Row:
    """Milliseconds for each number of rows of responses, of a neuron each, and their gradient."""
    model = make()
    neurons = list(itertools.islice(itertools.cycle(neurons_of(model, max(rows))), max(rows)))

    def gradient_of(stimulus: Tensor) -> Callable[[], object]:
        objective = ml.NeuronObjective(model, neurons[: len(stimulus)], ml.MeanReducer()).to(check.device)
        stimulus.requires_grad_()
        return lambda: torch.autograd.grad(objective(stimulus).sum(), stimulus)

    return time_for_rows(check, gradient_of, rows)


def time_of_projection(check: Check) -> Row:
    """Milliseconds for each number of rows to give stimuli their norm and ranges."""
    constraint = ml.NormAndRange(NORM, RANGES).to(check.device)
    return time_for_rows(check, lambda stimulus: partial(constraint, stimulus), check.sizes.rows)


def time_of_plain_projection(check: Check) -> Row:
    """The same, as where Triton cannot make a kernel of it."""
    low, high = torch.tensor(RANGES, device=check.device).T[..., None]
    largest = torch.finfo(torch.float32).max
    return time_for_rows(
        check, lambda stimulus: partial(_project, stimulus.flatten(2), NORM, (low, high), largest), check.sizes.rows
    )


def time_for_rows(check: Check, part: Callable[[Tensor], Callable[[], object]], rows: Sequence[int]) -> Row:
    """Milliseconds of a part of a step, made for stimuli, by the number of rows; or that they need too much memory."""
    times: Row = {}
    for count in rows:
        try:
            shape = check.low_res.stimulus_shape(FRAMES, count)
            stimulus = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(check.device)
            times[f"{count} rows"] = milliseconds(part(stimulus), check.device, check.sizes.repeats)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            times[f"{count} rows"] = "out of memory"
        if check.device.type == "cuda":
            torch.cuda.empty_cache()
    return times


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device has no room; not all kinds of devices have an exception of their own for it."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error)


def milliseconds(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median time of a call, after one that is not counted."""
    function()
    return statistics.median(
        time_on_cuda(function) if device.type == "cuda" else time_by_clock(function, device) for _ in range(repeats)
    )


def time_on_cuda(function: Callable[[], object]) -> float:
    """Milliseconds between the events before and after a call."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def time_by_clock(function: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of a call by the clock, until the device has done it."""
    began = time.perf_counter()
    function()
    if device.type == "mps":
        torch.mps.synchronize()
    return 1000 * (time.perf_counter() - began)
