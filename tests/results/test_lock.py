"""Two runs do not write to one store, and a run that was killed is in nobody's way."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import PROCESSES, fit, read, video_model
from lightning.pytorch import Callback

import mei_lightning as ml
import mei_lightning.results.lock
from mei_lightning.cli.main import main
from mei_lightning.results.lock import RunLock


def test_one_holds_it_at_a_time(tmp_path):
    one, other = RunLock(tmp_path / "meis.zarr"), RunLock(tmp_path / "meis.zarr")
    one.acquire()
    holder = f"process {os.getpid()} on {socket.gethostname()}, since 20"
    with pytest.raises(BlockingIOError, match=rf"meis.zarr is being written .*{holder}.*remove .*meis.zarr.lock"):
        other.acquire()
    other.release()
    with pytest.raises(BlockingIOError):
        other.acquire()
    one.release()
    assert not list(tmp_path.iterdir())
    other.acquire()
    other.release()


def test_the_message_says_how_to_remove_it_by_hand(tmp_path):
    one, other = RunLock(tmp_path / "meis.zarr"), RunLock(tmp_path / "meis.zarr")
    one.acquire()
    one.path.unlink()
    other.acquire()
    # The end of the first does not take away the lock of the other.
    one.release()
    with pytest.raises(BlockingIOError):
        one.acquire()
    other.release()


def test_a_file_that_was_left_behind_is_no_lock(tmp_path):
    (tmp_path / "meis.zarr.lock").write_text("\nprocess 1 on nowhere, since ever", encoding="utf-8")
    lock = RunLock(tmp_path / "meis.zarr")
    lock.acquire()
    assert lock.path.read_text(encoding="utf-8").strip().startswith(f"process {os.getpid()} on")
    lock.release()


def test_who_holds_it_is_said_after_the_byte_that_windows_lets_nobody_read(tmp_path):
    one, other = RunLock(tmp_path / "meis.zarr"), RunLock(tmp_path / "meis.zarr")
    one.acquire()
    with one.path.open("r+b") as file:
        file.write(b"#")
    with pytest.raises(BlockingIOError, match=rf"\(process {os.getpid()} on"):
        other.acquire()
    one.release()


def test_windows_removes_the_file_once_it_is_closed(tmp_path, monkeypatch):
    lock = RunLock(tmp_path / "meis.zarr")
    unlink = Path.unlink

    def refuse_open_files(path, missing_ok=False):
        if lock._file is not None:
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse_open_files)
    lock.acquire()
    lock.release()
    assert not list(tmp_path.iterdir())
    lock.acquire()
    lock.release()


def test_a_file_that_somebody_removes_at_the_same_moment_is_no_error(tmp_path, monkeypatch):
    one, other = RunLock(tmp_path / "meis.zarr"), RunLock(tmp_path / "meis.zarr")
    one.acquire()
    unlink = Path.unlink

    def remove_first(path, missing_ok=False):
        unlink(path)
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", remove_first)
        one.release()
    assert not list(tmp_path.iterdir())
    other.acquire()
    other.release()


def test_a_lock_that_fails_is_an_error_and_leaves_no_file_open(tmp_path, monkeypatch):
    tried = []

    def fail(descriptor, blocking):
        tried.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    lock = RunLock(tmp_path / "meis.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(mei_lightning.results.lock, "lock_descriptor", fail)
        with pytest.raises(OSError, match="Input/output error"):
            lock.acquire()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(tried[0])
    lock.acquire()
    lock.release()


def contend(store, holders, wins):
    """Take the lock many times, and note if anyone else has it meanwhile."""
    lock = RunLock(store)
    for _ in range(300):
        try:
            lock.acquire()
        except BlockingIOError:
            continue
        with holders.get_lock(), wins.get_lock():
            assert holders.value == 0
            holders.value, wins.value = 1, wins.value + 1
        time.sleep(1e-4)
        holders.value = 0
        lock.release()


@pytest.mark.slow
def test_processes_that_contend_never_both_have_it(tmp_path):
    holders, wins = PROCESSES.Value("i", 0), PROCESSES.Value("i", 0)
    processes = [PROCESSES.Process(target=contend, args=(tmp_path / "meis.zarr", holders, wins)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert wins.value >= 4


def test_without_locks_a_run_goes_on(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(mei_lightning.results.lock, "lock_descriptor", fail)
    with pytest.warns(UserWarning, match="has no locks"):
        fit(ml.MEIModule(video_model(), [("monday", 0)], time_steps=5), 2, directory=tmp_path)
    assert read(tmp_path).sizes["neuron"] == 1
    assert not (tmp_path / "meis.zarr.lock").exists()


class Second(Callback):
    """Begins a second run in the midst of the first."""

    def __init__(self, directory):
        self.directory = directory

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            with pytest.raises(BlockingIOError, match="is being written by another run"):
                fit(ml.MEIModule(video_model(), [("monday", 0)], time_steps=5), 2, directory=self.directory)
            raise torch.OutOfMemoryError


@pytest.mark.slow
def test_a_run_keeps_others_out_until_it_ends_or_fails(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        fit(ml.MEIModule(video_model(), [("monday", 0)], time_steps=5), 50, Second(tmp_path), directory=tmp_path)
    fit(ml.MEIModule(video_model(), [("monday", 0)], time_steps=5), 1000, directory=tmp_path)
    assert read(tmp_path).status.item() == "step limit"
    assert {path.name for path in tmp_path.iterdir()} == {"meis.zarr"}


@pytest.mark.slow
def test_two_commands_and_a_kill(tmp_path, monkeypatch, capfd):
    """As a user meets it: the same command twice, the first is killed, the third goes on; that one in a process."""
    monkeypatch.delenv("MEI_LIGHTNING_TRACEBACK")
    monkeypatch.setattr(sys, "argv", ["mei-lightning"])
    command = [
        "fit",
        "--model.retina=simulated",
        "--model.neurons=all",
        "--model.rows_per_device=3",
        "--model.check_interval=1",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        f"--results.directory={tmp_path}",
        "--results.report=false",
    ]
    first = subprocess.Popen([Path(sys.executable).with_name("mei-lightning"), *command])
    try:
        while not any((tmp_path / "meis.zarr" / "records").glob("*")):
            assert first.poll() is None
            time.sleep(0.1)
        with pytest.raises(SystemExit) as second:
            main(command)
        assert second.value.code == 2
        said = capfd.readouterr().err
        assert f"error: {tmp_path}/meis.zarr is being written by another run (process {first.pid} on" in said
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    done = len(ml.MEIStore(tmp_path / "meis.zarr").finished())
    told = []
    monkeypatch.setattr("mei_lightning.callbacks.results_writer.rank_zero_info", told.append)
    main([*command, "--trainer.max_steps=1"])
    assert f"{done} of 108 neurons are done already" in told[0]
