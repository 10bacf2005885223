"""The analysis of a store of MEIs, kept beside it."""

import shutil
import uuid
import warnings
from pathlib import Path

import xarray as xr
from torch import nn

from mei_lightning.analysis.clusters import cluster_meis
from mei_lightning.analysis.controls import compare_with_standard_stimuli
from mei_lightning.analysis.cross_responses import (
    cross_responses,
    selectivity_index,
    type_responses,
    type_selectivity_index,
)
from mei_lightning.analysis.curvature import mei_curvature
from mei_lightning.analysis.measures import measure_meis, measures_table
from mei_lightning.analysis.populations import neurons_with_mei
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import AlreadyThereError, InvalidValueError
from mei_lightning.models.base import RetinaModel, weights_digest
from mei_lightning.models.loading import load_model
from mei_lightning.objectives import MeanReducer, Reducer
from mei_lightning.paths import local_path
from mei_lightning.results.dataset import check_store, open_meis, reducer_of
from mei_lightning.results.disk_errors import check_writable
from mei_lightning.results.freshness import DIGEST, is_current, meis_digest
from mei_lightning.results.replacing import put_in_place

ANALYSIS = "analysis.zarr"
TABLE = "measures.csv"
ANOTHER_DIRECTORY = " (directory=..., on the command line --directory)"
HOW_TO_RENEW = "Make it anew: mei-lightning report STORE --analyze true (--model MODEL) --overwrite true."


@in_usual_modes
def analyze_meis(
    store: str | Path,
    model: nn.Module | str | None = None,
    *,
    directory: str | Path | None = None,
    overwrite: bool = False,
    curvature: bool = False,
    allow_unpickling: bool = False,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> xr.Dataset:
    """Analyse the MEIs of a store, and keep what is found beside it.

    Makes ``analysis.zarr``, the returned dataset, and ``measures.csv``, a table with a row for each neuron (see
    ``measures_table``). They appear once they are complete.

    Args:
        store: where the MEIs are, e.g. ``results/meis.zarr``.
        model: as for ``MEIModule``: the model that found the MEIs, or another of the same neurons; see
            ``measure_meis`` for what it is needed for.
        directory: where to keep them; by default the store's directory.
        overwrite: replace an earlier analysis.
        curvature: whether to measure how far each MEI is determined as well, see ``mei_curvature``. That needs the
            model, and takes as long as 20 to 25 steps of the search for each neuron, more than all else.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        The measures of each neuron, see ``measure_meis``, and its ``cluster`` and place on a ``map``, see
        ``cluster_meis``. With a model also ``cross_response`` and ``selectivity_index``, ``type_response`` and
        ``type_selectivity_index`` where the model has types, and the best standard stimuli with ``excitation_ratio``,
        see ``cross_responses`` and ``compare_with_standard_stimuli``. They take responses over time as the run did;
        where it made scores in a way of its own, by their mean, without standard stimuli and curvature, and with a
        warning.

    Raises:
        FileNotFoundError: if there is nothing at ``store``.
        FileExistsError: if there is an analysis already, and ``overwrite`` is False.
        PermissionError: if the directory cannot be written to; nothing has been computed by then.
        ValueError: if ``store`` does not hold MEIs, the model has no such sessions or another stimulus, or there is
            no model, or the run had a mask, and ``curvature`` is True.
        IndexError: if the model has no such neurons.

    Example:
        >>> spot = torch.exp(-(torch.arange(-4, 5)[:, None] ** 2 + torch.arange(-4, 5) ** 2) / 4)
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(81, 2), torch.nn.Softplus())
        >>> network[1].weight.data = torch.stack([spot.flatten(), -spot.flatten()])
        >>> model = ml.RetinaModel(network, ml.StimulusFormat(("grey",), height=9, width=9, pixel_size=50.0))
        >>> store = ml.save_dataset(ml.find_meis(model, [0, 1], progress_bar=False), "meis.zarr")
        >>> analysis = ml.analyze_meis(store, model, progress_bar=False)
        >>> analysis.polarity.values.tolist()
        ['ON', 'OFF']
        >>> analysis.centre_size.values.round().tolist()  # sqrt(2) pixels of 50 um
        [71.0, 71.0]
    """
    store = check_store(store)
    place = store.parent if directory is None else local_path("directory", directory)
    targets = [place / ANALYSIS, place / TABLE]
    for target in targets:
        if target.exists() and not overwrite:
            raise AlreadyThereError(f"{target} exists already. Say overwrite=True to replace it, or move it.")
    check_writable(place, ANOTHER_DIRECTORY)
    if curvature and model is None:
        raise InvalidValueError("curvature=True, but there is no model to measure it with: give the model.")
    with open_meis(store) as meis:
        # Before anything is measured: what a run writes from here on makes the analysis an older one.
        digest = meis_digest(meis)
        retina = None if model is None else load_model(model, allow_unpickling=allow_unpickling)
        if retina is not None and weights_digest(retina) != meis.attrs["weights_digest"]:
            warnings.warn(
                f"The MEIs were found on the model '{meis.attrs['model']}', and are analysed with '{retina.name}', "
                "whose weights are others.",
                stacklevel=2,
            )
        parts = [measure_meis(meis, retina, accelerator=accelerator, progress_bar=progress_bar)]
        if retina is not None and len(neurons_with_mei(meis)) > 0:
            parts += _by_responses(meis, retina, curvature, accelerator, progress_bar)
        if len(neurons_with_mei(meis)) > 1:
            parts.append(cluster_meis(parts[0]))
    analysis = xr.merge(parts, combine_attrs="override", compat="no_conflicts")
    if "adjusted_rand_index" in parts[-1].attrs:
        analysis.attrs["adjusted_rand_index"] = parts[-1].attrs["adjusted_rand_index"]
    analysis.attrs[DIGEST] = digest
    place.mkdir(parents=True, exist_ok=True)
    hidden = [target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial") for target in targets]
    try:
        analysis.drop_encoding().to_zarr(hidden[0], mode="w-", zarr_format=2, consolidated=True)
        measures_table(analysis).to_csv(hidden[1])
        for partial, target in zip(hidden, targets, strict=True):
            put_in_place(partial, target)
    finally:
        shutil.rmtree(hidden[0], ignore_errors=True)
        hidden[1].unlink(missing_ok=True)
    return analysis


def current_analysis(store: str | Path, directory: str | Path | None = None) -> xr.Dataset | None:
    """The analysis beside a store, or in another directory, if there is one of the MEIs as they are now.

    Warns of one that is older than the MEIs, or of others, and leaves it out.
    """
    store = local_path("store", store)
    path = (store.parent if directory is None else local_path("directory", directory)) / ANALYSIS
    if not path.exists():
        return None
    with xr.open_zarr(path, chunks=None) as opened, xr.open_zarr(store, chunks=None) as meis:
        if is_current(opened, meis):
            return opened.drop_encoding().load()
    warnings.warn(
        f"{path} is older than the MEIs of {store}, or of others, and is left out. {HOW_TO_RENEW}", stacklevel=2
    )
    return None


def _by_responses(
    meis: xr.Dataset, retina: RetinaModel, curvature: bool, accelerator: str, progress_bar: bool
) -> list[xr.Dataset]:
    """How the neurons respond to each other's MEIs, and to standard stimuli, and around their own if asked for."""
    reducer: Reducer
    known = True
    try:
        reducer = reducer_of(meis)
    except ValueError:
        reducer = MeanReducer()
        known = False
        warnings.warn(
            f"The run's score, {meis.attrs['score']}, is not the response itself: responses across neurons are means "
            "over time, and MEIs are not compared with standard stimuli"
            f"{', nor is their curvature measured' if curvature else ''}.",
            stacklevel=3,
        )
    responses = cross_responses(retina, meis, reducer=reducer, accelerator=accelerator, progress_bar=progress_bar)
    found = [responses.to_dataset().reset_coords("grey_response"), selectivity_index(responses).to_dataset()]
    if "type" in responses.coords and (responses["type"] != "").any():
        found += [type_responses(responses).to_dataset(), type_selectivity_index(responses).to_dataset()]
    if known:
        found.append(
            compare_with_standard_stimuli(
                retina, meis, reducer=reducer, accelerator=accelerator, progress_bar=progress_bar
            )
        )
        if curvature:
            found.append(
                mei_curvature(retina, meis, reducer=reducer, accelerator=accelerator, progress_bar=progress_bar)
            )
    return found
