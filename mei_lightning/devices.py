"""What differs between devices: which one is chosen, what new tensors go to, and how exactly it computes."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.shared_state import SharedByThreads

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_KINDS_WITH_AUTOCAST = "cpu", "cuda", "mps"

_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"


def chosen_accelerator(accelerator: str) -> str:
    """What an accelerator of Lightning's ``Trainer`` stands for here: "auto" is CUDA where there is one, else the CPU.

    An Apple GPU ("mps") is used only where it is asked for: it computes in single precision only, and lacks operations.
    """
    if accelerator != "auto":
        return accelerator
    return "cuda" if CUDAAccelerator.is_available() else "cpu"


def check_device(device: torch.device, precision: torch.dtype) -> None:
    """See to it that a device can compute a model.

    Args:
        device: the device.
        precision: of the model.

    Raises:
        ValueError: if the device does not have this precision.

    Warns:
        UserWarning: if PyTorch may refuse operations that the device lacks.
    """
    if device.type != "mps":
        return
    if precision == torch.float64:
        raise InvalidValueError(
            "The model computes in double precision, which an Apple GPU does not have: use model.float(), or "
            'accelerator="cpu".'
        )
    if os.environ.get(_FALLBACK) != "1":
        rank_zero_warn(
            "An Apple GPU lacks some operations. Should PyTorch refuse one, start Python with the environment variable "
            f"{_FALLBACK}=1: it computes them on the CPU then."
        )


def _by_default(precision: torch.dtype) -> SharedByThreads:
    def change() -> Callable[[], None]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(precision)
        return lambda: torch.set_default_dtype(before)

    return SharedByThreads(change)


_SINGLE_BY_DEFAULT, _DOUBLE_BY_DEFAULT = _by_default(torch.float32), _by_default(torch.float64)


def defaults_like(values: Tensor) -> AbstractContextManager[Any]:
    """Make new tensors where some values are, and in double precision if they are, unless they say otherwise.

    Networks that were made for one device, or in double precision, count on it.
    """
    return _double_on(values.device) if values.dtype == torch.float64 else _device_by_default(values.device)


@contextmanager
def usual_modes() -> Iterator[None]:
    """Compute as PyTorch does by itself, whatever the caller is about, and leave all as it was.

    New tensors are in float32 on the CPU unless they say otherwise: those that belong to a model or a stimulus name
    their device and precision, all others are of the host, which reads them. All else is computed in the precision that
    tensors have (no ``torch.autocast``), and so that gradients can be asked for (no ``torch.inference_mode``).
    """
    with ExitStack() as left:
        left.enter_context(_SINGLE_BY_DEFAULT)
        left.enter_context(_device_by_default(torch.device("cpu")))
        # Lightning lets gradients be taken for a fit, and leaves it at that.
        left.enter_context(torch.set_grad_enabled(torch.is_grad_enabled()))
        if torch.is_inference_mode_enabled():
            left.enter_context(torch.inference_mode(False))
        for kind in _KINDS_WITH_AUTOCAST:
            if torch.is_autocast_enabled(kind):
                left.enter_context(torch.autocast(kind, enabled=False))
        yield


def in_usual_modes(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a function run as under ``usual_modes``."""

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with usual_modes():
            return function(*args, **kwargs)

    return run


@contextmanager
def _double_on(device: torch.device) -> Iterator[None]:
    # Single first, which keeps what the user has set until all threads are out of both.
    with _device_by_default(device), _SINGLE_BY_DEFAULT, _DOUBLE_BY_DEFAULT:
        yield


def _device_by_default(device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if torch.get_default_device().type == device.type else device
