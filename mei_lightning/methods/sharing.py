"""MEIs that neurons take over from others: a round over a store of MEIs."""

import json
import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn

from mei_lightning.arguments import number, whole_number
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.find import Run, meis_in
from mei_lightning.methods.donors import Best, Donors
from mei_lightning.methods.problem_of_store import problem_of_store
from mei_lightning.models.base import frozen
from mei_lightning.optimization.search import MultiStart
from mei_lightning.problem import MEIProblem
from mei_lightning.results.dataset import check_store, open_meis
from mei_lightning.results.lock import RunLock
from mei_lightning.results.norms import is_complete
from mei_lightning.results.replacing import put_in_place
from mei_lightning.results.schema import INTERRUPTED, PENDING, STIMULUS_DIMENSIONS
from mei_lightning.results.store import MEIResult, MEIStore
from mei_lightning.settings import takes_settings
from mei_lightning.starting_points import GivenStimuli

SETTINGS_OF_SHARING = frozenset(
    {
        "norm",
        "rms",
        "ranges",
        "mask",
        "reducer",
        "objective",
        "constraint",
        "regularizer",
        "optimizer",
        "gradient_filter",
        "parameterization",
        "robustness",
        "rows_per_device",
    }
)
"""Settings of a run that its store may not say in full, and how many rows are computed at a time."""

_STARTS = "starts.zarr"
"""What the ascents begin from, in the directory of a round that is going on."""

_OPTIONS = "sharing"
"""The attribute of what the ascents begin from that says with which options it was chosen."""


@takes_settings(SETTINGS_OF_SHARING)
@in_usual_modes
def share_meis(
    store: str | Path,
    model: nn.Module | str,
    *,
    donors: int = 32,
    least_share: float = 0.0,
    least_gain: float = 0.001,
    allow_unpickling: bool = False,
    accelerator: str = "auto",
    progress_bar: bool = True,
    **settings: Any,
) -> xr.Dataset:
    """Let each neuron of a store try the MEIs of others, and replace its own where it finds a better one from there.

    An ascent can end in a maximum that is not the best. Another neuron of the same kind may have found the better one,
    at the place where it sees. So the MEIs of others are moved in space to where the neuron's own MEI is: by those
    whole pixels by which the energies of the two, sums of squares over channels and time, overlap most; what is moved
    in is 0. They are brought to norm, ranges and mask, and scored, the best one some frames earlier and later as well.
    From the best of all an ascent begins. Where that ends higher, its stimulus takes the place of the MEI.

    The scores are those of forward passes, of which one serves all neurons for which an MEI is moved by the same
    pixels. What is begun from, and what is kept, depends on the MEIs of the store alone, and not on the device or on
    how many rows are computed at a time. No score becomes lower. While the round goes on the store can be read; one
    that is interrupted is continued by the same call, from a directory beside the store that is gone in the end.

    Args:
        store: where the MEIs are, e.g. ``results/meis.zarr``. Neurons that are not done, or have no finite score, stay
            as they are.
        model: the model that found them, or its name; of an ensemble all of it, if the MEIs are of some members.
        donors: how many other neurons' MEIs each neuron tries. Where there are more, half of these are the same for
            all neurons, and the others are those of the neurons that respond most alike to these.
        least_share: an ascent begins if the best of them scores more than this share of what the neuron's own MEI does,
            such as 0.9 to save time; by default if it has a score above 0. In a network of the visual cortex ascents
            that began below half of the score ended higher as often as those that began above it.
        least_gain: an MEI is replaced if the score rises by more than this share of itself.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.
        settings: as for ``MEISettings``.

    The settings are those of the run. Norm, ranges, members and the package's own reducers are known from the store;
    others, such as a mask or a regularizer, have to be given as they were to ``find_meis``.

    Returns:
        The MEIs of the store, with three more variables, which the store has from then on: ``shared_from``, the label
        of the neuron whose MEI the ascent to this one began from, empty for those that the neuron's own search found;
        ``score_before_sharing``, the score of the MEI that it replaced, else NaN; ``sharing_steps``, the steps of the
        ascent in the last round, whether or not it led to a better MEI, 0 where none was begun. A replaced MEI has the
        ``steps`` and the ``status`` of that ascent, a ``best_restart`` and ``seed`` of -1, since it is from no noise,
        and no ``restart_similarity``; ``restart_scores`` are those of the neuron's own search.

    Raises:
        FileNotFoundError: if there is nothing at ``store``.
        ValueError: if it is no store of a run, the settings or the model's weights are others than the run's, or a
            number is out of its range; nothing has been computed by then.
        IndexError: if a session of the model has no such neuron.
        TypeError: if an argument is of a wrong type.
        BlockingIOError: if a run is writing to the store.
        OSError: if the store cannot be written to.

    Example:
        >>> cells = [("session_1", index) for index in (4, 16, 28)]  # three ON-OFF cells
        >>> found = ml.find_meis("simulated", cells, search="quick", directory="results", progress_bar=False)
                   converged  median score  median steps
        ...
        >>> before = found.score.values
        >>> meis = ml.share_meis("results/meis.zarr", "simulated", progress_bar=False)
        >>> bool((meis.score.values >= before).all())
        True
    """
    options = _Options.of(donors, least_share, least_gain)
    path = check_store(store)
    kept = MEIStore(path)
    with frozen(model) if isinstance(model, nn.Module) else nullcontext():
        problem = problem_of_store(path, model, settings, allow_unpickling=allow_unpickling)
        kept.check_writable()
        lock = RunLock(path)
        lock.acquire()
        try:
            kept.collect()
            _Round(kept, problem, options, Run(accelerator=accelerator, progress_bar=progress_bar)).run()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"The round is not done; {path} can be read. The same call goes on.") from None
        finally:
            lock.release()
    return open_meis(path)


@dataclass(frozen=True)
class _Options:
    donors: int
    least_share: float
    least_gain: float

    @classmethod
    def of(cls, donors: object, least_share: object, least_gain: object) -> "_Options":
        options = cls(
            whole_number("donors", donors, 1), number("least_share", least_share), number("least_gain", least_gain)
        )
        if not 0 <= options.least_share <= 2:
            raise InvalidValueError(
                f"least_share={options.least_share} has to be a share of the score of the own MEI, such as 0.9, or 0."
            )
        if not 0 <= options.least_gain < np.inf:
            raise InvalidValueError(f"least_gain={options.least_gain} has to be a share of the score, 0 or more.")
        return options


class _Round:
    """A round over a store.

    Args:
        store: of the MEIs.
        problem: of the run that found them.
        options: of the round.
        run: how ascents are done.
    """

    def __init__(self, store: MEIStore, problem: MEIProblem, options: _Options, run: Run) -> None:
        self._store = store
        self._problem = problem
        self._options = options
        self._how = run
        self._place = store.path.with_name(f"{store.path.stem}_sharing")

    def run(self) -> None:
        """Begin, or go on where an earlier call was interrupted."""
        begun = self._begun() or self._begin()
        found = None
        if begun is not None:
            initial, numbers = GivenStimuli(begun[["stimulus"]]), begun["number"].values.tolist()
            search = MultiStart(starts=1, keep=1, max_steps=self._problem.search.max_steps, shifts=())
            found = meis_in(self._place, self._problem.begun_from(numbers, initial, search), self._how)
        self._note(begun, found, self._replace(begun, found))
        if found is None or is_complete(found):
            shutil.rmtree(self._place, ignore_errors=True)

    # What ascents begin from

    def _begun(self) -> xr.Dataset | None:
        """What the ascents of an earlier call with the same options began from, if that did not come to its end."""
        if not (self._place / _STARTS).exists():
            return None
        starts = xr.open_zarr(self._place / _STARTS, chunks=None)
        return starts if starts.attrs.get(_OPTIONS) == self._signature else None

    def _begin(self) -> xr.Dataset | None:
        """Choose what to begin from; None if there is nothing."""
        shutil.rmtree(self._place, ignore_errors=True)
        meis = open_meis(self._store.path)
        stimuli, values = meis["stimulus"].transpose(*STIMULUS_DIMENSIONS), self._values(meis)
        own = {int(number): float(values[number]) for number in np.flatnonzero(np.isfinite(values))}
        if len(own) < 2:
            return None

        @lru_cache(maxsize=512)
        def read(number: int) -> NDArray[Any]:
            return stimuli[number].values

        donors = Donors(
            self._problem, own, read, accelerator=self._how.accelerator, progress_bar=self._how.progress_bar
        )
        tried = donors.best(self._options.donors)
        best = {number: one for number, one in tried.items() if self._is_worth(one, own[number])}
        return self._kept(meis, donors, best, values) if best else None

    def _is_worth(self, best: Best, own: float) -> bool:
        return best.value > own - (1 - self._options.least_share) * abs(own)

    def _kept(
        self, meis: xr.Dataset, donors: Donors, best: Mapping[int, Best], values: NDArray[np.float64]
    ) -> xr.Dataset:
        """What the ascents begin from, on disk, whole or not at all."""
        numbers = list(best)
        labels = meis["neuron"].values
        starts = xr.Dataset(
            {
                "stimulus": (
                    STIMULUS_DIMENSIONS,
                    torch.stack([donors.stimulus(one.candidate) for one in best.values()]).cpu().numpy(),
                ),
                "number": ("neuron", numbers),
                "donor": ("neuron", labels[[one.candidate.donor for one in best.values()]]),
                "value": ("neuron", values[numbers]),
                "score": ("neuron", meis["score"].values[numbers]),
            },
            {"neuron": labels[numbers]},
            {_OPTIONS: self._signature},
        )
        self._place.mkdir(parents=True, exist_ok=True)
        hidden = self._place / f".{_STARTS}.{uuid.uuid4().hex}.partial"
        try:
            chunks = {"stimulus": {"chunks": (1, *starts["stimulus"].shape[1:])}}
            starts.to_zarr(hidden, mode="w-", zarr_format=2, encoding=chunks, consolidated=True)
            put_in_place(hidden, self._place / _STARTS)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        return xr.open_zarr(self._place / _STARTS, chunks=None)

    @property
    def _signature(self) -> str:
        return json.dumps({**vars(self._options), "configuration": self._store.configuration}, sort_keys=True)

    def _values(self, meis: xr.Dataset) -> NDArray[np.float64]:
        """Scores minus costs ``[neuron]``, NaN where there is no MEI."""
        done = ~np.isin(meis["status"].values, (PENDING, INTERRUPTED)) & np.isfinite(meis["score"].values)
        values = np.where(done, meis["score"].values, np.nan)
        if (regularizer := self._problem.settings.regularizer) is not None:
            stimuli = meis["stimulus"].transpose(*STIMULUS_DIMENSIONS)
            for number in np.flatnonzero(done):
                values[number] -= float(regularizer(torch.from_numpy(stimuli[number].values)[None]))
        return values

    # What becomes of what they found

    def _replace(self, begun: xr.Dataset | None, found: xr.Dataset | None) -> Sequence[int]:
        """Put better MEIs in place, and say which of those that were found these are."""
        if begun is None or found is None:
            return []
        before, now = begun["value"].values, self._values(found)
        better = np.flatnonzero(now > before + self._options.least_gain * np.abs(before)).tolist()
        there = open_meis(self._store.path)
        standing = self._values(there.isel(neuron=begun["number"].values[better]))
        for one, value in zip(better, standing, strict=True):
            # Otherwise a call that was interrupted has put it there; one that was killed meanwhile has left none.
            if not value >= now[one]:
                self._store.write(_result(found.isel(neuron=one), there, int(begun["number"].values[one])))
        self._store.collect()
        return better

    def _note(self, begun: xr.Dataset | None, found: xr.Dataset | None, better: Sequence[int]) -> None:
        """Say in the store where MEIs come from."""
        meis = open_meis(self._store.path)
        count, labels = meis.sizes["neuron"], meis["neuron"].values
        earlier = {name: meis[name].values if name in meis else None for name in _WORDS}
        sources = np.zeros(count, labels.dtype) if (it := earlier["shared_from"]) is None else it.astype(labels.dtype)
        scores = np.full(count, np.nan) if (it := earlier["score_before_sharing"]) is None else it
        steps = np.zeros(count, np.int64)
        if begun is not None and found is not None:
            numbers = begun["number"].values
            steps[numbers] = found["steps"].values
            sources[numbers[better]] = begun["donor"].values[better]
            scores[numbers[better]] = begun["score"].values[better]
        values = dict(zip(_WORDS, (sources, scores, steps), strict=True))
        variables = xr.Dataset({name: ("neuron", values[name], {"long_name": about}) for name, about in _WORDS.items()})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Object at records is not recognized")
            # The attributes are those of the run; without them xarray would write none.
            variables.assign_attrs(meis.attrs).to_zarr(self._store.path, mode="a", zarr_format=2, consolidated=True)


_WORDS = {
    "shared_from": "neuron whose MEI the ascent to this one began from",
    "score_before_sharing": "score of the MEI that this one replaced",
    "sharing_steps": "steps from another neuron's MEI in the last round",
}
"""What the variables of a round are."""


def _result(mei: xr.Dataset, own: xr.Dataset, number: int) -> MEIResult:
    """What an ascent found, as the result of a neuron of the store."""
    return MEIResult(
        number=number,
        stimulus=mei["stimulus"].values,
        response=mei["response"].values,
        score=float(mei["score"]),
        status=str(mei["status"].values),
        steps=int(mei["steps"]),
        best_restart=-1,
        seed=-1,
        restart_scores=own["restart_scores"].values[number],
        restart_similarity=np.nan,
    )
