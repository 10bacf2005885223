"""What keeps rounding, which varies with batches, devices and threads, from becoming visible in results."""

import torch
from torch import Tensor


def summing_precision(values: Tensor) -> torch.dtype:
    """The precision to take sums of values in.

    In double precision a sum of single-precision values rounds to the same in whatever order it is taken. Not every
    other device has it.
    """
    return torch.float64 if values.device.type == "cpu" else values.dtype
