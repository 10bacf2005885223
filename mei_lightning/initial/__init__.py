"""What optimisations start from: noise, given stimuli, or what the model itself suggests."""

from mei_lightning.initial.base import InitialStimuli, NeuronStart
from mei_lightning.initial.from_model import BestNaturalClip, LinearReceptiveField
from mei_lightning.initial.given import GivenStimuli
from mei_lightning.initial.noise import PinkNoise, WhiteNoise

__all__ = [
    "BestNaturalClip",
    "GivenStimuli",
    "InitialStimuli",
    "LinearReceptiveField",
    "NeuronStart",
    "PinkNoise",
    "WhiteNoise",
]
