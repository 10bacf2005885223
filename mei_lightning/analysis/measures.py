"""What each MEI tells by itself, in one dataset and one table."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from torch import nn

from mei_lightning.analysis.measure_list import SPACE, Copied, Measure, measures_of
from mei_lightning.analysis.one_mei import ModelProbe, OneMEI, RunFacts
from mei_lightning.analysis.populations import types_of
from mei_lightning.bars import new_bar
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel
from mei_lightning.models.loading import load_model
from mei_lightning.results.dataset import groups_of

_DIMENSIONS = ("neuron", "channel", "time", "y", "x")
_COORDINATES = (*_DIMENSIONS, "session", "index")
_LABELS = ("index", "cluster")
_BYTES_AT_A_TIME = 2**25


@in_usual_modes
def measure_meis(
    meis: xr.Dataset,
    model: nn.Module | str | None = None,
    *,
    allow_unpickling: bool = False,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> xr.Dataset:
    """Measure each MEI: its course in time, colour, place, size, orientation, motion, polarity, and how sure it is.

    Neurons are read and measured a few at a time, so that memory does not grow with the stimuli. A neuron without a
    finite stimulus and score, because it is pending or has failed, has NaN (or "", or False) everywhere; a
    measure that does not apply, such as the temporal frequency of a still image, has NaN for all.

    - ``temporal_kernel``, ``spatial_kernel``, ``explained_share``: each channel split by ``decompose``, with signs
      so that the spatial parts are positive where the dominant channel's centre is.
    - ``temporal_frequency``: see the function of that name.
    - ``temporal_contrast``, ``opponency_angle``, ``opponent``: after Höfling et al. 2024 (eLife 86860), with the peaks
      of the channel named UV, or of the dominant one if there is none. The angle needs two channels.
    - ``dominant_channel``: that of the largest norm. Place, size and polarity are measured in it.
    - ``centre_y``, ``centre_x``, ``centre_size``, ``surround_size``, ``surround_strength``, ``fit_r2``: see
      ``DifferenceOfGaussians``. In um, or in pixels if their size is not known, as the dataset's ``y`` and ``x``.
      Fitted to the shape that the stimulus has without the limits of its range, see ``unclipped_shape``.
    - ``orientation``, ``direction`` and their indices: see ``motion``; NaN where the index is below 0.2.
    - ``polarity``: with a model by the responses to a step of light and one of dark, see ``step_of_light`` and
      ``polarity_of_responses``; "" if neither raises the response. Without, by the end of the course in time, see
      ``polarity_of_course``, which does not tell ON-OFF.
    - ``clipped_share``: of values at a limit of the run's ranges; NaN if it had none.
    - ``norm_outside_receptive_field``: the share of the squared norm farther than 3 standard deviations of the fitted
      centre from its place.
    - ``seed_stability``: the dataset's ``restart_similarity``; NaN if no two starts can be compared.
    - ``held_out_score``, ``score``, ``status``, and what else the store has for the table (see ``Variable.in_table``):
      the dataset's own.

    Args:
        meis: as from ``find_meis``, or ``xarray.open_zarr("meis.zarr", chunks=None)``.
        model: as for ``MEIModule``: the model that found the MEIs, or another of the same neurons. It gives the
            polarity and, if it knows them, the neurons' types.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        The measures along ``neuron``, with ``units`` and ``long_name`` as attributes, the coordinates ``session``,
        ``index`` and, where the model knows it, ``type`` (of a group it is ""); the attributes of ``meis``.

    Raises:
        ValueError: if ``meis`` is not a dataset of MEIs, or the model has no such sessions or another stimulus.
        IndexError: if the model has no such neurons.

    Example:
        >>> cells = [("session_1", 0), ("session_1", 2)]
        >>> meis = ml.find_meis("simulated", cells, max_steps=4, progress_bar=False)
        >>> measures = ml.measure_meis(meis, "simulated", progress_bar=False)
        >>> measures.type.values.tolist(), measures.polarity.values.tolist()
        (['on_sustained', 'off_sustained'], ['ON', 'OFF'])
        >>> measures.centre_size.attrs["units"], bool((measures.centre_size < 100).all())
        ('um', True)
    """
    meis = meis.drop_encoding()
    _check_dataset(meis)
    retina = None if model is None else load_model(model, allow_unpickling=allow_unpickling)
    groups = [] if retina is None else groups_of(meis, retina)
    run, measures = RunFacts.of(meis), measures_of(meis)
    values = {it.name: it.empty(meis.sizes) for it in measures}
    computed = {it.name: it.compute for it in measures if not isinstance(it.compute, Copied)}
    for it in measures:
        if isinstance(it.compute, Copied) and it.compute.variable in meis:
            values[it.name] = meis[it.compute.variable].transpose("neuron", *it.dimensions).values
    finite = np.isfinite(meis["score"].values)
    for number, stimulus in _read(meis["stimulus"], finite, progress_bar):
        finite[number] = np.isfinite(stimulus).all()
        if finite[number]:
            mei = OneMEI(stimulus, run)
            for name, compute in computed.items():
                values[name][number] = compute(mei)
    if retina is not None and finite.any():
        probe = ModelProbe(
            model=retina,
            neurons=[groups[number] for number in np.flatnonzero(finite)],
            measured={name: values[name][finite] for name in computed},
            run=run,
            time_steps=meis.sizes["time"],
            accelerator=accelerator,
            progress_bar=progress_bar,
        )
        for it in measures:
            if it.with_model is not None:
                values[it.name][finite] = it.with_model(probe)
    return _labelled(measures, values, meis, retina)


def measures_table(measures: xr.Dataset) -> pd.DataFrame:
    """The measures as a table with a row for each neuron.

    Args:
        measures: as from ``measure_meis``; further variables along ``neuron`` become columns as well.

    Returns:
        Indexed by ``neuron``, with the columns ``session``, ``index``, ``type`` if known, and a column for each measure
        that is one value, e.g. ``centre_size``, or one value for each channel, e.g. ``temporal_frequency_green``.
        Kernels are left out. Its ``attrs["units"]`` has the unit of each column, and ``attrs["long_name"]`` what it is.

    Example:
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], max_steps=4, progress_bar=False)
        >>> table = ml.measures_table(ml.measure_meis(meis, "simulated", progress_bar=False))
        >>> table.loc["session_1/0", ["session", "type", "polarity"]].tolist()
        ['session_1', 'on_sustained', 'ON']
        >>> table.attrs["units"]["centre_size"], table.attrs["units"]["temporal_frequency_UV"]
        ('um', 'Hz')
    """
    columns = {name: measures[name] for name in ("session", "index", "type") if name in measures.coords}
    for name, variable in measures.data_vars.items():
        if variable.dims == ("neuron",):
            columns[str(name)] = variable
        elif variable.dims == ("neuron", "channel"):
            columns.update(
                {f"{name}_{channel}": variable.sel(channel=channel) for channel in variable["channel"].values}
            )
    table = pd.DataFrame({name: column.values for name, column in columns.items()}, index=measures["neuron"].values)
    for fact in ("units", "long_name"):
        table.attrs[fact] = {name: column.attrs.get(fact, "") for name, column in columns.items()}
    return table.rename_axis("neuron")


def columns_with_median(table: pd.DataFrame) -> list[str]:
    """The columns of a table that have a middle: numbers, but neither angles on a circle nor labels of groups.

    Args:
        table: as from ``measures_table``.
    """
    units = table.attrs["units"]
    numbers = [name for name in table.columns if table[name].dtype.kind in "fiu" and name not in _LABELS]
    # Where an angle counts as low depends on where the circle is cut.
    return [name for name in numbers if units[name] != "degrees"]


def _check_dataset(meis: xr.Dataset) -> None:
    missing = [name for name in ("stimulus", "score", "status") if name not in meis]
    missing += [name for name in _COORDINATES if name not in meis.coords]
    if missing:
        raise InvalidValueError(f"This is not a dataset of MEIs, as from find_meis: it has no {', '.join(missing)}.")


def _read(stimuli: xr.DataArray, chosen: np.ndarray, progress_bar: bool) -> Iterator[tuple[int, np.ndarray]]:
    """The stimuli of chosen neurons, a few read at a time, with their numbers."""
    numbers = np.flatnonzero(chosen)
    stimuli = stimuli.transpose(*_DIMENSIONS)
    at_a_time = max(1, _BYTES_AT_A_TIME // max(1, stimuli[:1].nbytes))
    with new_bar("Measures", len(numbers), "neurons", disable=not progress_bar) as bar:
        for start in range(0, len(numbers), at_a_time):
            block = numbers[start : start + at_a_time]
            for number, stimulus in zip(block.tolist(), stimuli.isel(neuron=block).values, strict=True):
                yield number, stimulus
                bar.update()


def _labelled(
    measures: Sequence[Measure], values: dict[str, np.ndarray], meis: xr.Dataset, retina: RetinaModel | None
) -> xr.Dataset:
    space = meis["y"].attrs.get("units", "pixel")
    variables = {}
    for it in measures:
        array = values[it.name].astype(str) if values[it.name].dtype == object else values[it.name]
        facts = {"units": space if it.units == SPACE else it.units, "long_name": it.long_name}
        variables[it.name] = (("neuron", *it.dimensions), array, facts)
    labels = {name: meis[name] for name in _COORDINATES}
    measured = xr.Dataset(variables, labels, meis.attrs)
    types = None if retina is None else types_of(meis, retina)
    return measured if types is None else measured.assign_coords(type=("neuron", types))
