"""What stimuli are made from in place of pixels."""

from mei_lightning.parameterizations.base import Parameterization, feasible_stimulus
from mei_lightning.parameterizations.fourier import Fourier
from mei_lightning.parameterizations.implicit_network import ImplicitNetwork
from mei_lightning.parameterizations.low_rank import LowRank
from mei_lightning.parameterizations.pyramid import Pyramid

__all__ = ["Fourier", "ImplicitNetwork", "LowRank", "Parameterization", "Pyramid", "feasible_stimulus"]
