"""The story of Höfling et al. 2024 (eLife 86860) on the built-in models, from MEIs to a cell type that sees colour.

The paper finds MEIs on a network that was trained on the retina, sees that one type's MEIs have opposite contrast in
green and UV, and shows the MEIs to the retina itself. Here the network is the digital twin, and the retina is the
simulated one that the twin was trained on:

1. the MEI of every neuron of the digital twin;
2. the contrast of both channels in each MEI, by type: one type lies beyond the opponency boundary;
3. the MEIs of all types shown to the cells of the simulated retina: those of the opponent type excite no other type;
4. a figure of it all.

python scripts/reproduce_hoefling.py
"""

import argparse

import matplotlib as mpl
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mei_lightning import (
    NeuronSelection,
    analyze_meis,
    chromatic_landscape,
    compare_with_standard_stimuli,
    cross_responses,
    find_meis,
    load_model,
    plot_chromatic_contrast,
    plot_chromatic_landscape,
    save_figure,
    type_responses,
    write_report,
)
from mei_lightning.paths import local_path
from mei_lightning.plots.style import STYLE, readable


def main() -> None:
    """Find MEIs, analyse them, show them to the simulated retina, and draw the figure."""
    parser = argparse.ArgumentParser(description="The story of Höfling et al. 2024 on the built-in models.")
    parser.add_argument("--sessions", nargs="*", help="recording sessions; all by default")
    parser.add_argument("--per-session", type=int, help="only so many neurons of each session; all by default")
    parser.add_argument("--search", default="quick", choices=["quick", "normal", "thorough"])
    parser.add_argument("--output", default="logs/hoefling", help="where the results go, and are continued")
    arguments = parser.parse_args()
    output = local_path("--output", arguments.output)

    twin, retina = load_model("digital_twin"), load_model("simulated")
    chosen = NeuronSelection(
        sessions=arguments.sessions,
        indices=None if arguments.per_session is None else range(arguments.per_session),
    )
    meis = find_meis(twin, chosen, search=arguments.search, directory=output)

    analysis = analyze_meis(output / "meis.zarr", twin, overwrite=True)
    opponent = analysis["opponent"].groupby(analysis["type"]).mean()
    print("\nShare of neurons whose MEI is opponent, by type:")
    print(opponent.to_series().map("{:.0%}".format).to_string())
    found = str(opponent.idxmax("type").item())

    responses = cross_responses(retina, meis)
    by_type = type_responses(responses)
    print(f"\nResponse of the simulated retina's cells of type {found} to the MEIs of each type (own MEI: 1):")
    print(by_type.sel(cell_type=found, drop=True).to_series().round(2).to_string())
    print(f"\nResponse of its cells of each type to the MEIs of {found}:")
    print(by_type.sel(mei_cell_type=found, drop=True).to_series().round(2).to_string())
    standard = compare_with_standard_stimuli(retina, meis)
    ratio = standard["excitation_ratio"].groupby(standard["type"]).median()
    print("\nResponse of the simulated retina's cells to their MEI over that to the best of the standard stimuli:")
    print(ratio.to_series().round(2).to_string())

    of_found = analysis["neuron"].values[(analysis["type"] == found).values][0]
    landscape = chromatic_landscape(retina, meis, str(of_found))
    figure = draw(analysis, by_type, landscape, found)
    save_figure(figure, output / "hoefling.png")
    save_figure(figure, output / "hoefling.pdf")
    report = write_report(output / "meis.zarr", overwrite=True)
    print(f"\nFigure: {output / 'hoefling.png'} (and .pdf). Report of all neurons: {report}")


def draw(analysis: xr.Dataset, by_type: xr.DataArray, landscape: xr.Dataset, found: str) -> Figure:
    """Contrasts of all MEIs, responses to the opponent type's MEIs, and the opponent neuron's landscape."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.1, 6.2), layout="constrained")
        axes = figure.subplot_mosaic("AA;BC", height_ratios=[1.15, 1])
        plot_chromatic_contrast(analysis, axes["A"])
        draw_responses(axes["B"], by_type, found)
        plot_chromatic_landscape(landscape, axes["C"])
        axes["C"].set_title(f"{landscape.attrs['neuron']}, simulated retina")
        for name, ax in axes.items():
            ax.set_title(name, loc="left", fontweight="bold")
    return figure


def draw_responses(ax: Axes, by_type: xr.DataArray, found: str) -> None:
    """How much the MEIs of one type excite the cells of each type of the simulated retina."""
    values = by_type.sel(mei_cell_type=found)
    names = [readable(str(name)) for name in values["cell_type"].values]
    colors = ["#0072B2" if name == found else "0.7" for name in values["cell_type"].values]
    ax.barh(range(len(names)), values.values, color=colors)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("response above grey (own MEI: 1)")
    ax.set_title(f"Cells of the simulated retina\nto the MEIs of {readable(found)}")
    ax.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
