"""Figures of populations: what their axes show of data that are known."""

import re

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from example_meis import meis as separable_meis
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

import mei_lightning as ml
from mei_lightning.analysis.decomposition import decompose_channels
from mei_lightning.plots.style import figure_as_svg, type_looks

TYPES = ("alpha", "beta")


def population(count=6, types=TYPES, seed=0, channels=("green", "UV")):
    """Measures of a few neurons, of types in turn."""
    random = np.random.default_rng(seed)
    data = xr.Dataset(
        {
            "temporal_contrast": (("neuron", "channel"), random.standard_normal((count, len(channels))) * 3),
            "centre_size": ("neuron", random.uniform(50, 150, count), {"units": "um"}),
            "explained_share": (("neuron", "channel"), random.uniform(size=(count, len(channels))), {"units": "1"}),
            "opponent": ("neuron", np.arange(count) % 3 == 0),
            "polarity": ("neuron", np.where(np.arange(count) % 2, "ON", "OFF")),
            "unknown": ("neuron", np.full(count, np.nan)),
        },
        coords={"neuron": [f"s/{number}" for number in range(count)], "channel": list(channels)},
    )
    if types:
        data = data.assign_coords(type=("neuron", [types[number % len(types)] for number in range(count)]))
    return data


def render(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def points(ax):
    """The points of all scatter plots of axes, by label."""
    return {it.get_label(): np.asarray(it.get_offsets()) for it in ax.collections if not isinstance(it, Quiver)}


def beyond_the_edges(figure):
    """By how many points something that is drawn reaches beyond the figure."""
    render(figure)
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return 72 * max(-drawn.x0, -drawn.y0, drawn.x1 - width, drawn.y1 - height, 0)


def gallery_of(types=TYPES, **options):
    meis = separable_meis(6, **options)
    return meis.assign_coords(type=("neuron", [types[number % 2] for number in range(6)])) if types else meis


def landscape(response=lambda x, y: x + 2 * y):
    grid = np.linspace(-1, 1, 21)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    values = response(x, y)
    gradient = np.stack(np.gradient(values, grid, grid))
    return xr.Dataset(
        {
            "response": (("green_contrast", "UV_contrast"), values),
            "gradient": (("channel", "green_contrast", "UV_contrast"), gradient),
            "mei_contrast": ("channel", [0.8, 1.2]),
        },
        coords={"channel": ["green", "UV"], "green_contrast": grid, "UV_contrast": grid},
        attrs={"neuron": "s/1"},
    )


def responses(count=6, types=TYPES, seed=0):
    values = np.random.default_rng(seed).uniform(0.5, 1.5, (count, count)) + np.diag(np.full(count, 2.0))
    labels = [f"s/{number}" for number in range(count)]
    data = xr.DataArray(
        values,
        dims=("neuron", "mei"),
        coords={"neuron": labels, "mei": labels, "grey_response": ("neuron", np.full(count, 0.7))},
    )
    if types:
        data = data.assign_coords(type=("neuron", [types[number % len(types)] for number in range(count)]))
    return data


def starts(count=6, types=TYPES):
    random = np.random.default_rng(0)
    scores = random.uniform(0.5, 1.0, (count, 3))
    data = xr.Dataset(
        {
            "restart_scores": (("neuron", "restart"), scores),
            "restart_similarity": ("neuron", random.uniform(size=count)),
            "score": ("neuron", scores.max(axis=1)),
        },
        coords={"neuron": [f"s/{number}" for number in range(count)]},
    )
    return data.assign_coords(type=("neuron", [types[i % len(types)] for i in range(count)])) if types else data


FIGURES = {
    "gallery": lambda types: ml.plot_gallery(gallery_of(types)),
    "gallery of images": lambda types: ml.plot_gallery(gallery_of(types, still=True)),
    "measure": lambda types: ml.plot_measure(population(types=types), "centre_size").figure,
    "measures": lambda types: ml.plot_measures(population(types=types)),
    "contrast": lambda types: ml.plot_chromatic_contrast(population(types=types)).figure,
    "cross-responses": lambda types: ml.plot_cross_responses(responses(types=types)).figure,
    "stability": lambda types: ml.plot_seed_stability(starts(types=types)).figure,
    "landscape": lambda types: ml.plot_chromatic_landscape(landscape()).figure,
}
LABELS = {
    "two types": TYPES,
    "no types": None,
    "hostile types": ("$\\frac{$ 1 % {} _a^b", "<b>&amp;</b> suppressed by contrast"),
}


@pytest.mark.parametrize("types", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("name", FIGURES)
def test_drawn_whole_with_text_as_text(name, types, tmp_path):
    figure = FIGURES[name](types)
    assert beyond_the_edges(figure) < 1
    svg = figure_as_svg(figure).decode()
    assert "<text" in svg
    pdf = ml.save_figure(figure, tmp_path / "figure.pdf").read_bytes()
    # Type 42 fonts are fonts; type 3 are drawings of letters, which no program edits.
    assert b"/Type0" in pdf
    assert b"/Type3" not in pdf
    if types and name != "landscape" and "gallery" not in name:
        written = re.sub("<.*?>", "", svg)
        for label in types:
            shown = label.replace("_", " ").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            assert shown in written


def test_on_given_axes():
    figure = Figure(figsize=(12, 8))
    axes = iter(figure.subplots(2, 3).flat)
    calls = [
        (ml.plot_measure, (population(), "polarity")),
        (ml.plot_chromatic_contrast, (population(),)),
        (ml.plot_cross_responses, (responses(),)),
        (ml.plot_seed_stability, (starts(),)),
        (ml.plot_chromatic_landscape, (landscape(),)),
    ]
    for plot, arguments in calls:
        ax = next(axes)
        assert plot(*arguments, ax=ax) is ax
        assert ax.figure is figure
    assert ml.plot_measures(population(), ["centre_size"], figure=(mine := Figure())) is mine
    assert ml.plot_gallery(gallery_of(), figure=(mine := Figure())) is mine


@settings(max_examples=15)
@given(st.integers(0, 2**31))
def test_the_opponency_boundary_separates_opponent_neurons(seed):
    measures = population(count=8, seed=seed, types=[f"type {number}" for number in range(8)])
    green, uv = measures["temporal_contrast"].values.T
    ax = ml.plot_chromatic_contrast(measures, Figure().add_subplot())
    shaded = ax.patches
    shown = points(ax)
    for number in range(8):
        # Opponency as Höfling et al. 2024 define it.
        opponent = abs(np.arctan((uv[number] - green[number]) / (uv[number] + green[number]))) > np.pi / 4
        (point,) = shown[f"type {number}"]
        np.testing.assert_allclose(point, [green[number], uv[number]])
        assert any(patch.get_bbox().contains(*point) for patch in shaded) == opponent
        assert ax.get_xlim()[0] < point[0] < ax.get_xlim()[1]


def test_gallery_has_the_best_of_each_type_and_all_in_time():
    meis = gallery_of()
    meis["stimulus"][:] = np.random.default_rng(0).standard_normal(meis["stimulus"].shape)
    figure = ml.plot_gallery(meis, per_type=2)
    tiles, traces = figure.axes[::2], figure.axes[1::2]
    for kind, tile_ax, trace_ax in zip(TYPES, tiles, traces, strict=True):
        of_type = meis.isel(neuron=np.flatnonzero(meis["type"] == kind))
        best = of_type.isel(neuron=np.argsort(-of_type["score"].values)[:2])
        assert len(tile_ax.images) == 2 * 2
        maps = np.concatenate([decompose_channels(stimulus)[1] for stimulus in best["stimulus"].values])
        for image, expected in zip(tile_ax.images, maps, strict=True):
            np.testing.assert_allclose(image.get_array(), expected)
        # A line at zero, and each neuron's two channels.
        assert len(trace_ax.lines) == 1 + 3 * 2
        # It says that those in space are a part of them.
        assert f"{kind}\nn = 3,\nbest 2 in space" in [text.get_text() for text in tile_ax.texts]
    assert len({ax.get_ylim() for ax in traces}) == 1


def test_gallery_leaves_out_what_is_not_finite():
    meis = gallery_of()
    meis["stimulus"][0] = np.nan
    meis["score"][0] = np.nan
    figure = ml.plot_gallery(meis)
    assert "alpha\nn = 2" in [text.get_text() for text in figure.axes[0].texts]
    meis["stimulus"][:] = np.nan
    with pytest.raises(ValueError, match="No neuron has a finite stimulus"):
        ml.plot_gallery(meis)
    with pytest.raises(ValueError, match="per_type=0"):
        ml.plot_gallery(gallery_of(), per_type=0)


def test_measure_by_type():
    measures = population(count=40)
    ax = ml.plot_measure(measures, "centre_size")
    assert [label.get_text() for label in ax.get_yticklabels()] == list(TYPES)
    for row, kind in enumerate(TYPES):
        expected = measures["centre_size"].values[measures["type"].values == kind]
        offsets = np.asarray(ax.collections[row].get_offsets())
        np.testing.assert_allclose(offsets[:, 0], expected)
        assert (abs(offsets[:, 1] - row) < 0.5).all()
        quartiles, median = ax.lines[2 * row], ax.lines[2 * row + 1]
        np.testing.assert_allclose(quartiles.get_xdata(), np.percentile(expected, [25, 75]))
        np.testing.assert_allclose(median.get_xdata(), np.median(expected))
    assert ax.get_xlabel() == "µm"


def test_angles_have_no_median():
    measures = population(count=40).assign(direction=("neuron", np.arange(40.0) * 9, {"units": "degrees"}))
    ax = ml.plot_measure(measures, "direction")
    assert len(ax.collections) == 2
    assert not ax.lines


def test_measure_of_channels_has_their_colours():
    ax = ml.plot_measure(population(), "explained_share")
    assert {to_hex(it.get_facecolor()[0]).upper() for it in ax.collections} == {"#009E73", "#762A83"}
    assert ax.get_xlabel() == ""


@pytest.mark.parametrize("types", [1, 3])
def test_many_clusters_look_different_and_have_a_legend(types):
    random = np.random.default_rng(0)
    measures = xr.Dataset(
        {"cluster": ("neuron", np.arange(200) % 20), "size": ("neuron", random.random(200))},
        {"type": ("neuron", np.array(["a", "b", "c"])[np.arange(200) % types])},
    )
    for figure in (ml.plot_measures(measures), ml.plot_measure(measures, "cluster").figure):
        ax = figure.axes[0]
        looks = [(bars[0].get_facecolor(), bars[0].get_hatch()) for bars in ax.containers]
        assert len(set(looks)) == len(looks) == 20
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [str(number) for number in range(20)]
        figure.draw_without_rendering()
        below = ax.get_legend().get_window_extent()
        assert below.y0 >= 0
        assert below.y1 < ax.get_window_extent().y0
        assert ax.get_window_extent().height > 0.1 * types * figure.dpi


def test_whole_numbers_that_count_are_points():
    counts = np.arange(300)
    measures = population(count=300).assign(steps=("neuron", counts))
    ax = ml.plot_measure(measures, "steps")
    assert ax.get_legend() is None
    assert sorted(np.concatenate(list(points(ax).values()))[:, 0]) == counts.tolist()


def test_words_are_shares():
    measures = population(count=12)
    ax = ml.plot_measure(measures, "polarity")
    widths = {container.get_label(): [bar.get_width() for bar in container] for container in ax.containers}
    # Types take turns as polarities do.
    assert widths == {"OFF": [1.0, 0.0], "ON": [0.0, 1.0]}
    ax = ml.plot_measure(measures.drop_vars("type"), "opponent")
    widths = {container.get_label(): [bar.get_width() for bar in container] for container in ax.containers}
    assert widths == {"yes": [pytest.approx(1 / 3)], "no": [pytest.approx(2 / 3)]}


def test_measures_leave_out_those_without_values():
    figure = ml.plot_measures(population())
    titles = [ax.get_title() for ax in figure.axes if ax.axison]
    assert titles == ["temporal contrast", "centre size", "explained share", "opponent", "polarity"]
    for name in ("unknown", "nonsense"):
        with pytest.raises(ValueError, match=f"'{name}'. It has temporal_contrast, centre_size"):
            ml.plot_measure(population(), name)
    with pytest.raises(ValueError, match="no measures"):
        ml.plot_measures(population()[["unknown"]])


def test_contrast_needs_two_channels():
    for measures in (population(channels=("a", "b", "c")), population()[["centre_size"]]):
        with pytest.raises(ValueError, match="of two channels"):
            ml.plot_chromatic_contrast(measures)


def test_cross_responses_are_sorted_and_relative():
    data = responses()
    shown = ml.plot_cross_responses(data).images[0].get_array()
    order = [0, 2, 4, 1, 3, 5]
    values = data.values[np.ix_(order, order)]
    np.testing.assert_allclose(shown, (values - 0.7) / (np.diag(values) - 0.7)[:, None])
    np.testing.assert_allclose(np.diag(shown), 1)
    with pytest.raises(ValueError, match="6 neurons and 5 MEIs"):
        ml.plot_cross_responses(data[:, :5])


def test_landscape_arrows_follow_the_gradient():
    ax = ml.plot_chromatic_landscape(landscape(lambda x, y: 3 * x - y))
    (arrows,) = [it for it in ax.collections if isinstance(it, Quiver)]
    np.testing.assert_allclose(arrows.V, -arrows.U / 3)
    assert (arrows.U > 0).all()
    (mesh,) = [it for it in ax.collections if isinstance(it, mpl.collections.QuadMesh)]
    values = mesh.get_array().reshape(21, 21)
    # Rows of the picture are UV, columns are green.
    assert values[0, -1] == pytest.approx(4)
    assert values[-1, 0] == pytest.approx(-4)
    np.testing.assert_allclose(ax.lines[-1].get_xydata(), [[0.8, 1.2]])


def test_landscape_beyond_the_limits_is_empty():
    ax = ml.plot_chromatic_landscape(landscape(lambda x, y: np.where(x**2 + y**2 > 1, np.nan, x)))
    assert beyond_the_edges(ax.figure) < 1


def test_seed_stability():
    data = starts()
    data["restart_scores"][1, 1:] = np.nan
    data["restart_similarity"][1] = np.nan
    shown = points(ml.plot_seed_stability(data))
    scores = data["restart_scores"].values
    np.testing.assert_allclose(shown["alpha"][:, 0], data["restart_similarity"].values[::2])
    np.testing.assert_allclose(shown["alpha"][:, 1], (scores.min(axis=1) / scores.max(axis=1))[::2])
    assert len(shown["beta"]) == 2
    # Starts that were given up are not compared, though they are known as they were then.
    data["restart_scores"][:, 1:] = np.nan
    with pytest.raises(ValueError, match="No neuron has two starts"):
        ml.plot_seed_stability(data)


def test_looks_of_types_differ():
    looks = type_looks(np.array([f"type {number:03d}" for number in range(88)]))
    assert len(set(looks.values())) == 88


@pytest.mark.slow
def test_of_a_run(simulated):
    """As a user would, from MEIs to figures."""
    meis = ml.find_meis(simulated, [("session_1", 0), ("session_1", 7)], restarts=2, max_steps=5, progress_bar=False)
    measures = ml.measure_meis(meis, progress_bar=False)
    ml.plot_gallery(meis)
    ml.plot_measures(measures)
    ml.plot_chromatic_contrast(measures)
    ml.plot_seed_stability(meis)
    ml.plot_cross_responses(ml.cross_responses(simulated, meis, progress_bar=False))
    ml.plot_chromatic_landscape(ml.chromatic_landscape(simulated, meis, "session_1/7"))
