"""What a stimulus is optimised for: scores ``[rows]``, and reducers of responses over time."""

from mei_lightning.objectives.base import (
    CombinedObjective,
    FunctionObjective,
    Objective,
    RowByRowObjective,
    as_objective,
)
from mei_lightning.objectives.reducers import MaxReducer, MeanReducer, Reducer, SliceMeanReducer
from mei_lightning.objectives.responses import (
    DecreaseObjective,
    GroupResponses,
    IncreaseObjective,
    NeuronObjective,
    ObjectiveFactory,
)

__all__ = [
    "CombinedObjective",
    "DecreaseObjective",
    "FunctionObjective",
    "GroupResponses",
    "IncreaseObjective",
    "MaxReducer",
    "MeanReducer",
    "NeuronObjective",
    "Objective",
    "ObjectiveFactory",
    "Reducer",
    "RowByRowObjective",
    "SliceMeanReducer",
    "as_objective",
]
