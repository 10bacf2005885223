"""Figures with openretina's order of arguments, compared with its own."""

from datetime import datetime

import matplotlib.pyplot as plt
import numpy as np
import pytest

import mei_lightning as ml
from mei_lightning import openretina_api

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _without_a_screen():
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture
def theirs():
    return pytest.importorskip("openretina.utils.plotting", reason="openretina is not installed")


def test_figures_are_saved_where_openretina_saves_them(tmp_path, theirs):
    # Those of other tests.
    plt.close("all")
    for number, names in enumerate((theirs, openretina_api)):
        folder = tmp_path / str(number) / "new"
        figure, _ = plt.subplots()
        names.save_figure("one.png", str(folder), figure)
        plt.subplots()
        names.save_figure("two.png", str(folder))
        assert plt.get_fignums() == []
    assert sorted(path.name for path in (tmp_path / "0" / "new").iterdir()) == sorted(
        path.name for path in (tmp_path / "1" / "new").iterdir()
    )
    assert (tmp_path / "1" / "new" / f"{datetime.now():%Y-%m-%d}_one.png").exists()
    with pytest.raises(ValueError, match=r"\(filename, folder, fig\)"):
        openretina_api.save_figure(plt.figure(), "mei.png")
    assert ml.save_figure(plt.figure(), tmp_path / "own.png") == tmp_path / "own.png"


def test_arrows_and_levels_are_those_of_openretina(theirs):
    x = np.arange(-1, 1.2, 0.2)
    gradient, response = RANDOM.standard_normal((2, 11, 11)), RANDOM.random((11, 11)) + 1
    figures = [
        names.plot_vector_field_resp_iso(x, x, gradient, response, normalize_response=True, rc_dict={"font.size": 5})
        for names in (theirs, openretina_api)
    ]
    (expected,), (axes,) = (figure.axes for figure in figures)
    assert (axes.get_xlabel(), axes.get_ylabel()) == (expected.get_xlabel(), expected.get_ylabel())
    levels = [collection.levels for collection in expected.collections if hasattr(collection, "levels")]
    ours = [collection.levels for collection in axes.collections if hasattr(collection, "levels")]
    np.testing.assert_allclose(ours, levels)
    (arrows,) = (collection for collection in axes.collections if hasattr(collection, "U"))
    inside = gradient[:, 1:-1, 1:-1]
    directions = (inside / np.linalg.norm(inside, axis=0)).transpose(0, 2, 1)
    np.testing.assert_allclose([arrows.U, arrows.V], directions.reshape(2, -1))
    places = np.stack(np.meshgrid(x[1:-1], x[1:-1]), axis=-1).reshape(-1, 2)
    np.testing.assert_allclose(arrows.get_offsets(), places)
    with pytest.raises(ValueError, match="11 and 10 contrasts"):
        openretina_api.plot_vector_field_resp_iso(x, x[1:], gradient, response)


def test_a_landscape_without_a_slope_is_drawn():
    x = np.linspace(-1, 1, 5)
    openretina_api.plot_vector_field_resp_iso(x, x, np.zeros((2, 5, 5)), np.ones((5, 5)))


def test_directions_go_around_a_circle(theirs):
    directions, responses = [90, 0, 180, 270], [2.0, 1.0, 3.0, 4.0]
    lines = []
    for names in (theirs, openretina_api):
        names.polar_plot_of_direction_of_motion_responses(directions, responses)
        lines.append(plt.gca().lines[0].get_xydata())
        assert plt.gca().get_theta_direction() == -1
    np.testing.assert_allclose(*lines)
    with pytest.raises(ValueError, match="2 directions"):
        openretina_api.polar_plot_of_direction_of_motion_responses([0, 1], [1.0])


def test_colours_and_legends_are_those_of_openretina(theirs):
    for number in (-1.0, 0.3, 2.0):
        assert openretina_api.ColorMapper("cool", 0, 2).get_color(number) == theirs.ColorMapper("cool", 0, 2).get_color(
            number
        )
    _, axes = plt.subplots()
    for label in ("a", "b", "a"):
        axes.plot([0, 1], label=label)
    openretina_api.legend_without_duplicate_labels(axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
