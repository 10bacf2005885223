"""The public names, each loaded when it is first used."""

from .analysis.analyze import analyze_meis
from .analysis.chromatic import chromatic_landscape
from .analysis.clusters import cluster_meis
from .analysis.controls import compare_with_standard_stimuli
from .analysis.cross_responses import (
    cross_responses,
    relative_responses,
    selectivity_index,
    type_responses,
    type_selectivity_index,
)
from .analysis.held_out import score_held_out
from .analysis.measures import measure_meis, measures_table
from .analysis.similarity import most_similar_meis
from .callbacks.convergence import RowConvergence
from .callbacks.progress import StepProgressBar
from .callbacks.results_writer import ResultsWriter
from .callbacks.tensorboard import StimulusLogger
from .callbacks.time_limit import TimeLimit
from .constraints import (
    ChannelRange,
    Compose,
    Constraint,
    FixedNorm,
    MaximalNorm,
    NormAndRange,
    RescaleThenClip,
    SpatialLowPass,
    TemporalLowPass,
)
from .exceptions import MEIError
from .experiment import ProjectorStimuli, export_for_experiment, projector_stimuli
from .find import find_meis
from .methods.clusters import cluster_by_stimulus
from .methods.diverse import find_diverse_stimuli
from .methods.invariance import find_invariance_paths
from .methods.receptive_field import find_receptive_fields
from .methods.surround import find_surrounds
from .models.base import RetinaModel, StimulusFormat
from .models.digital_twin import DigitalTwin
from .models.ensemble import Ensemble, select_members
from .models.inner_units import InnerUnits
from .models.loading import load_model
from .models.openretina import OpenRetinaModel
from .models.simulated import SimulatedRetina
from .neurons import Neuron
from .objectives import (
    ContrastiveNeuronObjective,
    ContrastObjective,
    DecreaseObjective,
    DirectionObjective,
    DiscriminativeObjective,
    IncreaseObjective,
    MaxReducer,
    MeanReducer,
    NeuronObjective,
    Objective,
    OneHotObjective,
    Reducer,
    SliceMeanReducer,
    TargetLevelObjective,
    TargetTraceObjective,
    WindowContrastReducer,
)
from .openretina_api import (
    ChangeNormJointlyClipRangeSeparately,
    EarlyStopper,
    OptimizationStopper,
    RangeRegularizationLoss,
    TemporalGaussianLowPassFilterProcessor,
    load_core_readout_from_remote,
    optimize_stimulus,
)
from .optimization.mei_module import MEIModule
from .optimization.optimizers import AdaptivePowerMethod, RowOptimizer
from .optimization.row_state import Status
from .optimization.search import MultiStart, Search, SearchRows
from .optimization.stimulus_module import StimulusModule
from .optimization.strategies import ShardedStrategy
from .parameterizations import Fourier, ImplicitNetwork, LowRank, Parameterization, Pyramid
from .perturbations import Jitter, Noise, Perturbation, RandomMember, Robustness
from .plots.across import plot_chromatic_landscape, plot_cross_responses
from .plots.gallery import plot_gallery
from .plots.measures import plot_chromatic_contrast, plot_measure, plot_measures
from .plots.stability import plot_seed_stability
from .plots.stimuli import plot_mei, plot_meis, plot_stimulus_composition
from .plots.style import save_figure
from .plots.video import (
    save_meis_to_mp4_video,
    save_stimulus_to_animated_png,
    save_stimulus_to_gif,
    save_stimulus_to_mp4_video,
)
from .problem import MEIProblem
from .regularizers import (
    RangePenalty,
    Regularizer,
    SpatialSmoothness,
    SpatialTotalVariation,
    TemporalSmoothness,
    TemporalTotalVariation,
)
from .report.page import write_report
from .results.dataset import save_dataset
from .results.export import export_meis
from .results.store import MEIResult, MEIStore
from .selection import NeuronSelection
from .settings import MEISettings
from .starting_points import (
    BestNaturalClip,
    GivenStimuli,
    InitialStimuli,
    LinearReceptiveField,
    PinkNoise,
    WhiteNoise,
)

__all__ = [
    "AdaptivePowerMethod",
    "BestNaturalClip",
    "ChangeNormJointlyClipRangeSeparately",
    "ChannelRange",
    "Compose",
    "Constraint",
    "ContrastObjective",
    "ContrastiveNeuronObjective",
    "DecreaseObjective",
    "DigitalTwin",
    "DirectionObjective",
    "DiscriminativeObjective",
    "EarlyStopper",
    "Ensemble",
    "FixedNorm",
    "Fourier",
    "GivenStimuli",
    "ImplicitNetwork",
    "IncreaseObjective",
    "InitialStimuli",
    "InnerUnits",
    "Jitter",
    "LinearReceptiveField",
    "LowRank",
    "MEIError",
    "MEIModule",
    "MEIProblem",
    "MEIResult",
    "MEISettings",
    "MEIStore",
    "MaxReducer",
    "MaximalNorm",
    "MeanReducer",
    "MultiStart",
    "Neuron",
    "NeuronObjective",
    "NeuronSelection",
    "Noise",
    "NormAndRange",
    "Objective",
    "OneHotObjective",
    "OpenRetinaModel",
    "OptimizationStopper",
    "Parameterization",
    "Perturbation",
    "PinkNoise",
    "ProjectorStimuli",
    "Pyramid",
    "RandomMember",
    "RangePenalty",
    "RangeRegularizationLoss",
    "Reducer",
    "Regularizer",
    "RescaleThenClip",
    "ResultsWriter",
    "RetinaModel",
    "Robustness",
    "RowConvergence",
    "RowOptimizer",
    "Search",
    "SearchRows",
    "ShardedStrategy",
    "SimulatedRetina",
    "SliceMeanReducer",
    "SpatialLowPass",
    "SpatialSmoothness",
    "SpatialTotalVariation",
    "Status",
    "StepProgressBar",
    "StimulusFormat",
    "StimulusLogger",
    "StimulusModule",
    "TargetLevelObjective",
    "TargetTraceObjective",
    "TemporalGaussianLowPassFilterProcessor",
    "TemporalLowPass",
    "TemporalSmoothness",
    "TemporalTotalVariation",
    "TimeLimit",
    "WhiteNoise",
    "WindowContrastReducer",
    "analyze_meis",
    "chromatic_landscape",
    "cluster_by_stimulus",
    "cluster_meis",
    "compare_with_standard_stimuli",
    "cross_responses",
    "export_for_experiment",
    "export_meis",
    "find_diverse_stimuli",
    "find_invariance_paths",
    "find_meis",
    "find_receptive_fields",
    "find_surrounds",
    "load_core_readout_from_remote",
    "load_model",
    "measure_meis",
    "measures_table",
    "most_similar_meis",
    "optimize_stimulus",
    "plot_chromatic_contrast",
    "plot_chromatic_landscape",
    "plot_cross_responses",
    "plot_gallery",
    "plot_measure",
    "plot_measures",
    "plot_mei",
    "plot_meis",
    "plot_seed_stability",
    "plot_stimulus_composition",
    "projector_stimuli",
    "relative_responses",
    "save_dataset",
    "save_figure",
    "save_meis_to_mp4_video",
    "save_stimulus_to_animated_png",
    "save_stimulus_to_gif",
    "save_stimulus_to_mp4_video",
    "score_held_out",
    "select_members",
    "selectivity_index",
    "type_responses",
    "type_selectivity_index",
    "write_report",
]
