"""Results in a directory that must not be written to: refused before any work, unless another place is given."""

import errno
import os
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from conftest import find, still_model

import mei_lightning as ml
from mei_lightning.cli.main import main

MODEL, OTHER = still_model(), still_model(1)
QUIET = {"accelerator": "cpu", "progress_bar": False}


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """The results of a run; files can no longer be made there, whoever asks."""
    place = tmp_path / "results"
    find(MODEL, [0, 1], directory=place, max_steps=2, restarts=1)
    make = tempfile.TemporaryFile

    def refuse(*args, dir=None, **options):
        if Path(dir).is_relative_to(place):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return make(*args, dir=dir, **options)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    return place


@pytest.fixture
def no_work(monkeypatch):
    for work in (
        "analysis.analyze.measure_meis",
        "report.page.neuron_records",
        "analysis.held_out.load_model",
        "results.export._write_npz",
        "experiment.export.projector_stimuli",
        "cli.methods.find_receptive_fields",
    ):
        monkeypatch.setattr(f"mei_lightning.{work}", lambda *_, **__: pytest.fail("work began"))


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("ask", "way_out"),
    [
        (lambda place: ml.analyze_meis(place / "meis.zarr", **QUIET), "directory="),
        (lambda place: ml.write_report(place / "meis.zarr"), "directory="),
        (lambda place: ml.score_held_out(place / "meis.zarr", OTHER, **QUIET), "target="),
        (lambda place: main(["analyze", str(place / "meis.zarr")]), "--directory"),
        (lambda place: main(["report", str(place / "meis.zarr"), "--analyze=true"]), "--directory"),
        (lambda place: main(["validate", str(place / "meis.zarr"), "simulated"]), "--target"),
        (lambda place: ml.export_meis(place / "meis.zarr", place / "meis.npz"), "another directory"),
        (lambda place: ml.save_dataset(ml.MEIModule(MODEL, [0]).problem.description, place / "a.zarr"), "another"),
        (lambda place: ml.export_for_experiment(place / "meis.zarr", place / "shown", ["0"]), "another directory"),
        (
            lambda place: main(["receptive-field", "--model=simulated", f"--target={place}/a.zarr", "--neurons=all"]),
            "another",
        ),
    ],
)
def test_what_would_write_there_is_refused_before_any_work(ask, way_out, directory):
    before = sorted(directory.rglob("*"))
    with pytest.raises(PermissionError, match="cannot be written to") as refused:
        ask(directory)
    assert isinstance(refused.value, ml.MEIError)
    assert way_out in str(refused.value)
    assert sorted(directory.rglob("*")) == before


@pytest.mark.slow
def test_all_can_go_to_another_directory(directory, tmp_path):
    before, store, elsewhere = sorted(directory.rglob("*")), directory / "meis.zarr", tmp_path / "new" / "elsewhere"
    analysis = ml.analyze_meis(store, MODEL, directory=elsewhere, **QUIET)
    ml.write_report(store, directory=elsewhere)
    scores = ml.score_held_out(store, OTHER, target=elsewhere / "held_out.csv", **QUIET)
    assert {path.name for path in elsewhere.iterdir()} == {
        "analysis.zarr",
        "measures.csv",
        "report.html",
        "held_out.csv",
    }
    assert pd.read_csv(elsewhere / "held_out.csv")["held_out_score"].tolist() == pytest.approx(scores.values.tolist())
    # The report has found the analysis there.
    assert "polarity" in (elsewhere / "report.html").read_text(encoding="utf-8")
    assert analysis.sizes["neuron"] == 2
    assert sorted(directory.rglob("*")) == before
    with pytest.raises(FileExistsError, match=r"held_out\.csv exists already"):
        ml.score_held_out(store, OTHER, target=elsewhere / "held_out.csv", **QUIET)


def test_a_directory_below_a_file_is_refused(directory, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="cannot be written to"):
        ml.analyze_meis(directory / "meis.zarr", directory=tmp_path / "file" / "below", **QUIET)
