"""Which MEIs are most alike, wherever in the image they are."""

import numpy as np
import xarray as xr
from scipy import fft

from mei_lightning.analysis.populations import neurons_with_mei, position_of
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.neurons import NeuronOrGroup

_BYTES_AT_A_TIME = 2**26


def most_similar_meis(meis: xr.Dataset, neuron: str | NeuronOrGroup, n: int = 5) -> xr.DataArray:
    """The MEIs that are most like that of a neuron.

    MEIs of the same cell type lie where each cell looks, so likeness does not depend on place: it is the cosine between
    the two stimuli where one is shifted over the other, in whole pixels, so that it is largest (the peak of their
    normalised cross-correlation over space, channels and frames in step). What is shifted beyond the image counts as
    missing, so that a cosine of 1 is reached only by MEIs that are whole. It does depend on sign, time, colour,
    orientation and direction of motion.

    Args:
        meis: MEIs as from ``find_meis``; read a few at a time.
        neuron: the neuron (or group), by its label or as for ``find_meis``.
        n: how many.

    Returns:
        Similarities ``[neuron]``, the largest first, between -1 and 1; of ``n`` neurons, or of all others that have an
        MEI if there are fewer. Coordinates ``session`` and ``index``, and ``shift_y`` and ``shift_x``: how far from the
        neuron's MEI the other one lies, in the units of ``y`` and ``x``.

    Raises:
        ValueError: if there is no such neuron or it has no MEI, or ``n`` is not positive.

    Example:
        >>> cells = [("session_1", index) for index in (0, 2, 8)]  # 0 and 8 are ON sustained, 2 is OFF sustained
        >>> meis = ml.find_meis("simulated", cells, max_steps=8, progress_bar=False)
        >>> similar = ml.most_similar_meis(meis, "session_1/0")
        >>> similar.neuron.values.tolist(), similar.values.round(1).tolist()
        (['session_1/8', 'session_1/2'], [1.0, 0.1])
    """
    meis = meis.drop_encoding()
    if n < 1:
        raise InvalidValueError(f"n={n}: ask for at least one MEI.")
    position = position_of(meis, neuron)
    present = neurons_with_mei(meis)
    if position not in present:
        label = str(meis["neuron"].values[position])
        raise InvalidValueError(f"Neuron {label!r} has no MEI: its status is '{meis['status'].values[position]}'.")
    others = present[present != position]
    own = meis["stimulus"][position].values.astype(np.float64)
    # Without padding, what leaves the image on one side would come back on the other.
    padded = tuple(fft.next_fast_len(2 * length - 1, real=True) for length in own.shape[2:])
    spectrum = np.conj(fft.rfft2(own, s=padded))
    similarity, shifts = np.zeros(len(others)), np.zeros((len(others), 2), dtype=int)
    at_a_time = max(1, _BYTES_AT_A_TIME // (16 * spectrum.size))
    for start in range(0, len(others), at_a_time):
        block = slice(start, start + at_a_time)
        stimuli = meis["stimulus"][others[block]].values.astype(np.float64)
        # Products of spectra are summed over channels and frames before they are transformed back.
        product = np.einsum("cthw,ncthw->nhw", spectrum, fft.rfft2(stimuli, s=padded))
        correlation = fft.irfft2(product, s=padded)
        peaks = correlation.reshape(len(stimuli), -1).argmax(axis=1)
        norms = np.linalg.norm(own) * np.linalg.norm(stimuli.reshape(len(stimuli), -1), axis=1)
        similarity[block] = correlation.reshape(len(stimuli), -1)[np.arange(len(stimuli)), peaks] / norms
        shifts[block] = np.stack(np.unravel_index(peaks, padded), axis=1)
    size = np.array(padded)
    shifts = np.where(shifts > size // 2, shifts - size, shifts)

    first = np.argsort(-similarity, kind="stable")[:n]
    chosen = meis.isel(neuron=others[first])
    pixel_size = meis.attrs.get("pixel_size", 1.0)
    return xr.DataArray(
        similarity[first],
        dims="neuron",
        coords={
            **{name: chosen[name] for name in ("neuron", "session", "index")},
            **{
                f"shift_{axis}": ("neuron", shifts[first, number] * pixel_size, {"units": meis[axis].attrs["units"]})
                for number, axis in enumerate(("y", "x"))
            },
        },
        name="similarity",
        attrs={"units": "1", "long_name": f"similarity to the MEI of {meis['neuron'].values[position]}"},
    )
