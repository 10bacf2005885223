"""Speed, responses and memory, measured on this machine (Linux): openretina's function and this package side by side.

    python scripts/benchmark.py speed
    python scripts/benchmark.py speed --models high_res --populations 1 16
    python scripts/benchmark.py population

``speed`` finds MEIs on openretina core-readout models: by openretina's ``optimize_stimulus`` with the published recipe
of Höfling et al. 2024, by the function of that name of this package, and by ``find_meis`` with its defaults. The
low-resolution models are trained on the simulated retina at the first run (``train_openretina_model.py``). The recipe
is run to its end once for each of some neurons and its responses are kept; times are measured anew in every run, and
openretina's again before and after each of the others', so that what else the machine does hits both alike.

``population`` streams populations of growing size into a store, each in a process of its own.
"""

import argparse
import contextlib
import copy
import ctypes
import gc
import io
import itertools
import json
import logging
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from markdown_table import print_head, print_line
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import mei_lightning as ml
from mei_lightning.acceleration.block_objective import ObjectiveInBlocks
from mei_lightning.acceleration.blocks import ROWS_PER_BLOCK, threads_reserved_for_blocks, using_threads
from mei_lightning.acceleration.prepare import prepare
from mei_lightning.models.base import weights_digest
from mei_lightning.models.digital_twin import DigitalTwinNetwork
from mei_lightning.optimization.stimulus_module import StimulusModule

FRAMES = 50
NORM = 30.0
RANGES = [(-0.654, 6.269), (-0.913, 6.269)]
LEARNING_RATE = 10.0
HIGH_RES_STEPS = 10
HIGH_RES_TIMING_STEPS = 3
ROWS = 64
ROWS_OF_HIGH_RES = 32
MODELS = ("low_res", "low_res_ensemble", "high_res", "high_res_ensemble")
MEMBERS = 5

Neuron = tuple[str, int]


@dataclass
class BenchmarkModel:
    """A model in the form of each of the two packages, and the neurons to find MEIs for."""

    name: str
    network: nn.Module
    retina: ml.RetinaModel
    neurons: list[Neuron]
    digest: str
    correlation: float | None

    @property
    def is_trained(self) -> bool:
        """Whether responses are worth a look; other models' weights are random, and only timed."""
        return self.correlation is not None


@dataclass
class Measurement:
    """One line of the table of ``speed``; None for what was not measured."""

    model: str
    method: str
    neurons: int
    steps_per_neuron: float | None = None
    ms_per_step_and_row: float = math.nan
    seconds_per_neuron: float | None = None
    times_faster: float | None = None
    response_min: float | None = None
    response_mean: float | None = None
    neurons_compared: int = 0
    peak_memory_mb: float | None = None
    gflop_per_step_and_row: float | None = None
    share_of_peak: float | None = None


class RowSteps(Callback):
    """Counts the steps that were computed, each row's for itself, and the operations in them.

    Args:
        counter: counts the operations of a step.
    """

    def __init__(self, counter: FlopCounterMode | None = None) -> None:
        self.counter = counter
        self.computed = 0
        self.flops = 0
        self.active_share = math.nan

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Note the rows, and start to count operations; not before, for the counter needs modules with gradients."""
        assert isinstance(pl_module, StimulusModule)
        self._rows = pl_module.rows_in_computation
        if self.counter is not None:
            self.counter.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Add up rows and operations."""
        self.computed += self._rows
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            self.flops += self.counter.get_total_flops()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the share of row-steps that were spent on rows not yet done."""
        self.active_share = getattr(pl_module, "active_share", math.nan)


# Speed


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all models, and print the table."""
    print_head(SPEED_COLUMNS)
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "models": {}, "rows": []}
    for name in arguments.models:
        model = make_model(name, arguments.cache, arguments.training_steps, max(arguments.populations))
        peak = matrix_product_peak()
        facts = {"digest": model.digest, "correlation": model.correlation, "peak_gflop_per_second": peak}
        rows = [vars(row) for row in measure_model(model, arguments, peak)]
        for row in rows:
            print_line(SPEED_COLUMNS, row)
        facts["step"] = measure_steps(model, ROWS if model.is_trained else ROWS_OF_HIGH_RES)
        if model.is_trained:
            facts["trainer_overhead"] = trainer_overhead(model, arguments.timing_steps)
        results["models"][name] = facts
        results["rows"] += rows
    print_notes(results["models"], arguments)
    return results


def make_model(name: str, cache: Path, training_steps: int, population: int) -> BenchmarkModel:
    """One of ``MODELS``; the low-resolution ones are trained unless the cache has them.

    Args:
        name: which.
        cache: directory of trained weights.
        training_steps: of the single model; the members of the ensemble are trained for a third as long.
        population: its neurons are repeated under other sessions' names until there are so many.
    """
    # Not needed for `population`, whose memory it would add to.
    import train_openretina_model as training
    from openretina.modules.layers.ensemble import EnsembleModel

    is_ensemble = name.endswith("ensemble")
    seeds = range(MEMBERS) if is_ensemble else [0]
    correlation = None
    if name.startswith("low_res"):
        steps = max(training_steps // 3, 1) if is_ensemble else training_steps
        members = [training.trained_low_res(cache, seed, steps) for seed in seeds]
        correlation = statistics.mean(training.held_out_correlation(member).mean().item() for member in members)
    else:
        members = [training.lively_high_res(seed) for seed in seeds]
    sessions = list(members[0].readout.keys())
    counts = [readout.outdims for readout in members[0].readout.values()]
    digest = weights_digest(nn.ModuleList(members))
    copies = math.ceil(population / sum(counts))
    for member in members:
        repeat_sessions(member.readout, copies)
    network = EnsembleModel(*members) if is_ensemble else members[0]
    network.eval()
    return BenchmarkModel(
        name,
        # As openretina's users have it: nothing is frozen.
        copy.deepcopy(network).requires_grad_(True),
        ml.OpenRetinaModel.from_module(network, name=name),
        repeated_neurons(dict(zip(sessions, counts, strict=True)), copies),
        digest,
        correlation,
    )


def repeat_sessions(readout: nn.ModuleDict, copies: int) -> None:
    """Add every session's readout again under other names, until each is there so many times."""
    for session, number in itertools.product(list(readout.keys()), range(1, copies)):
        readout[repeated(session, number)] = readout[session]


def repeated(session: str, number: int) -> str:
    """The name of a session's copy; number 0 is the session itself."""
    return f"{session}_copy_{number}" if number else session


def repeated_neurons(neurons_per_session: Mapping[str, int], copies: int) -> list[Neuron]:
    """All neurons, the sessions taking turns, and then their copies."""
    return [
        (repeated(session, number), index)
        for number in range(copies)
        for index in range(max(neurons_per_session.values()))
        for session, count in neurons_per_session.items()
        if index < count
    ]


def measure_model(model: BenchmarkModel, arguments: argparse.Namespace, peak: float) -> list[Measurement]:
    """The lines of the table for one model."""
    log(f"{model.name}: the published recipe")
    reference = recipe_results(model, arguments) if model.is_trained else {}
    steps = arguments.timing_steps if model.is_trained else HIGH_RES_TIMING_STEPS
    recipe = Measurement(model.name, "openretina, published recipe", 1)
    drop_in = Measurement(model.name, "optimize_stimulus, only imports changed", 1)
    # The first calls import and allocate.
    time_openretina(model, 1)
    time_drop_in(model, 1)
    find(model, 1, max_steps=1, restarts=1)

    with PeakMemory() as memory:
        openretina_times = [time_openretina(model, steps)]
    recipe.peak_memory_mb = memory.megabytes
    with PeakMemory() as memory:
        drop_in_times = [time_drop_in(model, steps)]
    drop_in.peak_memory_mb = memory.megabytes
    default_flops = flops_of_default(model)
    defaults = []
    for population, fast_path in itertools.product(arguments.populations, arguments.fast_paths):
        log(f"{model.name}: find_meis, {population} neuron(s), {fast_path}")
        before = time_openretina(model, steps)
        row = measure_default(model, population, reference, fast_path)
        after = time_openretina(model, steps)
        if reference and row.seconds_per_neuron is not None:
            # Against openretina's time just before and after.
            row.times_faster = steps_of_recipe(reference) * (before + after) / 2 / 1000 / row.seconds_per_neuron
        add_operations(row, default_flops, peak)
        defaults.append(row)
        openretina_times += [before, after]
        drop_in_times.append(time_drop_in(model, steps))

    first = model.neurons[0]
    recipe.ms_per_step_and_row = statistics.median(openretina_times)
    add_operations(recipe, flops_of_step(openretina_objective(model, first), noise(model, first)), peak)
    drop_in.ms_per_step_and_row = statistics.median(drop_in_times)
    add_operations(drop_in, flops_of_step(drop_in_objective(model, first), noise(model, first)), peak)
    if reference:
        log(f"{model.name}: optimize_stimulus of this package, to its end")
        recipe.steps_per_neuron = steps_of_recipe(reference)
        recipe.seconds_per_neuron = recipe.steps_per_neuron * recipe.ms_per_step_and_row / 1000
        recipe.times_faster = recipe.response_min = recipe.response_mean = 1.0
        recipe.neurons_compared = len(reference)
        measure_whole_drop_in(drop_in, model, arguments, reference)
        drop_in.times_faster = recipe.seconds_per_neuron / drop_in.seconds_per_neuron
    return [recipe, drop_in, *defaults]


def measure_whole_drop_in(
    row: Measurement, model: BenchmarkModel, arguments: argparse.Namespace, reference: Mapping[str, Any]
) -> None:
    """Add steps, time and responses of this package's ``optimize_stimulus``, run until it stops."""
    neurons = model.neurons[: arguments.recipe_neurons]
    found = [run_drop_in(model, neuron, arguments.recipe_steps) for neuron in neurons]
    row.steps_per_neuron = statistics.mean(steps for _, steps, _ in found)
    row.seconds_per_neuron = statistics.mean(seconds for _, _, seconds in found)
    compare(row, model, neurons, torch.cat([stimulus for stimulus, _, _ in found]), reference)


def measure_default(
    model: BenchmarkModel, population: int, reference: Mapping[str, Any], fast_path: str
) -> Measurement:
    """One run of ``find_meis``, cut short for models that are only timed."""
    precision = {} if fast_path == "float32" else {"fast_path": fast_path}
    limits = {} if model.is_trained else {"max_steps": HIGH_RES_STEPS}
    # Preparing the model is once for all.
    find(model, 1, max_steps=1, restarts=1, **precision)
    counter = RowSteps()
    with PeakMemory() as memory:
        began = time.perf_counter()
        meis = find(model, population, counter, **precision, **limits)
        seconds = time.perf_counter() - began
    method = "find_meis" if fast_path == "float32" else f"find_meis, {fast_path}"
    row = Measurement(model.name, method, population, counter.computed / population)
    row.ms_per_step_and_row = 1000 * seconds / counter.computed
    row.seconds_per_neuron = seconds / population if model.is_trained else None
    row.peak_memory_mb = memory.megabytes
    compare(row, model, model.neurons[:population], torch.from_numpy(meis["stimulus"].values), reference)
    return row


def find(model: BenchmarkModel, population: int, *callbacks: Callback, **options: Any) -> Any:
    """The MEIs of the first neurons by ``find_meis``, with its defaults but for the options, if any."""
    return ml.find_meis(
        model.retina,
        model.neurons[:population],
        norm=NORM,
        ranges=RANGES,
        accelerator="cpu",
        progress_bar=False,
        callbacks=callbacks,
        **options,
    )


def flops_of_default(model: BenchmarkModel) -> float:
    """Floating-point operations of a step and row of ``find_meis``."""
    steps = RowSteps(FlopCounterMode(display=False))
    # The counter does not see other threads, nor NumPy's products; PyTorch's in bfloat16 are of the same matrices. As
    # many rows as are computed at a time in any case.
    with using_threads(1):
        find(model, ROWS_PER_BLOCK, steps, max_steps=1, restarts=1, fast_path="bfloat16")
    return steps.flops / steps.computed


def flops_of_step(objective: Any, stimulus: Tensor) -> float:
    """Floating-point operations of an objective and its gradients: the weights' too, where they require gradients."""
    with using_threads(1), FlopCounterMode(display=False) as counter:
        objective.forward(stimulus).sum().backward()
    return counter.get_total_flops()


def add_operations(row: Measurement, flops: float, peak: float) -> None:
    """Add how many operations a step and row takes, and the share of the machine's peak (GFLOP/s) in its time."""
    row.gflop_per_step_and_row = flops / 1e9
    row.share_of_peak = row.gflop_per_step_and_row / (row.ms_per_step_and_row / 1000) / peak


def compare(
    row: Measurement, model: BenchmarkModel, neurons: Sequence[Neuron], stimuli: Tensor, reference: Mapping[str, Any]
) -> None:
    """Add the stimuli's responses, by the original model, relative to those of the recipe's, where there are such."""
    pairs = [
        (neuron, stimulus) for neuron, stimulus in zip(neurons, stimuli, strict=True) if label(neuron) in reference
    ]
    relative = [
        response_of(model, neuron, stimulus[None]) / reference[label(neuron)]["response"] for neuron, stimulus in pairs
    ]
    row.neurons_compared = len(relative)
    if relative:
        row.response_min, row.response_mean = min(relative), statistics.mean(relative)


@torch.no_grad()
def response_of(model: BenchmarkModel, neuron: Neuron, stimulus: Tensor) -> float:
    """The mean response of a neuron to a stimulus ``[1, channels, time, height, width]``."""
    session, index = neuron
    return model.network(stimulus, data_key=session)[0, :, index].mean().item()


def noise(model: BenchmarkModel, neuron: Neuron) -> Tensor:
    """What the recipe begins with: noise, N(0, 1), with norm and ranges; always the same for a neuron.

    White noise itself has a norm of 170. To some neurons it is so strong a stimulus that openretina's stopper finds
    nothing better in the first ten steps at a norm of 30, and ends the recipe there.
    """
    generator = torch.Generator().manual_seed(neuron[1])
    start = torch.randn(model.retina.stimulus_shape(FRAMES), generator=generator)
    return openretina_constraint().process(start).requires_grad_()


def openretina_constraint() -> Any:
    """openretina's norm, and then ranges."""
    from openretina.insilico.stimulus_optimization.regularizer import ChangeNormJointlyClipRangeSeparately

    return ChangeNormJointlyClipRangeSeparately(RANGES, NORM)


def label(neuron: Neuron) -> str:
    """What the neuron is called in files."""
    return f"{neuron[0]}/{neuron[1]}"


# The published recipe


def recipe_results(model: BenchmarkModel, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Steps and final response of the recipe by openretina's own function, for each neuron that it has been run for.

    It is run for the first neurons; what is in the cache already, for these or others, is not repeated.
    """
    path = arguments.cache / f"recipe_{model.digest[:16]}_{arguments.recipe_steps}_steps.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for neuron in model.neurons[: arguments.recipe_neurons]:
        if label(neuron) in results:
            continue
        stimulus, steps = run_openretina(model, neuron, arguments.recipe_steps)
        results[label(neuron)] = {"steps": steps, "response": response_of(model, neuron, stimulus)}
        partial_file = path.with_suffix(".partial")
        partial_file.write_text(json.dumps(results, indent=1), encoding="utf-8")
        partial_file.rename(path)
        log(f"  {label(neuron)}: {results[label(neuron)]}")
    return results


def steps_of_recipe(reference: Mapping[str, Mapping[str, float]]) -> float:
    """The mean number of steps until the recipe ends."""
    return statistics.mean(result["steps"] for result in reference.values())


class CountingSGD(torch.optim.SGD):
    """SGD that counts the steps of all its instances."""

    taken = 0

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a step."""
        CountingSGD.taken += 1
        return super().step(closure)


def openretina_objective(model: BenchmarkModel, neuron: Neuron) -> Any:
    """openretina's objective: the mean response of a neuron."""
    from openretina.insilico.stimulus_optimization.objective import IncreaseObjective, MeanReducer

    session, index = neuron
    return IncreaseObjective(model.network, [index], session, MeanReducer())


def run_openretina(model: BenchmarkModel, neuron: Neuron, max_steps: int, patience: int = 10) -> tuple[Tensor, int]:
    """The recipe by openretina's own function: its stimulus, and the steps that it took."""
    from openretina.insilico.stimulus_optimization.optimization_stopper import EarlyStopper
    from openretina.insilico.stimulus_optimization.optimizer import optimize_stimulus

    stimulus = noise(model, neuron)
    CountingSGD.taken = 0
    optimize_stimulus(
        stimulus,
        partial(CountingSGD, lr=LEARNING_RATE),
        openretina_objective(model, neuron),
        EarlyStopper(max_steps, patience, min_delta=1e-3),
        stimulus_postprocessor=openretina_constraint(),
    )
    return stimulus.detach(), CountingSGD.taken


def drop_in_objective(model: BenchmarkModel, neuron: Neuron) -> ml.IncreaseObjective:
    """This package's objective of that name."""
    session, index = neuron
    return ml.IncreaseObjective(model.retina, [index], session, ml.MeanReducer())


def run_drop_in(model: BenchmarkModel, neuron: Neuron, max_steps: int, patience: int = 10) -> tuple[Tensor, int, float]:
    """The recipe by this package's function and names: its stimulus, the steps, and the seconds that it took."""
    stimulus = noise(model, neuron)
    CountingSGD.taken = 0
    began = time.perf_counter()
    ml.optimize_stimulus(
        stimulus,
        partial(CountingSGD, lr=LEARNING_RATE),
        drop_in_objective(model, neuron),
        ml.EarlyStopper(max_steps, patience, min_delta=1e-3),
        stimulus_postprocessor=ml.ChangeNormJointlyClipRangeSeparately(RANGES, NORM),
    )
    return stimulus.detach(), CountingSGD.taken, time.perf_counter() - began


def time_openretina(model: BenchmarkModel, steps: int) -> float:
    """Milliseconds for each of so many steps of openretina's function."""
    began = time.perf_counter()
    run_openretina(model, model.neurons[0], steps, patience=steps + 1)
    return 1000 * (time.perf_counter() - began) / steps


def time_drop_in(model: BenchmarkModel, steps: int) -> float:
    """Milliseconds for each of so many steps of this package's function of that name, beginning and end included."""
    return 1000 * run_drop_in(model, model.neurons[0], steps, patience=steps + 1)[2] / steps


# The machine


class PeakMemory:
    """The most memory, in megabytes, that the process had resident during a ``with`` block."""

    megabytes: float

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        # getrusage has the same number, but it cannot be set back, and a child process inherits its parent's.
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        return self

    def __exit__(self, *exception: object) -> None:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        self.megabytes = int(status.split("VmHWM:")[1].split()[0]) / 1024


def matrix_product_peak(repeats: int = 10) -> float:
    """The most float32 operations a second (in 1e9) that PyTorch reaches: matrix products, or 1 x 1 convolutions."""
    matrix = torch.randn(2048, 2048)
    image, kernel = torch.randn(1, 1024, 64, 64), torch.randn(1024, 1024, 1, 1)
    candidates: list[tuple[Callable[[], Tensor], float]] = [
        (lambda: matrix @ matrix, 2.0 * 2048**3),
        (lambda: F.conv2d(image, kernel), 2.0 * 1024**2 * 64**2),
    ]
    speeds = []
    for (product, operations), _ in itertools.product(candidates, range(repeats)):
        began = time.perf_counter()
        product()
        speeds.append(operations / (time.perf_counter() - began) / 1e9)
    return max(speeds)


def measure_steps(model: BenchmarkModel, rows: int, repeats: int = 5) -> dict[str, float]:
    """Milliseconds a step and row of openretina's own module, one neuron at a time, and of the prepared model.

    A step is the response and its gradient, and nothing else. The two take turns; medians.
    """
    objective, stimuli = prepared_rows(model, rows)
    stimuli.requires_grad_()
    theirs, stimulus = openretina_objective(model, model.neurons[0]), noise(model, model.neurons[0])
    objective(stimuli).sum().backward()
    openretina_times, prepared_times = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        theirs.forward(stimulus).backward()
        between = time.perf_counter()
        objective(stimuli).sum().backward()
        openretina_times.append(1000 * (between - began))
        prepared_times.append(1000 * (time.perf_counter() - between) / rows)
    openretina, prepared = statistics.median(openretina_times), statistics.median(prepared_times)
    return {
        "rows": rows,
        "openretina_ms": openretina,
        "prepared_ms": prepared,
        "times_faster": openretina / prepared,
    }


def prepared_rows(model: BenchmarkModel, rows: int) -> tuple[ml.Objective, Tensor]:
    """An objective of so many rows on the prepared model, as runs compute it, and noise for it."""
    neurons = [neuron for neuron, _ in zip(itertools.cycle(model.neurons), range(rows), strict=False)]
    shape = model.retina.stimulus_shape(FRAMES, rows)
    objective = ml.NeuronObjective(prepare(model.retina, shape), neurons, ml.MeanReducer())
    noise_of_rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return ObjectiveInBlocks(objective, range(rows)), noise_of_rows


def trainer_overhead(model: BenchmarkModel, steps: int, repeats: int = 3) -> dict[str, float]:
    """Milliseconds a step of 64 rows under Lightning's trainer, and in a bare loop over the same step.

    The step is the module's own: scores and gradient, best iterates, optimizer and projection; both score the last
    iterate. Between steps the trainer calls hooks and callbacks and logs, which the loop does not.
    """
    objective, start = prepared_rows(model, ROWS)
    times: dict[str, list[float]] = {"trainer": [], "bare loop": []}
    for _ in range(repeats):
        for kind, run in (("trainer", run_trainer), ("bare loop", run_bare_loop)):
            module = StimulusModule(objective, start, constraint=ml.NormAndRange(NORM, RANGES))
            began = time.perf_counter()
            with threads_reserved_for_blocks():
                run(module, steps)
            times[kind].append(1000 * (time.perf_counter() - began) / steps)
    trainer_time, bare = (statistics.median(of_kind) for of_kind in times.values())
    return {"rows": ROWS, "trainer_ms": trainer_time, "bare_loop_ms": bare, "overhead": trainer_time / bare - 1}


def run_trainer(module: StimulusModule, steps: int) -> None:
    """Fit a module for so many steps."""
    Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module)


def run_bare_loop(module: StimulusModule, steps: int) -> None:
    """Take so many steps of a module without a trainer."""
    optimizer = module.configure_optimizers()

    def closure() -> Tensor:
        loss = module.training_step(0, 0)
        module.backward(loss)
        module.on_before_optimizer_step(optimizer)
        return loss

    for step in range(steps):
        module.optimizer_step(0, step, optimizer, closure)
    closure()


# Populations


class RepeatedTwin(ml.DigitalTwin):
    """The digital twin, each of its sessions several times, under other names.

    Args:
        population: the least number of neurons that it has.
    """

    def __init__(self, population: int) -> None:
        super().__init__()
        counts = self.neurons_per_session
        copies = math.ceil(population / sum(counts.values()))
        assert isinstance(self.network, DigitalTwinNetwork)
        repeat_sessions(self.network.readout, copies)
        self._neurons_per_session = {
            repeated(session, number): count for number in range(copies) for session, count in counts.items()
        }
        self.choice = repeated_neurons(counts, copies)[:population]
        self._neurons = pd.concat(
            self._neurons.assign(session=[repeated(session, number) for session in self._neurons["session"]])
            for number in range(copies)
        )


def population(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure populations of growing size, each in a process of its own, and print the table."""
    print_head(POPULATION_COLUMNS)
    rows = []
    for size in arguments.neurons:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
            row = processes.submit(measure_population, size, arguments.max_steps).result()
        print_line(POPULATION_COLUMNS, row)
        rows.append(row)
    return {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}


def measure_population(size: int, max_steps: int) -> dict[str, float]:
    """Find the MEIs of so many neurons of the digital twin, and keep them in a store."""
    be_quiet()
    model = RepeatedTwin(size)
    counter = RowSteps()
    with tempfile.TemporaryDirectory() as directory, PeakMemory() as memory:
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            ml.find_meis(
                model,
                model.choice,
                norm=NORM,
                max_steps=max_steps,
                directory=directory,
                accelerator="cpu",
                progress_bar=False,
                callbacks=[counter],
            )
        seconds = time.perf_counter() - began
    return {
        "neurons": size,
        "seconds": seconds,
        "neurons_per_minute": 60 * size / seconds,
        "peak_memory_mb": memory.megabytes,
        "steps_per_neuron": counter.computed / size,
        "active_share": counter.active_share,
    }


# Output

SPEED_COLUMNS = {
    "model": ("model", "{}"),
    "method": ("method", "{}"),
    "neurons": ("neurons", "{}"),
    "steps_per_neuron": ("row-steps per neuron", "{:.0f}"),
    "ms_per_step_and_row": ("ms per step and row", "{:.2f}"),
    "seconds_per_neuron": ("s per neuron", "{:.3f}"),
    "times_faster": ("times faster", "{:.1f}"),
    "response_min": ("response, least", "{:.1%}"),
    "response_mean": ("response, mean", "{:.1%}"),
    "neurons_compared": ("of neurons", "{}"),
    "peak_memory_mb": ("peak memory (MB)", "{:.0f}"),
    "gflop_per_step_and_row": ("GFLOP per step and row", "{:.2f}"),
    "share_of_peak": ("of peak", "{:.0%}"),
}
POPULATION_COLUMNS = {
    "neurons": ("neurons", "{:,}"),
    "seconds": ("seconds", "{:.1f}"),
    "neurons_per_minute": ("neurons per minute", "{:.1f}"),
    "peak_memory_mb": ("peak memory (MB)", "{:.0f}"),
    "steps_per_neuron": ("row-steps per neuron", "{:.1f}"),
    "active_share": ("of them on active rows", "{:.0%}"),
}


def print_notes(models: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """How ``speed`` measures, and what it measured besides its table."""
    print(
        "\nTimes of steps: openretina's are the median of runs of "
        f"{arguments.timing_steps} steps (high_res: {HIGH_RES_TIMING_STEPS}) before and after each of the other rows. "
        "Its time per neuron is that, times the steps of the recipe run to its end "
        f"(at most {arguments.recipe_steps}) on the neurons compared; it is not measured as a whole. "
        "All other times per neuron are whole runs, all restarts included; high_res has none, since its runs are cut "
        "short. Responses: by the original model, relative to the recipe's for the same neuron."
    )
    for name, facts in models.items():
        step = facts["step"]
        print(
            f"\n{name}: matrix products reach {facts['peak_gflop_per_second']:.0f} GFLOP/s. A step and row takes "
            f"{step['openretina_ms']:.2f} ms by openretina's own module, one neuron at a time, and "
            f"{step['prepared_ms']:.2f} ms by the prepared model with {step['rows']} rows: {step['times_faster']:.1f} "
            "times faster."
        )
        if facts["correlation"] is not None:
            overhead = facts["trainer_overhead"]
            print(
                f"Correlation with the simulated retina {facts['correlation']:.3f}. A step of {overhead['rows']} rows "
                f"takes {overhead['trainer_ms']:.1f} ms under the trainer, and {overhead['bare_loop_ms']:.1f} ms in a "
                f"bare loop: {overhead['overhead']:+.1%}."
            )


def log(text: str) -> None:
    """Say on the standard error what is being done."""
    print(text, file=sys.stderr, flush=True)


def be_quiet() -> None:
    """No lines about devices from Lightning, and no warnings."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")


def main() -> None:
    """Measure what the command names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("speed", help="openretina's function and this package side by side")
    command.set_defaults(run=speed)
    command.add_argument(
        "--models", nargs="+", choices=MODELS, default=MODELS[:2], help="which architectures (default: low_res*)"
    )
    command.add_argument("--populations", type=int, nargs="+", default=[1, 16, 64, 256], help="neurons of find_meis")
    command.add_argument(
        "--fast-paths",
        nargs="+",
        choices=("float32", "bfloat16"),
        default=["float32"],
        help="precision of find_meis' steps",
    )
    command.add_argument("--recipe-neurons", type=int, default=3, help="neurons that the whole recipe is run for")
    command.add_argument("--recipe-steps", type=int, default=1000, help="the most steps of the recipe")
    command.add_argument("--timing-steps", type=int, default=30, help="steps of each timing of a step")
    command.add_argument("--training-steps", type=int, default=400, help="of low_res; a third for ensemble members")
    command.add_argument("--cache", type=Path, default=Path("logs/benchmark"), help="trained weights, recipe's results")
    command.add_argument("--json", type=Path, help="file to write the numbers to")

    command = commands.add_parser("population", help="neurons per minute and memory of populations of the digital twin")
    command.set_defaults(run=population)
    command.add_argument("--neurons", type=int, nargs="+", default=[1, 10, 100, 1000], help="sizes of populations")
    command.add_argument("--max-steps", type=int, default=100, help="the most steps that a row takes")
    command.add_argument("--json", type=Path, help="file to write the numbers to")

    arguments = parser.parse_args()
    be_quiet()
    results = arguments.run(arguments)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
