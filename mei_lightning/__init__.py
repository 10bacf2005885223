"""Maximally exciting inputs of frozen retina models, on PyTorch Lightning."""

from mei_lightning.analysis.analyze import analyze_meis
from mei_lightning.analysis.chromatic import chromatic_landscape
from mei_lightning.analysis.clusters import cluster_meis
from mei_lightning.analysis.controls import compare_with_standard_stimuli
from mei_lightning.analysis.cross_responses import (
    cross_responses,
    relative_responses,
    selectivity_index,
    type_responses,
    type_selectivity_index,
)
from mei_lightning.analysis.measures import measure_meis, measures_table
from mei_lightning.analysis.similarity import most_similar_meis
from mei_lightning.callbacks.convergence import RowConvergence
from mei_lightning.callbacks.progress import StepProgressBar
from mei_lightning.callbacks.results_writer import ResultsWriter
from mei_lightning.callbacks.tensorboard import StimulusLogger
from mei_lightning.callbacks.time_limit import TimeLimit
from mei_lightning.constraints import (
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
from mei_lightning.experiment import ProjectorStimuli, export_for_experiment, projector_stimuli
from mei_lightning.export import export_meis
from mei_lightning.figures.across import plot_chromatic_landscape, plot_cross_responses
from mei_lightning.figures.gallery import plot_gallery
from mei_lightning.figures.measures import plot_chromatic_contrast, plot_measure, plot_measures
from mei_lightning.figures.stability import plot_seed_stability
from mei_lightning.figures.style import save_figure
from mei_lightning.find import find_meis
from mei_lightning.held_out import score_held_out
from mei_lightning.initial import (
    BestNaturalClip,
    GivenStimuli,
    InitialStimuli,
    LinearReceptiveField,
    PinkNoise,
    WhiteNoise,
)
from mei_lightning.mei_module import MEIModule
from mei_lightning.methods.clusters import cluster_by_stimulus
from mei_lightning.methods.diverse import find_diverse_stimuli
from mei_lightning.methods.invariance import find_invariance_paths
from mei_lightning.methods.receptive_field import find_receptive_fields
from mei_lightning.methods.surround import find_surrounds
from mei_lightning.models.base import RetinaModel, StimulusFormat
from mei_lightning.models.digital_twin import DigitalTwin
from mei_lightning.models.ensemble import Ensemble, select_members
from mei_lightning.models.inner_units import InnerUnits
from mei_lightning.models.loading import load_model
from mei_lightning.models.openretina import OpenRetinaModel
from mei_lightning.models.simulated import SimulatedRetina
from mei_lightning.module import Status, StimulusModule
from mei_lightning.neurons import Neuron
from mei_lightning.objectives import (
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
from mei_lightning.openretina_api import (
    ChangeNormJointlyClipRangeSeparately,
    EarlyStopper,
    OptimizationStopper,
    RangeRegularizationLoss,
    TemporalGaussianLowPassFilterProcessor,
    load_core_readout_from_remote,
    optimize_stimulus,
)
from mei_lightning.optimizers import AdaptivePowerMethod
from mei_lightning.parameterizations import Fourier, ImplicitNetwork, LowRank, Parameterization, Pyramid
from mei_lightning.plotting import plot_mei, plot_meis, plot_stimulus_composition
from mei_lightning.regularizers import (
    RangePenalty,
    Regularizer,
    SpatialSmoothness,
    SpatialTotalVariation,
    TemporalSmoothness,
    TemporalTotalVariation,
)
from mei_lightning.report.page import write_report
from mei_lightning.results import save_dataset
from mei_lightning.robustness import Jitter, Noise, Perturbation, RandomMember, Robustness
from mei_lightning.selection import NeuronSelection
from mei_lightning.store import MEIResult, MEIStore
from mei_lightning.strategies import ShardedStrategy
from mei_lightning.video import (
    save_meis_to_mp4_video,
    save_stimulus_to_animated_png,
    save_stimulus_to_gif,
    save_stimulus_to_mp4_video,
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
    "MEIModule",
    "MEIResult",
    "MEIStore",
    "MaxReducer",
    "MaximalNorm",
    "MeanReducer",
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
