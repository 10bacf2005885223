"""Whether an analysis is of MEIs as they are now."""

import hashlib

import numpy as np
import xarray as xr

DIGEST = "meis_digest"
"""The attribute of an analysis that says of which state of the MEIs it is."""


def meis_digest(meis: xr.Dataset) -> str:
    """What tells one state of the MEIs of a run from any other: which neurons are done, how, and with what score."""
    digest = hashlib.sha256(str(meis.attrs.get("configuration")).encode())
    for name in ("neuron", "status", "score", "steps"):
        if name in meis:
            values = meis[name].values
            number = values.dtype.kind in "fiu"
            digest.update(values.astype("<f8").tobytes() if number else "\0".join(values.astype(str)).encode())
    return digest.hexdigest()


def is_current(analysis: xr.Dataset, meis: xr.Dataset) -> bool:
    """Whether an analysis is of these MEIs as they are now.

    Args:
        analysis: as ``analyze_meis`` keeps it; one of version 0.1, which has no digest, is compared by its scores.
        meis: MEIs as ``find_meis`` returns them.
    """
    if DIGEST in analysis.attrs:
        return bool(analysis.attrs[DIGEST] == meis_digest(meis))
    return (
        analysis.attrs.get("configuration") == meis.attrs.get("configuration")
        and analysis["neuron"].values.tolist() == meis["neuron"].values.tolist()
        and np.array_equal(analysis["score"].values, meis["score"].values, equal_nan=True)
    )
