"""What perturbations are refused whatever they perturb."""

from collections.abc import Sequence

from mei_lightning.arguments import check_instance
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.perturbations.base import Robustness
from mei_lightning.perturbations.members import RandomMember


def check_robustness(robustness: object) -> None:
    """Refuse what is no list of perturbations, and more than one random member.

    Raises:
        TypeError: that says what to give.
        ValueError: if two members were to be drawn at each step.
    """
    several = isinstance(robustness, Sequence) and not isinstance(robustness, str)
    if isinstance(robustness, Robustness):
        raise InvalidTypeError(f"robustness={robustness!r} is not a list: give robustness=[{robustness!r}].")
    parts = list(robustness) if several else [robustness]  # type: ignore[call-overload]
    for part in parts:
        check_instance("robustness", part, Robustness, "Jitter(space=1)", "[{}]")
    if sum(isinstance(part, RandomMember) for part in parts) > 1:
        raise InvalidValueError(
            "robustness names RandomMember() more than once: a step follows one member. Name it once."
        )
