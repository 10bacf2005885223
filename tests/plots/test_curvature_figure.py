"""The figure of an MEI's curvature shows the directions, and the responses after a turn."""

import numpy as np
import pytest
from example_meis import meis as separable_meis
from matplotlib.colors import to_hex
from test_figures import beyond_the_edges

import mei_lightning as ml


def curvature_of(meis, directions=4):
    """Curvatures of known form: 0, 1, 2 ... with falls by a tenth of them, and a bit more to one side."""
    stimuli = meis["stimulus"].transpose("neuron", "channel", "time", "y", "x")
    values = np.arange(directions, dtype=float)
    responses = 1 - 0.1 * values[:, None] - [0.0, 0.03]
    count = meis.sizes["neuron"]
    free = float((responses >= 0.95).all(axis=1).sum())
    return (
        meis[["stimulus"]]
        .drop_vars("stimulus")
        .assign(
            free_directions=("neuron", [free] * count),
            linear_curvature=("neuron", [1.0] * count),
            curvature=(("neuron", "turn"), np.tile(values, (count, 1))),
            turned_response=(("neuron", "turn", "angle"), np.tile(responses, (count, 1, 1))),
            least_determined=stimuli.roll(time=3),
            most_determined=stimuli.roll(x=3),
            contribution_in_space=np.square(stimuli).sum("time"),
            contribution_in_time=np.square(stimuli).sum(("y", "x")),
        )
    )


@pytest.mark.parametrize("still", [False, True])
@pytest.mark.parametrize("channels", [("green", "UV"), ("grey",), ("red", "green", "blue")])
def test_what_is_drawn(still, channels):
    meis = separable_meis(2, channels, still=still)
    figure = ml.plot_mei_curvature(meis, curvature_of(meis), "session_1/1")
    titled = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in titled] == ["MEI", "least determined", "most determined", "contribution"]
    assert [len(ax.images) for ax in titled] == [len(channels)] * 4
    assert len(figure.axes) == (5 if still else 9)
    assert figure._suptitle.get_text() == "session_1/1   ·   1 of 4 found directions are free"
    points = [line for line in figure.axes[-1].lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == [0, 1, 2, 3]
    np.testing.assert_allclose([line.get_ydata() for line in points], curvature_of(meis).turned_response[1])
    assert to_hex(points[0].get_color()) == to_hex(titled[1].title.get_color())
    assert to_hex(points[-1].get_color()) == to_hex(titled[2].title.get_color())
    predicted = figure.axes[-1].lines[0]
    np.testing.assert_allclose(predicted.get_ydata(), 1 - predicted.get_xdata() * np.deg2rad(30) ** 2 / 2)
    assert beyond_the_edges(figure) < 1


def test_directions_that_are_missing_are_left_out():
    meis = separable_meis(1)
    curvature = curvature_of(meis)
    curvature["curvature"][0, 2:] = np.nan
    curvature["turned_response"][0] = np.nan
    curvature["free_directions"][0] = np.nan
    figure = ml.plot_mei_curvature(meis, curvature, "session_0/0")
    assert figure._suptitle.get_text() == "session_0/0"
    assert len([line for line in figure.axes[-1].lines if line.get_marker() == "o"]) == 2


def test_what_cannot_be_drawn_is_refused():
    meis = separable_meis(2)
    curvature = curvature_of(meis)
    with pytest.raises(ValueError, match="no curvature: make it with mei_curvature"):
        ml.plot_mei_curvature(meis, meis, "session_0/0")
    with pytest.raises(ValueError, match="no neuron 'session_7/7'"):
        ml.plot_mei_curvature(meis, curvature, "session_7/7")
    curvature["curvature"][1] = np.nan
    with pytest.raises(ValueError, match="The curvature of 'session_1/1' is not known"):
        ml.plot_mei_curvature(meis, curvature, "session_1/1")
