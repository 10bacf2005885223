"""One call from a model and some neurons to their MEIs."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from mei_lightning.arguments import plain, whole_number
from mei_lightning.callbacks.convergence import RowConvergence
from mei_lightning.callbacks.interrupt import InterruptTogether
from mei_lightning.callbacks.progress import StepProgressBar
from mei_lightning.callbacks.results_writer import ResultsWriter
from mei_lightning.callbacks.tensorboard import StimulusLogger
from mei_lightning.callbacks.time_limit import TimeLimit
from mei_lightning.devices import chosen_accelerator, in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.further_runs import FurtherRuns, check_further_runs, further_runs
from mei_lightning.models.base import frozen
from mei_lightning.optimization.launcher import check_fork, ended_together
from mei_lightning.optimization.mei_module import ProblemModule
from mei_lightning.optimization.strategies import IN_NOTEBOOKS, NOTEBOOK, cluster_plugins, strategy_for
from mei_lightning.optimization.trainer import raising_interrupts, silent_lightning, without_deprecations
from mei_lightning.paths import local_path
from mei_lightning.problem import MEIProblem, Neurons
from mei_lightning.results.configuration import Setting
from mei_lightning.results.norms import directory_of_norm, is_complete, joined_norms
from mei_lightning.results.place import STORE, Parts, place_of_results
from mei_lightning.results.run_log import RunLogger, run_name
from mei_lightning.results.store import MEIStore
from mei_lightning.run_arguments import check_run_arguments
from mei_lightning.settings import settings_named, takes_settings
from mei_lightning.shard import Shard, shard_in
from mei_lightning.sizes import Sizes, several_sizes


@takes_settings()
@in_usual_modes
def find_meis(
    model: nn.Module | str,
    neurons: Neurons,
    *,
    members: Sequence[int] | None = None,
    per_member: bool = False,
    repeats: int = 0,
    directory: str | Path | None = None,
    log_directory: str | Path | None = None,
    shard: str | Sequence[int] | None = None,
    devices: int | Sequence[int] | str = 1,
    num_nodes: int = 1,
    accelerator: str = "auto",
    progress_bar: bool = True,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> xr.Dataset:
    """Find the maximally exciting input of each neuron: of all stimuli of a norm that to which it responds most.

    The response is that of the model, and the stimulus is found by gradient ascent (Erhan et al. 2009, technical report
    1341, Université de Montréal, "Visualizing higher-layer features of a deep network"; for neurons Walker et al. 2019,
    Nature Neuroscience 22, "Inception loops discover what excites neurons most using deep predictive models").

    Args:
        model: a model from ``load_model``, a module of your own as ``RetinaModel(...)``, or a name.
        neurons: ``(session, index)`` for each neuron, or ``index`` for a model without sessions; a list of neurons
            in place of one is a group that shares one stimulus. Or a ``NeuronSelection``, e.g.
            ``NeuronSelection(sessions=["session_1"], where={"type": "on_off"})``. Or "all".
        settings: as for ``MEISettings``.
        members: find MEIs on the mean of these members of an ensemble, by their positions; by default on all.
        per_member: find those of each member as well, with the same settings, and compare them: would another model of
            the same neurons have the same MEIs?
        repeats: find each MEI so many times again, with the same settings from other starts (``seed + 1``, ``seed + 2``
            and so on), and compare them: would another run find the same, and is there a better stimulus? 3 are good.
        directory: where to keep the results, as they are found, in ``meis.zarr``. Called again with the same settings,
            the function continues where it was interrupted. By default results are only returned; if the call does not
            come to its end, what was found stays on disk, and the exception says where and how to go on.
        log_directory: where to write TensorBoard logs; none by default.
        shard: find one share only of the neurons: ``(3, 16)``, or "3/16", is the third of sixteen, and the last one is
            ``(16, 16)``. Processes that are given the other shards and the same ``directory``, say the tasks of a job
            array, write into the same store at the same time, and need not know of each other; the first one makes it.
            Shard 3 of 16 has the neurons 3, 19, 35 and so on of those that are asked for, and none if there are not so
            many. MEIs are those of an undivided run.
        devices: as for Lightning's ``Trainer``; neurons are shared out among the devices, which needs a ``directory``.
        num_nodes: of machines that a cluster has started this call on together, as for Lightning's ``Trainer``, each
            with so many devices; it needs a ``directory``, too.
        accelerator: as for Lightning's ``Trainer``, but that "auto" is "cuda" where there is one, else "cpu". "mps", an
            Apple GPU, has to be asked for: it computes in single precision only.
        progress_bar: whether to show one.
        callbacks: further Lightning callbacks, e.g. a ``ModelCheckpoint``, or a ``RowConvergence`` in place of the
            default one.

    Returns:
        A labelled dataset with dimensions ``neuron, channel, time, y, x, response_time, restart``. Its variables are
        ``stimulus`` (in the model's units), ``score``, ``response`` (the trace to the stimulus), ``status``, ``steps``,
        ``best_restart`` and ``seed`` (which noise it is from), ``restart_scores`` (NaN for those that were given up
        early), ``score_spread`` (their standard deviation relative to the score) and ``restart_similarity`` (mean
        cosine similarity of the other restarts' stimuli to the best). Attributes: model, weights digest, physical
        facts, and all settings as JSON. With a ``directory``, values are read from there as they are used.

        With several norms, ``norm=[5, 10, 20]`` or ``rms=[...]``, all of these also have the dimension ``norm``; with
        ``rms`` there is the coordinate ``rms (norm)`` as well. At each norm is what a call with it alone returns, and
        in ``directory`` each has an ordinary store, such as ``norm_5/meis.zarr``, to analyse, report and continue.
        ``open_norms(directory)`` opens all of them as this one dataset, which is in memory. A run that ends early, as
        before a cluster's time limit, has the norms that it had begun.

        With ``per_member=True`` the dataset is that of the ensemble with further variables. ``member`` is the position
        of a member; ``model``, ``mei`` and ``other_mei`` are "ensemble", "member 0", "member 1", and so on.
        ``member_stimulus`` is the MEI of each ``member``, with ``member_score``, its score on the member itself, and
        ``member_status``. ``cross_score (neuron, model, mei)`` is the score of each MEI on each model, and
        ``relative_score`` the same as a share of what the model's own MEI scores (NaN where that is not positive): 1
        for an MEI as good as its own, more if its own search ended in a worse maximum. ``member_similarity (neuron,
        mei, other_mei)`` is the cosine of two MEIs with the shift in time that makes it largest, and ``member_shift``
        how much later the member's MEI is than the ensemble's. ``agreement (neuron, channel, y, x)`` says of each pixel
        how far the members' MEIs, each moved in time by that shift, agree in sign: the sum over frames of the magnitude
        of their sum, as a share of the sum over frames and members of their magnitudes. It is 1 if all have the same
        sign, 0 if they cancel, about the root of 1 / n for n members of independent noise, and NaN where all are zero.
        What is not known, as of a neuron that is not finished, is NaN.

        In ``directory`` is then a store for each, ``meis.zarr`` of the ensemble, and ``member_0/meis.zarr``,
        ``member_1/meis.zarr`` of the members, and ``members.zarr`` with these variables, which the report shows.
        ``open_members(directory)`` opens all as this one dataset.

        With ``repeats`` the dataset has further variables along ``repeat``: ``repeat_stimulus``, ``repeat_score`` and
        ``repeat_status``; ``repeat_similarity``, the cosine of the repeat's MEI and the MEI; ``optimum``, a number for
        each optimum, 0 for that of the MEI, -1 if it is not known; and ``aligned_similarity``. Two MEIs are of one
        optimum if the stimulus midway between them, at the same constraint, keeps 98 % of the lower score, or their
        cosine with the best shift in time is at least 0.95; or if others connect them in that way. Aligned similarity
        is the cosine with the best shift in time or, if that is larger, the share of the repeat's MEI that is a mixture
        of others of the same optimum (the length of its projection onto their span): for a neuron to which the phase of
        a grating does not matter it is 1 where the cosine may be anything from -1 to 1. Two stimuli that excite an
        ON-OFF neuron equally are two optima, and stay unlike.

        For each neuron there are ``optima``, how many of these have a score within 1 % of the best of all; and
        ``chance_of_better``, an estimate of the chance that there is a stimulus with a score over 1 % higher than the
        best of all, from how many of the runs found that best one (see the page on certainty).
        If a repeat has a higher score than the MEI, its stimulus is the better one. ``directory`` then has
        ``repeat_1/meis.zarr`` and so on beside ``meis.zarr``, and ``repeats.zarr`` with these variables, which the
        report shows. ``open_repeats(directory)`` opens all as this one dataset.

    Raises:
        ValueError: if an argument does not fit the model, or the directory holds the results of another run, or there
            are no members that ``per_member`` could compare, or ``repeats`` would all be the same; nothing has been
            computed by then.
        IndexError: if a session has no such neuron.
        TypeError: if an argument is of a wrong type.
        BlockingIOError: if another run, or another process with the same shard, is writing to the directory.
        PermissionError, OSError: if the directory cannot be written to, or its disk is full.
        RuntimeError: if the device has no memory for a single stimulus.
        KeyboardInterrupt: if you interrupt it, once what was found is on disk.

    Example:
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], search="quick", max_steps=4, progress_bar=False)
        >>> meis.stimulus.dims
        ('neuron', 'channel', 'time', 'y', 'x')
        >>> mei = meis.stimulus.sel(neuron="session_1/0", channel="UV")  # one of two channels
        >>> mei.shape
        (40, 18, 16)
        >>> meis.response.shape  # the first 20 frames fill the receptive field
        (1, 20)

        Two models of which each sees one of two pixels, and what each one's MEI is worth on the other:

        >>> pixels = ml.StimulusFormat(("grey",), height=1, width=2)
        >>> networks = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 1, bias=False)) for _ in range(2)]
        >>> for pixel, network in enumerate(networks):
        ...     network[1].weight.data = torch.eye(2)[pixel : pixel + 1]
        >>> ensemble = ml.Ensemble([ml.RetinaModel(network, pixels) for network in networks])
        >>> meis = ml.find_meis(ensemble, [0], per_member=True, norm=1.0, progress_bar=False)
        >>> meis.relative_score.sel(neuron="0", mei="member 0").values.round(2).tolist()  # on the ensemble, and on both
        [0.71, 1.0, 0.0]
    """
    devices = plain(devices)  # type: ignore[assignment]
    check_run_arguments(directory, log_directory, devices, accelerator, progress_bar, callbacks)
    callbacks = [callbacks] if isinstance(callbacks, Callback) else callbacks
    num_nodes = whole_number("num_nodes", num_nodes, 1)
    _check_run(devices, num_nodes, directory, callbacks)
    asked = None if shard is None else shard_in(directory, shard, per_member, repeats)
    sizes = several_sizes(settings)
    check_further_runs(per_member, repeats, sizes)
    one_of_them = settings if sizes is None else {**settings, sizes.name: sizes.values[0]}
    run = Run(directory, log_directory, devices, accelerator, progress_bar, callbacks, num_nodes, asked)
    with frozen(model) if isinstance(model, nn.Module) else nullcontext():
        problem = MEIProblem(model, neurons, settings_named(one_of_them), members=members)
        if (further := further_runs(problem, per_member, repeats)) is not None:
            return _meis_of_several(further, run)
        return _meis_of(problem, run) if sizes is None else _meis_of_sizes(problem, sizes, run)


@dataclass(frozen=True)
class Run:
    """Where and how MEIs are found; arguments are as for ``find_meis``."""

    directory: str | Path | None = None
    log_directory: str | Path | None = None
    devices: int | Sequence[int] | str = 1
    accelerator: str = "auto"
    progress_bar: bool = True
    callbacks: Sequence[Callback] = ()
    num_nodes: int = 1
    shard: Shard | None = None

    @property
    def rule(self) -> RowConvergence:
        """When a row has converged: the user's rule, if there is one."""
        return next((callback for callback in self.callbacks if isinstance(callback, RowConvergence)), RowConvergence())


def meis_in(place: Path, problem: MEIProblem, run: Run) -> xr.Dataset:
    """The MEIs of a problem, kept in a directory, from where values are read as they are used.

    If it is the user's directory, there are pictures as well.
    """
    module, rule, callbacks = ProblemModule(problem), run.rule, run.callbacks
    logs = None if run.log_directory is None else str(local_path("log_directory", run.log_directory))
    lasting = run.directory is not None
    writer = ResultsWriter(str(place), report=lasting, lasting=lasting, shard=run.shard)
    # A run that is continued goes on in the same log.
    version = run_name(module.configuration, rule, run.shard) if lasting else None
    with silent_lightning():
        trainer = Trainer(
            accelerator=chosen_accelerator(run.accelerator),
            devices=run.devices,  # type: ignore[arg-type]
            num_nodes=run.num_nodes,
            strategy=strategy_for(run.devices, run.num_nodes),
            plugins=cluster_plugins(run.num_nodes),  # type: ignore[arg-type]
            max_epochs=-1,
            logger=RunLogger(logs, "", version, default_hp_metric=False) if logs else False,
            callbacks=[
                *([] if rule in callbacks else [rule]),
                writer,
                *([StimulusLogger()] if logs else []),
                *([StepProgressBar()] if run.progress_bar else []),
                *([] if _has(callbacks, TimeLimit) else [TimeLimit()]),
                InterruptTogether(),
                *callbacks,
            ],
            enable_checkpointing=_has(callbacks, Checkpoint),
            enable_progress_bar=run.progress_bar,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
    with ended_together(trainer), raising_interrupts(), without_deprecations():
        trainer.fit(module)
    # Where the first process writes: a name that is made of the time is another one in each.
    return writer.dataset(trainer)


def _meis_of(problem: MEIProblem, run: Run) -> xr.Dataset:
    with place_of_results(run.directory) as place:
        meis = meis_in(place, problem, run)
        return meis.load() if run.directory is None else meis


def _meis_of_sizes(problem: MEIProblem, sizes: Sizes, run: Run) -> xr.Dataset:
    """The MEIs of a problem at several norms, one after the other, with a dimension ``norm``."""
    of_sizes = [problem.resized({sizes.name: size}) for size in sizes.values]
    problems = {resized.norm: resized for resized in of_sizes}
    parts = {norm: directory_of_norm(norm) for norm in problems}
    found: dict[float, xr.Dataset] = {}
    stores = Parts(list(parts.values()), f"at {len(parts)} norms", "open_norms({place})")
    with place_of_results(run.directory, stores) as place:
        for norm, resized in problems.items():
            _check_goes_on(resized, run, place / parts[norm] / STORE)
        for norm, resized in problems.items():
            found[norm] = meis_in(place / parts[norm], resized, run)
            if not is_complete(found[norm], run.shard):
                # Time is over, or a callback has stopped the run.
                break
        meis = joined_norms(found)
    return meis.assign_coords(rms=("norm", sizes.values[: len(found)])) if sizes.name == "rms" else meis


def _meis_of_several(runs: FurtherRuns, run: Run) -> xr.Dataset:
    """The MEIs of a problem, then those of further ones, and how they compare."""
    with place_of_results(run.directory, Parts(list(runs.parts), runs.told, f"{STORE} of each in {{place}}")) as place:
        for part, one in runs.parts.items():
            _check_goes_on(one, run, place / part / STORE)
        for part, one in runs.parts.items():
            if not is_complete(meis_in(place / part, one, run)):
                # Time is over, or a callback has stopped the run.
                break
        meis = runs.compare_in(place, accelerator=chosen_accelerator(run.accelerator), progress_bar=run.progress_bar)
        return meis.load() if run.directory is None else meis


def _check_goes_on(problem: MEIProblem, run: Run, store: Path) -> None:
    """Refuse a store with other settings before any of several is worked on."""
    if store.exists():
        problem.configuration.put("convergence", Setting.of(run.rule))
        MEIStore(store).check_configuration(problem.configuration)


def _check_run(
    devices: int | Sequence[int] | str, num_nodes: int, directory: str | Path | None, callbacks: Sequence[Callback]
) -> None:
    strategy = strategy_for(devices, num_nodes)
    if strategy == NOTEBOOK and IN_NOTEBOOKS == "fork":
        check_fork()
    if strategy != "auto" and directory is None:
        asked = f"devices={devices}" if num_nodes == 1 else f"num_nodes={num_nodes}"
        raise InvalidValueError(f"{asked} needs a directory, where the devices keep their results.")
    if _has(callbacks, ResultsWriter):
        raise InvalidValueError("Give find_meis the directory of the results in place of a ResultsWriter.")


def _has(callbacks: Sequence[Callback], kind: type[Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)
