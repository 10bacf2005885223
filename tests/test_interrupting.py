"""Interrupts in a script and on the command line: what was found is safe, and where it is said to be.

``test_our_notebook.py`` has a notebook's. Each is a signal that a callback sends at a given step.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import assert_same_meis, find, read, video_model
from lightning.pytorch import Callback
from processes import TESTS

import mei_lightning as ml
from mei_lightning.cli.errors import messages_in_place_of_tracebacks
from mei_lightning.optimization.trainer import quiet_trainer

NEURONS = [("monday", 0), ("tuesday", 1), ("monday", 3), ("tuesday", 2)]
SETTINGS = {"time_steps": 6, "restarts": 2, "max_steps": 20, "rows_per_device": 2}
SCRIPT = """
import json, os, signal, sys, threading
from conftest import video_model
from process_callbacks import PressesCtrlC
import mei_lightning as ml

BEFORE
if __name__ == "__main__":
    try:
        ml.find_meis(video_model(), NEURONS, **SETTINGS, accelerator="cpu", progress_bar=False, OPTIONS)
    except KeyboardInterrupt as interrupt:
        message = str(interrupt)
    for thread in threading.enumerate():
        # Lightning's, which ends this process if another one has failed.
        if thread.name == "child-process-observer":
            thread.join()
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print(json.dumps({"message": message, "listens": listens}))
"""


def run_script(tmp_path, options, before=""):
    """What a script says that goes on after it was interrupted."""
    parts = {"NEURONS": str(NEURONS), "SETTINGS": str(SETTINGS), "OPTIONS": options, "BEFORE": before}
    script = tmp_path / "script.py"
    script.write_text(re.sub("|".join(parts), lambda part: parts[part[0]], SCRIPT), encoding="utf-8")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "MASTER", "WORLD"))}
    own |= {"PYTHONPATH": os.pathsep.join([str(TESTS), own.get("PYTHONPATH", "")]), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(script)], env=own, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def continued(message):
    """The results of the same call with the directory that a message names."""
    return find(video_model(), NEURONS, **SETTINGS, directory=re.search("directory='(.*?)'", message)[1]).load()


@pytest.fixture(scope="module")
def whole():
    return find(video_model(), NEURONS, **SETTINGS)


@pytest.mark.slow
def test_a_script_without_a_directory_loses_nothing(tmp_path, whole):
    said, printed = run_script(tmp_path, "callbacks=[PressesCtrlC(14)]")
    assert said["message"].startswith("1 of 4 neurons are done.")
    assert said["listens"]
    store = re.search(r"open_zarr\('(.*?)'", said["message"])[1]
    assert "the same run continues it there" not in printed
    assert xr.open_zarr(store)["status"].values.tolist()[1:] == ["interrupted", "pending", "pending"]
    assert_same_meis(continued(said["message"]), whole)


@pytest.mark.slow
def test_the_first_process_of_a_script_goes_on_after_an_interrupt_of_both(tmp_path, whole):
    said, _ = run_script(tmp_path, f"callbacks=[PressesCtrlC(14)], devices=2, directory={str(tmp_path / 'run')!r}")
    assert re.match("[12] of 4 neurons are done.", said["message"])
    assert_same_meis(continued(said["message"]), whole)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="The script's callback has to be sent to its processes.")
def test_processes_of_a_notebook_end_before_the_notebook_is_interrupted(tmp_path, whole):
    """The interrupt reaches one of the processes and the notebook, which tells the other one."""
    options = f"callbacks=[PressesCtrlC(14, [os.getpid()])], devices=2, directory={str(tmp_path / 'run')!r}"
    said, _ = run_script(tmp_path, options, before="sys.ps1 = '>>> '")
    assert re.match("[12] of 4 neurons are done.", said["message"])
    assert said["listens"]
    assert_same_meis(continued(said["message"]), whole)


class At(Callback):
    """Does something after a step, before the module knows which rows are done."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.act()


def press():
    signal.raise_signal(signal.SIGINT)


def fail():
    raise RuntimeError("the user's callback fails")


def test_a_neuron_is_not_done_before_moved_copies_of_its_stimulus_count():
    """An interrupt can come between the step in which the last of them converges and the next check."""
    module = ml.MEIModule(video_model(), NEURONS[:1], time_steps=16)
    rows = module.rows
    rows.occupy([0], [0])
    rows.status.fill_(int(ml.Status.CONVERGED))
    rows.shifted.fill_(True)
    rows.best_value.copy_(torch.arange(len(rows)))
    assert module.complete_slots() == []
    rows.adopt_moved()
    assert module.complete_slots() == []
    assert module.unfinished_slots() == [0]
    rows.frame_shifted.fill_(True)
    assert module.complete_slots() == [0]
    # Of those moved by a frame, too.
    rows.status[-1] = int(ml.Status.CONVERGED)
    assert module.complete_slots() == []


@pytest.mark.slow
def test_an_error_leaves_what_was_found_and_says_where(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match="the user's callback fails") as failed:
        find(video_model(), NEURONS, **SETTINGS, callbacks=[At(14, fail)])
    (note,) = failed.value.__notes__
    assert note.startswith("1 of 4 neurons are done.")
    assert_same_meis(continued(note), whole)


def test_nothing_stays_of_a_call_that_ends_or_has_found_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    find(video_model(), NEURONS[:1], **SETTINGS)
    with pytest.raises(RuntimeError):
        find(video_model(), NEURONS[:1], **SETTINGS, callbacks=[At(2, fail)])
    with pytest.raises(ValueError, match="cannot"):
        find(video_model(), NEURONS[:1], **SETTINGS, callbacks=[ml.StimulusLogger(["nobody"])])
    assert not list(tmp_path.iterdir())


def test_fits_inside_of_functions_raise_interrupts_too():
    listens = signal.getsignal(signal.SIGINT)
    module = ml.StimulusModule(lambda stimulus: stimulus.mean((1, 2, 3, 4)), torch.randn(1, 1, 2, 3, 3))
    with pytest.raises(KeyboardInterrupt), quiet_trainer("cpu", max_steps=5, callbacks=[At(2, press)]) as trainer:
        trainer.fit(module)
    assert signal.getsignal(signal.SIGINT) is listens


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no such signal.")
def test_an_interrupted_run_does_not_keep_the_signal_of_a_time_limit(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(KeyboardInterrupt):
        find(video_model(), NEURONS[:1], **SETTINGS, directory=tmp_path, callbacks=[At(2, press)])
    assert signal.getsignal(signal.SIGUSR1) is before
    assert np.isfinite(read(tmp_path)["score"]).all()


def test_exit_codes_are_the_command_lines(capsys):
    with pytest.raises(SystemExit) as ended, messages_in_place_of_tracebacks([]):
        raise KeyboardInterrupt("3 of 4 neurons are done.")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Interrupted. 3 of 4 neurons are done.\n"
