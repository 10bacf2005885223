"""The projection onto a norm and ranges as one kernel of a CUDA device."""

from collections.abc import Callable
from functools import cache

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

Project = Callable[[Tensor, float, tuple[Tensor, Tensor], float], Tensor]
"""Of rows ``[rows, channels, pixels]``, a norm, bounds ``[channels, 1]`` and the largest scale."""

_LARGEST_ERROR = 1e-5


def fused_projection(rows: Tensor, plain: Project) -> Project | None:
    """What projects rows in one kernel; None where that is not to be had.

    It is compiled by Triton, which PyTorch for CUDA on Linux comes with. What it makes is compared once with what it
    stands for; if it fails, or differs, the log says so, and ``plain`` goes on.

    Args:
        rows: ``[rows, channels, pixels]``.
        plain: what it has to agree with.
    """
    if rows.device.type != "cuda" or rows.dtype != torch.float32:
        return None
    return _compiled(rows.device, plain)


@cache
def _compiled(device: torch.device, plain: Project) -> Project | None:
    try:
        from mei_lightning.acceleration.projection_kernel import project_rows
    except ImportError:
        return None
    # Of the norms below the first clips nothing, the second some entries, the last nearly all.
    rows = torch.linspace(-3, 3, 6 * 2 * 700, device=device).view(2, 700, 6).permute(2, 0, 1).contiguous()
    bounds = (rows.new_tensor([[-0.5], [-0.9]]), rows.new_tensor([[0.7], [0.8]]))
    try:
        error = max(
            float((project_rows(rows, norm, bounds, 3e38) - plain(rows, norm, bounds, 3e38)).abs().max())
            for norm in (1.0, 15.0, 100.0)
        )
    except Exception as reason:
        # Whatever it is, such as a missing compiler: the run can do without.
        rank_zero_info(f"No fused projection on {device}, since its kernel cannot be made: {reason}")
        return None
    if not error < _LARGEST_ERROR:
        rank_zero_info(f"No fused projection on {device}: it differs by {error:.1e} from the plain one.")
        return None
    return project_rows
