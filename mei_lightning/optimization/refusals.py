"""What a module for stimuli refuses, and what it says."""

from collections.abc import Sequence
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
