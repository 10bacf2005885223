"""Optimizers whose rows step on their own, and which optimizers are such."""

from collections.abc import Callable, Iterable
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mei_lightning.acceleration.row_arithmetic import put_rows
from mei_lightning.arguments import in_short
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.optimization.refusals import check_moved, checked_rows_of_state, checked_state

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
"""Makes an optimizer for the parameters that it is given."""


class RowOptimizer(Optimizer):
    """An optimizer whose rows step on their own, and begin anew on their own.

    Derive from it for one that streams any number of neurons through the rows of a device, as the default does: write
    ``initial_state`` and ``moved``, and say whether it normalises gradients and forgives rounding.

    Args:
        params: stimuli ``[rows, ...]``.
        defaults: the settings of the optimizer, by name.

    Attributes:
        rows: the numbers of the rows that move, or None for all.
        settle: decides what becomes of rows that have moved, e.g. projects them: a function of some of ``rows``, as a
            slice, and of where they have moved to, that returns where they are then; None to leave them there.

    Example:
        >>> class FixedSteps(ml.RowOptimizer):
        ...     def __init__(self, params, length=0.5):
        ...         super().__init__(params, {"length": length})
        ...     def moved(self, group, stimulus, gradient, state):
        ...         norm = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
        ...         return stimulus - group["length"] * gradient / norm
        >>> stimulus = torch.ones(1, 1, 1, 1, 2, requires_grad=True)
        >>> optimizer = FixedSteps([stimulus])
        >>> (-3.0 * stimulus[..., 0]).sum().backward()
        >>> optimizer.step()
        >>> stimulus.flatten().tolist()
        [1.5, 1.0]
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], optimizer=FixedSteps, max_steps=4, progress_bar=False)
    """

    normalises_gradients = True
    """Whether a row's step is as long as ever where its gradient is small."""
    forgives_rounding = False
    """Whether small errors of the gradient stay small; then steps are computed on a prepared, faster copy of the model.
    Steps that scale each pixel's gradient on its own, such as its sign, make rounding as large as the rest."""
    inherited: tuple[str, ...] = ()
    """Names of what is kept of a row that a row takes over which begins near it."""

    def __init__(self, params: Iterable[Tensor], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self.rows: Tensor | None = None
        self.settle: Callable[[slice, Tensor], Tensor] | None = None

    def initial_state(self, group: dict[str, Any], stimulus: Tensor) -> dict[str, Tensor]:
        """What is kept of each row, for rows that begin from these stimuli.

        Args:
            group: the settings.
            stimulus: where they begin, ``[rows, ...]``.

        Returns:
            Tensors ``[rows, ...]`` by name, on the device of the stimulus, each with memory of its own.
        """
        return {}

    def moved(self, group: dict[str, Any], stimulus: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Where some rows go.

        The loss is minus the value, so a row has risen where ``inner_products(gradient, last move)`` is negative; no
        other value is told. A row goes where it would go alone, to the last bit, if its numbers are from
        ``row_norms``, ``inner_products`` and ``per_row`` of ``acceleration/row_arithmetic.py``.

        Args:
            group: the settings.
            stimulus: where they are, ``[rows, ...]``; stays as it is.
            gradient: of the loss, likewise.
            state: what is kept of these rows, by name; put in what shall be kept from now on, of the same shape and
                type.

        Returns:
            A tensor of the shape, type and device of ``stimulus``.
        """
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """Take one step against the gradient of the loss.

        Args:
            closure: evaluates the loss anew and returns it.

        Raises:
            TypeError: if ``initial_state`` or ``moved`` returns what is no tensor, or no dict of tensors.
            ValueError: if the shape, type, device or name of a tensor of theirs does not fit.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for stimulus in group["params"]:
                if stimulus.grad is None:
                    continue
                state = self.state[stimulus]
                if not state:
                    state.update(checked_state(self, self.initial_state(group, stimulus.detach()), stimulus))
                rows = torch.arange(len(stimulus), device=stimulus.device) if self.rows is None else self.rows
                put_rows(stimulus, rows, partial(self._move, group, stimulus, state, rows))
        return loss

    def _move(
        self, group: dict[str, Any], stimulus: Tensor, state: dict[str, Tensor], all_rows: Tensor, part: slice
    ) -> Tensor:
        rows = all_rows[part]
        kept = {name: values.index_select(0, rows) for name, values in state.items()}
        gradient = stimulus.grad.index_select(0, rows)  # type: ignore[union-attr]
        moved = self.moved(group, stimulus.index_select(0, rows), gradient, kept)
        check_moved(self, moved, kept, stimulus, state, len(rows))
        for name, values in kept.items():
            put_rows(state[name], rows, values)
        return moved if self.settle is None else self.settle(part, moved)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; what an older version did not keep of rows is as if they began from where they are."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for stimulus in group["params"]:
                if state := self.state.get(stimulus):
                    state.update({**self.initial_state(group, stimulus.detach()), **state})

    def begin_anew(self, rows: Tensor, near: Tensor | None = None) -> None:
        """Let rows begin from where they are; raises as ``step`` does.

        Args:
            rows: their numbers.
            near: the number of a row for each, near which it begins: it takes over what is ``inherited``.
        """
        for group in self.param_groups:
            for stimulus in group["params"]:
                if state := self.state.get(stimulus):
                    begun = stimulus.detach()[rows]
                    values_of_rows = self.initial_state(group, begun)
                    for name, values in checked_rows_of_state(self, "initial_state", values_of_rows, state, len(begun)):
                        state[name][rows] = values if near is None or name not in self.inherited else state[name][near]


class RowByRow(RowOptimizer):
    """Another optimizer with a state for each row, such as Adam's moments and its number of steps.

    Args:
        params: the stimulus, ``[rows, ...]``.
        factory: makes the optimizer; one whose ``step`` needs no closure.
    """

    normalises_gradients = False

    def __init__(self, params: Iterable[Tensor], factory: OptimizerFactory) -> None:
        (stimulus,) = params
        super().__init__([stimulus], {})
        # Parameters that share the stimulus' memory.
        self._row_parameters = [nn.Parameter(row) for row in stimulus.detach()]
        self._optimizer = factory(self._row_parameters)
        self._moving: tuple[Tensor | None, list[int]] = None, []

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """Take one step against the gradient of the loss; arguments as for ``RowOptimizer``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (stimulus,) = self.param_groups[0]["params"]
        rows = torch.arange(len(stimulus), device=stimulus.device) if self.rows is None else self.rows
        numbers = self._numbers()
        for number in numbers:
            self._row_parameters[number].grad = None if stimulus.grad is None else stimulus.grad[number]
        self._optimizer.step()
        for number in numbers:
            self._row_parameters[number].grad = None
        if self.settle is not None:
            settle = self.settle
            put_rows(stimulus, rows, lambda part: settle(part, stimulus.index_select(0, rows[part])))
        return loss

    def _numbers(self) -> list[int]:
        if self.rows is None:
            return list(range(len(self._row_parameters)))
        if self._moving[0] is not self.rows:
            # Asked only where the rows have changed: the host waits for it.
            self._moving = self.rows, self.rows.tolist()
        return self._moving[1]

    def begin_anew(self, rows: Tensor, near: Tensor | None = None) -> None:
        """Forget the state of rows, by their numbers; nothing is taken over from others."""
        for number in rows.tolist():
            self._optimizer.state.pop(self._row_parameters[number], None)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's, with each row as a parameter."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the optimizer's state."""
        self._optimizer.load_state_dict(state_dict)


def check_optimizer(optimizer: object) -> None:
    """Refuse what makes no optimizer, such as one that has been made, for other parameters.

    Raises:
        TypeError: that says what to give.
        ValueError: if the optimizer refuses its own settings.
    """
    example = "Give what makes one, e.g. optimizer=functools.partial(torch.optim.SGD, lr=10.0)."
    if not callable(optimizer):
        given = repr(optimizer) if isinstance(optimizer, str) else type(optimizer).__name__
        raise InvalidTypeError(f"optimizer: {given} does not make an optimizer for the stimulus. {example}")
    try:
        made = optimizer([torch.zeros(1, requires_grad=True)])
    except TypeError as error:
        raise InvalidTypeError(f"optimizer={in_short(optimizer)} makes none: {error}. {example}") from error
    except ValueError as error:
        raise InvalidValueError(f"optimizer={in_short(optimizer)} makes none: {error}. {example}") from error
    if not isinstance(made, Optimizer):
        raise InvalidTypeError(f"optimizer={in_short(optimizer)} made a {type(made).__name__}, no optimizer. {example}")


def forgives_rounding(optimizer: Optimizer) -> bool:
    """Whether small errors of the gradient stay small.

    Optimizers that scale each pixel's gradient on its own, as Adam does, make rounding as large as the rest.
    """
    if isinstance(optimizer, RowOptimizer):
        return optimizer.forgives_rounding
    return isinstance(optimizer, torch.optim.SGD)


def begins_row_by_row(optimizer: Optimizer) -> bool:
    """Whether rows of an optimizer may begin anew while others go on."""
    closure = signature(optimizer.step).parameters.get("closure")
    # One that has to evaluate the objective itself, as L-BFGS does, treats all parameters together.
    return isinstance(optimizer, RowOptimizer) or (closure is not None and closure.default is not Parameter.empty)


def with_state_of_rows(factory: OptimizerFactory, stimulus: Tensor) -> Optimizer:
    """The optimizer of a stimulus, so that its rows can begin anew one by one, if that is possible."""
    optimizer = factory([stimulus])
    keeps_nothing = type(optimizer) is torch.optim.SGD and not any(
        group["momentum"] for group in optimizer.param_groups
    )
    if isinstance(optimizer, RowOptimizer) or keeps_nothing or not begins_row_by_row(optimizer):
        return optimizer
    return RowByRow([stimulus], factory)


def check_rows_are_independent(factory: OptimizerFactory, name: str, rows: int) -> None:
    """Refuse an optimizer that makes the rows of a stimulus depend on each other.

    Raises:
        ValueError: that says what to do.
    """
    if couples_rows(factory):
        raise InvalidValueError(
            f"{name} couples the {rows} rows of the stimulus: a neuron's MEI would depend on the "
            "others in its batch. Optimise one row at a time (one neuron, restarts=1), or choose another "
            "optimizer, e.g. torch.optim.SGD."
        )


def couples_rows(factory: OptimizerFactory) -> bool:
    """Whether what an optimizer does to a row depends on the other rows; found by trying it on two of them."""
    start = torch.linspace(-1.0, 1.0, 16, device="cpu").view(2, 1, 2, 2, 2)
    # Two rows of very different gradients, which whatever is taken of both together would mix.
    scale = torch.tensor([1.0, 100.0], device="cpu").view(2, 1, 1, 1, 1)

    def after_steps(rows: slice) -> Tensor:
        parameter = nn.Parameter(start[rows].clone())
        optimizer = factory([parameter])

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (scale[rows] * (parameter - 0.3).pow(4)).sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)  # type: ignore[arg-type]
        return parameter.detach()

    alone = torch.cat([after_steps(slice(0, 1)), after_steps(slice(1, 2))])
    return not torch.allclose(after_steps(slice(0, 2)), alone, equal_nan=True)
