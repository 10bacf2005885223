"""Results of a run as a labelled dataset on disk, which many processes fill while anyone reads it."""

import errno
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import DTypeLike

from mei_lightning.exceptions import AlreadyThereError, InvalidValueError, NothingThereError, UnknownNeuronError
from mei_lightning.paths import local_path
from mei_lightning.results.configuration import as_data, configuration_differences, read_configuration
from mei_lightning.results.disk_errors import explained
from mei_lightning.results.journal import Journal
from mei_lightning.results.replacing import rename, replace
from mei_lightning.results.schema import (
    DIMENSIONS,
    INTERRUPTED,
    PENDING,
    STATUSES,
    STIMULUS_DIMENSIONS,
    VARIABLES,
    values_of,
)

_VERSION_ATTRIBUTE = "mei_store_version"
_VERSION = 1
_RECORDS = "records"
_NEURONS_PER_CHUNK = 4096
_SAFE = "All neurons that were finished are safe in it"


@dataclass(frozen=True)
class MEIResult:
    """What was found for one neuron, or for a group that shares a stimulus.

    Args:
        number: position in the run's list of neurons.
        stimulus: ``[channel, time, y, x]`` in the model's units.
        response: the trace to the stimulus, ``[response_time]``.
        score: of the stimulus.
        status: "converged", "step limit", "no gradient", "not finite", "interrupted", or "given up" by a search.
        steps: of the best restart, with those that it took after it was shifted.
        best_restart: which restart the stimulus is from.
        seed: 63-bit, of the best restart.
        restart_scores: ``[restart]``; NaN for those that were given up early.
        restart_similarity: how alike the restarts' stimuli are; NaN with one restart.

    Example:
        >>> problem = ml.MEIProblem("simulated", [("session_1", 0)], ml.MEISettings(restarts=1))
        >>> store = ml.MEIStore.create("meis.zarr", problem.description, problem.configuration)
        >>> result = ml.MEIResult(
        ...     number=0,
        ...     stimulus=np.ones((2, 40, 18, 16)),
        ...     response=np.full(20, 7.0),
        ...     score=7.0,
        ...     status="converged",
        ...     steps=30,
        ...     best_restart=0,
        ...     seed=1,
        ...     restart_scores=np.array([7.0]),
        ...     restart_similarity=np.nan,
        ... )
        >>> store.write(result)
        >>> store.finished()
        {0}
    """

    number: int
    stimulus: np.ndarray
    response: np.ndarray
    score: float
    status: str
    steps: int
    best_restart: int
    seed: int
    restart_scores: np.ndarray
    restart_similarity: float


class MEIStore:
    """MEIs on disk, written neuron by neuron by any number of processes, without a lock.

    At every moment ``xarray.open_zarr(path)`` reads it: ``stimulus`` (one chunk for each neuron, NaN until written)
    and, with a value for each neuron, ``response``, ``restart_scores``, ``restart_similarity``, ``score``,
    ``score_spread`` (standard deviation of the restarts' scores as a share of the best score's size, NaN with one
    restart), ``steps``, ``best_restart``, ``seed`` and ``status``. These say what had been written by the last
    ``collect``; until then a neuron's status is "pending". A neuron is done once its record is in the folder
    ``records``, whose every line is one; records come after the stimulus, so a process that is killed leaves no
    neuron half written.

    A store can be sent to other processes, forked or pickled.

    Args:
        path: a store that ``create`` has made.
        lasting: whether a stimulus counts as written only once the disk has it, so that a power failure loses nothing.

    Raises:
        FileNotFoundError: if there is nothing at ``path``.
        ValueError: if it is something else, or a store of another version.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
        >>> network[1].weight.data = torch.eye(2)
        >>> model = ml.RetinaModel(network, ml.StimulusFormat(("grey",), height=1, width=2))
        >>> found = ml.find_meis(model, [0, 1], norm=3.0, directory="results", progress_bar=False)
                 converged  median score  median steps
        ...
        >>> store = ml.MEIStore("results/meis.zarr")
        >>> store.configuration["neurons"], sorted(store.finished())
        (['0', '1'], [0, 1])
    """

    def __init__(self, path: str | Path, lasting: bool = True) -> None:
        self.path = local_path("path", path)
        self._lasting = lasting
        attributes = _attributes(self.path)
        self.configuration = read_configuration(attributes["configuration"])
        group = zarr.open_group(self.path, mode="r", zarr_format=2)
        arrays = {name: array for name, array in group.arrays()}
        self._stimulus_shape = arrays["stimulus"].shape
        self._stimulus_type = arrays["stimulus"].dtype
        self._compressors: dict[str, Any] = {name: next(iter(it.compressors), None) for name, it in arrays.items()}
        self._neurons_per_chunk = arrays["status"].chunks[0]
        sizes = {dimension: arrays[dimension].shape[0] for dimension in DIMENSIONS}
        # A store may be older than a variable.
        self._variables = [it for it in VARIABLES if it.name in arrays]
        self._summary = {it.name: it.empty(sizes, self._stimulus_type) for it in self._variables}
        self._times = np.zeros(self._stimulus_shape[0], dtype=np.int64)
        self._chunks_to_collect: set[int] = set()
        self._journal = Journal(self.path / _RECORDS)

    @classmethod
    def create(
        cls,
        path: str | Path,
        description: xr.Dataset,
        configuration: Mapping[str, Any],
        dtype: DTypeLike = np.float32,
    ) -> "MEIStore":
        """Make a store without results. It appears at ``path`` at once and whole.

        Args:
            path: where; missing parent directories are made.
            description: coordinates of the dimensions ``neuron, channel, time, y, x, response_time, restart``, and
                attributes; no data variables.
            configuration: every setting of the run, as JSON can hold it.
            dtype: of stimuli and responses.

        Raises:
            FileExistsError: if there is something at ``path`` already.
            ValueError: if ``description`` lacks a dimension, or holds data.
            OSError: if there is no space.
            PermissionError: if the directory cannot be written to.
        """
        path = local_path("path", path)
        missing = [name for name in DIMENSIONS if name not in description.sizes]
        if missing or description.data_vars:
            raise InvalidValueError(
                f"The description of a store has coordinates along {', '.join(DIMENSIONS)}, and no data variables; "
                f"missing: {', '.join(missing) or 'none'}; data: {', '.join(map(str, description)) or 'none'}."
            )
        exists = f"{path} exists already; results are not overwritten. Open it with MEIStore, or give another place."
        if path.exists():
            raise AlreadyThereError(exists)
        hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        with explained(path, "Nothing was made"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _make(hidden, description, json.dumps(as_data(dict(configuration)), allow_nan=False), np.dtype(dtype))
                rename(hidden, path)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise AlreadyThereError(exists) from error
                raise
            finally:
                shutil.rmtree(hidden, ignore_errors=True)
        return cls(path)

    def check_configuration(self, configuration: Mapping[str, Any]) -> None:
        """Refuse settings that are not those of the store, except for the version of ``mei_lightning``.

        Raises:
            ValueError: that lists every difference.
        """
        if differences := configuration_differences(self.configuration, configuration):
            raise InvalidValueError(
                f"{self.path} holds the results of a run with other settings:\n{differences}\nGive these results' "
                "settings to continue, give another directory, or start anew: move the store away, or say "
                "--results.start_anew true (ResultsWriter(start_anew=True)), which keeps it under another name."
            )

    def check_writable(self, way_out: str = "") -> None:
        """Find out whether results can be written, before any work.

        Args:
            way_out: which argument names another place.

        Raises:
            PermissionError: if the store, or the file system that it is on, is read-only.
            OSError: if there is no space.
        """
        with explained(self.path, _SAFE, way_out):
            for folder in (_RECORDS, "stimulus", *self._summary):
                with tempfile.TemporaryFile(dir=self.path / folder):
                    pass

    def write(self, result: MEIResult) -> None:
        """Put one neuron's result on disk. Any process may; of two results for a neuron the last one counts.

        Two processes must not write the same neuron at once. While a neuron is replaced it is not finished; what its
        other variables say is of the replaced stimulus until the next ``collect``.

        Raises:
            IndexError: if the store has no such neuron.
            ValueError: if the status is unknown, or shapes differ from the store's.
            OSError: if there is no space.
            PermissionError: if the store is read-only.
        """
        self._check(result)
        key = ".".join(str(position) for position in (result.number, 0, 0, 0, 0))
        with explained(self.path, _SAFE):
            if (self.path / "stimulus" / key).exists():
                # What is read now is older than what is written next, whatever the clocks of the nodes say.
                self._read_records()
                self._journal.append({"number": int(result.number), "status": PENDING})
            self._put("stimulus", key, np.asarray(result.stimulus, dtype=self._stimulus_type)[None])
            values = {
                it.name: it.recorded(getattr(result, it.name), self._stimulus_type)
                for it in VARIABLES
                if it.derived is None
            }
            self._journal.append({"number": int(result.number), **values})

    def finished(self) -> set[int]:
        """The numbers of neurons that are done; those that were interrupted are not.

        Warns:
            UserWarning: for each record that cannot be read, which counts as not written.
        """
        self._read_records()
        done = ~np.isin(self._summary["status"], (PENDING, INTERRUPTED))
        return set(np.flatnonzero(done).tolist())

    def progress(self) -> tuple[np.ndarray, np.ndarray]:
        """How each neuron ended, or that it is pending, by the records so far, and when (nanoseconds since 1970).

        Warns:
            UserWarning: for each record that cannot be read, which counts as not written.
        """
        self._read_records()
        return self._summary["status"].copy(), self._times.copy()

    def collect(self) -> None:
        """Make the variables other than ``stimulus`` say what all processes have written so far.

        Meant for one process. Of several that do it at once, one that has read less can take back for a moment what
        another has put down; it notices and corrects itself.

        Warns:
            UserWarning: for each record that cannot be read.

        Raises:
            OSError: if there is no space.
            PermissionError: if the store is read-only.
        """
        with explained(self.path, _SAFE):
            # Read again after writing: another collector may have known more, and been overwritten. While results
            # arrive there is no end to it, and a later call sees to the rest.
            for _ in range(3):
                self._read_records()
                if not self._chunks_to_collect:
                    return
                for chunk in sorted(self._chunks_to_collect):
                    self._put_summary(chunk)
                    self._chunks_to_collect.discard(chunk)

    def _check(self, result: MEIResult) -> None:
        neurons = self._stimulus_shape[0]
        if not 0 <= result.number < neurons:
            raise UnknownNeuronError(f"number={result.number}: {self.path} has neurons 0 to {neurons - 1}.")
        if result.status not in STATUSES:
            raise InvalidValueError(f"status='{result.status}' is none of {', '.join(STATUSES)}.")
        held = {it.name: self._summary[it.name].shape[1:] for it in self._variables if it.derived is None}
        for name, shape in {"stimulus": self._stimulus_shape[1:], **held}.items():
            given = np.shape(getattr(result, name))
            if given != shape:
                raise InvalidValueError(
                    f"{name} of neuron {result.number} has shape {given}, but {self.path} holds {shape}."
                )

    def _read_records(self) -> None:
        """Take in what has been recorded since the last call."""
        self._journal.read(self._take_in)

    def _take_in(self, record: dict[str, Any]) -> None:
        number, written = int(record["number"]), int(record["time"])
        if not 0 <= number < len(self._times):
            raise IndexError(f"neuron {number} of {len(self._times)}")
        empty = {name: array[number] for name, array in self._summary.items()}
        values = values_of(record, self._variables, empty)
        if written > self._times[number]:
            self._times[number] = written
            for name, array in self._summary.items():
                array[number] = values[name]
            self._chunks_to_collect.add(number // self._neurons_per_chunk)

    def _put_summary(self, chunk: int) -> None:
        rows = slice(chunk * self._neurons_per_chunk, (chunk + 1) * self._neurons_per_chunk)
        # The status last, so that a reader who sees it sees the rest.
        for name in sorted(self._summary, key=lambda name: name == "status"):
            values = self._summary[name][rows]
            # In zarr the last chunk is as long as the others.
            padding = [(0, self._neurons_per_chunk - len(values))] + [(0, 0)] * (values.ndim - 1)
            self._put(name, ".".join([str(chunk)] + ["0"] * (values.ndim - 1)), np.pad(values, padding, mode="edge"))

    def _put(self, variable: str, key: str, values: np.ndarray) -> None:
        """Write a chunk so that whoever reads, or pulls the plug, finds the old one or the new one.

        zarr's own writing is atomic from 3.1.6 on, but does not wait for the disk before the new chunk takes its
        place: after a power failure it may be empty, and no reader can open the variable.
        """
        compressor = self._compressors[variable]
        values = np.ascontiguousarray(values)
        data = values.tobytes() if compressor is None else compressor.encode(values)
        # Files that a killed process leaves are not removed: no clock that all nodes share tells how old they are, and
        # a process that was only suspended goes on writing. Readers do not see them.
        hidden = self.path / variable / f".{key}.{uuid.uuid4().hex}.partial"
        try:
            with hidden.open("wb") as file:
                file.write(data)
                if self._lasting:
                    file.flush()
                    os.fsync(file.fileno())
            replace(hidden, self.path / variable / key)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise


def is_of_run(path: Path) -> bool:
    """Whether a store is one that a run fills, and not a copy of its dataset, which has the same attributes."""
    return (path / _RECORDS).is_dir()


def _make(path: Path, description: xr.Dataset, configuration: str, dtype: np.dtype) -> None:
    sizes = description.sizes
    summary = {it.name: it.empty(sizes, dtype) for it in VARIABLES}
    dataset = description.assign(
        {it.name: (("neuron", *it.dimensions), summary[it.name], it.attributes()) for it in VARIABLES}
    )
    dataset = dataset.assign_attrs(configuration=configuration, **{_VERSION_ATTRIBUTE: _VERSION})
    rows = min(_NEURONS_PER_CHUNK, sizes["neuron"])
    chunks = {name: {"chunks": (rows, *array.shape[1:])} for name, array in summary.items()}
    dataset.to_zarr(path, mode="w-", zarr_format=2, encoding=chunks, consolidated=False)
    shape = tuple(sizes[dimension] for dimension in STIMULUS_DIMENSIONS)
    # Through zarr, because xarray would want the values, which may not fit into memory.
    zarr.open_group(path, mode="r+", zarr_format=2).create_array(
        "stimulus",
        shape=shape,
        chunks=(1, *shape[1:]),
        dtype=dtype,
        fill_value=np.nan,
        attributes={"_ARRAY_DIMENSIONS": list(STIMULUS_DIMENSIONS), "units": "model units"},
    )
    zarr.consolidate_metadata(str(path), zarr_format=2)
    (path / _RECORDS).mkdir()


def _attributes(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise NothingThereError(f"There is no store of MEIs at {path}.")
    try:
        attributes = json.loads((path / ".zattrs").read_bytes())
        version = attributes[_VERSION_ATTRIBUTE]
        if not is_of_run(path):
            raise FileNotFoundError(path / _RECORDS)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError) as error:
        raise InvalidValueError(
            f"{path} is not a store of MEIs that a run could continue. Give another place."
        ) from error
    if version != _VERSION:
        made_by = json.loads(attributes["configuration"]).get("mei_lightning", "another version")
        raise InvalidValueError(
            f"{path} is a store of version {version}, made by mei_lightning {made_by}; this one understands version "
            f"{_VERSION}. Continue it with the mei_lightning that made it, or give another directory to start anew."
        )
    return attributes
