"""The analysis of a store of MEIs, kept beside it."""

import os
import shutil
import uuid
from pathlib import Path

import xarray as xr
from torch import nn

from mei_lightning.analysis.measures import measure_meis, measures_table

ANALYSIS = "analysis.zarr"
TABLE = "measures.csv"


def analyze_meis(
    store: str | Path,
    model: nn.Module | str | None = None,
    *,
    overwrite: bool = False,
    allow_unpickling: bool = False,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> xr.Dataset:
    """Analyse the MEIs of a store, and keep what is found beside it.

    Makes ``analysis.zarr``, the returned dataset, and ``measures.csv``, a table with a row for each neuron (see
    ``measures_table``), in the store's directory. They appear once they are complete.

    Args:
        store: where the MEIs are, e.g. ``results/meis.zarr``.
        model: as for ``MEIModule``: the model that found the MEIs, or another of the same neurons; see
            ``measure_meis`` for what it is needed for.
        overwrite: replace an earlier analysis.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        The measures of each neuron; see ``measure_meis``.

    Raises:
        FileNotFoundError: if there is nothing at ``store``.
        FileExistsError: if there is an analysis already, and ``overwrite`` is False.
        ValueError: if ``store`` does not hold MEIs, or the model has no such sessions or another stimulus.
        IndexError: if the model has no such neurons.
    """
    store = Path(store)
    if not store.exists():
        raise FileNotFoundError(f"There is no store of MEIs at {store}.")
    targets = [store.parent / ANALYSIS, store.parent / TABLE]
    for target in targets:
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} exists already. Say overwrite=True to replace it, or move it.")
    with xr.open_zarr(store, chunks=None) as meis:
        parts = [
            measure_meis(
                meis, model, allow_unpickling=allow_unpickling, accelerator=accelerator, progress_bar=progress_bar
            ),
        ]
    analysis = xr.merge(parts, combine_attrs="override")
    hidden = [target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial") for target in targets]
    try:
        analysis.drop_encoding().to_zarr(hidden[0], mode="w-", zarr_format=2, consolidated=True)
        measures_table(analysis).to_csv(hidden[1])
        for partial, target in zip(hidden, targets, strict=True):
            _replace(partial, target)
    finally:
        shutil.rmtree(hidden[0], ignore_errors=True)
        hidden[1].unlink(missing_ok=True)
    return analysis


def _replace(new: Path, target: Path) -> None:
    if not target.is_dir():
        os.replace(new, target)
        return
    # A directory cannot take another's place.
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex}.old")
    os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old)
