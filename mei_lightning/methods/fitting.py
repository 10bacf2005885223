"""What the methods have in common: the MEIs that they go on from, and fits of many rows in batches."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from mei_lightning.acceleration.memory import rows_that_fit
from mei_lightning.acceleration.prepare import prepare
from mei_lightning.acceleration.rounding import full_precision
from mei_lightning.callbacks.convergence import RowConvergence
from mei_lightning.constraints import Constraint
from mei_lightning.devices import chosen_accelerator
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.find import Run, meis_in
from mei_lightning.models.base import frozen
from mei_lightning.models.loading import load_model
from mei_lightning.neurons import seed_of_row
from mei_lightning.objectives import NeuronObjective, Objective
from mei_lightning.optimization.optimizers import OptimizerFactory
from mei_lightning.optimization.out_of_memory import RowsAtATime
from mei_lightning.optimization.power_method import AdaptivePowerMethod
from mei_lightning.optimization.row_state import Status
from mei_lightning.optimization.stimulus_module import StimulusModule
from mei_lightning.optimization.trainer import quiet_trainer
from mei_lightning.problem import MEIProblem, Neurons
from mei_lightning.results.place import place_of_results
from mei_lightning.settings import settings_named, takes_settings
from mei_lightning.starting_points.seeded_noise import initial_stimulus

SETTINGS_OF_METHODS = frozenset(
    {
        "time_steps",
        "norm",
        "rms",
        "ranges",
        "mask",
        "reducer",
        "constraint",
        "search",
        "effort",
        "seed",
        "rows_per_device",
    }
)
"""The settings of MEIs that a method can go on from."""


@dataclass(frozen=True)
class Beginning:
    """What a method starts from.

    Args:
        problem: whose MEIs they are.
        meis: the MEIs, as ``find_meis`` returns them.
    """

    problem: MEIProblem
    meis: xr.Dataset

    @property
    def objective(self) -> NeuronObjective:
        """The response of each neuron, by the model itself."""
        return self.problem.objective

    @property
    def constraint(self) -> Constraint:
        """Where the MEIs live."""
        assert self.problem.space.constraint is not None
        return self.problem.space.constraint

    @property
    def stimuli(self) -> Tensor:
        """The MEIs, ``[neurons, channels, time, height, width]``."""
        return torch.from_numpy(self.meis["stimulus"].values)

    def noise(self, number: int, copy: int) -> Tensor:
        """White noise ``[channels, time, height, width]`` for a row of a neuron, from a seed of its own."""
        seed = seed_of_row(self.problem.settings.seed, self.problem.groups[number], copy)
        return initial_stimulus([seed], self.meis["stimulus"].shape[1:])[0].to(self.stimuli)

    def stepping(self) -> NeuronObjective:
        """The objective on a copy of the model that is prepared to be faster."""
        return self.objective.on(prepare(self.problem.model, (1, *self.meis["stimulus"].shape[1:])))

    def responses(self, numbers: Sequence[int], stimuli: Tensor) -> Tensor:
        """The reduced responses ``[rows]`` of neurons, by their numbers, to a stimulus each, by the model itself."""
        size = rows_that_fit(self.objective, stimuli[:1], torch.device("cpu"))
        with torch.no_grad(), full_precision():
            parts = [
                self.objective.for_rows(numbers[first : first + size])(stimuli[first : first + size])
                for first in range(0, len(numbers), size)
            ]
        return torch.cat(parts)

    def labelled(self, name: str, stimuli: Tensor) -> xr.DataArray:
        """Stimuli ``[neurons, n, channels, time, height, width]`` with the MEIs' labels; the n are called ``name``."""
        mei = self.meis["stimulus"]
        shape = (mei.sizes["neuron"], -1, *mei.shape[1:])
        values = stimuli.reshape(shape).numpy()
        dims = ("neuron", name, *mei.dims[1:])
        return xr.DataArray(values, dims=dims, coords={**mei.coords, name: np.arange(values.shape[1])})


@takes_settings(SETTINGS_OF_METHODS)
@contextmanager
def from_meis(
    model: nn.Module | str,
    neurons: Neurons,
    *,
    directory: str | Path | None = None,
    progress_bar: bool = True,
    **settings: Any,
) -> Iterator[Beginning]:
    """Find MEIs to go on from; the model is frozen meanwhile.

    If what is done with them does not come to its end, they stay on disk, and the exception says where.

    Args:
        model: as for ``find_meis``.
        neurons: as for ``find_meis``.
        directory: where the MEIs are kept; those that are there already are not computed again. By default they are
            gone once the method has ended.
        progress_bar: whether to show one for the MEIs.
        settings: as for ``find_meis``, of the MEIs; but a method works on the reduced responses of pixels.

    Raises:
        ValueError: if an argument does not fit the model, or a neuron has no finite MEI.
        IndexError: if a session has no such neuron.
        TypeError: if a setting is none that methods have.
    """
    if others := sorted(settings.keys() - SETTINGS_OF_METHODS):
        raise InvalidTypeError(
            f"{', '.join(others)}: the MEIs that a method goes on from have the settings "
            f"{', '.join(sorted(SETTINGS_OF_METHODS))}. Leave {'it' if len(others) == 1 else 'them'} out."
        )
    with frozen(model) if isinstance(model, nn.Module) else nullcontext():
        problem = MEIProblem(load_model(model).to("cpu"), neurons, settings_named(settings))
        with place_of_results(directory) as place:
            meis = meis_in(place, problem, Run(directory, progress_bar=progress_bar)).load()
            failed = meis["neuron"].values[meis["status"].values == Status.NOT_FINITE.label]
            if len(failed):
                raise InvalidValueError(
                    f"There is no finite MEI to go on from for {', '.join(failed)}: leave these neurons out."
                )
            yield Beginning(problem, meis)


def fit_rows(
    objective: Objective,
    initial: Callable[[int], Tensor],
    rows: int,
    *,
    at_a_time: int,
    constraint: Constraint | None,
    max_steps: int,
    optimizer: OptimizerFactory = AdaptivePowerMethod,
    together: int = 1,
    converge: bool = True,
) -> Tensor:
    """The best stimulus of each row of an objective, ``[rows, channels, time, height, width]``.

    Args:
        objective: what to maximise.
        initial: makes the initial stimulus ``[channels, time, height, width]`` of a row, from its number.
        rows: how many there are.
        at_a_time: the most rows to compute at a time.
        constraint: where stimuli may live.
        max_steps: the most steps that a row takes.
        optimizer: as for ``StimulusModule``.
        together: so many consecutive rows depend on each other, and are computed together.
        converge: whether a row that has converged may leave before the last step.
    """

    def fit(part: slice) -> Tensor:
        batch = range(part.start * together, part.stop * together)
        module = StimulusModule(
            objective.for_rows(batch),
            torch.stack([initial(row) for row in batch]),
            constraint=constraint,
            optimizer=optimizer,
            max_steps=max_steps,
        )
        rules = [RowConvergence()] if converge else []
        with quiet_trainer(chosen_accelerator("auto"), callbacks=rules) as trainer, warnings.catch_warnings():
            # Where a target is hit exactly there is none; what else ends without one shows in the scores.
            warnings.filterwarnings("ignore", message=".*stimuli ended with 'no gradient'")
            trainer.fit(module)
        return module.best_stimulus.cpu()

    return torch.cat(RowsAtATime(max(at_a_time // together, 1)).results(fit, rows // together))


def dataset(begun: Beginning, variables: Mapping[str, object], **facts: object) -> xr.Dataset:
    """Results with the labels and the attributes of the MEIs that they went on from, and more attributes."""
    kept = [name for name in begun.meis.coords if name not in ("response_time", "restart")]
    labels = begun.meis[kept].coords
    return xr.Dataset(variables, coords=labels, attrs={**begun.meis.attrs, **facts})  # type: ignore[arg-type]
