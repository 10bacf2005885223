"""What a notebook shows of what the plotting functions return."""

import inspect
import io

import matplotlib as mpl
import numpy as np
import pytest
from example_meis import meis as separable_meis
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from test_curvature_figure import curvature_of
from test_figures import landscape, population, responses, starts
from test_plots_of_members import with_members
from test_plots_of_norms import by_norm
from test_plots_of_repeats import with_repeats

import mei_lightning as ml

SHOWN = {
    "plot_meis": lambda: ml.plot_meis(separable_meis()),
    "plot_mei": lambda: ml.plot_mei(separable_meis(), str(separable_meis()["neuron"].values[0])),
    "plot_mei_curvature": lambda: ml.plot_mei_curvature(
        separable_meis(), curvature_of(separable_meis()), str(separable_meis()["neuron"].values[0])
    ),
    "plot_gallery": lambda: ml.plot_gallery(separable_meis()),
    "plot_measures": lambda: ml.plot_measures(population(), ["centre_size"]),
    "plot_measure": lambda: ml.plot_measure(population(), "centre_size"),
    "plot_chromatic_contrast": lambda: ml.plot_chromatic_contrast(population()),
    "plot_cross_responses": lambda: ml.plot_cross_responses(responses()),
    "plot_chromatic_landscape": lambda: ml.plot_chromatic_landscape(landscape()),
    "plot_seed_stability": lambda: ml.plot_seed_stability(starts()),
    "plot_score_by_norm": lambda: ml.plot_score_by_norm(by_norm()),
    "plot_members": lambda: ml.plot_members(with_members()),
    "plot_repeats": lambda: ml.plot_repeats(with_repeats()),
    "plot_meis_by_norm": lambda: ml.plot_meis_by_norm(by_norm()),
}


@pytest.fixture
def as_shown():
    """What IPython makes of a cell's last value, by MIME type, without any of matplotlib's own help."""
    formatters = pytest.importorskip("IPython.core.formatters", reason="IPython is not installed")
    return lambda value: formatters.DisplayFormatter().format(value)[0]


def test_there_is_one_of_each():
    functions = {name: getattr(ml, name) for name in ml.__all__ if inspect.isfunction(getattr(ml, name))}
    drawing = {n for n, it in functions.items() if inspect.signature(it).return_annotation in (Figure, Axes)}
    assert drawing == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_a_last_value_is_shown_as_a_picture_and_nothing_stays_open(name, as_shown):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    value = SHOWN[name]()
    figure = value if isinstance(value, Figure) else value.figure
    picture = Image.open(io.BytesIO(as_shown(value)["image/png"])).convert("L")
    assert picture.size == pytest.approx(figure.get_size_inches() * figure.dpi, abs=1)
    assert np.ptp(np.asarray(picture)) > 200
    assert pyplot.get_fignums() == before


def test_axes_of_ones_own_are_left_to_ones_own_figure(as_shown):
    axes = mpl.figure.Figure().add_subplot()
    assert ml.plot_measure(population(), "centre_size", axes) is axes
    assert set(as_shown(axes)) == {"text/plain"}
