"""The stimuli of all rows, and which rows steps compute: what callbacks see, and what checkpoints hold."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from mei_lightning.arguments import whole_number
from mei_lightning.constraints import Constraint
from mei_lightning.gradients import backward, recomputes
from mei_lightning.models.base import StimulusFormat
from mei_lightning.objectives import Objective
from mei_lightning.optimization.logs import values_of_scores, values_of_stimuli
from mei_lightning.optimization.row_state import RowState, Status
from mei_lightning.optimization.stimulus_space import StimulusSpace
from mei_lightning.parameterizations import Parameterization
from mei_lightning.perturbations import Robustness

_ROWS = "rows."


@dataclass
class ComputedRows:
    """The rows that steps compute: those that were active when they were last selected.

    Args:
        numbers: of the rows, in order.
        index: the same, where the stimulus is.
        objective: of these rows.
        seeds: of their perturbations, on the host.
        steps: that they have taken, on the host; None without perturbations.
        recomputed: what ``recomputes`` says of their loss; None before the first step.
    """

    numbers: list[int]
    index: Tensor
    objective: Objective
    seeds: Tensor | None = None
    steps: Tensor | None = None
    recomputed: bool | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def backward(self, loss: Tensor, evaluated: Tensor, **options: Any) -> None:
        """Take the gradient of the loss of these rows with respect to what was evaluated."""
        # Perturbed, each step may be that of other members of an ensemble.
        if self.recomputed is None or self.seeds is not None:
            self.recomputed = recomputes(loss)
        backward(loss, evaluated, self.recomputed, **options)


class RowModule(LightningModule):
    """A module whose sole parameter is a stimulus of many rows, of which steps compute those that are not done.

    Args:
        objective: what the rows are scored by.
        space: where stimuli may live, and what they are made from.
        robustness: what stimuli have to withstand.
        seeds: of each row's perturbations, ``[rows]``; by default the number of the row.
        check_interval: steps between two checks for rows that are done (an epoch).

    Attributes:
        stimulus: the sole parameter.
        rows: how the rows stand.
    """

    rows: RowState

    def __init__(
        self,
        objective: Objective,
        space: StimulusSpace,
        robustness: Sequence[Robustness],
        seeds: Sequence[int] | None,
        check_interval: int,
    ) -> None:
        super().__init__()
        # In a tuple, so that the frozen model is no part of this module: neither of its parameters and checkpoints, nor
        # moved to the CPU with it when the trainer is done.
        self._objective_in_tuple = (objective,)
        self.space = space
        self.constraint: Constraint | None = space.constraint
        self.parameterization: Parameterization | None = space.parameterization
        self.robustness = tuple(robustness)
        self.seeds = seeds
        self.check_interval = whole_number("check_interval", check_interval, 1)

    def _make_rows(self, parameters: Tensor, stimulus: Tensor) -> None:
        self.stimulus = nn.Parameter(parameters)
        self.rows = self._row_state(stimulus.clone())
        self._computed_in_tuple: tuple[ComputedRows, ...] = ()
        self._selection_is_old = True

    def _row_state(self, stimulus: Tensor) -> RowState:
        return RowState(stimulus)

    @property
    def best_stimulus(self) -> Tensor:
        """The best iterate of each row, ``[rows, channels, time, height, width]``."""
        return self.rows.best_stimulus

    @property
    def best_score(self) -> Tensor:
        """Its score, ``[rows]``."""
        return self.rows.best_score

    @property
    def best_value(self) -> Tensor:
        """The highest value of each row, its score minus its cost, ``[rows]``."""
        return self.rows.best_value

    @property
    def status(self) -> Tensor:
        """The ``Status`` of each row, ``[rows]``."""
        return self.rows.status

    @property
    def steps(self) -> Tensor:
        """The number of steps that each row has taken, ``[rows]``."""
        return self.rows.steps

    @property
    def active(self) -> Tensor:
        """Which rows ``[rows]`` are still being optimised."""
        return self.rows.active

    # What the stimuli are for; modules for named neurons know better

    @property
    def objective(self) -> Objective:
        """What the stimuli are optimised for, with the frozen model."""
        return self._objective_in_tuple[0]

    @property
    def labels(self) -> list[str]:
        """What each stimulus of the result is called."""
        return [f"row_{row}" for row in range(len(self.rows))]

    @property
    def stimulus_format(self) -> StimulusFormat | None:
        """The physical facts of the stimulus, if known."""
        return None

    def best_rows(self) -> Tensor:
        """For each stimulus of the result its row, ``[results]``."""
        return torch.arange(len(self.rows), device=self.device)

    def scores(self) -> Tensor:
        """The best score so far of each stimulus of the result that has a finite one."""
        scores = self.best_score[self.best_rows()]
        return scores[scores.isfinite()]

    # No data

    def train_dataloader(self) -> Iterable[int]:
        """No data: an epoch of ``check_interval`` steps, or what a run that was interrupted has left of one."""
        return _StepsToNextCheck(self)

    @property
    def at_check(self) -> bool:
        """Whether the last step was one after which rows are checked; a run can also end between two checks."""
        return self.trainer.global_step % self.check_interval == 0

    def transfer_batch_to_device(self, batch: int, device: torch.device, dataloader_idx: int) -> int:
        """Nothing to transfer."""
        return batch

    # Which rows steps compute

    def _parameters_in_computation(self) -> Tensor:
        return self.stimulus.detach().index_select(0, self._computed.index)

    @property
    def _computed(self) -> ComputedRows:
        return self._computed_in_tuple[0]

    def _select_active_rows(self) -> None:
        rows = self.active.nonzero().flatten().tolist()
        if self._selection_is_old or rows != self._computed.numbers:
            self._select_rows(rows)

    def _select_rows(self, rows: Sequence[int]) -> None:
        before = self._computed.numbers if self._computed_in_tuple else []
        left = sorted(set(before) - set(rows))
        if left and self.stimulus.grad is not None:
            self.stimulus.grad.index_fill_(0, torch.tensor(left, device=self.stimulus.device), 0)
        index = torch.tensor(rows, dtype=torch.long, device=self.stimulus.device)
        computed = ComputedRows(list(rows), index, self._objective_of(rows).to(self.stimulus.device))
        if self.robustness:
            computed.seeds = torch.tensor(self._seeds_of(rows), dtype=torch.long)
            # Of rows that go on: those that have ended meanwhile are computed, but count no more.
            computed.steps = self.steps[index].cpu()
        # In a tuple, so that the objective, which shares the model, is not registered as a part of this module.
        self._computed_in_tuple = (computed,)
        self._selection_is_old = False

    def _seeds_of(self, rows: Sequence[int]) -> list[int]:
        """The seeds of some rows' perturbations."""
        return list(rows) if self.seeds is None else [self.seeds[row] for row in rows]

    def _objective_of(self, rows: Sequence[int], objective: Objective | None = None) -> Objective:
        """What some rows are scored by: of an objective of all rows, by default of the module's, their part."""
        objective = self.objective if objective is None else objective
        return objective if len(rows) in (0, len(self.stimulus)) else objective.for_rows(rows)

    @property
    def prepared_objective(self) -> Objective:
        """The objective that steps are computed on."""
        return self.objective

    # Logs

    def _log_population(self) -> None:
        self._log_values(values_of_scores(self.scores()))
        self.log("rows/active", self.active.sum().float(), prog_bar=True)
        for status in (Status.CONVERGED, Status.NO_GRADIENT, Status.NOT_FINITE):
            self.log(f"rows/{status.name.lower()}", (self.status == status).sum().float())
        self._log_values(values_of_stimuli(self.best_stimulus, self.constraint))

    def _log_values(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.log(name, value, prog_bar=name == "score/mean")

    # Checkpoints: the stimulus and what belongs to its rows, never the model

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The stimulus and the state of its rows."""
        state = super().state_dict(*args, **kwargs)
        return {name.removeprefix(_ROWS): value for name, value in state.items() if _is_own(name)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore the stimulus and the state of its rows; the model keeps its weights."""
        frozen = {name: value for name, value in super().state_dict().items() if not _is_own(name)}
        own = {name if name == "stimulus" else f"{_ROWS}{name}": value for name, value in state_dict.items()}
        return super().load_state_dict({**frozen, **own}, strict=strict, assign=assign)


def _is_own(name: str) -> bool:
    """Whether a name of the state belongs to the stimulus and its rows, and not to constraint or parameterisation."""
    return name == "stimulus" or name.startswith(_ROWS)


class _StepsToNextCheck:
    def __init__(self, module: RowModule) -> None:
        self._module = module

    def __iter__(self) -> Iterator[int]:
        steps = self._module.check_interval
        return iter(range(steps - self._module.trainer.global_step % steps))
