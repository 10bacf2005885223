"""The script that runs the recipes and draws what they find."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_gallery.py"
specification = importlib.util.spec_from_file_location("make_gallery", SCRIPT)
gallery = importlib.util.module_from_spec(specification)
specification.loader.exec_module(gallery)


@pytest.mark.slow
def test_recipes_are_run_once_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["make_gallery.py", "--recipes", "goldin_2022", "--output", "one.png"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", arguments)
        gallery.main()
    # What is there already would be refused.
    assert capsys.readouterr().out.count("Dataset: found.zarr") == 1
    assert (tmp_path / "logs/gallery/goldin_2022/found.zarr").is_dir()
    picture = np.asarray(Image.open("one.png").convert("RGB"))
    assert picture.shape[1] == 300 * gallery.WIDTH
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize("recipe", sorted(path.stem for path in gallery.CONFIGS.glob("*.yaml")))
def test_every_recipe_says_what_it_does_in_a_line(recipe):
    assert 10 < len(gallery.purpose_of(recipe)) <= gallery.LONGEST
    assert "(" not in gallery.purpose_of(recipe)


def test_titles():
    titles = ["Burg et al. 2024, clusters", "Ding et al. 2023", "Target response"]
    assert list(map(gallery.title_of, ["burg_2024_clusters", "ding_2023", "target_response"])) == titles


def test_labels():
    types = {"a/0": "on_off", "a/1": "on_off", "b/0": "color_opponent"}
    labels = {"a/0": "ON OFF", "a/0+a/1": "ON OFF", "b/0": "colour opponent", "a/0+b/0": "2 neurons", "7": "unit 7"}
    assert {name: gallery.label_of(name, types) for name in labels} == labels


def test_of_several_stimuli_of_each_neuron_those_that_differ_most_are_shown():
    random = np.random.default_rng(0)
    values = np.repeat(random.standard_normal((3, 1, 2, 4, 5, 6)), 7, axis=1)
    values[1] += random.standard_normal((7, 2, 4, 5, 6))
    stimuli = xr.DataArray(values, dims=("neuron", "point", *gallery.MOVIE))
    dataset = xr.Dataset(
        {"stimulus": stimuli.transpose("neuron", *gallery.MOVIE, "point")}, coords={"neuron": list("abc")}
    )
    shown = gallery.some_of(dataset, {})
    assert [label for label, _, _ in shown] == ["point 0", "point 2", "point 4", "point 6"]
    for (_, stimulus, _), point in zip(shown, (0, 2, 4, 6), strict=True):
        np.testing.assert_array_equal(stimulus, values[1, point])


def test_the_strongest_frame_and_pixel():
    stimulus = np.full((2, 4, 5, 6), 0.1)
    stimulus[0, 1] = -0.4
    stimulus[1, :, 3, 2] = 0.9
    assert gallery.strongest_of(stimulus) == (1, (3, 2))
