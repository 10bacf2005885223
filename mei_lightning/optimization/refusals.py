"""What a module for stimuli refuses, and what it says."""

from collections.abc import ItemsView, Mapping, Sequence
from typing import NoReturn

from torch import Tensor

from mei_lightning.arguments import in_short, whole_number, whole_numbers
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError


def check_numbers(
    initial_stimulus: Tensor, seeds: Sequence[int] | None, max_steps: int | None, check_interval: int
) -> None:
    """Refuse numbers of a module that leave nothing to do, or do not fit each other; raises a ValueError."""
    if not isinstance(initial_stimulus, Tensor) or not initial_stimulus.is_floating_point():
        raise InvalidTypeError(
            f"initial_stimulus={in_short(initial_stimulus)} must be a tensor of floating-point numbers, e.g. "
            "torch.randn(rows, channels, time, height, width)."
        )
    check_interval = whole_number("check_interval", check_interval)
    max_steps = None if max_steps is None else whole_number("max_steps", max_steps)
    seeds = None if seeds is None else whole_numbers("seeds", seeds)
    if initial_stimulus.ndim != 5 or not len(initial_stimulus):
        raise InvalidValueError(
            "A stimulus is [rows, channels, time, height, width] with at least one row, "
            f"not {tuple(initial_stimulus.shape)}."
        )
    if check_interval < 1:
        raise InvalidValueError(f"check_interval={check_interval} must be at least 1 step.")
    if max_steps is not None and max_steps < 1:
        raise InvalidValueError(f"max_steps={max_steps} leaves nothing to do; give the number of steps, at least 1.")
    if seeds is not None and len(seeds) != len(initial_stimulus):
        raise InvalidValueError(f"{len(seeds)} seeds for {len(initial_stimulus)} row(s); give one for each.")


def check_precision(precision: object) -> None:
    """Raise a ValueError for a precision of the trainer's in which the model cannot compute.

    That of 32 bits leaves everything in the model's own precision.
    """
    if precision != "32-true":
        raise InvalidValueError(
            f"Trainer(precision={precision!r}) would change the precision of the stimulus and not that of the "
            "model. Leave precision out. An MEIModule and find_meis compute faster in bfloat16 with "
            'fast_path="bfloat16" (--model.fast_path bfloat16), and in double precision on a model in double '
            "precision (model.double())."
        )


def check_clipping(gradient_clip_val: float | None) -> None:
    """Raise a ValueError if the trainer clips gradients, of all rows together."""
    if gradient_clip_val:
        raise InvalidValueError(
            f"Trainer(gradient_clip_val={gradient_clip_val}) clips the gradients of all rows "
            "together. Leave it out: the default optimizer normalises the gradient of each row."
        )


def refuse_without_gradient(objective: object) -> NoReturn:
    """Raise a ValueError: the score does not depend on the stimulus."""
    raise InvalidValueError(
        f"The score of {type(objective).__name__} does not depend on the stimulus in a differentiable way, "
        "so there is no gradient. Does the model detach its input or run under torch.no_grad()?"
    )


def check_rows(what: str, source: object, values: Tensor, stimulus: Tensor) -> None:
    """Raise a ValueError unless there is a value for each row of the stimulus."""
    if values.shape != (len(stimulus),):
        raise InvalidValueError(
            f"The {what} returned a tensor of shape {tuple(values.shape)} for {len(stimulus)} row(s); it must return "
            f"one number for each row, shape ({len(stimulus)},): {type(source).__name__}"
        )


def checked_state(optimizer: object, state: object, stimulus: Tensor) -> dict[str, Tensor]:
    """What the ``initial_state`` of an optimizer of rows returned for all rows, if it can be kept.

    Args:
        optimizer: whose it is.
        state: what it returned.
        stimulus: all rows, ``[rows, ...]``.

    Raises:
        TypeError: unless it is a dict of tensors.
        ValueError: if a tensor is not ``[rows, ...]``, is on another device than the stimulus, or shares memory with
            the stimulus, with another tensor or among its own rows.
    """
    said = f"{type(optimizer).__name__}.initial_state returned"
    wanted = f"tensors [{len(stimulus)}, ...] on {stimulus.device} by name, one value or more for each row"
    if not isinstance(state, dict):
        raise InvalidTypeError(f"{said} {_described(state)}; it must return a dict of {wanted}.")
    taken = {stimulus.data_ptr()}
    for name, values in state.items():
        if not isinstance(values, Tensor):
            raise InvalidTypeError(f"{said} {_described(values)} as {name!r}; it must return {wanted}.")
        if values.shape[:1] != stimulus.shape[:1] or values.device != stimulus.device:
            raise InvalidValueError(f"{said} {_described(values)} as {name!r}; it must return {wanted}.")
        repeats = any(step == 0 < length - 1 for step, length in zip(values.stride(), values.shape, strict=True))
        if repeats or values.data_ptr() in taken:
            raise InvalidValueError(
                f"{said} {_described(values)} as {name!r} that shares memory with the stimulus, with another tensor or "
                "among its rows; it must return tensors with memory of their own: say .clone()."
            )
        taken.add(values.data_ptr())
    return state


def checked_rows_of_state(
    optimizer: object, method: str, found: object, state: Mapping[str, Tensor], rows: int
) -> ItemsView[str, Tensor]:
    """What a method of an optimizer of rows would have kept of some rows, by name, if it fits what is kept of all.

    Args:
        optimizer: whose it is.
        method: its name.
        found: what it would have kept of some rows.
        state: what is kept of all rows, ``[all rows, ...]`` by name.
        rows: how many rows there are some of.

    Raises:
        TypeError: unless it is a dict of tensors.
        ValueError: if names, shapes, types or devices are others than those of what is kept.
    """
    said = f"{type(optimizer).__name__}.{method}"
    if not isinstance(found, dict):
        raise InvalidTypeError(f"{said} returned {_described(found)}; it must return a dict of tensors by name.")
    if found.keys() != state.keys():
        raise InvalidValueError(
            f"{said} has a state of {_listed(found)}; it must have the names that initial_state returned at first: "
            f"{_listed(state)}."
        )
    for name, values in found.items():
        if not _is_like(values, state[name], rows):
            _refuse(f"{said} has a state in which {name!r} is", values, "what it was at first", state[name], rows)
    return found.items()


def check_moved(
    optimizer: object,
    moved: object,
    kept: Mapping[str, Tensor],
    stimulus: Tensor,
    state: Mapping[str, Tensor],
    rows: int,
) -> None:
    """Refuse where an optimizer moved some rows, and what it would have kept of them, unless both fit the stimulus.

    Args:
        optimizer: whose ``moved`` it is.
        moved: what it returned.
        kept: what it would have kept of these rows, by name.
        stimulus: all rows, ``[all rows, ...]``.
        state: what is kept of all rows, by name.
        rows: how many rows it moved.

    Raises:
        TypeError: if something of this is no tensor.
        ValueError: if a shape, a type, a device or a name is another one.
    """
    if not _is_like(moved, stimulus, rows):
        _refuse(f"{type(optimizer).__name__}.moved returned", moved, "the stimulus that it is given", stimulus, rows)
    checked_rows_of_state(optimizer, "moved", kept, state, rows)


def _is_like(values: object, like: Tensor, rows: int) -> bool:
    return (
        isinstance(values, Tensor)
        and values.shape == (rows, *like.shape[1:])
        and values.dtype == like.dtype
        and values.device == like.device
    )


def _refuse(said: str, values: object, model: str, like: Tensor, rows: int) -> NoReturn:
    refusal = InvalidValueError if isinstance(values, Tensor) else InvalidTypeError
    shape = (rows, *like.shape[1:])
    raise refusal(
        f"{said} {_described(values)}; it must be like {model}: "
        f"a tensor of shape {shape}, {like.dtype}, on {like.device}."
    )


def _described(values: object) -> str:
    if isinstance(values, Tensor):
        return f"a tensor of shape {tuple(values.shape)}, {values.dtype}, on {values.device}"
    return repr(values) if isinstance(values, str | int | float | None) else f"a value of type {type(values).__name__}"


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(map(str, names)) or "nothing"
