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
        starts: initial noise stimuli of each neuron.
        finalists: how many of them are optimised to the end: those with the highest values after ``TRIAL_STEPS`` steps.
        max_steps: the most steps that a row takes.
        shifts: the best stimulus after the trial is moved to later times by these shares of its duration, and optimised
            as well. Where an ascent ends in a worse optimum, the better one is often the same stimulus at another time.
            With shifts, what comes to where a better stimulus of the same neuron is ends there, and so does what is far
            behind (``starts``); and in the end the best stimulus is moved by one frame to earlier and later times, and
            optimised from there if it is nearly as good.
    """

    starts: int
    finalists: int
    max_steps: int
    shifts: tuple[float, ...] = ()


EFFORTS: dict[EffortName, Effort] = {
    "quick": Effort(starts=2, finalists=1, max_steps=50),
    "normal": Effort(starts=4, finalists=2, max_steps=100),
    "thorough": Effort(starts=16, finalists=8, max_steps=300),
}
"""For still images, and optimizers other than the adaptive power method."""

EFFORTS_OF_MOVIES: dict[EffortName, Effort] = {
    "quick": Effort(starts=2, finalists=1, max_steps=50),
    "normal": Effort(starts=3, finalists=1, max_steps=100, shifts=(1 / 16, 1 / 4)),
    "thorough": Effort(starts=16, finalists=8, max_steps=300, shifts=(1 / 16, 1 / 4, 1 / 8, -1 / 8)),
}
