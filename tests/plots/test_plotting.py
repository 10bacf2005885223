"""Figures: what their axes say about a stimulus whose parts are known."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from example_meis import LOW_RES, gaussian, meis, separable_stimulus
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from mei_lightning.models.base import StimulusFormat
from mei_lightning.plots.meis import plot_mei, plot_meis
from mei_lightning.plots.stimuli import contact_sheet, plot_stimulus_composition


def three_axes(freq=True):
    figure = Figure(figsize=(10, 8))
    axes = figure.subplots(2, 2)
    return axes[0, 0], axes[0, 1] if freq else None, axes[1, 0]


def render(figure):
    """The picture [height, width, 4]; fails if the figure cannot be drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def traces(ax):
    """Lines that follow the stimulus: label -> (x, y)."""
    return {
        line.get_label(): line.get_data() for line in ax.get_lines() if not str(line.get_label()).startswith("_child")
    }


def shaded_spans(ax):
    return [
        (patch.get_x(), patch.get_x() + patch.get_width())
        for patch in ax.patches
        if isinstance(patch, Rectangle) and patch.get_alpha()
    ]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def scale_bar(ax):
    """Length in pixels of the map, and label; None if there is none."""
    bars = [line for line in ax.get_children() if isinstance(line, Line2D) and len(line.get_xdata()) == 2]
    labels = [text for text in texts(ax) if "µm" in text]
    return (np.ptp(bars[0].get_xdata()), labels[0]) if bars or labels else None


def test_listing_of_the_readme_runs():
    stimulus = torch.randn(2, 2, 40, 18, 16, requires_grad=True)
    figure, axes = plt.subplots(2, 2, figsize=(7 * 3, 12))
    plot_stimulus_composition(stimulus[0], axes[0, 0], axes[0, 1], axes[1, 0])
    render(figure)
    plt.close(figure)
    assert axes[0, 0].get_xlabel() == "time (s)"
    assert axes[0, 1].get_xlabel() == "frequency (Hz)"
    assert scale_bar(axes[1, 0]) == (4, "200 µm")


def test_time_axis_is_in_seconds_and_traces_carry_the_amplitude():
    temporal_ax, freq_ax, spatial_ax = three_axes()
    stimulus = separable_stimulus()
    plot_stimulus_composition(stimulus, temporal_ax, freq_ax, spatial_ax, stimulus_format=LOW_RES)

    drawn = traces(temporal_ax)
    assert set(drawn) == {"green", "UV"}
    seconds = np.arange(40) / 30
    np.testing.assert_allclose(drawn["green"][0], seconds)
    np.testing.assert_allclose(drawn["green"][1], np.sin(2 * np.pi * 3 * seconds), atol=1e-9)
    np.testing.assert_allclose(drawn["UV"][1], -2 * np.sin(2 * np.pi * 6 * seconds), atol=1e-9)


def test_spectrum_names_the_frequencies():
    temporal_ax, freq_ax, spatial_ax = three_axes()
    plot_stimulus_composition(separable_stimulus(), temporal_ax, freq_ax, spatial_ax, 7.0)

    assert [text.get_text() for text in freq_ax.get_legend().get_texts()] == ["green: 3.0 Hz", "UV: 6.0 Hz"]
    assert freq_ax.get_xlim() == (0, 7)
    frequencies, amplitudes = traces(freq_ax)["UV: 6.0 Hz"]
    assert frequencies[np.argmax(amplitudes)] == pytest.approx(6.0)
    assert amplitudes.max() == pytest.approx(2.0)


def test_space_shows_each_channel_with_a_symmetric_map():
    temporal_ax, _, spatial_ax = three_axes(freq=False)
    stimulus = separable_stimulus()
    stimulus[1] += 0.3 * np.random.default_rng(0).standard_normal(stimulus[1].shape)
    plot_stimulus_composition(stimulus, temporal_ax, None, spatial_ax)

    green, uv = spatial_ax.images
    np.testing.assert_allclose(green.get_array(), gaussian(), atol=1e-9)
    for image in (green, uv):
        assert image.get_clim() == (-1, 1)
    assert green.get_extent()[1] < uv.get_extent()[0]
    assert "green (100%)" in texts(spatial_ax)
    strengths = np.linalg.svd(stimulus[1].reshape(40, -1), compute_uv=False)
    assert f"UV ({strengths[0] ** 2 / np.sum(strengths**2):.0%})" in texts(spatial_ax)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("facts", "pixels", "label"),
    [
        (LOW_RES, 4, "200 µm"),
        (None, 4, "200 µm"),
        (StimulusFormat(("green", "UV"), 18, 16, 30.0, 20.0), 5, "100 µm"),
        (StimulusFormat(("green", "UV"), 18, 16, 30.0, 8.0), 6.25, "50 µm"),
    ],
)
def test_scale_bar_has_the_length_it_says(facts, pixels, label):
    temporal_ax, _, spatial_ax = three_axes(freq=False)
    plot_stimulus_composition(separable_stimulus(), temporal_ax, None, spatial_ax, stimulus_format=facts)
    assert scale_bar(spatial_ax) == (pixels, label)

    render(spatial_ax.figure)
    bar = next(line for line in spatial_ax.get_children() if isinstance(line, Line2D) and len(line.get_xdata()) == 2)
    on_screen = np.ptp(bar.get_transform().transform(bar.get_xydata())[:, 0])
    image = spatial_ax.images[0].get_window_extent()
    assert on_screen / image.width == pytest.approx(pixels / 16)


def test_high_resolution_stimulus_has_smaller_pixels_by_default():
    temporal_ax, _, spatial_ax = three_axes(freq=False)
    plot_stimulus_composition(separable_stimulus(height=72, width=64), temporal_ax, None, spatial_ax)
    assert scale_bar(spatial_ax) == (16, "200 µm")


def test_no_scale_bar_without_a_pixel_size():
    temporal_ax, _, spatial_ax = three_axes(freq=False)
    plot_stimulus_composition(separable_stimulus((3.0,), (1.0,)), temporal_ax, None, spatial_ax)
    assert scale_bar(spatial_ax) is None


def test_window_and_response_lie_at_the_stimulus_frames_that_drive_them():
    temporal_ax, _, spatial_ax = three_axes(freq=False)
    response = torch.linspace(0, 1, 20, requires_grad=True)
    plot_stimulus_composition(
        separable_stimulus(),
        temporal_ax,
        None,
        spatial_ax,
        10.0,
        [(0, 4)],
        stimulus_format=LOW_RES,
        response=response,
        window=(10, 20),
    )
    window, highlighted = shaded_spans(temporal_ax)
    assert window == pytest.approx((29.5 / 30, 39.5 / 30))
    assert highlighted == pytest.approx((-0.5 / 30, 4.5 / 30))
    twin = next(ax for ax in temporal_ax.figure.axes if ax is not temporal_ax and ax.get_ylabel() == "response")
    seconds, drawn = twin.get_lines()[0].get_data()
    np.testing.assert_allclose(seconds, np.arange(20, 40) / 30)
    np.testing.assert_allclose(drawn, response.detach().numpy())
    assert twin.get_xlim() == temporal_ax.get_xlim()


def test_frames_lost_follow_from_the_response():
    temporal_ax, _, spatial_ax = three_axes(freq=False)
    plot_stimulus_composition(separable_stimulus(), temporal_ax, None, spatial_ax, response=np.ones(10), window=(0, 1))
    assert shaded_spans(temporal_ax)[0] == pytest.approx((29.5 / 30, 30.5 / 30))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("still", [False, True])
def test_any_number_of_channels(channels, still):
    temporal_ax, freq_ax, spatial_ax = three_axes()
    stimulus = np.random.default_rng(0).standard_normal((channels, 1 if still else 12, 9, 11))
    before = stimulus.copy()
    plot_stimulus_composition(stimulus, temporal_ax, freq_ax, spatial_ax)
    render(spatial_ax.figure)

    np.testing.assert_array_equal(stimulus, before)
    assert len(spatial_ax.images) == channels
    if still:
        for image, channel in zip(spatial_ax.images, stimulus, strict=True):
            np.testing.assert_array_equal(image.get_array(), channel[0])
            assert image.get_clim() == (-np.abs(stimulus).max(), np.abs(stimulus).max())
        for ax in (temporal_ax, freq_ax):
            assert texts(ax) == ["still image:\nno course in time"]
            assert not ax.get_lines()
    else:
        colors = [mpl.colors.to_hex(line.get_color()) for line in freq_ax.get_lines() if line.get_linestyle() == "-"]
        assert len(set(colors)) == channels


def test_stimulus_of_zeros_is_drawn():
    temporal_ax, freq_ax, spatial_ax = three_axes()
    plot_stimulus_composition(np.zeros((2, 40, 18, 16)), temporal_ax, freq_ax, spatial_ax)
    render(spatial_ax.figure)
    assert "green (0%)" in texts(spatial_ax)
    assert freq_ax.get_legend().get_texts()[0].get_text() == "green: no change"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stimulus_format": LOW_RES, "window": (10, 21)}, r"window=\(10, 21\) is outside the response, which has 20"),
        ({"stimulus_format": LOW_RES, "window": (5, 5)}, r"window=\(5, 5\)"),
        ({"window": (10, 20)}, "Pass stimulus_format"),
        ({"stimulus_format": LOW_RES, "response": np.ones(40)}, "response has 40 frames.* gives 20"),
        ({"response": np.ones(41)}, "response has 41 frames"),
        ({"response": np.ones((20, 3))}, r"shape \(20, 3\)"),
        ({"highlight_x_list": [(30, 40)]}, r"\(30, 40\).*0 to 39"),
        ({"stimulus_format": StimulusFormat(("grey",), 18, 16, 30.0)}, r"\(2, 18, 16\).*\(1, 18, 16\)"),
        ({"stimulus_format": StimulusFormat(("a", "b"), 18, 16)}, "has 40 frames, but stimulus_format has no"),
    ],
)
def test_what_does_not_go_together_is_named(arguments, message):
    temporal_ax, freq_ax, spatial_ax = three_axes()
    with pytest.raises(ValueError, match=message):
        plot_stimulus_composition(separable_stimulus(), temporal_ax, freq_ax, spatial_ax, **arguments)
    assert not temporal_ax.get_lines()
    assert not spatial_ax.images


def axis_of(figure, ylabel):
    return next(ax for ax in figure.axes if ax.get_ylabel() == ylabel)


def test_one_mei(tmp_path):
    dataset = meis()
    figure = plot_mei(dataset, "session_1/1")

    assert figure.get_suptitle().split("   ·   ") == ["session_1/1", "score 2.25", "converged"]
    strip_ax = figure.axes[0]
    assert len(strip_ax.images) == 2 * 10
    np.testing.assert_array_equal(strip_ax.images[0].get_array(), dataset["stimulus"][1, 0, 0])
    np.testing.assert_array_equal(strip_ax.images[-1].get_array(), dataset["stimulus"][1, 1, -1])
    assert "1.30 s" in texts(strip_ax)
    response_ax = axis_of(figure, "response")
    seconds, drawn = response_ax.get_lines()[0].get_data()
    np.testing.assert_allclose(seconds, dataset["response_time"])
    np.testing.assert_allclose(drawn, dataset["response"][1])
    for ax in (response_ax, axis_of(figure, "stimulus")):
        assert shaded_spans(ax)[0] == pytest.approx((29.5 / 30, 39.5 / 30))
    figure.savefig(tmp_path / "mei.png")
    assert (tmp_path / "mei.png").stat().st_size > 10_000


def test_objective_without_a_window_is_all_of_the_response():
    dataset = meis()
    del dataset.attrs["window_start"], dataset.attrs["window_stop"]
    response_ax = axis_of(plot_mei(dataset, "session_0/0"), "response")
    assert shaded_spans(response_ax)[0] == pytest.approx((19.5 / 30, 39.5 / 30))


def test_unknown_neuron_is_named():
    with pytest.raises(ValueError, match=r"no neuron 'session_9/9'.*session_0/0, session_1/1"):
        plot_mei(meis(), "session_9/9")


@pytest.mark.parametrize("channel_names", [("grey",), ("red", "green", "blue"), ("a", "b", "c", "d")])
@pytest.mark.parametrize("still", [False, True])
def test_figures_of_any_model(channel_names, still):
    dataset = meis(2, channel_names, still=still)
    for figure in (plot_mei(dataset, "session_1/1"), plot_meis(dataset)):
        assert np.ptp(render(figure)) > 0


def drawn_texts(figure):
    """Boxes in pixels of all texts that are seen, by text."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    seen = [text for text in figure.findobj(mpl.text.Text) if text.get_visible() and text.get_text().strip()]
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            shown = {id(tick.label1) for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high}
            shown |= {id(tick.label2) for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high}
            hidden |= {id(label) for label in axis.get_ticklabels() if not ax.axison or id(label) not in shown}
            hidden |= set() if ax.axison else {id(axis.label)}
    return [(text.get_text(), text.get_window_extent(renderer)) for text in seen if id(text) not in hidden]


@pytest.mark.parametrize("channel_names", [("grey",), ("green", "UV"), ("red", "green", "blue")])
def test_texts_do_not_overlap_and_stay_inside(channel_names):
    for figure in (plot_mei(meis(1, channel_names), "session_0/0"), plot_meis(meis(1, channel_names))):
        boxes = drawn_texts(figure)
        for number, (text, box) in enumerate(boxes):
            assert box.x0 >= 0, text
            assert box.y0 >= 0, text
            assert box.x1 <= figure.bbox.x1, text
            assert box.y1 <= figure.bbox.y1, text
            for other_text, other in boxes[number + 1 :]:
                assert not box.overlaps(other), (text, other_text)


def test_overview_has_a_tile_for_each_neuron():
    dataset = meis(7)
    dataset["status"] = ("neuron", ["converged"] * 6 + ["step limit"])
    figure = plot_meis(dataset)
    maps = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in maps[:2]] == ["session_0/0\nscore 1.25", "session_1/1\nscore 2.25"]
    assert maps[6].get_title() == "session_0/6\nscore 7.25, step limit"
    assert len(maps) == 7
    assert all(len(ax.images) == 2 for ax in maps)
    trace_axes = [ax for ax in figure.axes if not ax.images]
    assert len(trace_axes) == 7
    assert len({ax.get_ylim() for ax in trace_axes}) == 1
    np.testing.assert_allclose(traces(trace_axes[0])["UV"][1], dataset["stimulus"][0, 1, :, 9, 8], rtol=1e-5)
    assert scale_bar(maps[0]) == (4, "200 µm")


def test_a_large_group_is_called_after_its_first_neuron():
    groups = ["session_1/0+session_2/3+session_3/14", "session_1/1+session_2/1", "session_1/2"]
    dataset = meis(count=3).assign_coords(neuron=groups)
    titles = [ax.get_title().split("\n")[0] for ax in plot_meis(dataset).axes if "score" in ax.get_title()]
    assert titles == ["session_1/0 and 2 more", "session_1/1+session_2/1", "session_1/2"]
    assert plot_mei(dataset, groups[0]).get_suptitle().startswith("session_1/0 and 2 more")


def test_overview_of_many_says_how_many_it_shows():
    figure = plot_meis(meis(9), max_neurons=4)
    assert sum(bool(ax.images) for ax in figure.axes) == 4
    assert figure.texts[0].get_text() == "digital_twin: MEIs of 4 of 9 neurons"
    with pytest.raises(ValueError, match="max_neurons=0"):
        plot_meis(meis(2), max_neurons=0)


@pytest.mark.slow
def test_neuron_that_is_not_finite_does_not_spoil_the_figure():
    dataset = meis(3)
    dataset["stimulus"][1, 0, 3] = np.nan
    dataset["response"][1] = np.nan
    figure = plot_meis(dataset)
    render(figure)
    assert sum(bool(ax.images) for ax in figure.axes) == 2
    assert [text for ax in figure.axes for text in texts(ax) if "finite" in text] == ["not finite"]
    assert "The stimulus is not finite." in [text.get_text() for text in plot_mei(dataset, "session_1/1").texts]


def test_figures_leave_no_trace():
    settings_before = dict(mpl.rcParams)
    open_before = plt.get_fignums()
    given_figure = Figure(figsize=(9, 9))
    assert plot_mei(meis(), "session_0/0", given_figure) is given_figure
    assert plot_meis(meis(), Figure(figsize=(9, 9))).axes
    assert dict(mpl.rcParams) == settings_before
    assert plt.get_fignums() == open_before


def test_contact_sheet_lays_frames_out_in_order():
    stimulus = separable_stimulus()
    sheet = contact_sheet(stimulus, LOW_RES, num_frames=4)
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3

    factor, gap = 5, 2
    rows = np.arange(3) * (18 * factor + gap) + 9 * factor + 2
    columns = np.arange(4) * (16 * factor + gap) + 8 * factor + 2
    centres = sheet[rows[:, None], columns].astype(int)
    values = stimulus[:, [0, 13, 26, 39], 9, 8]
    largest = np.abs(stimulus).max()
    np.testing.assert_allclose(centres[0, :, 1], 128 + 127 * values[0] / largest, atol=1)
    np.testing.assert_allclose(centres[0, :, 0], 128 + 127 * values[1] / largest, atol=1)
    for row, channel in zip(centres[1:], values, strict=True):
        redness = row[:, 0] - row[:, 2]
        clearly = np.abs(channel) > 0.1 * largest
        np.testing.assert_array_equal(np.sign(redness[clearly]), np.sign(channel[clearly]))

    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    assert buffer.getvalue()


@pytest.mark.parametrize(("shape", "rows", "columns"), [((1, 40, 18, 16), 1, 10), ((5, 3, 18, 16), 5, 3)])
def test_contact_sheet_of_other_stimuli(shape, rows, columns):
    height, width = contact_sheet(torch.randn(shape)).shape[:2]
    factor, gap = 5, 2
    assert height == rows * (18 * factor + gap) - gap
    assert width == columns * (16 * factor + gap) - gap


def test_contact_sheet_checks_its_arguments():
    with pytest.raises(ValueError, match="num_frames=0"):
        contact_sheet(np.ones((1, 4, 5, 5)), num_frames=0)
    with pytest.raises(ValueError, match=r"\(1, 5, 5\).*\(2, 18, 16\)"):
        contact_sheet(np.ones((1, 4, 5, 5)), LOW_RES)
