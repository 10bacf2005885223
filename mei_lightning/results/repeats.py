"""MEIs that were found several times, from other starts each time."""

from pathlib import Path

import xarray as xr

from mei_lightning.results.comparison import Comparison

REPEATS = Comparison("repeat", "repeats=... (on the command line --repeats ...)")


def open_repeats(directory: str | Path) -> xr.Dataset:
    """MEIs with those of their repeats, from ``find_meis(repeats=..., directory=...)``.

    Args:
        directory: that of the call. In it ``meis.zarr`` is the store of the MEIs, ``repeat_1/meis.zarr`` that of the
            first repeat, and ``repeats.zarr`` has how they compare.

    Returns:
        The dataset that the call returns; values are read as they are used.

    Raises:
        FileNotFoundError: if there is no such comparison, or only one that is older than the MEIs, as while a run goes
            on. The same call of ``find_meis`` makes it.

    Example:
        >>> options = {"search": "quick", "repeats": 2, "directory": "results", "progress_bar": False}
        >>> found = ml.find_meis("simulated", [("session_1", 0)], **options)
                 converged  median score  median steps
        ...
        >>> meis = ml.open_repeats("results")
        >>> meis.aligned_similarity.round(2).values.tolist(), meis.optima.values.tolist()
        ([[1.0, 1.0]], [1.0])
    """
    return REPEATS.open(directory)
