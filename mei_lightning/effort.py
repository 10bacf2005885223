"""How much is done to find the best stimulus of a neuron."""

from dataclasses import dataclass
from typing import Literal

EffortName = Literal["quick", "normal", "thorough"]

TRIAL_STEPS = 8
"""Steps after which the better starts of a neuron go on and the others end."""


@dataclass(frozen=True)
class Effort:
    """What an effort consists of.

    Args:
        starts: initial stimuli of each neuron.
        finalists: how many of them are optimised to the end: those with the highest values after ``TRIAL_STEPS`` steps.
        max_steps: the most steps that a row takes.
    """

    starts: int
    finalists: int
    max_steps: int


EFFORTS: dict[EffortName, Effort] = {
    "quick": Effort(starts=2, finalists=1, max_steps=50),
    "normal": Effort(starts=4, finalists=2, max_steps=100),
    "thorough": Effort(starts=16, finalists=8, max_steps=300),
}
