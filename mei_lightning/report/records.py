"""What the page holds of each neuron's stimulus, small enough that thousands fit into one file."""

import base64
import io
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from PIL import Image

from mei_lightning.analysis.decomposition import decompose_channels
from mei_lightning.plots.frames import COLORS, stimulus_to_rgb_frames

LARGEST_PAGE = 120_000_000
"""Bytes that all records may have before compression; larger stimuli are shown with coarser pixels."""

_BYTES_AT_A_TIME = 2**25
_STEPS = 127  # from 0 to the largest magnitude, in signed bytes


@dataclass(frozen=True)
class NeuronRecord:
    """One neuron's stimulus as the page has it.

    Args:
        text: the record, see ``encode``; empty if there is no finite stimulus.
        poster: the frame to see until the movie runs, see ``strongest_frame``; empty if there is no finite stimulus.
        temporal: the channels' temporal parts ``[channel, time]``, NaN if there is no finite stimulus.
        spatial: the spatial parts ``[channel, height, width]``, of all pixels.
    """

    text: str
    poster: str
    temporal: np.ndarray
    spatial: np.ndarray


def neuron_records(meis: xr.Dataset, analysis: xr.Dataset | None, pixels: int) -> Iterator[NeuronRecord]:
    """The records of all neurons, of which a few at a time are read.

    Args:
        meis: MEIs as ``find_meis`` returns them.
        analysis: where the kernels are, if they have been computed.
        pixels: side of the squares of pixels of which the page shows the mean.
    """
    stimuli = meis["stimulus"].transpose("neuron", "channel", "time", "y", "x")
    responses, restart_scores = meis["response"].values, meis["restart_scores"].values
    # A run that goes on may have written the stimulus since it was said to be pending.
    pending = meis["status"].values == "pending"
    kernels = [] if analysis is None else [analysis[name].values for name in ("temporal_kernel", "spatial_kernel")]
    at_a_time = max(1, _BYTES_AT_A_TIME // (stimuli.nbytes // stimuli.sizes["neuron"]))
    for start in range(0, stimuli.sizes["neuron"], at_a_time):
        for number, stimulus in enumerate(stimuli[start : start + at_a_time].values, start):
            if pending[number] or not np.isfinite(stimulus).all():
                nothing = np.full(stimulus.shape, np.nan, dtype=np.float32)
                yield NeuronRecord("", "", nothing[:, :, 0, 0], nothing[:, 0])
                continue
            temporal, spatial, explained = decompose_channels(stimulus)
            if kernels and np.isfinite(kernels[0][number]).all():
                temporal, spatial = (kernel[number] for kernel in kernels)
            shown = coarse(stimulus, pixels)
            text = encode(
                shown,
                explained,
                temporal,
                coarse(spatial, pixels),
                responses[number],
                restart_scores[number],
            )
            yield NeuronRecord(text, strongest_frame(shown), temporal, spatial)


def encode(
    stimulus: np.ndarray,
    shares: np.ndarray,
    temporal: np.ndarray,
    spatial: np.ndarray,
    response: np.ndarray,
    restart_scores: np.ndarray,
) -> str:
    """A record as base64 of what zlib compresses.

    Little-endian 32-bit floats: the largest magnitude of the stimulus, the explained share of each channel, the
    temporal parts, the response, the score of each start. Then signed bytes: the spatial parts, in units of 1 / 127,
    and the stimulus ``[channel, time, height, width]`` in units of its largest magnitude / 127, each frame but the
    first as the difference to the one before, modulo 256, which compresses better.
    """
    largest = float(np.abs(stimulus).max())
    levels = np.rint(stimulus * (_STEPS / largest if largest > 0 else 0.0)).astype(np.int8)
    levels[:, 1:] -= levels[:, :-1].copy()
    floats = np.concatenate([[largest], shares, temporal.ravel(), response, restart_scores]).astype("<f4")
    maps = np.rint(np.clip(spatial, -1, 1) * _STEPS).astype(np.int8)
    return base64.b64encode(zlib.compress(floats.tobytes() + maps.tobytes() + levels.tobytes())).decode()


def strongest_frame(stimulus: np.ndarray) -> str:
    """The frame of largest power as base64 of a PNG, in the colours of the movie; above three channels side by side."""
    strongest = int(np.square(stimulus).sum(axis=(0, 2, 3)).argmax())
    tiled = stimulus if len(stimulus) <= COLORS else np.concatenate(list(stimulus), axis=-1)[None]
    file = io.BytesIO()
    Image.fromarray(stimulus_to_rgb_frames(tiled)[strongest]).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def coarse(values: np.ndarray, pixels: int) -> np.ndarray:
    """Means of squares of pixels of ``[..., height, width]``; those at the far edges may have fewer pixels."""
    if pixels == 1:
        return values
    for axis in (-2, -1):
        starts = np.arange(0, values.shape[axis], pixels)
        counts = np.diff(np.append(starts, values.shape[axis]))
        values = np.add.reduceat(values, starts, axis=axis) / (counts[:, None] if axis == -2 else counts)
    return values


def pixels_that_fit(sizes: dict[str, int]) -> int:
    """The smallest side of squares of pixels with which the records of all neurons stay below ``LARGEST_PAGE``.

    Args:
        sizes: of the dimensions ``neuron, channel, time, y, x``.
    """
    pixels = 1
    frames = sizes["time"] + 1  # that of the poster is one more
    while sizes["neuron"] * sizes["channel"] * frames * math.ceil(sizes["y"] / pixels) * math.ceil(
        sizes["x"] / pixels
    ) * 4 / 3 > LARGEST_PAGE and pixels < max(sizes["y"], sizes["x"]):
        pixels += 1
    return pixels
