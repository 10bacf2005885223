"""The page: what a run found, with figures, and a gallery of all MEIs to sort, filter and open."""

import base64
import hashlib
import importlib.resources
import json
import shlex
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jinja2 import Environment
from markupsafe import Markup
from matplotlib.figure import Figure

from mei_lightning import __version__
from mei_lightning.analysis.analyze import ANALYSIS, ANOTHER_DIRECTORY, HOW_TO_RENEW, current_analysis
from mei_lightning.analysis.held_out import HELD_OUT_SCORE
from mei_lightning.analysis.measures import columns_with_median, measures_table
from mei_lightning.exceptions import AlreadyThereError, InvalidValueError
from mei_lightning.paths import local_path
from mei_lightning.plots.across import plot_cross_responses
from mei_lightning.plots.drawing import window_of
from mei_lightning.plots.frames import dataset_stimulus_format
from mei_lightning.plots.gallery import plot_gallery
from mei_lightning.plots.measures import plot_chromatic_contrast, plot_measures, plottable_measures
from mei_lightning.plots.stability import UNKNOWN_STABILITY, plot_seed_stability, stability_is_known
from mei_lightning.plots.style import (
    RESPONSE_COLOR,
    channel_colors,
    displayed_unit,
    figure_of,
    readable,
)
from mei_lightning.report.comparisons import OF_NEURONS, compared_of_neurons, comparison_section
from mei_lightning.report.parts import Picture, Table, in_four_digits, picture
from mei_lightning.report.records import neuron_records, pixels_that_fit
from mei_lightning.results.comparison import together
from mei_lightning.results.configuration import as_text, read_configuration, to_read
from mei_lightning.results.dataset import check_store
from mei_lightning.results.disk_errors import check_writable
from mei_lightning.results.members import MEMBERS
from mei_lightning.results.repeats import REPEATS
from mei_lightning.results.replacing import replace
from mei_lightning.results.schema import report_variables
from mei_lightning.wording import how_many

REPORT = "report.html"
_COMPARISONS = (MEMBERS, REPEATS)


def write_report(
    store: str | Path,
    target: str | Path | None = None,
    *,
    directory: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Make one self-contained HTML page of a store of MEIs.

    The page has a summary of the run, tables, figures, and an animated gallery of all neurons, to sort and filter by
    session, type, score, status and any measure; each neuron opens with its movie, parts in space and time, response,
    starts and measures. It needs no server, no network and no other file. If there is an ``analysis.zarr`` (see
    ``analyze_meis``) beside the store, its measures and types are used, unless it is older than the MEIs, or of others:
    then it is left out, with a warning. If the MEIs were found with ``per_member=True``, a section compares the
    ensemble's with those of its members; if with ``repeats``, one compares them with those.

    Movies are of 8 bits a value. Where the stimuli of all neurons would make the page larger than about 100 MB,
    squares of pixels are averaged, and the page says so.

    Args:
        store: where the MEIs are, e.g. ``results/meis.zarr``; a run may still be writing to it.
        target: the file to make; by default ``report.html`` in the directory.
        directory: where the analysis is, and the report goes; by default the store's directory.
        overwrite: replace an earlier report.

    Returns:
        ``target``. It appears once it is complete.

    Raises:
        FileNotFoundError: if there is nothing at ``store``.
        FileExistsError: if there is something at ``target``, and ``overwrite`` is False.
        PermissionError: if its directory cannot be written to; nothing has been drawn by then.
        ValueError: if ``store`` has no neurons, or is no store of MEIs.

    Example:
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], max_steps=4, progress_bar=False)
        >>> store = ml.save_dataset(meis, "meis.zarr")
        >>> page = ml.write_report(store)
        >>> page.name, "session_1/0" in page.read_text(encoding="utf-8")
        ('report.html', True)
    """
    target = check_report(store, target, overwrite, directory)
    store = check_store(store)
    place = _directory(store, directory)
    with xr.open_zarr(store, chunks=None) as meis:
        if meis.sizes["neuron"] == 0:
            raise InvalidValueError(f"{store} has no neurons: there is nothing to report.")
        # All but the stimuli, once, so that a run that goes on cannot make parts of the page differ.
        stimuli = ["stimulus", *(kind.stimulus for kind in _COMPARISONS)]
        known = meis.assign(meis.drop_vars(stimuli, errors="ignore").load())
        beside = [meis if kind.stimulus in meis else kind.beside(store) for kind in _COMPARISONS]
        compared = [together(meis, one) for one in beside if one is not None]
        parts = _parts(known, current_analysis(store, place), _without_analysis(store, place), compared)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_package_file("template.html"))
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        with hidden.open("w", encoding="utf-8") as file:
            file.writelines(template.generate(parts))
        replace(hidden, target)
    finally:
        hidden.unlink(missing_ok=True)
    return target


def check_report(
    store: str | Path, target: str | Path | None, overwrite: bool, directory: str | Path | None = None
) -> Path:
    """Where the report of a store will be.

    Raises:
        FileNotFoundError: if there is nothing at ``store``.
        FileExistsError: if there is something at ``target``, and ``overwrite`` is False.
        PermissionError: if its directory cannot be written to.
    """
    place = _directory(check_store(store), directory)
    target = place / REPORT if target is None else local_path("target", target)
    if target.exists() and not overwrite:
        raise AlreadyThereError(f"{target} exists already. Say overwrite=True to replace it, or give another name.")
    check_writable(target.parent, ANOTHER_DIRECTORY)
    return target


def _directory(store: Path, directory: str | Path | None) -> Path:
    return store.parent if directory is None else local_path("directory", directory)


def _package_file(name: str) -> str:
    return importlib.resources.files("mei_lightning.report").joinpath(name).read_text(encoding="utf-8")


def _without_analysis(store: Path, place: Path) -> str:
    """What the page says where there is no analysis of this state of a store."""
    if (place / ANALYSIS).exists():
        return f"The analysis is older than these MEIs, or of others, and is left out. {HOW_TO_RENEW}"
    elsewhere = [] if place == store.parent else ["--directory", str(place)]
    command = shlex.join(["mei-lightning", "analyze", str(store), *elsewhere])
    return f"There are no measures and types. Make them, and then the report again: {command}"


def _parts(
    meis: xr.Dataset, analysis: xr.Dataset | None, without_analysis: str, compared: Sequence[xr.Dataset]
) -> dict[str, Any]:
    """All that the template shows."""
    meis, analysis = _with_known_stability(meis, analysis)
    for one in compared:
        meis = meis.assign(compared_of_neurons(one))
    table = _neuron_table(meis, analysis)
    pixels = pixels_that_fit({str(name): size for name, size in meis["stimulus"].sizes.items()})
    records = list(neuron_records(meis, analysis, pixels))
    labelled = meis
    if analysis is not None and "type" in analysis.coords:
        labelled = meis.assign_coords(type=("neuron", analysis["type"].values))
    with_kernels = labelled.drop_vars("stimulus").assign(
        temporal_kernel=(("neuron", "channel", "time"), np.stack([record.temporal for record in records])),
        spatial_kernel=(("neuron", "channel", "y", "x"), np.stack([record.spatial for record in records])),
    )
    script, configuration = _package_file("report.js"), read_configuration(meis.attrs.get("configuration", "{}"))
    model = str(meis.attrs.get("model", ""))
    return {
        "title": f"MEIs of {model}" if model else "MEIs",
        "version": __version__,
        "style": Markup(_package_file("report.css")),
        "script": Markup(script),
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "facts": _facts(meis, configuration),
        "notes": _notes(meis, analysis, without_analysis, pixels),
        "configuration": json.dumps(to_read(configuration), indent=2, ensure_ascii=False),
        "tables": _tables(table),
        "comparisons": [comparison_section(meis, one) for one in compared],
        "figures": _pictures(with_kernels, analysis),
        "data": _as_json(_page_data(meis, table, pixels)),
        "records": records,
    }


def _with_known_stability(meis: xr.Dataset, analysis: xr.Dataset | None) -> tuple[xr.Dataset, xr.Dataset | None]:
    """MEIs and analysis without the similarity of starts of which fewer than two were optimised to the end."""
    known = xr.DataArray(stability_is_known(meis), dims="neuron")
    meis = meis.assign(restart_similarity=meis["restart_similarity"].where(known))
    if analysis is not None and "seed_stability" in analysis:
        analysis = analysis.assign(seed_stability=analysis["seed_stability"].where(known))
    return meis, analysis


def _neuron_table(meis: xr.Dataset, analysis: xr.Dataset | None) -> pd.DataFrame:
    """What is shown of each neuron, as from ``measures_table``: what the run says of it, then its measures."""
    names = [*(it.name for it in report_variables()), HELD_OUT_SCORE, *OF_NEURONS]
    of_run = xr.Dataset({name: meis[name] for name in names if name in meis})
    of_run = of_run.assign_coords(session=meis["session"], index=meis["index"])
    table = measures_table(of_run)
    facts = table.attrs
    if analysis is not None:
        measured = measures_table(analysis)
        table = pd.concat([table, measured[measured.columns.difference(table.columns, sort=False)]], axis=1)
        facts = {fact: measured.attrs[fact] | of_columns for fact, of_columns in facts.items()}
    if not (table["session"] != "").any():
        table = table.drop(columns="session")
    known = [name for name in table.columns if name in ("score", "status") or table[name].notna().any()]
    table = table[known]
    table.attrs = facts
    return table


def _facts(meis: xr.Dataset, configuration: dict[str, Any]) -> list[tuple[str, str]]:
    facts = dataset_stimulus_format(meis)
    counts = pd.Series(meis["status"].values.astype(str)).value_counts()
    pixel = "" if facts.pixel_size is None else f" of {facts.pixel_size:.4g} µm"
    frames = "still images" if facts.frame_rate is None else f"{meis.sizes['time']} frames at {facts.frame_rate:.4g} Hz"
    shown = [
        ("Model", str(meis.attrs.get("model", "unknown"))),
        ("Weights", str(meis.attrs.get("weights_digest", "unknown"))[:12]),
        ("Score", str(meis.attrs.get("score", "unknown"))),
        ("Neurons", str(meis.sizes["neuron"])),
        ("Status", ", ".join(f"{count} {status}" for status, count in counts.items())),
        ("Stimulus", f"{', '.join(facts.channel_names)}; {frames}; {facts.height} x {facts.width} pixels{pixel}"),
        ("Starts of each neuron", str(meis.sizes["restart"])),
    ]
    named = {
        "constraint": "Constraint",
        "regularizer": "Regularizer",
        "optimizer": "Optimizer",
        "max_steps": "Most steps",
    }
    return shown + [
        (label, as_text(setting)) for key, label in named.items() if (setting := configuration.get(key)) is not None
    ]


def _notes(meis: xr.Dataset, analysis: xr.Dataset | None, without_analysis: str, pixels: int) -> list[str]:
    notes = []
    unfinished = int(meis["status"].isin(["pending", "interrupted"]).sum())
    if unfinished:
        notes.append(f"{unfinished} of {meis.sizes['neuron']} neurons are not finished.")
    if analysis is None:
        notes.append(without_analysis)
    if unfinished < meis.sizes["neuron"] and not stability_is_known(meis).any():
        notes.append(UNKNOWN_STABILITY)
    if pixels > 1:
        notes.append(
            f"The movies show means of {pixels} x {pixels} pixels, so that the page does not become too large."
        )
    return notes


def _tables(table: pd.DataFrame) -> list[Table]:
    tables = []
    for key in ("type", "session"):
        if key in table and table[key].nunique() > 1:
            rows = [
                (
                    str(name) or "unknown",
                    str(len(group)),
                    f"{np.mean(group['status'] == 'converged'):.0%}",
                    *(
                        in_four_digits(float(group[column].median()))
                        for column in ("score", "restart_similarity")
                        if column in group
                    ),
                )
                for name, group in table.groupby(key)
            ]
            medians = [f"median {readable(name)}" for name in ("score", "restart_similarity") if name in table]
            tables.append(Table(f"By {key}", (key, "neurons", "converged", *medians), rows))
    rows = []
    for name in columns_with_median(table):
        quartiles = [in_four_digits(float(table[name].quantile(share))) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
        rows.append((readable(name), _unit(table, name), str(table[name].count()), *quartiles))
    columns = ("measure", "unit", "neurons", "lowest", "first quartile", "median", "third quartile", "highest")
    return [*tables, Table("Measures", columns, rows)]


def _unit(table: pd.DataFrame, name: str) -> str:
    return displayed_unit(table.attrs["units"][name])


def _pictures(meis: xr.Dataset, analysis: xr.Dataset | None) -> list[Picture]:
    """The figures for which there is something to draw."""
    drawn: list[tuple[Callable[[], Figure], str, str]] = []
    by_type = ", by type" if "type" in meis.coords else ""
    if np.isfinite(meis["temporal_kernel"].values).all(axis=(1, 2)).any():
        drawn.append(
            (
                lambda: plot_gallery(meis),
                f"Spatial and temporal parts of MEIs{by_type}",
                f"MEIs{by_type}: the spatial parts of those of highest score, and the temporal parts of all.",
            )
        )
    if analysis is not None:
        if analysis.sizes["channel"] == 2 and np.isfinite(analysis["temporal_contrast"].values).any():
            drawn.append(
                (
                    lambda: figure_of(plot_chromatic_contrast(analysis)),
                    "Scatter plot of the temporal contrasts of both channels",
                    "Temporal contrast of both channels. In the shaded quadrants they have opposite signs: the neuron "
                    "is opponent.",
                )
            )
        if names := plottable_measures(analysis):
            drawn.append(
                (
                    lambda: plot_measures(analysis, names),
                    f"Distributions of the measures{by_type}",
                    f"Each measure{by_type}: neurons, median and the middle half; words as the share of neurons.",
                )
            )
        if "cross_response" in analysis:
            responses = analysis["cross_response"].assign_coords(grey_response=analysis["grey_response"])
            drawn.append(
                (
                    lambda: figure_of(plot_cross_responses(responses)),
                    "Matrix of the responses of all neurons to all MEIs",
                    "Every neuron's response to every MEI: 0 is its response to grey, 1 that to its own MEI.",
                )
            )
    if compared := int((stability_is_known(meis) & (meis["score"].values > 0)).sum()):
        drawn.append(
            (
                lambda: figure_of(plot_seed_stability(meis)),
                "Scatter plot of the similarity of starts and of their scores",
                "What other starts of the same neuron arrive at: one MEI at the upper right, several equally good ones "
                f"at the upper left; {how_many(compared, meis.sizes['neuron'])}, those with at least two starts "
                "optimised to the end.",
            )
        )
    return [picture(draw(), alt, caption) for draw, alt, caption in drawn]


def _page_data(meis: xr.Dataset, table: pd.DataFrame, pixels: int) -> dict[str, Any]:
    """What the script of the page reads, besides the records."""
    facts = dataset_stimulus_format(meis)
    return {
        "neurons": table.index.astype(str).tolist(),
        "channels": list(facts.channel_names),
        "colors": channel_colors(facts.channel_names),
        "responseColor": RESPONSE_COLOR,
        "frames": meis.sizes["time"],
        "height": -(-facts.height // pixels),
        "width": -(-facts.width // pixels),
        "frameRate": facts.frame_rate,
        "framesLost": facts.frames_lost,
        "responseFrames": meis.sizes["response_time"],
        "restarts": meis.sizes["restart"],
        "window": list(window_of(meis, facts)),
        "columns": [
            {"key": "neuron", "label": "label", "kind": "text", "values": table.index.astype(str).tolist()},
            *(
                {
                    "key": name,
                    "label": readable(name),
                    "units": _unit(table, name),
                    "about": table.attrs["long_name"][name],
                    **_column(table[name]),
                }
                for name in table.columns
            ),
        ],
    }


def _column(values: pd.Series) -> dict[str, Any]:
    if values.dtype.kind == "b":
        return {"kind": "text", "values": ["yes" if value else "no" for value in values]}
    if values.dtype.kind not in "fiu":
        return {"kind": "text", "values": values.astype(str).tolist()}
    return {
        "kind": "number",
        "values": [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()],
    }


def _as_json(data: dict[str, Any]) -> Markup:
    """JSON that can stand in a script element: no label can end it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
