"""One way to treat paths, for every function that takes one."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import StillNetwork, find, still_model
from matplotlib.figure import Figure
from safetensors.torch import save_file

import mei_lightning as ml
from mei_lightning.cli.main import main
from mei_lightning.openretina_api import save_figure
from mei_lightning.paths import local_path

NAMES = ["2024-05-01T12:30:00", "~/with space/50 % ünï %d"]
VIDEO = np.random.default_rng(0).standard_normal((2, 4, 6, 5))


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder to work in and a home, so that each file that is made can be found again."""
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    return tmp_path


def place_of(places, name):
    return places / "home" / name[2:] if name.startswith("~") else places / "here" / name


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("name", NAMES)
def test_a_run_and_what_goes_on_from_it_keep_to_the_path_that_is_given(name, places):
    meis = find(still_model(), [0, 1], directory=name, log_directory=f"{name}/logs", max_steps=2, restarts=1)
    place, store = place_of(places, name), f"{name}/meis.zarr"
    again = find(still_model(), [0, 1], directory=name, max_steps=2, restarts=1)
    assert again.identical(meis)
    ml.analyze_meis(store, progress_bar=False)
    ml.write_report(store)
    ml.export_meis(store, f"{name}/meis.npz")
    ml.save_dataset(meis, f"{name}/copy.zarr")
    ml.score_held_out(store, still_model(1), progress_bar=False)
    ml.GivenStimuli(store)
    main(["export", store, f"{name}/exported.npz"])
    made = {"meis.zarr", "meis.png", "mei.png", "analysis.zarr", "measures.csv", "report.html"}
    made |= {"meis.npz", "copy.zarr", "exported.npz", "logs"}
    assert {path.name for path in place.iterdir()} == made
    assert list((place / "logs").rglob("events.*"))
    # Nothing is left elsewhere, such as a folder that is called ~.
    tops = {path.name for folder in ("here", "home") for path in (places / folder).iterdir()}
    assert tops == {place.relative_to(places).parts[1]}


@pytest.mark.parametrize("name", [*NAMES, "~", "x" * 200])
def test_figures_and_videos_go_where_they_are_sent(name, places):
    place = place_of(places, name)
    place.mkdir(parents=True, exist_ok=True)
    ml.save_figure(Figure(), f"{name}/a.png")
    save_figure("b.png", name, Figure())
    ml.save_stimulus_to_mp4_video(VIDEO, f"{name}/a.mp4")
    ml.save_stimulus_to_gif(VIDEO, f"{name}/a.gif")
    ml.save_stimulus_to_animated_png(VIDEO, f"{name}/c.png")
    save_file(StillNetwork().state_dict(), place / "weights.safetensors")
    ml.RetinaModel(StillNetwork(), ml.StimulusFormat(("grey",), 7, 6), 5, weights=f"{name}/weights.safetensors")
    assert {path.suffix for path in place.iterdir()} == {".png", ".mp4", ".gif", ".safetensors"}
    assert len(list(place.iterdir())) == 6


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        ("", ValueError, "directory='' is no path"),
        (3, TypeError, "directory=3 must be a path"),
        (b"results", TypeError, "directory=b'results' must be a path"),
        ("a\0b", ValueError, "is no path"),
        ("s3://bucket/results", ValueError, "reads like an address"),
        ("a::b", ValueError, "reads like an address"),
        ("~nobody-of-that-name/results", ValueError, "no such home"),
        ("x" * 250, ValueError, "too long"),
        ("/".join(["x" * 99] * 40), ValueError, "too long"),
    ],
)
def test_what_is_no_path_of_this_machine_is_refused_before_any_work(path, error, said, monkeypatch):
    monkeypatch.setattr("mei_lightning.find.MEIProblem", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(error, match=said) as refused:
        find(still_model(), [0], directory=path)
    assert isinstance(refused.value, ml.MEIError)
    takers = [ml.write_report, ml.analyze_meis, partial(ml.save_dataset, xr.Dataset()), ml.ResultsWriter, ml.MEIStore]
    for taker in takers:
        with pytest.raises(error, match=said.rpartition("=")[2]):
            taker(path)


def test_a_path_can_be_anything_that_is_one(tmp_path):
    class Place:
        def __fspath__(self):
            return os.fspath(tmp_path)

    assert local_path("path", Place()) == tmp_path
    assert local_path("path", Path("a.b")) == Path("a.b")
