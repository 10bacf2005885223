"""What optimisations start from: noise, given stimuli, or what the model itself suggests."""

from mei_lightning.starting_points.base import InitialStimuli, NeuronStart
from mei_lightning.starting_points.from_model import BestNaturalClip, LinearReceptiveField
from mei_lightning.starting_points.given import GivenStimuli
from mei_lightning.starting_points.noise import PinkNoise, WhiteNoise

__all__ = [
    "BestNaturalClip",
    "GivenStimuli",
    "InitialStimuli",
    "LinearReceptiveField",
    "NeuronStart",
    "PinkNoise",
    "WhiteNoise",
]
