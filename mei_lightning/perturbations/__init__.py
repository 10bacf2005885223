"""What differs from step to step of an optimisation, so that stimuli withstand it: jitter, noise, ensemble members."""

from mei_lightning.perturbations.base import Perturbation, Robustness
from mei_lightning.perturbations.check import check_robustness
from mei_lightning.perturbations.members import RandomMember
from mei_lightning.perturbations.perturbations import Jitter, Noise

__all__ = ["Jitter", "Noise", "Perturbation", "RandomMember", "Robustness", "check_robustness"]
