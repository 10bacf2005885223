"""What a stimulus is optimised for: scores ``[rows]``, and reducers of responses over time."""

from mei_lightning.objectives.base import (
    CombinedObjective,
    FunctionObjective,
    Objective,
    RowByRowObjective,
    as_objective,
)
from mei_lightning.objectives.contrastive import (
    ContrastiveNeuronObjective,
    ContrastObjective,
    DiscriminativeObjective,
    OneHotObjective,
)
from mei_lightning.objectives.direction import DirectionObjective
from mei_lightning.objectives.diverse import DiverseObjective
from mei_lightning.objectives.front_door import ObjectiveLike, neuron_objective
from mei_lightning.objectives.reducers import (
    MaxReducer,
    MeanReducer,
    Reducer,
    SliceMeanReducer,
    WindowContrastReducer,
)
from mei_lightning.objectives.responses import (
    CombinedNeuronObjective,
    DecreaseObjective,
    GroupResponses,
    IncreaseObjective,
    NeuronObjective,
    ObjectiveFactory,
)
from mei_lightning.objectives.scored_by import ScoredByFunction, ScoredByObjective
from mei_lightning.objectives.surround import SurroundObjective
from mei_lightning.objectives.targets import TargetLevelObjective, TargetTraceObjective

__all__ = [
    "CombinedNeuronObjective",
    "CombinedObjective",
    "ContrastObjective",
    "ContrastiveNeuronObjective",
    "DecreaseObjective",
    "DirectionObjective",
    "DiscriminativeObjective",
    "DiverseObjective",
    "FunctionObjective",
    "GroupResponses",
    "IncreaseObjective",
    "MaxReducer",
    "MeanReducer",
    "NeuronObjective",
    "Objective",
    "ObjectiveFactory",
    "ObjectiveLike",
    "OneHotObjective",
    "Reducer",
    "RowByRowObjective",
    "ScoredByFunction",
    "ScoredByObjective",
    "SliceMeanReducer",
    "SurroundObjective",
    "TargetLevelObjective",
    "TargetTraceObjective",
    "WindowContrastReducer",
    "as_objective",
    "neuron_objective",
]
