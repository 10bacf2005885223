"""The results of a run on disk, as they are found."""

import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

import pandas as pd
import xarray as xr
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from mei_lightning.callbacks.interrupt import InterruptedTogether
from mei_lightning.exceptions import (
    AlreadyThereError,
    BusyStoreError,
    InvalidTypeError,
    InvalidValueError,
    NothingThereError,
)
from mei_lightning.experiment.showable import warn_of_what_no_projector_shows
from mei_lightning.optimization.population import PopulationModule
from mei_lightning.optimization.row_state import Status, warn_of_failures
from mei_lightning.optimization.strategies import tells_of_a_lost_process
from mei_lightning.paths import local_path
from mei_lightning.plots.frames import COLORS, dataset_stimulus_format
from mei_lightning.plots.meis import plot_mei, plot_meis
from mei_lightning.plots.video import save_meis_to_mp4_video
from mei_lightning.results.claim import Claim, turn
from mei_lightning.results.dataset import open_meis
from mei_lightning.results.norms import is_complete
from mei_lightning.results.place import STORE
from mei_lightning.results.replacing import rename
from mei_lightning.results.schema import INTERRUPTED, PENDING
from mei_lightning.results.starts import note_start
from mei_lightning.results.store import MEIStore
from mei_lightning.shard import Shard

_SECONDS_BETWEEN_SUMMARIES = 5.0
_NEURONS_IN_PICTURES = 48


class ResultsWriter(Callback):
    """Writes each MEI as soon as it is found, and continues the run that the directory holds.

    In the directory there is then ``meis.zarr`` (the dataset: ``xarray.open_zarr``, at any time of the run), and after
    the run ``meis.png`` (MEIs of up to 48 neurons), ``mei.png`` (the composition of the first one) and, for a video
    model, ``meis.mp4``. Neurons that are done are skipped when the same run is started again; those that were
    interrupted begin anew, with the same result.

    Args:
        directory: where to write; by default the directory of the trainer's logs.
        start_anew: keep the results that are in the directory under another name, and start from nothing, each time
            that it is said.
        report: whether to print a summary table and the paths of the results, to standard output, and to draw the
            pictures and the video when the run ends.
        lasting: whether what is written outlives a power failure; without, nothing waits for the disk.
        shard: find one share only of the neurons, e.g. "3/16" or (3, 16), while other processes with the same
            directory find the others; as for ``find_meis``. The pictures are drawn when the last of them ends.

    Raises:
        TypeError: at the start of the fit, if the module is no ``MEIModule``; at once, if shard is no shard.
        ValueError: at once, if there is no such shard, or shard is given without directory or with start_anew.
        ValueError: at the start of the fit, if the directory holds the results of another run; the message says in
            what the runs differ.
        BlockingIOError: at the start of the fit, if another run, or another process with the same shard, is writing to
            the directory.
        PermissionError: at the start of the fit, if the directory cannot be written.
        OSError: if the disk is full; what had been written is safe.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> module = ml.MEIModule("simulated", [("session_1", 0)], max_steps=4)
        >>> writer = ml.ResultsWriter("results", report=False)
        >>> Trainer(callbacks=[writer], logger=False, enable_progress_bar=False).fit(module)
        >>> ml.MEIStore("results/meis.zarr").finished()  # the numbers of the neurons that are done
        {0}
    """

    store: MEIStore
    place: Path
    _claim: Claim | None = None

    def __init__(
        self,
        directory: str | None = None,
        start_anew: bool = False,
        report: bool = True,
        lasting: bool = True,
        shard: str | Sequence[int] | None = None,
    ) -> None:
        if directory is not None:
            local_path("directory", directory)
        self.shard = None if shard is None else Shard.of(shard)
        if self.shard is not None and start_anew:
            raise InvalidValueError(
                f"start_anew=True with shard={str(self.shard)!r} would move away what the other shards have found: "
                "move the results away yourself, once none of them runs, or give another directory."
            )
        self.directory = directory
        self.start_anew = start_anew
        self.report = report
        self.lasting = lasting

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules without named neurons."""
        if not isinstance(pl_module, PopulationModule):
            raise InvalidTypeError(
                f"ResultsWriter writes the results of an MEIModule, not of a {type(pl_module).__name__}."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the store, or open the one to continue, and leave out the neurons that are done."""
        module = _module(pl_module)
        # All processes have to write to the directory of the first one's logs.
        place = Path(trainer.strategy.broadcast(str(self._directory_of(trainer))))
        if trainer.is_global_zero:
            claim = Claim(place / STORE, self.shard)
            with turn(place / STORE):
                claim.acquire()
                self._claim = claim
                self._prepare(place / STORE, module)
                note_start(place / STORE, self.shard)
        trainer.strategy.barrier()
        self.place = place
        self.store = MEIStore(place / STORE, self.lasting)
        self.store.check_configuration(module.configuration)
        self.store.check_writable()
        trainer.strategy.barrier()
        everyone = range(len(module.labels))
        asked = set(everyone if self.shard is None else self.shard.numbers(len(everyone)))
        done = self.store.finished() & asked
        scores = xr.open_zarr(self.store.path, chunks=None)["score"].values if done else []
        module.leave_out({number: float(scores[number]) for number in done}, of_others=set(everyone) - asked)
        if done:
            of_shard = "" if self.shard is None else f" of shard {self.shard}"
            rank_zero_info(f"{len(done)} of {len(asked)} neurons{of_shard} are done already in {self.store.path}.")
        self._summarised = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the neurons that are done."""
        module = _module(pl_module)
        self._write(module, module.complete_slots())
        if trainer.is_global_zero and time.monotonic() - self._summarised > _SECONDS_BETWEEN_SUMMARIES:
            self._collect(waits=False)
            self._summarised = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the summary complete before others read it."""
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self._collect()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is not finished, a summary table and pictures."""
        module = _module(pl_module)
        self._write(module, module.unfinished_slots())
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            # Of the shards that end last one sees that all is done, and no two draw at once.
            with nullcontext() if self.shard is None else turn(self.store.path):
                self.store.collect()
                self._conclude(xr.open_zarr(self.store.path, chunks=None))
        self._unlock()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what there is when the user, a cluster's time limit or the end of another process stops the run."""
        if isinstance(exception, SIGTERMException):
            # Otherwise the process would end with 0, as if all were done.
            exception.code = 128 + signal.SIGTERM
        lost = tells_of_a_lost_process(exception)
        if (lost or isinstance(exception, KeyboardInterrupt | SIGTERMException)) and hasattr(self, "store"):
            module = _module(pl_module)
            self._write(module, module.complete_slots() + module.unfinished_slots())
            together = isinstance(exception, InterruptedTogether)
            if together:
                trainer.strategy.barrier()
            if trainer.is_global_zero or lost:
                # It may be the first process that was lost.
                self._collect(waits=False)
            if not lost and self.lasting:
                # Of another place the exception tells.
                rank_zero_info(f"Interrupted. What was found is in {self.store.path}; the same run continues it there.")
            if together:
                # Lightning ends the other processes when the first one ends, and the other way round.
                trainer.strategy.barrier()
        self._unlock()

    def dataset(self, trainer: Trainer) -> xr.Dataset:
        """What a trainer's run has written so far; values are read as they are used.

        Raises:
            FileNotFoundError: if it has not begun.
        """
        # The processes of a notebook have written it, and this one has only heard of it.
        path = (self.place if hasattr(self, "place") else self._directory_of(trainer)) / STORE
        if not path.exists():
            raise NothingThereError(f"There are no MEIs yet at {path}.")
        return open_meis(path)

    def _directory_of(self, trainer: Trainer) -> Path:
        return local_path("directory", self.directory or trainer.log_dir or trainer.default_root_dir)

    def _unlock(self) -> None:
        if self._claim is not None:
            self._claim.release()

    def _prepare(self, path: Path, module: PopulationModule) -> None:
        if path.exists() and self.start_anew:
            rename(path, path.with_name(f"{path.stem}_until_{datetime.now():%Y-%m-%d_%H-%M-%S}.zarr"))
        if not path.exists():
            kind = str(module.stimulus.dtype).removeprefix("torch.")
            try:
                MEIStore.create(path, module.description, module.configuration, dtype=kind)
                return
            except AlreadyThereError:
                # Where there are no locks, another shard may have been faster.
                if self.shard is None:
                    raise
        store = MEIStore(path)
        store.check_configuration(module.configuration)
        store.check_writable()
        store.collect()

    def _collect(self, waits: bool = True) -> None:
        """Summarise; shards by turns, so that none takes back what another one has put down."""
        if self.shard is None:
            self.store.collect()
            return
        try:
            with turn(self.store.path) if waits else turn(self.store.path, seconds=0.0):
                self.store.collect()
        except BusyStoreError:
            if waits:
                raise

    def _conclude(self, meis: xr.Dataset) -> None:
        """Warn and report: of the whole run if that is complete, or not divided; else of the shard."""
        concerned = meis
        if self.shard is not None and not is_complete(meis):
            concerned = meis.isel(neuron=list(self.shard.numbers(meis.sizes["neuron"])))
        _warn_of_failures(concerned)
        warn_of_what_no_projector_shows(concerned)
        if not self.report:
            return
        if concerned is meis:
            self._report(meis)
            return
        if concerned.sizes["neuron"]:
            print(_summary(concerned))
        done, of_all = (int((~part["status"].isin([PENDING, INTERRUPTED])).sum()) for part in (concerned, meis))
        print(
            f"Shard {self.shard}: {done} of {concerned.sizes['neuron']} neurons are done; of all shards so far "
            f"{of_all} of {meis.sizes['neuron']}"
        )
        print(f"MEIs (dataset): {self.store.path}")

    def _write(self, module: PopulationModule, slots: list[int]) -> None:
        for result in module.results(slots):
            self.store.write(result)

    def _report(self, meis: xr.Dataset) -> None:
        written = {"MEIs (dataset)": self.store.path}
        begun = meis.isel(neuron=meis["status"].values != "pending")
        if begun.sizes["neuron"]:
            written |= self._draw(begun.isel(neuron=slice(_NEURONS_IN_PICTURES)).load(), meis.sizes["neuron"])
        print(_summary(meis))
        for what, path in written.items():
            print(f"{what}: {path}")

    def _draw(self, meis: xr.Dataset, total: int) -> dict[str, Path]:
        plot_meis(meis, total=total).savefig(self.place / "meis.png", dpi=150)
        plot_mei(meis, str(meis["neuron"].values[0])).savefig(self.place / "mei.png", dpi=150)
        drawn = {"Picture of MEIs": self.place / "meis.png", "Picture of the first": self.place / "mei.png"}
        facts = dataset_stimulus_format(meis)
        if not facts.is_still and len(facts.channel_names) <= COLORS:
            save_meis_to_mp4_video(meis, self.place / "meis.mp4", total=total)
            drawn["Video"] = self.place / "meis.mp4"
        return drawn


def _module(pl_module: LightningModule) -> PopulationModule:
    assert isinstance(pl_module, PopulationModule)
    return pl_module


def _warn_of_failures(meis: xr.Dataset) -> None:
    for status in (Status.NO_GRADIENT, Status.NOT_FINITE):
        labels = meis["neuron"].values[meis["status"].values == status.label]
        warn_of_failures(labels.tolist(), status, meis.sizes["neuron"])


def _summary(meis: xr.Dataset) -> str:
    """A table of how the neurons of each session ended, and their scores."""
    table = meis[["session", "status", "score", "steps"]].load().to_dataframe()
    counts = pd.crosstab(table["session"], table["status"], margins=table["session"].nunique() > 1, margins_name="all")
    done = table[table["status"] != "pending"]
    for name, part in (("median score", "score"), ("median steps", "steps")):
        counts[name] = done.groupby("session")[part].median()
        if "all" in counts.index:
            counts.loc["all", name] = done[part].median()
    return counts.round(3).rename_axis(columns=None).to_string()
