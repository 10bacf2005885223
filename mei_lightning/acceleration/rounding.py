"""What keeps rounding, which varies with batches, devices and threads, from becoming visible in results."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor

from mei_lightning.shared_state import SharedByThreads


def summing_precision(values: Tensor) -> torch.dtype:
    """The precision to take sums of values in.

    In double precision a sum of single-precision values rounds to the same in whatever order it is taken. Not every
    other device has it.
    """
    return torch.float64 if values.device.type == "cpu" else values.dtype


def full_precision() -> SharedByThreads:
    """Let products and convolutions of single precision keep all their digits, whatever is set for PyTorch.

    A GPU may round their factors to TF32, with 10 bits in place of 23, and does so for convolutions by default; results
    are off by 1e-3 then. A CPU may do the same, or round to bfloat16, if it is told to.
    """
    return _FULL_PRECISION


def _keep_all_digits() -> Callable[[], None]:
    restored = ExitStack()
    # The older switches set those of PyTorch 2.9 as well, but not the other way round: where the newer ones were
    # used, asking the older ones is an error.
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
        if products != "highest":
            torch.set_float32_matmul_precision("highest")
            restored.callback(torch.set_float32_matmul_precision, products)
    with suppress(RuntimeError):
        if torch.backends.cudnn.allow_tf32:
            torch.backends.cudnn.allow_tf32 = False
            restored.callback(setattr, torch.backends.cudnn, "allow_tf32", True)
    backends: Any = torch.backends
    if hasattr(backends, "fp32_precision"):
        for switch in (
            backends.cuda.matmul,
            backends.cudnn.conv,
            backends.cudnn.rnn,
            backends.mkldnn.matmul,
            backends.mkldnn.conv,
            backends.mkldnn.rnn,
        ):
            if (before := switch.fp32_precision) in ("tf32", "bf16"):
                switch.fp32_precision = "ieee"
                restored.callback(setattr, switch, "fp32_precision", before)
    return restored.close


_FULL_PRECISION = SharedByThreads(_keep_all_digits)
