"""The methods as commands: what a function returns is saved."""

from pathlib import Path
from typing import Any

import xarray as xr

from mei_lightning.methods.clusters import cluster_by_stimulus
from mei_lightning.methods.diverse import find_diverse_stimuli
from mei_lightning.methods.invariance import find_invariance_paths
from mei_lightning.methods.receptive_field import find_receptive_fields
from mei_lightning.methods.surround import find_surrounds
from mei_lightning.models.base import RetinaModel
from mei_lightning.problem import Neurons
from mei_lightning.results.dataset import save_dataset
from mei_lightning.results.disk_errors import free_place


def diverse(model: RetinaModel | str, neurons: Neurons, target: Path, **options: Any) -> None:
    """Find several stimuli for each neuron that are as different as possible, and all excite it well.

    Args:
        model: a model or its name, as for fit.
        neurons: the neurons, as for fit.
        target: where to save the dataset, a zarr store.
    """
    target = free_place("target", target)
    _save(find_diverse_stimuli(model, neurons, **options), target)


def surround(model: RetinaModel | str, neurons: Neurons, target: Path, **options: Any) -> None:
    """Find the surround that raises, or lowers, the response to the centre of each neuron's MEI most.

    Args:
        model: a model or its name, as for fit.
        neurons: the neurons, as for fit.
        target: where to save the dataset, a zarr store.
    """
    target = free_place("target", target)
    _save(find_surrounds(model, neurons, **options), target)


def invariance(model: RetinaModel | str, neurons: Neurons, target: Path, **options: Any) -> None:
    """Find stimuli between two different stimuli of each neuron that all give the same response.

    Args:
        model: a model or its name, as for fit.
        neurons: the neurons, as for fit.
        target: where to save the dataset, a zarr store.
    """
    target = free_place("target", target)
    _save(find_invariance_paths(model, neurons, **options), target)


def receptive_field(model: RetinaModel | str, neurons: Neurons, target: Path, **options: Any) -> None:
    """Find the gradient of each neuron's response with respect to the stimulus.

    Args:
        model: a model or its name, as for fit.
        neurons: the neurons, as for fit.
        target: where to save the dataset, a zarr store.
    """
    target = free_place("target", target)
    _save(find_receptive_fields(model, neurons, **options), target)


def cluster(model: RetinaModel | str, neurons: Neurons, target: Path, **options: Any) -> None:
    """Cluster neurons by the stimuli that tell them apart.

    Args:
        model: a model or its name, as for fit.
        neurons: the neurons, as for fit.
        target: where to save the dataset, a zarr store.
    """
    target = free_place("target", target)
    found = cluster_by_stimulus(model, neurons, **options)
    _save(found, target)
    print(found["cluster"].to_series().value_counts().sort_index().rename("neurons").to_string())


def _save(found: xr.Dataset, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"Dataset: {save_dataset(found, target)}")
