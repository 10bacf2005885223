"""Figures of several norms: what they show of MEIs that are known."""

import numpy as np
import pytest
import xarray as xr
from example_meis import meis as separable_meis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import mei_lightning as ml

NORMS = [20.0, 5.0, 10.0]


def by_norm(count=3, turns=(0.0, 0.0, 0.5), **options):
    """MEIs at three norms, of which the last two differ by an angle, and scores that are the square of the norm."""
    meis = separable_meis(count, **options)
    noise = np.random.default_rng(1).standard_normal(meis["stimulus"].shape)
    own = meis["stimulus"].values.astype(np.float64)
    axes = (1, 2, 3, 4)
    own /= np.linalg.norm(own.reshape(count, -1), axis=1).reshape(-1, 1, 1, 1, 1)
    noise -= own * (own * noise).sum(axis=axes, keepdims=True)
    noise /= np.linalg.norm(noise.reshape(count, -1), axis=1).reshape(-1, 1, 1, 1, 1)
    each = [
        meis.assign(
            stimulus=(meis["stimulus"].dims, norm * (np.cos(turn) * own + np.sin(turn) * noise)),
            score=meis["score"] * norm**2,
        )
        for norm, turn in zip(NORMS, turns, strict=True)
    ]
    return xr.concat(each, dim=xr.Variable("norm", NORMS), data_vars="all")


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in (*ax.texts, ax.title)]


def test_scores_rise_with_the_norm():
    meis = by_norm()
    ax = ml.plot_score_by_norm(meis)
    for line, neuron in zip(ax.lines, meis["neuron"].values, strict=True):
        np.testing.assert_allclose(line.get_xdata(), [5, 10, 20])
        np.testing.assert_allclose(line.get_ydata(), meis["score"].sel(neuron=neuron).sortby("norm"))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == meis["neuron"].values.tolist()
    assert ax.get_xscale() == "log"


def test_many_neurons_have_the_colours_of_their_types():
    meis = by_norm(12).assign_coords(type=("neuron", ["on_off", "off"] * 6))
    ax = ml.plot_score_by_norm(meis)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["off", "on off"]
    assert len({line.get_color() for line in ax.lines}) == 2
    assert ml.plot_score_by_norm(by_norm(12)).get_legend() is None


def test_scores_are_drawn_on_axes_that_are_given():
    ax = Figure().subplots()
    assert ml.plot_score_by_norm(by_norm(), ax) is ax


@pytest.mark.parametrize(("still", "channels"), [(False, ("green", "UV")), (True, ("green", "UV")), (True, ("grey",))])
def test_stimuli_stand_in_order_with_the_similarity_of_neighbours(still, channels, tmp_path):
    meis = by_norm(2, still=still, channel_names=channels)
    figure = ml.plot_meis_by_norm(meis)
    shown = texts(figure)
    assert [text for text in shown if text.startswith("norm ")] == ["norm 5", "norm 10", "norm 20"]
    # The one in the middle is turned by half a radian, so that it is as far from both of its neighbours.
    expected = [f"{np.cos(0.5):.2f}"] * 4
    assert [text for text in shown if text.startswith("0.8")] == expected
    assert set(meis["neuron"].values) <= set(shown)
    assert len(figure.axes) == 2 * 3 * (1 if still else 2)
    assert ml.save_figure(figure, tmp_path / "norms.png").stat().st_size > 5000


@pytest.mark.slow
def test_nothing_reaches_beyond_the_figure():
    for count, still in ((1, True), (1, False), (5, False)):
        figure = ml.plot_meis_by_norm(by_norm(count, still=still))
        FigureCanvasAgg(figure).draw()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > -0.02


def test_only_some_neurons_are_drawn():
    assert len(ml.plot_meis_by_norm(by_norm(3), max_neurons=2).axes) == 2 * 3 * 2


def test_a_stimulus_that_is_not_finite_is_named():
    meis = by_norm()
    meis["stimulus"][1, 0] = np.nan
    assert texts(ml.plot_meis_by_norm(meis)).count("not finite") == 1


@pytest.mark.parametrize("plot", [ml.plot_score_by_norm, ml.plot_meis_by_norm])
def test_mei_of_one_norm_are_refused(plot):
    with pytest.raises(ValueError, match="MEIs are of one norm: find them with norm="):
        plot(separable_meis())


def test_no_neurons_are_refused():
    for none in (by_norm().isel(neuron=[]), by_norm()):
        with pytest.raises(ValueError, match="nothing to draw"):
            ml.plot_meis_by_norm(none, max_neurons=0)
