"""Stimuli of the user's, or of an earlier run, to go on from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from mei_lightning.arguments import is_positive, load_array
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.paths import local_path
from mei_lightning.results.configuration import as_data
from mei_lightning.results.dataset import check_store
from mei_lightning.starting_points.base import InitialStimuli, NeuronStart
from mei_lightning.starting_points.seeded_noise import initial_stimulus
from mei_lightning.wording import first_few

_DIMENSIONS = ("neuron", "channel", "time", "y", "x")


class GivenStimuli(InitialStimuli):
    """Starts from given stimuli: the first restart from the stimulus itself, the others from it and noise.

    Args:
        stimuli: an array ``[channels, time, height, width]`` for all neurons, or ``[neurons, channels, ...]`` in the
            order of the run's; or MEIs as ``find_meis`` returns them, in which neurons are found by their labels; or
            the path of an array (``.npy``) or of a store of MEIs.
        noise: norm of the noise of further restarts, as a share of the stimulus' norm.

    Raises:
        ValueError: if the stimuli have other dimensions, or ``noise`` is not positive and finite.
        FileNotFoundError: if there is nothing at the path.

    Example:
        >>> cell = [("session_1", 0)]
        >>> weak = ml.find_meis("simulated", cell, norm=5.0, max_steps=8, progress_bar=False)
        >>> strong = ml.find_meis(
        ...     "simulated", cell, norm=10.0, initial=ml.GivenStimuli(weak), restarts=1, max_steps=1, progress_bar=False
        ... )
        >>> cosine = (weak.stimulus * strong.stimulus).sum() / (5.0 * 10.0)
        >>> print(f"{cosine:.2f}")
        1.00
    """

    def __init__(self, stimuli: str | Path | np.ndarray | Tensor | xr.Dataset, noise: float = 0.5) -> None:
        if not is_positive(noise):
            raise InvalidValueError(f"GivenStimuli(noise={noise!r}) has to be a positive share of the stimulus' norm.")
        self.noise = noise
        if isinstance(stimuli, str | Path):
            stimuli = _read(local_path("stimuli", stimuli))
        self._by_label = isinstance(stimuli, xr.Dataset)
        self._model: tuple[str | None, str | None] = (None, None)
        if isinstance(stimuli, xr.Dataset):
            found = stimuli["stimulus"].dims if "stimulus" in stimuli else ()
            if set(found) != set(_DIMENSIONS):
                raise InvalidValueError(
                    f"Stimuli with dimensions {', '.join(map(str, found))} are no MEIs: give an array."
                )
            self._stimuli = stimuli["stimulus"].transpose(*_DIMENSIONS)
            self._model = stimuli.attrs.get("model"), stimuli.attrs.get("weights_digest")
        else:
            values = stimuli.detach().cpu().numpy() if isinstance(stimuli, Tensor) else np.asarray(stimuli)
            if values.ndim not in (4, 5):
                raise InvalidValueError(
                    f"Stimuli of shape {values.shape} should be [channels, time, height, width], for all neurons, or "
                    "[neurons, channels, time, height, width]."
                )
            self._stimuli = xr.DataArray(values, dims=_DIMENSIONS[-values.ndim :])

    def check(self, labels: Sequence[str], shape: Sequence[int]) -> None:
        """Raise a ValueError unless each neuron has a stimulus of this shape, finite and other than 0."""
        given = tuple(self._stimuli.sizes[name] for name in _DIMENSIONS[1:])
        if given != tuple(shape):
            raise InvalidValueError(
                f"The given stimuli have shape {given} (channels, time, height, width), the model's {tuple(shape)}. "
                "Choose time_steps accordingly, or give others."
            )
        if self._by_label:
            there = self._stimuli["neuron"].values.tolist()
            if missing := sorted(set(labels) - set(there)):
                raise InvalidValueError(
                    f"There is no given stimulus for {first_few(missing)}: they are for {first_few(there)}. Leave "
                    "these neurons out, or give an array."
                )
        elif self._stimuli.ndim == len(_DIMENSIONS) and self._stimuli.sizes["neuron"] != len(labels):
            raise InvalidValueError(f"{self._stimuli.sizes['neuron']} stimuli are given for {len(labels)} neurons.")
        values = [self._of(label, number) for number, label in enumerate(labels)]
        if failed := [label for label, own in zip(labels, values, strict=True) if not np.isfinite(own).all()]:
            raise InvalidValueError(
                f"The given stimuli of {first_few(failed)} are not finite in single precision, or not there yet."
            )
        if empty := [label for label, own in zip(labels, values, strict=True) if not own.any()]:
            raise InvalidValueError(
                f"The given stimuli of {first_few(empty)} are 0 everywhere, where no direction leads to a norm. Give "
                "others, or start near 0: initial=WhiteNoise(0.01), constraint=MaximalNorm(norm)."
            )

    def check_model(self, name: str, digest: str) -> None:
        """Warn if the stimuli are MEIs of a model with other weights."""
        other, others = self._model
        if others is not None and others != digest:
            rank_zero_warn(
                f"The given stimuli are MEIs of the model '{other}' with weights {others[:12]}, and those of this run "
                f"are '{name}' with weights {digest[:12]}: neurons of the same label can be different ones."
            )

    def describe(self, labels: Sequence[str]) -> str:
        """The noise, and a digest of these neurons' stimuli."""
        return f"GivenStimuli(sha256={self._digest(labels)}, noise={self.noise:g})"

    def configuration(self, labels: Sequence[str]) -> dict[str, Any]:
        """The noise, and a digest of these neurons' stimuli."""
        return {
            "class": type(self).__name__,
            "arguments": {"sha256": self._digest(labels), "noise": as_data(self.noise)},
        }

    def __call__(self, neuron: NeuronStart, seeds: Sequence[int]) -> Tensor:
        """The neuron's stimulus, and it with noise, ``[restarts, channels, time, height, width]``."""
        given = torch.from_numpy(self._of(neuron.label, neuron.number))
        noise = initial_stimulus(seeds, neuron.shape)
        norms = noise.flatten(1).norm(dim=1)
        noise[0] = 0
        # In double precision the squares of large values are finite too.
        factors = self.noise * given.norm(dtype=torch.float64) / norms
        return given + noise * factors.to(noise.dtype).view(-1, 1, 1, 1, 1)

    def __repr__(self) -> str:
        return f"GivenStimuli(shape={tuple(self._stimuli.shape)}, noise={self.noise:g})"

    def _digest(self, labels: Sequence[str]) -> str:
        digest = hashlib.sha256()
        for number, label in enumerate(labels):
            digest.update(self._of(label, number).tobytes())
        return digest.hexdigest()[:16]

    def _of(self, label: str, number: int) -> NDArray[np.float32]:
        stimuli = self._stimuli
        if self._by_label:
            stimuli = stimuli.sel(neuron=label)
        elif "neuron" in stimuli.dims:
            stimuli = stimuli[number]
        return np.ascontiguousarray(stimuli.values, dtype=np.float32)


def _read(path: Path) -> np.ndarray | xr.Dataset:
    if path.suffix == ".npy":
        return load_array(path)
    return xr.open_zarr(check_store(path), chunks=None)
