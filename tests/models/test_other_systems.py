"""A system that lacks fork, fcntl, SIGUSR1 and SIGKILL, and keeps files where they are while they are open: Windows."""

import errno
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
from conftest import fit, read, video_model

import mei_lightning as ml
import mei_lightning.results.replacing
from mei_lightning.results.replacing import rename, replace

RUN = """
import multiprocessing, os, signal, sys

# filelock and Lightning lack these too on Windows, where they have something else in their place.
import filelock
from lightning.pytorch.trainer.connectors import signal_connector

signal_connector._IS_WINDOWS = True
has = {signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGINT, signal.SIGSEGV, signal.SIGTERM}
for lacking in set(signal.Signals) - has:
    delattr(signal, lacking.name)
signal.valid_signals = lambda: has
del os.fork
multiprocessing.get_all_start_methods = lambda: ["spawn"]
sys.modules["fcntl"] = None

import mei_lightning as ml
import mei_lightning.results.replacing
from mei_lightning.optimization.strategies import IN_NOTEBOOKS

assert IN_NOTEBOOKS == "spawn", IN_NOTEBOOKS
assert all(hasattr(ml, name) for name in ml.__all__)
meis = ml.find_meis(
    "digital_twin",
    [("session_1", 0), ("session_1", 1)],
    search="quick",
    accelerator="cpu",
    progress_bar=False,
    directory=sys.argv[1],
)
assert meis.status.values.tolist() == ["converged"] * 2, meis.status.values
assert meis.neuron.values.tolist() == ["session_1/0", "session_1/1"]
assert sorted(os.listdir(sys.argv[1])) == ["mei.png", "meis.mp4", "meis.png", "meis.zarr"]
"""


@pytest.mark.slow
def test_import_and_two_neurons(tmp_path):
    run = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.fixture
def kept_open(monkeypatch):
    """Lets the system refuse to move something to each place so often, as Windows does while a reader has it open."""

    def keep_open(refusals):
        left = {}

        def move_after_refusals(move, source, target):
            left.setdefault(target, refusals)
            left[target] -= 1
            if left[target] >= 0:
                raise PermissionError(errno.EACCES, "The process cannot access the file because it is being used")
            return move(source, target)

        # Not what other packages move.
        moves = {name: partial(move_after_refusals, getattr(os, name)) for name in ("replace", "rename")}
        monkeypatch.setattr(mei_lightning.results.replacing, "os", SimpleNamespace(**moves))
        return left

    return keep_open


@pytest.mark.parametrize("move", [replace, rename])
def test_a_reader_is_in_the_way_for_a_moment(tmp_path, kept_open, move):
    kept_open(refusals=3)
    (tmp_path / "new").write_text("new", encoding="utf-8")
    move(tmp_path / "new", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("move", [replace, rename])
def test_a_reader_that_stays_is_an_error_and_the_old_file_is_whole(tmp_path, monkeypatch, kept_open, move):
    left = kept_open(refusals=1000)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for file in ("new", "target"):
        (tmp_path / file).write_text(file, encoding="utf-8")
    with pytest.raises(PermissionError):
        move(tmp_path / "new", tmp_path / "target")
    assert (tmp_path / "target").read_text(encoding="utf-8") == "target"
    assert left[tmp_path / "target"] < 1000 - 10


@pytest.mark.slow
def test_a_run_and_what_is_made_of_it_while_readers_are_in_the_way(tmp_path, kept_open):
    """Wherever something takes the place of something else."""
    moved = kept_open(refusals=1)
    store = tmp_path / "meis.zarr"
    for writer in (ml.ResultsWriter(str(tmp_path), report=False), ml.ResultsWriter(str(tmp_path), True, report=False)):
        fit(ml.MEIModule(video_model(), [("monday", 0), ("monday", 1)], time_steps=5, search="quick"), 20, writer)
    for _ in range(2):
        ml.analyze_meis(store, overwrite=True, progress_bar=False)
        ml.write_report(store, overwrite=True)
    ml.export_meis(store, tmp_path / "meis.npz")
    made = {path.name for path in moved}
    assert {"meis.zarr", "analysis.zarr", "measures.csv", "report.html", "meis.npz", "0.0.0.0.0"} <= made
    assert len([path for path in tmp_path.iterdir() if "until" in path.name]) == 1
    assert not [path for path in tmp_path.rglob(".*") if path.suffix in (".partial", ".old")]
    assert read(tmp_path).sizes["neuron"] == 2
