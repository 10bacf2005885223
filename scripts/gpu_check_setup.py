"""What the files of ``gpu_check.py`` share: how much is measured, on which models, and how a line is made."""

import platform
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import torch
import xarray as xr
from reference_models import HIGH_RES, LOW_RES, RandomCoreReadout

import mei_lightning as ml

RANGES = [(-0.654, 6.269), (-0.913, 6.269)]

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
