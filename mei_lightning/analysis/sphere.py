"""Where an MEI can be changed to while it keeps its norm, its ranges and its mask: a sphere in its free entries."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sphere:
    """The spheres on which some MEIs can turn. All stimuli are flat, ``[rows, n]``.

    Args:
        stimuli: the MEIs.
        free: which entries can change, the others stay as they are.
        norm: of each MEI, ``[rows, 1]``, over all entries that a norm counts.
    """

    stimuli: Tensor
    free: Tensor
    norm: Tensor

    @cached_property
    def moving(self) -> Tensor:
        """The MEIs with nothing but their free entries."""
        return self.stimuli * self.free

    @cached_property
    def radius(self) -> Tensor:
        """The norm of the free entries, ``[rows, 1]``."""
        return self.moving.norm(dim=1, keepdim=True)

    @cached_property
    def axis(self) -> Tensor:
        """The free entries with a norm of 1, or zero if there are none."""
        return self.moving / torch.where(self.radius > 0, self.radius, 1)

    @property
    def dimensions(self) -> Tensor:
        """In how many directions each MEI can turn, ``[rows]``."""
        return (self.free.sum(dim=1) - 1).clamp(min=0)

    def tangent(self, vectors: Tensor) -> Tensor:
        """What there is of vectors in the directions in which the MEIs can turn."""
        inside = vectors * self.free
        return inside - (inside * self.axis).sum(dim=1, keepdim=True) * self.axis

    def turned(self, direction: Tensor, angle: Tensor) -> Tensor:
        """The MEIs with their free entries turned.

        Args:
            direction: tangents of length 1.
            angle: in radians, ``[rows, 1]``, or one for all.
        """
        held = self.stimuli - self.moving
        return held + angle.cos() * self.moving + self.radius * angle.sin() * direction

    def angle_of_free_entries(self, angle: float) -> Tensor:
        """By how much the free entries turn where the whole stimulus turns by an angle, both in radians, ``[rows, 1]``.

        Both changes have the same length: ``(1 - cos angle) norm^2 = (1 - cos angle_of_free) radius^2``. NaN above a
        right angle, where the free entries would have to become something else altogether.
        """
        cosine = 1 - (1 - torch.tensor(angle).cos()) * (self.norm / self.radius).square()
        return torch.where(cosine >= 0, cosine, torch.nan).acos()


def sphere_of(stimuli: Tensor, gradient: Tensor, bounds: tuple[Tensor, Tensor] | None, frozen: Tensor | None) -> Sphere:
    """The spheres of some MEIs, from the gradients of their scores.

    At a maximum within norm and ranges the gradient is a multiple of the MEI, but for entries at a limit that it pushes
    further outwards (the conditions of Karush, Kuhn and Tucker). These entries cannot change without a loss of first
    order, and stay as they are.

    Args:
        stimuli: the MEIs.
        gradient: of their scores.
        bounds: the lowest and the highest value of each entry, ``[n]``; None without ranges.
        frozen: entries ``[n]`` that a mask keeps as they are; None without one. The norm does not count them.
    """
    counted = torch.ones_like(stimuli, dtype=torch.bool) if frozen is None else (~frozen).expand_as(stimuli)
    norm = (stimuli * counted).norm(dim=1, keepdim=True)
    if bounds is None:
        return Sphere(stimuli, counted, norm)
    low, high = (bound.float() for bound in bounds)
    # A stimulus in double precision may be at a limit that is rounded to single precision, or at the limit itself.
    at_low, at_high = stimuli.float() <= low, stimuli.float() >= high
    inside = stimuli * (counted & ~at_low & ~at_high)
    energy = inside.square().sum(dim=1, keepdim=True)
    multiple = (gradient * inside).sum(dim=1, keepdim=True) / torch.where(energy > 0, energy, 1)
    push = gradient - multiple * stimuli
    return Sphere(stimuli, counted & ~(at_low & (push < 0)) & ~(at_high & (push > 0)), norm)
