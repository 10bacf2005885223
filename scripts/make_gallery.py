"""What the methods find: runs the recipes of scripts/configs on the digital twin, and draws a panel for each.

    python scripts/make_gallery.py

Recipes that have been run before are not run again (delete what is in the output directory to start anew). A recipe
that is added to scripts/configs has a panel from the next time on.
"""

import argparse
import re
import shlex
import sys
from contextlib import chdir
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from mei_lightning import DigitalTwin, save_figure
from mei_lightning.cli.main import main as mei_lightning
from mei_lightning.paths import local_path
from mei_lightning.plots.style import DIVERGING_MAP, STYLE, WIDTH, channel_colors, readable

CONFIGS = Path(__file__).resolve().parent / "configs"
NOT_ON_THE_TWIN = ("hoefling_2024", "simulated")
ACROSS = 2
SHOWN = 4
PANEL_HEIGHT = 1.3
HEADER = 0.25
LONGEST = 82
MOVIE = ("channel", "time", "y", "x")


def main() -> None:
    """Run the recipes and draw the gallery."""
    there = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in NOT_ON_THE_TWIN)
    # Plain MEIs first, to compare the others with.
    there.sort(key=lambda recipe: recipe != "quickstart")
    parser = argparse.ArgumentParser(description="A gallery of what the methods find.")
    parser.add_argument("--recipes", nargs="+", choices=there, default=there, help="all by default")
    parser.add_argument("--results", default="logs/gallery", help="where the results go, and are found again")
    parser.add_argument("--output", default="gallery.png", help="the picture; .pdf and .svg stay editable")
    arguments = parser.parse_args()
    # Lightning's command line would read them too.
    sys.argv = sys.argv[:1]

    found = {}
    results = local_path("--results", arguments.results)
    for recipe in arguments.recipes:
        print(f"{recipe} ...", flush=True)
        found[recipe] = run(recipe, results / recipe)
    print(f"Gallery: {save_figure(draw(found), arguments.output)}")


def run(recipe: str, place: Path) -> xr.Dataset:
    """What a recipe finds."""
    place.mkdir(parents=True, exist_ok=True)
    config = CONFIGS / f"{recipe}.yaml"
    command = command_of(config)
    target = "meis.zarr" if command == "fit" else "found.zarr"
    with chdir(place):
        if command == "fit":
            options = ["--results.directory=.", "--results.report=false", "--trainer.logger=false"]
            mei_lightning([command, f"--config={config}", *options, "--trainer.enable_progress_bar=false"])
        elif not Path(target).exists():
            mei_lightning([command, f"--config={config}", f"--target={target}"])
        return xr.open_zarr(target, chunks=None).load()


def command_of(config: Path) -> str:
    """The command that a recipe is for, from the line in it that says how it is run; ``fit`` without one."""
    lines = re.findall(r"^# mei-lightning (.*)$", config.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return shlex.split(lines[0])[0] if lines else "fit"


def draw(found: dict[str, xr.Dataset]) -> Figure:
    """A panel for each recipe."""
    down = -(-len(found) // ACROSS)
    types = DigitalTwin().neurons.assign(label=lambda table: table["session"] + "/" + table["index"].astype(str))
    type_of = dict(zip(types["label"], types["type"], strict=True))
    height = PANEL_HEIGHT * down + HEADER
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        header, body = figure.subfigures(2, 1, height_ratios=[HEADER, height - HEADER])
        draw_header(header, list(next(iter(found.values()))["channel"].values))
        for panel, (recipe, dataset) in zip(np.ravel(body.subfigures(down, ACROSS)), found.items(), strict=False):
            draw_panel(panel, recipe, dataset, type_of)
    return figure


def draw_header(header: SubFigure, channels: list[str]) -> None:
    """What the panels show."""
    text = "Strongest frame of each stimulus, and the course in time of its strongest pixel:"
    header.text(0.02, 0.4, text, va="center")
    for number, (name, color) in enumerate(zip(channels, channel_colors(channels), strict=True)):
        header.text(0.65 + 0.08 * number, 0.4, name, color=color, fontweight="bold", va="center")
    header.text(0.65 + 0.08 * len(channels), 0.4, "(side by side)", va="center")


def draw_panel(panel: SubFigure, recipe: str, dataset: xr.Dataset, type_of: dict[str, str]) -> None:
    """The name of a recipe, what it does, and some of its stimuli in space and in time."""
    panel.text(0.04, 0.97, title_of(recipe), fontsize=8, fontweight="bold", va="top")
    panel.text(0.04, 0.855, purpose_of(recipe), fontsize=6, va="top")
    grid = panel.add_gridspec(2, SHOWN, left=0.04, right=0.98, top=0.68, bottom=0.04, height_ratios=[2, 1], hspace=0.08)
    for number, (label, stimulus, mask) in enumerate(some_of(dataset, type_of)):
        frame, pixel = strongest_of(stimulus)
        space = panel.add_subplot(grid[0, number])
        space.set_title(label, fontsize=5.5, pad=2.5)
        draw_space(space, stimulus[:, frame], mask)
        draw_time(panel.add_subplot(grid[1, number]), stimulus[:, :, *pixel], list(dataset["channel"].values))


def strongest_of(stimulus: np.ndarray) -> tuple[int, tuple[int, int]]:
    """The frame, and the pixel, of the largest root mean square of a stimulus ``[channel, time, y, x]``."""
    energy = np.square(stimulus).sum(axis=0)
    row, column = np.unravel_index(energy.sum(axis=0).argmax(), energy.shape[1:])
    return int(energy.sum(axis=(1, 2)).argmax()), (int(row), int(column))


def title_of(recipe: str) -> str:
    """The paper that a recipe is named after, or its own name."""
    paper = re.fullmatch(r"([a-z]+)_(\d{4})(?:_(.+))?", recipe)
    if paper is None:
        return readable(recipe).capitalize()
    return f"{paper[1].capitalize()} et al. {paper[2]}" + (f", {readable(paper[3])}" if paper[3] else "")


def purpose_of(recipe: str) -> str:
    """The first sentence of a recipe's comment, or its beginning, without what stands in brackets."""
    comment = re.match(r"(?:#.*\n)+", (CONFIGS / f"{recipe}.yaml").read_text(encoding="utf-8"))
    text = " ".join(line.lstrip("# ") for line in comment[0].splitlines()) if comment else ""
    text = re.sub(r"\s*\([^()]*\)", "", text)
    sentence = re.split(r"\. |\.$|: |; ", text)[0]
    return sentence if len(sentence) <= LONGEST else sentence.split(", ")[0]


def some_of(dataset: xr.Dataset, type_of: dict[str, str]) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    """Labels of some stimuli, the stimuli ``[channel, time, y, x]``, and the masks of their centres, if there are any.

    Of several stimuli of each neuron, some of the neuron's whose differ most; otherwise the first neurons'.
    """
    stimuli = dataset["stimulus"]
    items = [str(name) for name in stimuli.dims if name not in MOVIE]
    if len(items) == 2:
        stimuli = stimuli.isel(neuron=most_diverse(stimuli.transpose(*items, *MOVIE).values))
        items.remove("neuron")
    (item,) = items
    count = stimuli.sizes[item]
    places = np.arange(min(count, SHOWN))
    if item not in ("neuron", "cluster_number"):
        places = np.linspace(0, count - 1, len(places)).round().astype(int)
    masks = dataset.get("centre_mask")
    shown = []
    for place in places.tolist():
        name = str(dataset[item].values[place]) if item in dataset.coords else str(place)
        label = label_of(name, type_of) if item == "neuron" else f"{readable(item).removesuffix(' number')} {name}"
        mask = None if masks is None else masks.isel(neuron=place).values
        shown.append((label, stimuli.isel({item: place}).transpose(*MOVIE).values, mask))
    return shown


def most_diverse(stimuli: np.ndarray) -> int:
    """The neuron whose stimuli ``[neuron, number, ...]`` are least alike."""
    flat = stimuli.reshape(*stimuli.shape[:2], -1)
    unit = flat / np.linalg.norm(flat, axis=2, keepdims=True)
    return int(np.einsum("nif,njf->nij", unit, unit).mean(axis=(1, 2)).argmin())


def label_of(name: str, type_of: dict[str, str]) -> str:
    """The type of a neuron, or of a group; otherwise its name, or how many there are."""
    members = name.split("+")
    types = {type_of.get(member, "") for member in members}
    if len(types) == 1 and types != {""}:
        words = readable(types.pop()).replace("color", "colour").split(" ")
        return " ".join(word.upper() if word in ("on", "off") else word for word in words)
    return f"unit {name}" if len(members) == 1 else f"{len(members)} neurons"


def draw_space(ax: Axes, image: np.ndarray, mask: np.ndarray | None) -> None:
    """A frame ``[channel, y, x]``, channels side by side, red above the mean and blue below, and a centre's outline."""
    largest = max(np.abs(image).max(), 1e-30)
    between = np.full((image.shape[1], 1), np.nan)
    shapes = [part for channel in image for part in (channel, between)][:-1]
    ax.imshow(np.hstack(shapes), cmap=DIVERGING_MAP, vmin=-largest, vmax=largest, interpolation="nearest")
    if mask is not None:
        outlines = [part for _ in image for part in (mask, np.zeros_like(mask[:, :1]))][:-1]
        ax.contour(np.hstack(outlines), levels=[0.5], colors="black", linewidths=0.5)
    ax.axis("off")


def draw_time(ax: Axes, courses: np.ndarray, channels: list[str]) -> None:
    """The channels' courses in time, scaled to the largest value."""
    scaled = courses / max(np.abs(courses).max(), 1e-30)
    ax.axhline(0, color="0.8", linewidth=0.5)
    for course, color in zip(scaled, channel_colors(channels), strict=True):
        ax.plot(course, color=color, linewidth=0.9)
    ax.set_ylim(-1.1, 1.1)
    ax.axis("off")


if __name__ == "__main__":
    main()
