"""MEIs of an ensemble and of its members: a store for each, and their comparison beside that of the ensemble."""

from pathlib import Path

import xarray as xr

from mei_lightning.results.comparison import Comparison

MEMBERS = Comparison("member", "per_member=True (on the command line --per_member true)")
ENSEMBLE = "ensemble"
"""The ensemble's label among those of models and MEIs."""


def label_of_member(member: int) -> str:
    """What a member is called among the labels of models and MEIs."""
    return f"member {member}"


def open_members(directory: str | Path) -> xr.Dataset:
    """The MEIs of an ensemble with those of its members, from ``find_meis(per_member=True, directory=...)``.

    Args:
        directory: that of the call. In it ``meis.zarr`` is the store of the ensemble, ``member_0/meis.zarr`` that of
            the first member, and ``members.zarr`` has how they compare.

    Returns:
        The dataset that the call returns; values are read as they are used.

    Raises:
        FileNotFoundError: if there is no such comparison, or only one that is older than the MEIs, as while a run goes
            on. The same call of ``find_meis`` makes it.

    Example:
        >>> pixels = ml.StimulusFormat(("grey",), height=1, width=2)
        >>> networks = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 1, bias=False)) for _ in range(2)]
        >>> for pixel, network in enumerate(networks):  # each member sees another pixel
        ...     network[1].weight.data = torch.eye(2)[pixel : pixel + 1]
        >>> ensemble = ml.Ensemble([ml.RetinaModel(network, pixels) for network in networks])
        >>> options = {"norm": 1.0, "directory": "results", "progress_bar": False}
        >>> found = ml.find_meis(ensemble, [0], per_member=True, **options)
                 converged  median score  median steps
        ...
        >>> meis = ml.open_members("results")
        >>> meis.member_stimulus.sel(neuron="0").values.squeeze().round(2).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return MEMBERS.open(directory)
