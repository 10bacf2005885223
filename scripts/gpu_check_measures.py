"""What ``gpu_check.py`` measures: scores against the CPU's, times, waits, kernels, and populations.

Each function yields the lines of a table as they are known; one with an ``error`` failed.
"""

import contextlib
import copy
import itertools
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import xarray as xr
from reference_models import HIGH_RES, LOW_RES, RandomCoreReadout
from torch import Tensor

import mei_lightning as ml

# A part of a step has no public name.
from mei_lightning.models.fast_path import prepare

TOLERANCE = 1e-5
FRAMES = 50
NORM = 30.0
RANGES = [(-0.654, 6.269), (-0.913, 6.269)]
MOST_ROWS_AS_IT_IS = 256
LONGEST_KERNELS = 15
MOST_LINES = 20

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Args:
        low_res: the low-resolution architecture.
        high_res: the high-resolution one.
        members: of the ensemble.
        compared: neurons whose scores are compared with the CPU's.
        rows: numbers of rows that the parts of a step are timed with.
        repeats: of each timing.
        population: neurons of the twin's population, and of the ensemble's; all of a model with fewer.
        high_res_population: neurons of the high-resolution model's.
        profiled: neurons of the runs whose waits and kernels are counted.
        max_steps: the most steps of a row, in place of the default's.
    """

    low_res: Mapping[str, Any] = field(default_factory=lambda: LOW_RES)
    high_res: Mapping[str, Any] = field(default_factory=lambda: HIGH_RES)
    members: int = 5
    compared: int = 32
    rows: Sequence[int] = (64, 256, 1024, 4096)
    repeats: int = 10
    population: int = 500
    high_res_population: int = 100
    profiled: int = 100
    max_steps: int | None = None


FULL = Sizes()
QUICK = Sizes(
    low_res={**LOW_RES, "hidden_channels": (4, 4)},
    high_res={**HIGH_RES, "in_shape": (2, 50, 36, 32), "hidden_channels": (4, 4, 4, 4)},
    members=2,
    compared=2,
    rows=(2, 4),
    repeats=1,
    population=2,
    high_res_population=2,
    profiled=2,
    max_steps=2,
)


@dataclass(frozen=True)
class Check:
    """A device, how much is measured on it, and the models.

    Args:
        device: where.
        sizes: how much.
    """

    device: torch.device
    sizes: Sizes

    @cached_property
    def twin(self) -> ml.RetinaModel:
        """The digital twin."""
        return ml.load_model("digital_twin")

    @cached_property
    def low_res(self) -> ml.RetinaModel:
        """The low-resolution architecture."""
        return RandomCoreReadout(self.sizes.low_res, 0, "low_res")

    @cached_property
    def ensemble(self) -> ml.RetinaModel:
        """The mean of several of the low-resolution architecture."""
        members = range(self.sizes.members)
        return ml.Ensemble(
            [RandomCoreReadout(self.sizes.low_res, seed, f"low_res_{seed}") for seed in members],
            f"ensemble of {len(members)}",
        )

    @cached_property
    def high_res(self) -> ml.RetinaModel:
        """The high-resolution architecture."""
        return RandomCoreReadout(self.sizes.high_res, 0, "high_res")

    def find(self, model: ml.RetinaModel, count: int, **options: Any) -> xr.Dataset:
        """The MEIs of a model's first neurons, on the device unless the options say otherwise."""
        defaults = {"accelerator": self.device.type, "max_steps": self.sizes.max_steps}
        return ml.find_meis(
            model, neurons_of(model, count), ranges=RANGES, progress_bar=False, **{**defaults, **options}
        )


def neurons_of(model: ml.RetinaModel, count: int) -> list[ml.Neuron]:
    """The first neurons of a model, at most so many."""
    table = model.neurons.head(count)
    return [ml.Neuron(*neuron) for neuron in zip(table["session"], table["index"].tolist(), strict=True)]


def attempt(row: Row, measure: Callable[[], Row]) -> Row:
    """A line of a table with what was measured, or with the error."""
    began = time.perf_counter()
    try:
        measured = measure()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        measured = {"error": f"{type(error).__name__}: {error} ({where})", "traceback": traceback.format_exc()}
    return {**row, **measured, "seconds": time.perf_counter() - began}


# The machine


def machine(device: torch.device) -> Row:
    """Versions, and what the device is."""
    facts: Row = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "name": platform.processor() or platform.machine(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "name": properties.name,
            "memory (GiB)": properties.total_memory / 2**30,
            "compute capability": f"{properties.major}.{properties.minor}",
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
            "driver": driver_version(),
            "TF32 in products": torch.backends.cuda.matmul.allow_tf32,
            "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
        }
    return facts


def driver_version() -> str | None:
    """The NVIDIA driver's version, if its tool is there to tell."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(command, capture_output=True, text=True)
    return told.stdout.split("\n")[0].strip() or None


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


# Parts of a step


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
    yield attempt({"part": "projection"}, partial(time_of_projection, check))


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
    # Of the CPU's events each holds the time of the kernels that it launched once more.
    kernels = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]

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
