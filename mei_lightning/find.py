"""One call from a model and some neurons to their MEIs."""

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import xarray as xr
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from mei_lightning.acceleration.prepare import FastPath
from mei_lightning.callbacks.convergence import RowConvergence
from mei_lightning.callbacks.interrupt import InterruptTogether
from mei_lightning.callbacks.progress import StepProgressBar
from mei_lightning.callbacks.results_writer import STORE, ResultsWriter
from mei_lightning.callbacks.tensorboard import StimulusLogger
from mei_lightning.callbacks.time_limit import TimeLimit
from mei_lightning.constraints import Constraint
from mei_lightning.devices import chosen_accelerator, made_on_cpu
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import frozen
from mei_lightning.neurons import NeuronOrGroup
from mei_lightning.objectives import NeuronObjective, ObjectiveLike, Reducer
from mei_lightning.optimization.effort import EffortName
from mei_lightning.optimization.launcher import check_fork
from mei_lightning.optimization.mei_module import MEIModule
from mei_lightning.optimization.optimizers import AdaptivePowerMethod
from mei_lightning.optimization.stimulus_module import OptimizerFactory
from mei_lightning.optimization.strategies import IN_NOTEBOOKS, NOTEBOOK, cluster_plugins, strategy_for
from mei_lightning.parameterizations import Parameterization
from mei_lightning.perturbations import Robustness
from mei_lightning.regularizers import Regularizer
from mei_lightning.selection import NeuronSelection
from mei_lightning.starting_points import InitialStimuli


@made_on_cpu
def find_meis(
    model: nn.Module | str,
    neurons: Literal["all"] | NeuronSelection | Sequence[NeuronOrGroup],
    *,
    time_steps: int | None = None,
    norm: float | None = None,
    ranges: Sequence[tuple[float | None, float | None] | None] | None = None,
    reducer: Reducer | None = None,
    objective: ObjectiveLike = NeuronObjective,
    constraint: Constraint | None = None,
    regularizer: Regularizer | None = None,
    optimizer: OptimizerFactory = AdaptivePowerMethod,
    parameterization: Parameterization | None = None,
    initial: InitialStimuli | None = None,
    robustness: Sequence[Robustness] = (),
    effort: EffortName = "normal",
    max_steps: int | None = None,
    restarts: int | None = None,
    seed: int = 0,
    rows_per_device: int | None = None,
    fast_path: FastPath = True,
    directory: str | Path | None = None,
    log_directory: str | Path | None = None,
    devices: int | Sequence[int] | str = 1,
    accelerator: str = "auto",
    progress_bar: bool = True,
    callbacks: Sequence[Callback] = (),
) -> xr.Dataset:
    """Find the maximally exciting input of each neuron.

    Args:
        model: a model from ``load_model``, a module of your own as ``RetinaModel(...)``, or a name.
        neurons: ``(session, index)`` for each neuron, or ``index`` for a model without sessions; a list of neurons
            in place of one is a group that shares one stimulus. Or a ``NeuronSelection``, e.g.
            ``NeuronSelection(sessions=["session_1"], where={"type": "on_off"})``. Or "all".
        time_steps: frames of the stimulus; by default 20 more than the receptive field loses, or 1 for still images.
        norm: L2 norm of each stimulus in the model's units; by default the paper's root mean square, which is 30 for
            2 x 50 x 18 x 16 values.
        ranges: one ``(low, high)`` for each channel in the model's units; None for no limits.
        reducer: how the response over time becomes a score; by default its mean over all response frames.
        objective: another score than the reduced response itself: a subclass of ``NeuronObjective`` (settings of its
            own go in with ``functools.partial``); an objective of these neurons, or a sum of such ones, e.g.
            ``NeuronObjective(model, neurons, reducer) - 0.5 * OneHotObjective(model, neurons, reducer)``; any other
            ``Objective``, which keeps the model that it has; or a function of responses ``[rows, time']`` to scores
            ``[rows]``, e.g. ``lambda traces: traces.amax(dim=1)`` (on resuming, functions are told apart by their names
            only). Rows must not depend on each other.
        constraint: a constraint in place of norm and ranges.
        regularizer: a cost to subtract from the score.
        optimizer: makes another torch optimizer, e.g. ``functools.partial(torch.optim.SGD, lr=10.0)``.
        parameterization: what stimuli are made from in place of pixels: ``LowRank``, ``Fourier``, ``Pyramid``,
            ``ImplicitNetwork``, or one of your own.
        initial: what each neuron's stimuli start from: ``WhiteNoise()`` (the default), ``PinkNoise()``,
            ``GivenStimuli(...)``, e.g. MEIs of an earlier run, ``LinearReceptiveField()``, ``BestNaturalClip()``.
        robustness: what stimuli have to withstand while they are optimised, e.g. ``[Jitter(space=1), Noise(0.1)]``; for
            an ensemble also ``RandomMember()``. Scores are those of the stimulus itself.
        effort: "quick", "normal" or "thorough": of 2, 3 or 16 initial stimuli of each neuron, the 1, 1 or 8 that have
            got farthest after 8 steps are optimised for at most 50, 100 or 300 steps, together with the best one
            shifted in time by 0, 2 or 4 different amounts, and in the end, with shifts, by a single frame; the best of
            all is kept. Still images, other optimizers, and implicit networks have 2, 4 or 16 initial stimuli and no
            shifts.
        max_steps: the most steps, in place of the effort's; a stimulus that has converged takes fewer.
        restarts: the number of initial stimuli, in place of the effort's starts and shifts.
        seed: with the neuron and the restart, it determines the initial stimulus.
        rows_per_device: the most rows (a neuron has one for each restart) that a device computes at a time; by default
            as many as fit into half of its free memory, at most 64 for each thread of a CPU, 128 for a single one
            (16 and 32 if the model is not understood), and 256 on a GPU.
        fast_path: compute steps on a copy of the model that is prepared to be faster, unless the optimizer is one, such
            as Adam, that enlarges rounding; scores and responses of results are computed by the model itself always.
            "bfloat16": let the copy compute in this precision, which can be faster still, and log its errors.
        directory: where to keep the results, as they are found, in ``meis.zarr``. Called again with the same settings,
            the function continues where it was interrupted. By default results are only returned.
        log_directory: where to write TensorBoard logs; none by default.
        devices: as for Lightning's ``Trainer``; neurons are shared out among the devices, which needs a ``directory``.
        accelerator: as for Lightning's ``Trainer``, but that "auto" is "cuda" where there is one, else "cpu". "mps", an
            Apple GPU, has to be asked for: it computes in single precision only.
        progress_bar: whether to show one.
        callbacks: further Lightning callbacks, e.g. a ``ModelCheckpoint``, or a ``RowConvergence`` in place of the
            default one.

    Returns:
        A labelled dataset with dimensions ``neuron, channel, time, y, x, response_time, restart``. Variables:
        ``stimulus`` (in the model's units), ``score``, ``response`` (the trace to the stimulus), ``status``, ``steps``,
        ``best_restart`` and ``seed`` (which noise it is from), ``restart_scores`` (NaN for those that were given up
        early), ``score_spread`` (their standard deviation relative to the score) and ``restart_similarity`` (mean
        cosine similarity of the other restarts' stimuli to the best). Attributes: model, weights digest, physical
        facts, and all settings as JSON. With a ``directory``, values are read from there as they are used.

    Raises:
        ValueError: if an argument does not fit the model, or the directory holds the results of another run; nothing
            has been computed by then.
        IndexError: if a session has no such neuron.
        TypeError: if an argument is of a wrong type.
    """
    strategy = strategy_for(devices)
    if strategy == NOTEBOOK and IN_NOTEBOOKS == "fork":
        check_fork()
    if strategy != "auto" and directory is None:
        raise InvalidValueError(f"devices={devices} needs a directory, where the devices keep their results.")
    if _has(callbacks, ResultsWriter):
        raise InvalidValueError("Give find_meis the directory of the results in place of a ResultsWriter.")
    with frozen(model) if isinstance(model, nn.Module) else nullcontext():
        module = MEIModule(
            model,
            neurons,
            time_steps=time_steps,
            norm=norm,
            ranges=ranges,
            reducer=reducer,
            objective=objective,
            constraint=constraint,
            regularizer=regularizer,
            optimizer=optimizer,
            parameterization=parameterization,
            initial=initial,
            robustness=robustness,
            effort=effort,
            restarts=restarts,
            seed=seed,
            max_steps=max_steps,
            rows_per_device=rows_per_device,
            fast_path=fast_path,
        )
        logging = log_directory is not None
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            place = Path(directory or scratch)
            trainer = Trainer(
                accelerator=chosen_accelerator(accelerator),
                devices=devices,  # type: ignore[arg-type]
                strategy=strategy,
                plugins=cluster_plugins(),  # type: ignore[arg-type]
                max_epochs=-1,
                logger=TensorBoardLogger(str(log_directory), name="", default_hp_metric=False) if logging else False,
                callbacks=[
                    *([] if _has(callbacks, RowConvergence) else [RowConvergence()]),
                    ResultsWriter(str(place), report=directory is not None, lasting=directory is not None),
                    *([StimulusLogger()] if logging else []),
                    *([StepProgressBar()] if progress_bar else []),
                    *([] if _has(callbacks, TimeLimit) else [TimeLimit()]),
                    InterruptTogether(),
                    *callbacks,
                ],
                enable_checkpointing=_has(callbacks, Checkpoint),
                enable_progress_bar=progress_bar,
                enable_model_summary=False,
                log_every_n_steps=1,
            )
            trainer.fit(module)
            meis = xr.open_zarr(place / STORE, chunks=None)
            return meis.load() if directory is None else meis


def _has(callbacks: Sequence[Callback], kind: type[Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)
