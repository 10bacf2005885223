"""One call from a model and some neurons to their MEIs."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import xarray as xr
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from mei_lightning.arguments import plain
from mei_lightning.callbacks.convergence import RowConvergence
from mei_lightning.callbacks.interrupt import InterruptTogether
from mei_lightning.callbacks.progress import StepProgressBar
from mei_lightning.callbacks.results_writer import ResultsWriter
from mei_lightning.callbacks.tensorboard import StimulusLogger
from mei_lightning.callbacks.time_limit import TimeLimit
from mei_lightning.devices import chosen_accelerator, made_on_cpu
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import frozen
from mei_lightning.optimization.launcher import check_fork, ended_together
from mei_lightning.optimization.mei_module import ProblemModule
from mei_lightning.optimization.strategies import IN_NOTEBOOKS, NOTEBOOK, cluster_plugins, strategy_for
from mei_lightning.optimization.trainer import raising_interrupts, silent_lightning, without_deprecations
from mei_lightning.paths import local_path
from mei_lightning.problem import MEIProblem, Neurons
from mei_lightning.results.place import place_of_results
from mei_lightning.results.run_log import RunLogger, run_name
from mei_lightning.run_arguments import check_run_arguments
from mei_lightning.settings import settings_named, takes_settings


@takes_settings()
@made_on_cpu
def find_meis(
    model: nn.Module | str,
    neurons: Neurons,
    *,
    directory: str | Path | None = None,
    log_directory: str | Path | None = None,
    devices: int | Sequence[int] | str = 1,
    accelerator: str = "auto",
    progress_bar: bool = True,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> xr.Dataset:
    """Find the maximally exciting input of each neuron.

    Args:
        model: a model from ``load_model``, a module of your own as ``RetinaModel(...)``, or a name.
        neurons: ``(session, index)`` for each neuron, or ``index`` for a model without sessions; a list of neurons
            in place of one is a group that shares one stimulus. Or a ``NeuronSelection``, e.g.
            ``NeuronSelection(sessions=["session_1"], where={"type": "on_off"})``. Or "all".
        settings: as for ``MEISettings``.
        directory: where to keep the results, as they are found, in ``meis.zarr``. Called again with the same settings,
            the function continues where it was interrupted. By default results are only returned; if the call does not
            come to its end, what was found stays on disk, and the exception says where and how to go on.
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
        KeyboardInterrupt: if you interrupt it, once what was found is on disk.
    """
    devices = plain(devices)  # type: ignore[assignment]
    check_run_arguments(directory, log_directory, devices, accelerator, progress_bar, callbacks)
    callbacks = [callbacks] if isinstance(callbacks, Callback) else callbacks
    _check_run(devices, directory, callbacks)
    with frozen(model) if isinstance(model, nn.Module) else nullcontext():
        problem = MEIProblem(model, neurons, settings_named(settings))
        return meis_of(
            problem,
            directory=directory,
            log_directory=log_directory,
            devices=devices,
            accelerator=accelerator,
            progress_bar=progress_bar,
            callbacks=callbacks,
        )


def meis_of(
    problem: MEIProblem,
    *,
    directory: str | Path | None = None,
    log_directory: str | Path | None = None,
    devices: int | Sequence[int] | str = 1,
    accelerator: str = "auto",
    progress_bar: bool = True,
    callbacks: Sequence[Callback] = (),
) -> xr.Dataset:
    """The MEIs of a problem; everything else is as for ``find_meis``."""
    module = ProblemModule(problem)
    with place_of_results(directory) as place:
        logs = None if log_directory is None else str(local_path("log_directory", log_directory))
        given = next((callback for callback in callbacks if isinstance(callback, RowConvergence)), None)
        rule = given or RowConvergence()
        writer = ResultsWriter(str(place), report=directory is not None, lasting=directory is not None)
        # A run that is continued goes on in the same log.
        version = None if directory is None else run_name(module.configuration, rule)
        with silent_lightning():
            trainer = Trainer(
                accelerator=chosen_accelerator(accelerator),
                devices=devices,  # type: ignore[arg-type]
                strategy=strategy_for(devices),
                plugins=cluster_plugins(),  # type: ignore[arg-type]
                max_epochs=-1,
                logger=RunLogger(logs, "", version, default_hp_metric=False) if logs else False,
                callbacks=[
                    *([] if given else [rule]),
                    writer,
                    *([StimulusLogger()] if logs else []),
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
        with ended_together(trainer), raising_interrupts(), without_deprecations():
            trainer.fit(module)
        # Where the first process writes: a name that is made of the time is another one in each.
        meis = writer.dataset(trainer)
        return meis.load() if directory is None else meis


def _check_run(devices: int | Sequence[int] | str, directory: str | Path | None, callbacks: Sequence[Callback]) -> None:
    strategy = strategy_for(devices)
    if strategy == NOTEBOOK and IN_NOTEBOOKS == "fork":
        check_fork()
    if strategy != "auto" and directory is None:
        raise InvalidValueError(f"devices={devices} needs a directory, where the devices keep their results.")
    if _has(callbacks, ResultsWriter):
        raise InvalidValueError("Give find_meis the directory of the results in place of a ResultsWriter.")


def _has(callbacks: Sequence[Callback], kind: type[Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)
