"""Scores against the CPU's, waits, kernels, and populations, for ``gpu_check.py``.

Each function yields the lines of a table as they are known; one with an ``error`` failed.
"""

import contextlib
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from gpu_check_setup import Check, Row, attempt, neurons_of

import mei_lightning as ml

TOLERANCE = 1e-5
LONGEST_KERNELS = 15
MOST_LINES = 20


# Scores


def scores_against_cpu(check: Check) -> Iterator[Row]:
    """Scores and responses on the device as shares of the CPU's: of the same stimuli, and of what each finds."""
    for model in (check.twin, check.ensemble):
        yield attempt({"model": model.name}, partial(compare_scores, check, model))


def compare_scores(check: Check, model: ml.RetinaModel) -> Row:
    """The line of one model; the same stimuli have to agree, other optima may be found."""
    found = check.find(model, check.sizes.compared).load()
    on_cpu = check.find(model, check.sizes.compared, accelerator="cpu").load()
    same = found["score"].values / scores_on_cpu(model, found)
    options = {"reducer": ml.MeanReducer(), "progress_bar": False}
    expected = ml.cross_responses(model, on_cpu, accelerator="cpu", **options).values
    responses = ml.cross_responses(model, on_cpu, accelerator=check.device.type, **options).values
    difference = np.abs(responses - expected).max() / np.abs(expected).max()
    ratios = found["score"].values / on_cpu["score"].values
    row: Row = {
        "neurons": found.sizes["neuron"],
        "least": float(same.min()),
        "greatest": float(same.max()),
        "response difference": float(difference),
        "found, least": float(ratios.min()),
        "found, median": float(np.median(ratios)),
        "found, greatest": float(ratios.max()),
    }
    if not (np.abs(same - 1).max() <= TOLERANCE and difference <= TOLERANCE):
        row["error"] = f"Scores or responses of the same stimuli differ from the CPU's by more than {TOLERANCE:g}."
    return row


@torch.no_grad()
def scores_on_cpu(model: ml.RetinaModel, meis: xr.Dataset, at_a_time: int = 4) -> Any:
    """The scores of MEIs by the model itself, whatever the run says that they are."""
    model.cpu()
    neurons = neurons_of(model, meis.sizes["neuron"])
    stimuli = torch.from_numpy(meis["stimulus"].values)
    scores = [
        ml.NeuronObjective(model, neurons[first : first + at_a_time], ml.MeanReducer())(
            stimuli[first : first + at_a_time]
        )
        for first in range(0, len(neurons), at_a_time)
    ]
    return torch.cat(scores).numpy()


# Waits and kernels


def waits_of_run(check: Check) -> Iterator[Row]:
    """How often the host waits for the device in a run, by the package's lines."""
    check.find(check.low_res, 2, max_steps=2)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with waits_by_line() as waits:
            check.find(check.low_res, check.sizes.profiled, max_steps=16)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    yield {"line": f"all, {check.sizes.profiled} neurons and 16 steps", "waits": waits.total()}
    yield from ({"line": line, "waits": count} for line, count in waits.most_common(MOST_LINES))


@contextlib.contextmanager
def waits_by_line() -> Iterator[Counter[str]]:
    """Count torch's warnings of waits, each at the innermost line of the package that it came from."""
    waits: Counter[str] = Counter()
    package = Path(ml.__file__).parent

    def note(message: Warning | str, *_: object, **__: object) -> None:
        if "synchroniz" in str(message):
            lines = [frame for frame in traceback.extract_stack() if package in Path(frame.filename).parents]
            here = f"{Path(lines[-1].filename).relative_to(package)}:{lines[-1].lineno}" if lines else "elsewhere"
            waits[here] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield waits


def kernels_of_run(check: Check) -> Iterator[Row]:
    """Kernels and copies of a run: all of them with the device's busy share of the time, and the longest."""
    from torch.profiler import ProfilerActivity, profile

    check.find(check.ensemble, 2, max_steps=2)
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        check.find(check.ensemble, check.sizes.profiled, max_steps=12)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    yield from longest_kernels(profiler.key_averages(), seconds)


def longest_kernels(events: Iterable[Any], seconds: float) -> list[Row]:
    """A line for all kernels and copies of a profile of so many seconds, and one for each of the longest."""
    # The CPU's events hold the time of the kernels that they launched once more, and so do named spans of the device's.
    kernels = [
        event
        for event in events
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]

    def line(name: str, of: Sequence[Any]) -> Row:
        busy = sum(kernel.self_device_time_total for kernel in of) / 1e6
        count = sum(kernel.count for kernel in of)
        return {"kernel": name, "count": count, "milliseconds": 1000 * busy, "share": busy / seconds}

    kernels.sort(key=lambda kernel: kernel.self_device_time_total, reverse=True)
    return [line("all", kernels), *(line(kernel.key[:80], [kernel]) for kernel in kernels[:LONGEST_KERNELS])]


# Populations


def neurons_per_second(check: Check) -> Iterator[Row]:
    """Populations in a directory, with all that is drawn of them, after a run in which the model is prepared."""
    populations = (
        (check.twin, check.sizes.population),
        (check.ensemble, check.sizes.population),
        (check.high_res, check.sizes.high_res_population),
    )
    for model, count in populations:
        yield attempt({"model": model.name}, partial(time_of_population, check, model, count))


def time_of_population(check: Check, model: ml.RetinaModel, count: int) -> Row:
    """Neurons per second, and the most memory of the device that was in use."""
    check.find(model, 2, max_steps=1)
    on_cuda = check.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        meis = check.find(model, count, directory=directory)
        neurons, steps = meis.sizes["neuron"], float(meis["steps"].mean())
    seconds = time.perf_counter() - began
    return {
        "neurons": neurons,
        "steps": steps,
        "run": seconds,
        "per second": neurons / seconds,
        "memory": torch.cuda.max_memory_allocated() / 2**30 if on_cuda else None,
    }
