"""Which pixels of a stimulus may vary."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mei_lightning.arguments import in_short, load_array, plain
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.paths import local_path

Mask = Sequence[Any] | str | Path | np.ndarray | Tensor
"""Zeros and ones as an array or as nested lists, or the path of an array."""

_MOST_DIMENSIONS = 4
"""Those of ``[channels, time, height, width]``."""


def by_channel(values: Tensor) -> Tensor:
    """Values ``[channels]`` so that they broadcast to a stimulus; others as they are."""
    return values[:, None, None, None] if values.ndim == 1 else values


def free_pixels(mask: Tensor | Sequence[float]) -> Tensor:
    """A mask as truth values that broadcast to ``[channels, time, height, width]``: True is free.

    Raises:
        ValueError: if it has other values than zeros and ones, or no pixel is free.
    """
    values = by_channel(torch.as_tensor(mask))
    if (others := (values != 0) & (values != 1)).any():
        raise InvalidValueError(
            "A mask consists of 1 (free) and 0 (frozen), or True and False; other values were found, such as "
            f"{values[others][0].item():g}."
        )
    if not values.any():
        raise InvalidValueError(f"The mask {tuple(values.shape)} is empty: no pixel is free (1 or True).")
    return values.bool()


def read_mask(mask: Mask) -> Tensor:
    """A mask of ``find_meis`` as truth values, see ``free_pixels``.

    Raises:
        TypeError: if it is no array of numbers.
        ValueError: if it has other values than zeros and ones, no pixel is free, or it has more dimensions than a
            stimulus.
        FileNotFoundError: if there is nothing at its path.
    """
    if isinstance(mask, str | Path):
        mask = load_array(local_path("mask", mask))
    try:
        values = np.asarray(plain(mask))
    except (TypeError, ValueError):
        values = np.asarray(None)
    if values.dtype.kind not in "biuf" or values.ndim == 0:
        raise InvalidTypeError(
            f"mask={in_short(mask)} must be an array of zeros and ones, e.g. of shape [height, width], or the path of "
            "one (.npy)."
        )
    if values.ndim > _MOST_DIMENSIONS:
        raise InvalidValueError(
            f"mask of shape {values.shape}: give [height, width], [time, height, width] or [channels, time, height, "
            "width]."
        )
    return free_pixels(torch.from_numpy(values))


def free_entries(mask: Tensor, shape: Sequence[int]) -> int:
    """How many entries of a stimulus ``[channels, time, height, width]`` a mask leaves free.

    Raises:
        ValueError: if the mask does not broadcast to such a stimulus.
    """
    return int(expanded("mask", mask, torch.Size(shape)).sum())


def expanded(name: str, values: Tensor, pixels: torch.Size) -> Tensor:
    """Broadcast to ``[channels, time, height, width]``.

    Raises:
        ValueError: if that cannot be, with the name of what is broadcast.
    """
    try:
        return values.expand(pixels)
    except RuntimeError:
        raise InvalidValueError(
            f"{name} of shape {tuple(values.shape)} does not broadcast to a stimulus [channels, time, height, width] "
            f"of {tuple(pixels)}."
        ) from None
