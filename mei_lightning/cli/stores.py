"""The commands that go on from a store of MEIs."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mei_lightning.analysis.analyze import ANALYSIS, TABLE, analyze_meis, current_analysis
from mei_lightning.analysis.held_out import score_held_out
from mei_lightning.analysis.measures import columns_with_median, measures_table
from mei_lightning.experiment.export import export_for_experiment
from mei_lightning.methods.sharing import share_meis
from mei_lightning.models.base import RetinaModel
from mei_lightning.plots.stability import UNKNOWN_STABILITY
from mei_lightning.report.page import check_report, write_report
from mei_lightning.results.dataset import check_store, open_meis
from mei_lightning.results.export import export_meis
from mei_lightning.results.run_status import run_status
from mei_lightning.wording import first_few


def status(store: str) -> None:
    """Say what is done of a run, by which shard, how fast, what failed, and how long the rest takes; reads only.

    Args:
        store: where the MEIs are, e.g. results/meis.zarr.
    """
    told = run_status(store)
    table = told["shards"].rename(columns=lambda name: name.replace("_", " "))
    print(table.round(1).to_string(index=False, na_rep="?"))
    print(f"{told['done']} of {told['neurons']} neurons are done ({told['statuses']})")
    idle = told["shards"].loc[told["shards"]["state"].isin(["stopped", "not begun"]), "shard"].tolist()
    left, rate = told["minutes_left"], told["neurons_per_minute"]
    if told["done"] == told["neurons"]:
        return
    if idle:
        print(f"Not running, with neurons to find: {first_few(idle)}. The same command starts a shard again.")
    elif math.isnan(left):
        print("How long the rest takes is not known yet.")
    else:
        print(f"{rate:.3g} neurons a minute; about {left:.3g} minutes left")


_LISTED = 20
"""Neurons in a table of those with the largest gains."""


def analyze(
    store: str,
    model: RetinaModel | str | None = None,
    directory: str | None = None,
    overwrite: bool = False,
    curvature: bool = False,
    allow_unpickling: bool = False,
    accelerator: str = "auto",
) -> None:
    """Measure the MEIs of a store, and keep the measures beside it: analysis.zarr and the table measures.csv.

    Args:
        store: where the MEIs are, e.g. results/meis.zarr.
        model: the model that found the MEIs; as for fit. Without it, ON-OFF neurons are not told from ON and OFF, and
            there are no types.
        directory: where to keep them; by default that of the store.
        overwrite: replace an earlier analysis.
        curvature: measure how far each MEI is determined as well; with a model, and much slower than all else.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        accelerator: as for Lightning's trainer.
    """
    analysis = analyze_meis(
        store,
        model,
        directory=directory,
        overwrite=overwrite,
        curvature=curvature,
        allow_unpickling=allow_unpickling,
        accelerator=accelerator,
    )
    table = measures_table(analysis)
    print(table[columns_with_median(table)].describe().T[["count", "min", "50%", "max"]].round(3).to_string())
    print(f"Polarity: {table['polarity'].value_counts().to_dict()}; opponent: {int(table['opponent'].sum())}")
    if table["seed_stability"].isna().all():
        print(UNKNOWN_STABILITY)
    place = Path(store).parent if directory is None else Path(directory)
    print(f"Measures of {len(table)} neurons: {place / TABLE} (table) and {place / ANALYSIS} (dataset)")


def report(
    store: str,
    target: str | None = None,
    directory: str | None = None,
    overwrite: bool = False,
    analyze: bool = False,
    model: RetinaModel | str | None = None,
    allow_unpickling: bool = False,
) -> None:
    """Make one HTML page of a store of MEIs, with figures and a gallery to sort and filter; it works offline.

    Args:
        store: where the MEIs are, e.g. results/meis.zarr; if they have been analysed, measures and types are used, but
            not those of an analysis that is older than the MEIs.
        target: the file to make; by default report.html in the directory.
        directory: where the analysis is, and the report goes; by default that of the store.
        overwrite: replace an earlier report.
        analyze: measure the MEIs first, if there is no analysis of them as they are now.
        model: for analyze, the model that found the MEIs; as for fit.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
    """
    check_report(store, target, overwrite, directory)
    if analyze:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            analysis = current_analysis(store, directory)
        if analysis is None:
            analyze_meis(store, model, directory=directory, overwrite=True, allow_unpickling=allow_unpickling)
            print(f"Analysis: {(Path(store).parent if directory is None else Path(directory)) / ANALYSIS}")
    print(f"Report: {write_report(store, target, directory=directory, overwrite=overwrite)}")


def validate(
    store: str,
    retina: RetinaModel | str,
    members: list[int] | None = None,
    target: str | None = None,
    allow_unpickling: bool = False,
    accelerator: str = "auto",
) -> None:
    """Score the MEIs of a store on models that had no part in finding them, and keep the scores in the store.

    Args:
        store: where the MEIs are, e.g. results/meis.zarr.
        retina: the other model, or the ensemble that has it as members; as for fit.
        members: which members of the ensemble had no part in finding the MEIs.
        target: a table to write (.csv) in place of the store's variable.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        accelerator: as for Lightning's trainer.
    """
    held_out = score_held_out(
        store, retina, members, target=target, allow_unpickling=allow_unpickling, accelerator=accelerator
    ).dropna("neuron")
    score = xr.open_zarr(store, chunks=None)["score"].sel(neuron=held_out["neuron"])
    table = pd.DataFrame({"score": score.values, "held_out_score": held_out.values})
    print(table.describe().round(3).to_string())
    place = f"variable held_out_score of {store}" if target is None else target
    print(f"Held-out scores of {len(table)} neurons: {place}")


def share(
    store: str,
    model: RetinaModel | str,
    donors: int = 32,
    least_share: float = 0.0,
    least_gain: float = 0.001,
    mask: str | None = None,
    allow_unpickling: bool = False,
    accelerator: str = "auto",
) -> None:
    """Let each neuron of a store try the MEIs of others, and replace its own where it finds a better one from there.

    Args:
        store: where the MEIs are, e.g. results/meis.zarr.
        model: the model that found the MEIs; as for fit.
        donors: how many other neurons' MEIs each neuron tries.
        least_share: an ascent begins if the best of them scores more than this share of what the neuron's own MEI does.
        least_gain: an MEI is replaced if the score rises by more than this share of itself.
        mask: that of the run, if it had one: the path of an array (.npy).
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        accelerator: as for Lightning's trainer.
    """
    before = open_meis(check_store(store))["score"].load()
    meis = share_meis(
        store,
        model,
        donors=donors,
        least_share=least_share,
        least_gain=least_gain,
        mask=mask,
        allow_unpickling=allow_unpickling,
        accelerator=accelerator,
    )
    gain = ((meis["score"] - before) / np.abs(before)).to_series()
    better = gain[gain > 0]
    if len(better):
        table = meis[["shared_from", "score"]].sel(neuron=better.index).to_dataframe()[["shared_from", "score"]]
        print(table.assign(gain=better).sort_values("gain", ascending=False).round(3).head(_LISTED).to_string())
    print(f"{len(better)} of {len(gain)} neurons have a better MEI: {store}")


def export(store: str, target: str) -> None:
    """Copy the MEIs of a store into one file.

    Args:
        store: where the MEIs are, e.g. results/meis.zarr.
        target: the file to make; .nc is NetCDF4, .h5 the same for programs that read HDF5, .npz is numpy's.
    """
    print(f"MEIs: {export_meis(store, target)}")


def experiment(
    store: str,
    directory: str,
    neurons: list[str],
    **options: Any,
) -> None:
    """Write MEIs as a projector shows them: 8-bit frames (numpy, lossless video), what they are, and a PsychoPy script.

    Args:
        store: where the MEIs are, e.g. results/meis.zarr.
        directory: where to write.
        neurons: labels in the order of showing, e.g. "[session_1/5,session_1/7]".
    """
    shown = export_for_experiment(store, directory, neurons, **options)
    print(shown.levels.to_string(index=False))
    print(f"{len(shown.frames)} frames, {len(shown.frames) / shown.frame_rate:.1f} s: {directory}")
