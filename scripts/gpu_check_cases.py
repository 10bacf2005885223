"""What ``gpu_check.py`` tries out: a short run of each thing that the package can do, on one device."""

import copy
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import mei_lightning as ml

NEURONS: list[ml.Neuron | tuple[str, int]] = [("session_1", 0), ("session_1", 1)]
OTHERS = [[("session_1", 2)], [("session_2", 0)]]
FRAMES = 24
NORM = 10.0
RANGES = [(-0.654, 6.269), (-0.913, 6.269)]

Cases = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Runs:
    """Short runs of two neurons of the digital twin on one device.

    Args:
        device: where.
    """

    device: torch.device
    twin: ml.RetinaModel = field(default_factory=lambda: ml.load_model("digital_twin"))

    @cached_property
    def ensemble(self) -> ml.RetinaModel:
        """The mean of two twins."""
        return ml.Ensemble([self.twin, copy.deepcopy(self.twin)])

    def find(self, model: nn.Module | None = None, **options: Any) -> xr.Dataset:
        """The MEIs; an ArithmeticError if a score is not finite."""
        defaults = {"neurons": NEURONS, "norm": NORM, "time_steps": FRAMES, "max_steps": 2, "restarts": 1}
        meis = ml.find_meis(
            self.twin if model is None else model,
            **{**defaults, **options},
            accelerator=self.device.type,
            progress_bar=False,
        ).load()
        if not np.isfinite(meis["score"].values).all():
            raise ArithmeticError(f"scores {meis['score'].values.tolist()}, status {meis['status'].values.tolist()}")
        return meis

    def copy_of_twin(self) -> ml.RetinaModel:
        """The twin on the device."""
        return copy.deepcopy(self.twin).to(self.device)


def cases(device: torch.device) -> dict[str, Cases]:
    """All cases, by what kind of thing they try; a case that returns has gone well."""
    runs = Runs(device)
    return {
        "model": _models(runs),
        "objective": _objectives(runs),
        "reducer": _reducers(runs),
        "regularizer": _regularizers(runs),
        "parameterisation": _parameterisations(runs),
        "constraint": _constraints(runs),
        "perturbation": _perturbations(runs),
        "starting point": _starting_points(runs),
        "optimizer": _optimizers(runs),
        "openretina's names": _names_of_openretina(runs),
        "method": _methods(runs),
        "results": _results(runs),
        "prediction": _predictions(runs),
    }


def _models(runs: Runs) -> Cases:
    return {
        "DigitalTwin, all defaults": partial(runs.find, norm=None, time_steps=None, max_steps=12, restarts=None),
        "DigitalTwin, fast_path=False": partial(runs.find, fast_path=False),
        "DigitalTwin, fast_path='bfloat16'": partial(runs.find, fast_path="bfloat16"),
        "DigitalTwin, given on the device": partial(given_on_device, runs),
        "Ensemble": partial(runs.find, runs.ensemble),
        "SimulatedRetina": partial(runs.find, ml.SimulatedRetina()),
        "RetinaModel, of still images": partial(runs.find, still_model(), neurons=[0, 1], time_steps=None),
        "InnerUnits": partial(runs.find, ml.InnerUnits(runs.twin, "core.0"), neurons=[0, 1]),
    }


def _objectives(runs: Runs) -> Cases:
    group = [[("session_1", 0), ("session_2", 1)]]
    return {
        "NeuronObjective, of a group": partial(runs.find, neurons=group),
        "ContrastObjective": partial(runs.find, objective=partial(ml.ContrastObjective, others=[OTHERS, OTHERS])),
        "DiscriminativeObjective": partial(runs.find, objective=ml.DiscriminativeObjective),
        "OneHotObjective": partial(runs.find, objective=ml.OneHotObjective),
        "TargetLevelObjective": partial(runs.find, objective=partial(ml.TargetLevelObjective, level=0.5)),
        "TargetTraceObjective": partial(
            runs.find, objective=partial(ml.TargetTraceObjective, trace=[0.0, 0.2, 0.4, 0.2])
        ),
        "DirectionObjective": partial(
            runs.find, neurons=group, objective=partial(ml.DirectionObjective, direction=[1.0, -1.0])
        ),
    }


def _reducers(runs: Runs) -> Cases:
    return {
        "MeanReducer": partial(runs.find, reducer=ml.MeanReducer()),
        "MaxReducer": partial(runs.find, reducer=ml.MaxReducer()),
        "SliceMeanReducer": partial(runs.find, reducer=ml.SliceMeanReducer(axis=0, start=1, length=2)),
        "WindowContrastReducer": partial(runs.find, reducer=ml.WindowContrastReducer(0, 2, 2, 0, 2)),
    }


def _regularizers(runs: Runs) -> Cases:
    costs = [
        ml.RangePenalty(RANGES),
        ml.SpatialSmoothness(0.1),
        ml.SpatialTotalVariation(0.1),
        ml.TemporalSmoothness(0.1),
        ml.TemporalTotalVariation(0.1),
    ]
    return {type(cost).__name__: partial(runs.find, regularizer=cost) for cost in costs}


def _parameterisations(runs: Runs) -> Cases:
    adam = partial(torch.optim.Adam, lr=0.03)
    return {
        "LowRank": partial(runs.find, parameterization=ml.LowRank()),
        "Fourier": partial(runs.find, parameterization=ml.Fourier(temporal=(None, 10.0), spatial=(None, 5.0))),
        "Pyramid": partial(runs.find, parameterization=ml.Pyramid()),
        "ImplicitNetwork": partial(runs.find, parameterization=ml.ImplicitNetwork(), optimizer=adam),
    }


def _constraints(runs: Runs) -> Cases:
    mask = torch.ones(runs.twin.stimulus_shape(FRAMES)[1:])
    mask[..., :4, :] = 0
    smooth = ml.Compose([ml.TemporalLowPass(1.0), ml.SpatialLowPass(1.0), ml.NormAndRange(NORM)])
    find = partial(runs.find, norm=None)
    return {
        "FixedNorm": partial(find, constraint=ml.FixedNorm(NORM)),
        "MaximalNorm": partial(find, constraint=ml.MaximalNorm(NORM)),
        "ChannelRange": partial(find, constraint=ml.ChannelRange(RANGES)),
        "NormAndRange": partial(find, constraint=ml.NormAndRange(NORM, RANGES)),
        "NormAndRange, at most that norm": partial(find, constraint=ml.NormAndRange(NORM, RANGES, norm_is="maximal")),
        "NormAndRange, with a mask": partial(find, constraint=ml.NormAndRange(NORM, RANGES, mask=mask)),
        "RescaleThenClip": partial(find, constraint=ml.RescaleThenClip(NORM, RANGES)),
        "Compose, TemporalLowPass, SpatialLowPass": partial(find, constraint=smooth),
    }


def _perturbations(runs: Runs) -> Cases:
    return {
        "Jitter": partial(runs.find, robustness=[ml.Jitter(space=1, time=1)]),
        "Noise": partial(runs.find, robustness=[ml.Noise(0.1)]),
        "RandomMember": partial(runs.find, runs.ensemble, robustness=[ml.RandomMember()]),
    }


def _starting_points(runs: Runs) -> Cases:
    given = torch.randn(runs.twin.stimulus_shape(FRAMES)[1:], generator=torch.Generator().manual_seed(0))
    starts = [
        ml.WhiteNoise(),
        ml.PinkNoise(),
        ml.GivenStimuli(given),
        ml.LinearReceptiveField(),
        ml.BestNaturalClip(clips=4),
    ]
    return {type(start).__name__: partial(runs.find, initial=start) for start in starts}


def _optimizers(runs: Runs) -> Cases:
    return {
        "AdaptivePowerMethod": partial(runs.find, optimizer=partial(ml.AdaptivePowerMethod, start=0.5)),
        "SGD": partial(runs.find, optimizer=partial(torch.optim.SGD, lr=10.0)),
        "Adam": partial(runs.find, optimizer=partial(torch.optim.Adam, lr=0.1)),
    }


def _names_of_openretina(runs: Runs) -> Cases:
    slice_mean = ml.SliceMeanReducer(axis=0, start=0, length=2)

    def optimize(objective: type[ml.Objective], *arguments: Any) -> None:
        model = ml.load_core_readout_from_remote("digital_twin", str(runs.device))
        start = torch.randn(model.stimulus_shape(FRAMES), generator=torch.Generator().manual_seed(0))
        stimulus = start.to(runs.device).requires_grad_()
        ml.optimize_stimulus(
            stimulus,
            partial(torch.optim.SGD, lr=10.0),
            objective(model, *arguments),
            ml.EarlyStopper(3, patience=2),
            stimulus_regularization_loss=ml.RangeRegularizationLoss(RANGES, NORM),
            stimulus_postprocessor=[
                ml.TemporalGaussianLowPassFilterProcessor(1.0, 5, str(runs.device)),
                ml.ChangeNormJointlyClipRangeSeparately(RANGES, NORM),
            ],
        )
        if stimulus.device.type != runs.device.type or not math.isclose(stimulus.norm().item(), NORM, rel_tol=1e-4):
            raise ArithmeticError(f"a stimulus of norm {stimulus.norm().item()} on {stimulus.device}")

    return {
        "IncreaseObjective": partial(optimize, ml.IncreaseObjective, [1], "session_1", slice_mean),
        "DecreaseObjective": partial(optimize, ml.DecreaseObjective, [1], "session_1", slice_mean),
        "ContrastiveNeuronObjective": partial(
            optimize, ml.ContrastiveNeuronObjective, [0], [[1], [2]], "session_1", slice_mean
        ),
    }


def _methods(runs: Runs) -> Cases:
    # They have no argument for the accelerator: Lightning chooses it, or they compute where the model is.
    short: dict[str, Any] = {"norm": NORM, "time_steps": FRAMES, "max_steps": 2, "search": "quick"}
    more = [*NEURONS, ("session_2", 0), ("session_2", 1)]
    quiet = {"neurons": NEURONS, "progress_bar": False}
    methods: dict[str, Callable[[nn.Module], object]] = {
        "find_diverse_stimuli": partial(ml.find_diverse_stimuli, number=2, **quiet, **short),
        "find_surrounds": partial(ml.find_surrounds, **quiet, **short),
        "find_invariance_paths": partial(ml.find_invariance_paths, points=3, **quiet, **short),
        "find_receptive_fields": partial(ml.find_receptive_fields, neurons=NEURONS, time_steps=FRAMES),
        "cluster_by_stimulus": partial(
            ml.cluster_by_stimulus, neurons=more, clusters=2, steps=2, norm=NORM, time_steps=FRAMES
        ),
    }
    found: dict[str, Callable[[], object]] = {name: partial(method, runs.twin) for name, method in methods.items()}
    if runs.device.type != "cpu":
        for name, method in methods.items():
            found[f"{name}, of a model on the device"] = lambda method=method: method(runs.copy_of_twin())
    return found


def _results(runs: Runs) -> Cases:
    return {
        "in a directory, with pictures": partial(in_a_directory, runs),
        "interrupted and resumed": partial(interrupted_and_resumed, runs),
        "Lightning's ModelCheckpoint": partial(with_checkpoints, runs),
        "TensorBoard": partial(with_tensorboard, runs),
    }


def _predictions(runs: Runs) -> Cases:
    # Their MEIs are found elsewhere, so that only the prediction is tried.
    elsewhere = Runs(torch.device("cpu"), runs.twin)
    meis = elsewhere.find()
    options = {"accelerator": runs.device.type, "progress_bar": False}
    return {
        "cross_responses": partial(ml.cross_responses, runs.twin, meis, **options),
        "compare_with_standard_stimuli": partial(ml.compare_with_standard_stimuli, runs.twin, meis, **options),
        "mei_curvature": partial(ml.mei_curvature, runs.twin, meis, directions=2, **options),
        "chromatic_landscape": partial(
            ml.chromatic_landscape, runs.twin, meis, NEURONS[0], contrasts=(-1.0, 0.0, 1.0), **options
        ),
        "measure_meis": partial(ml.measure_meis, meis, runs.twin, **options),
        "score_held_out": partial(on_held_out_model, elsewhere, **options),
    }


def given_on_device(runs: Runs) -> None:
    """A model that was given on the device is there afterwards."""
    model = runs.copy_of_twin()
    runs.find(model)
    where = {weight.device.type for weight in model.parameters()}
    if where != {runs.device.type}:
        raise RuntimeError(f"A model that was given on {runs.device} is on {', '.join(sorted(where))} afterwards.")


def still_model() -> ml.RetinaModel:
    """A model of still images that nothing is known of."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ELU(), nn.Flatten(), nn.Linear(4 * 8 * 6, 3), nn.Softplus())
    return ml.RetinaModel(network, ml.StimulusFormat(("luminance",), height=12, width=10), neurons_per_session=3)


def in_a_directory(runs: Runs) -> None:
    """Results and pictures of them are on disk."""
    with tempfile.TemporaryDirectory() as directory:
        runs.find(directory=directory)
        left = {path.name for path in Path(directory).iterdir()}
    if not {"meis.zarr", "meis.png"} <= left:
        raise FileNotFoundError(f"The run left {sorted(left)}.")


class StopAfterAStep(Callback):
    """Stops a run while all its neurons are on their way."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Ask the trainer to stop."""
        trainer.should_stop = True


def interrupted_and_resumed(runs: Runs) -> None:
    """A run that is interrupted ends, when it is resumed, as one that was not."""
    undisturbed = runs.find()
    with tempfile.TemporaryDirectory() as directory:
        interrupted = runs.find(directory=directory, callbacks=[StopAfterAStep()])
        resumed = runs.find(directory=directory)
    if set(interrupted["status"].values) != {"interrupted"}:
        raise RuntimeError(f"An interrupted run's neurons are {interrupted['status'].values.tolist()}.")
    np.testing.assert_allclose(resumed["score"].values, undisturbed["score"].values, rtol=1e-5)


def with_checkpoints(runs: Runs) -> None:
    """Lightning saves a checkpoint."""
    with tempfile.TemporaryDirectory() as directory:
        runs.find(callbacks=[ModelCheckpoint(directory, every_n_train_steps=1)])
        if not list(Path(directory).glob("*.ckpt")):
            raise FileNotFoundError("There is no checkpoint.")


def with_tensorboard(runs: Runs) -> None:
    """There is something to see in TensorBoard."""
    with tempfile.TemporaryDirectory() as directory:
        runs.find(log_directory=directory)
        if not any(path.stat().st_size > 1000 for path in Path(directory).rglob("events.*")):
            raise FileNotFoundError("There are no events for TensorBoard.")


def on_held_out_model(elsewhere: Runs, **options: Any) -> None:
    """The scores of a store's MEIs on another model of the same neurons."""
    with tempfile.TemporaryDirectory() as directory:
        elsewhere.find(directory=directory)
        ml.score_held_out(Path(directory) / "meis.zarr", ml.SimulatedRetina(), **options)
