"""Shares of the neurons of a run, and what processes that have one each make of them together."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from conftest import PROCESSES, assert_same_meis, find, needs_fork, read, video_model
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback
from processes import fit

import mei_lightning as ml
from mei_lightning.cli.main import main
from mei_lightning.results.claim import Claim, is_claimed, turn
from mei_lightning.shard import Shard

NEURONS = [("monday", 0), ("tuesday", 2), ("monday", 3), ("tuesday", 0), ("monday", 1), ("monday", 2), ("tuesday", 1)]
SETTINGS = {"time_steps": 5, "norm": 3.0, "restarts": 2, "max_steps": 25}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The MEIs of an undivided run."""
    return find(video_model(), NEURONS, **SETTINGS, directory=tmp_path_factory.mktemp("whole")).load()


@given(st.integers(0, 500), st.integers(1, 60))
def test_shards_are_a_partition_of_like_parts(neurons, count):
    parts = [list(Shard(number, count).numbers(neurons)) for number in range(1, count + 1)]
    assert sorted(number for part in parts for number in part) == list(range(neurons))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("value", ["3/16", " 3 / 16", (3, 16), [3, 16], np.array([3, 16])])
def test_a_shard_is_a_pair_of_numbers_or_a_text(value):
    assert Shard.of(value) == (3, 16)
    assert str(Shard.of(value)) == "3/16"


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("0/16", ValueError, "Numbers count from 1, as of a job array with --array=1-16"),
        ((17, 16), ValueError, "which one of how many, counted from 1"),
        ("1/0", ValueError, "which one of how many"),
        ("-1/2", TypeError, "which one of how many"),
        ((1, -1), ValueError, "which one of how many"),
        ("3 of 16", TypeError, "which one of how many"),
        ("/", TypeError, "which one of how many"),
        (3, TypeError, "which one of how many"),
        ((1.0, 2.0), TypeError, "which one of how many"),
        ((True, 2), TypeError, "which one of how many"),
    ],
)
def test_what_is_no_shard_is_refused_before_anything_is_done(tmp_path, value, kind, message):
    with pytest.raises(kind, match=re.escape(message)) as refused:
        ml.find_meis("no such model", NEURONS, shard=value, directory=tmp_path / "results")
    assert isinstance(refused.value, ml.MEIError)
    with pytest.raises(kind, match=re.escape(message)):
        ml.ResultsWriter(str(tmp_path / "results"), shard=value)
    assert not (tmp_path / "results").exists()


def test_a_shard_needs_a_directory_and_leaves_the_others_theirs(tmp_path):
    with pytest.raises(ml.MEIError, match="shard='1/2' needs a directory"):
        ml.find_meis("no such model", NEURONS, shard=(1, 2))
    with pytest.raises(ml.MEIError, match="start_anew=True with shard='1/2'"):
        ml.ResultsWriter(str(tmp_path), start_anew=True, shard="1/2")
    with pytest.raises(ml.MEIError, match="per_member=True: the comparison needs the MEIs of all shards"):
        ml.find_meis("no such model", NEURONS, shard=(1, 2), directory=tmp_path, per_member=True)
    with pytest.raises(ml.MEIError, match="repeats=3: the comparison needs the MEIs of all shards"):
        ml.find_meis("no such model", NEURONS, shard=(1, 2), directory=tmp_path, repeats=3)


def test_the_command_refuses_a_shard_without_a_directory(capsys, monkeypatch):
    monkeypatch.delenv("MEI_LIGHTNING_TRACEBACK")
    monkeypatch.setattr(sys, "argv", ["mei-lightning"])
    for options, message in (
        (["--shard=1/2"], "--shard 1/2 needs a directory"),
        (["--shard=0/2", "--results.directory=results"], "counted from 1, e.g. --shard 3/16"),
    ):
        with pytest.raises(SystemExit) as refused:
            main(["fit", "--model.retina=simulated", "--model.neurons=all", *options])
        assert refused.value.code == 2
        assert message in capsys.readouterr().err


def test_shards_one_after_the_other_are_the_undivided_run(tmp_path, whole, capsys):
    drawn = []
    for number in (2, 3, 1):
        before = ml.MEIStore(tmp_path / "meis.zarr").finished() if drawn else set()
        meis = find(video_model(), NEURONS, **SETTINGS, directory=tmp_path, shard=(number, 3))
        after = ml.MEIStore(tmp_path / "meis.zarr").finished()
        assert after - before == set(Shard(number, 3).numbers(7))
        assert (meis.status.values != "pending").sum() == len(after)
        drawn.append("Shard" not in capsys.readouterr().out)
    assert_same_meis(meis.load(), whole)
    # The table of all, and pictures, come with the last one.
    assert drawn == [False, False, True]


@pytest.mark.slow
def test_of_a_model_that_comes_with_the_package_they_are_so_to_the_last_bit(tmp_path, twin):
    neurons, settings = [("session_1", number) for number in (5, 0, 7)], {"search": "quick", "max_steps": 12}
    whole = find(twin, neurons, **settings, directory=tmp_path / "whole").load()
    for number in (1, 2):
        meis = find(twin, neurons, **settings, directory=tmp_path / "divided", shard=(number, 2))
    # Responses are computed of several neurons together, which are others in a shard.
    xr.testing.assert_identical(meis.load().drop_vars("response"), whole.drop_vars("response"))
    xr.testing.assert_allclose(meis.response, whole.response, rtol=1e-5)


def test_a_shard_that_is_started_again_does_nothing_again(tmp_path, monkeypatch):
    find(video_model(), NEURONS, **SETTINGS, directory=tmp_path, shard=(2, 3))
    written = []
    monkeypatch.setattr(ml.MEIStore, "write", lambda self, result: written.append(result.number))
    find(video_model(), NEURONS, **SETTINGS, directory=tmp_path, shard=(2, 3))
    assert written == []


def test_a_shard_without_neurons_ends_at_once(tmp_path, capsys):
    meis = find(video_model(), NEURONS[:2], **SETTINGS, directory=tmp_path, shard=(3, 4))
    assert meis.status.values.tolist() == ["pending", "pending"]
    assert "Shard 3/4: 0 of 0 neurons are done; of all shards so far 0 of 2" in capsys.readouterr().out


@pytest.mark.slow
def test_another_division_and_an_undivided_run_go_on_from_shards(tmp_path, whole):
    find(video_model(), NEURONS, **SETTINGS, directory=tmp_path, shard=(2, 3))
    find(video_model(), NEURONS, **SETTINGS, directory=tmp_path, shard=(1, 2))
    assert ml.MEIStore(tmp_path / "meis.zarr").finished() == {0, 1, 2, 4, 6}
    meis = find(video_model(), NEURONS, **SETTINGS, directory=tmp_path)
    assert_same_meis(meis.load(), whole)


def test_a_shard_with_other_settings_is_refused(tmp_path):
    find(video_model(), NEURONS[:2], **SETTINGS, directory=tmp_path, shard=(1, 2))
    with pytest.raises(ValueError, match="other settings"):
        find(video_model(), NEURONS[:2], **{**SETTINGS, "norm": 4.0}, directory=tmp_path, shard=(2, 2))
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.slow
def test_shards_of_several_norms(tmp_path):
    settings = {**SETTINGS, "norm": [2.0, 3.0]}
    whole = find(video_model(), NEURONS[:3], **settings, directory=tmp_path / "whole")
    for number in (1, 2):
        meis = find(video_model(), NEURONS[:3], **settings, directory=tmp_path / "divided", shard=(number, 2))
    assert_same_meis(meis, whole)


def test_each_shard_has_a_log_of_its_own(tmp_path):
    for number in (1, 2):
        place = {"directory": tmp_path / "results", "log_directory": tmp_path / "logs"}
        find(video_model(), NEURONS[:3], **SETTINGS, **place, shard=(number, 2))
    logs = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert [name.partition("-")[2][-13:] for name in logs] == ["-shard_1_of_2", "-shard_2_of_2"]


class Stops(Callback):
    """Ends a run at its second check."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch >= 1


def test_neurons_that_are_interrupted_do_not_count_as_done(tmp_path, capsys):
    find(video_model(), NEURONS, **SETTINGS, directory=tmp_path, shard=(1, 2), callbacks=[Stops()])
    (done,) = re.findall(r"Shard 1/2: (\d) of 4 neurons are done", capsys.readouterr().out)
    store = ml.MEIStore(tmp_path / "meis.zarr")
    assert int(done) == len(store.finished()) < 4
    assert "interrupted" in store.progress()[0]


# Who may write beside whom


def hold(store, shard, begun, end):
    claim = Claim(store, shard)
    with turn(store):
        claim.acquire()
    begun.set()
    end.wait()


@pytest.mark.parametrize(
    ("held", "asked", "message"),
    [
        (Shard(1, 2), Shard(2, 2), None),
        (Shard(1, 2), Shard(1, 2), "Shard 1/2 of .* is being computed by another process"),
        (Shard(1, 2), Shard(1, 3), "Shard 1/2 of .* is being computed by another process"),
        (Shard(1, 2), None, "Shard 1/2 of .* is being computed by another process"),
        (None, Shard(1, 2), "is being written by another run"),
        (None, None, "is being written by another run"),
    ],
)
def test_who_may_write_beside_whom(tmp_path, held, asked, message):
    store, begun, end = tmp_path / "meis.zarr", PROCESSES.Event(), PROCESSES.Event()
    other = PROCESSES.Process(target=hold, args=(store, held, begun, end))
    other.start()
    assert begun.wait(60)
    claim = Claim(store, asked)
    if message is None:
        claim.acquire()
        claim.release()
    else:
        with pytest.raises(BlockingIOError, match=message):
            claim.acquire()
    assert is_claimed(store, held)
    # What a killed process leaves is in nobody's way.
    other.kill()
    other.join()
    assert not is_claimed(store, held)
    claim.acquire()
    claim.release()
    assert not list(tmp_path.iterdir())


def test_a_turn_that_does_not_come_is_an_error(tmp_path):
    refused = pytest.raises(BlockingIOError, match="being begun or summarised")
    with turn(tmp_path / "meis.zarr"), refused, turn(tmp_path / "meis.zarr", seconds=0.2):
        pass
    with turn(tmp_path / "meis.zarr", seconds=0.0):
        pass
    assert not list(tmp_path.iterdir())


class SecondProcess(Callback):
    """Starts the same shard again, and another one, in the midst of a run."""

    def __init__(self, directory):
        self.directory = directory
        self.done = set()

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            with pytest.raises(BlockingIOError, match="Shard 1/2 of"):
                find(video_model(), NEURONS, **SETTINGS, directory=self.directory, shard=(1, 2))
            find(video_model(), NEURONS, **SETTINGS, directory=self.directory, shard=(2, 2))
            self.done = ml.MEIStore(self.directory / "meis.zarr").finished()


def test_another_shard_writes_in_the_midst_of_one_and_the_same_is_refused(tmp_path, whole):
    second = SecondProcess(tmp_path)
    meis = find(video_model(), NEURONS, **SETTINGS, directory=tmp_path, shard=(1, 2), callbacks=[second])
    assert second.done == {1, 3, 5}
    assert_same_meis(meis.load(), whole)
    assert not list(tmp_path.glob("*.lock"))


# Many processes


def compute(directory, number, count, settings):
    find(video_model(), NEURONS, **SETTINGS, **settings, directory=directory, shard=(number, count))


@needs_fork
@pytest.mark.slow
def test_eight_processes_of_which_some_are_killed_are_the_undivided_run(tmp_path, whole):
    """All begin at once, so that they contend for who makes the store, and end at about the same time."""
    draw = np.random.default_rng(1)

    def start(number):
        process = PROCESSES.Process(target=compute, args=(tmp_path, number, 8, {}))
        process.start()
        return process

    running = {number: start(number) for number in range(1, 9)}
    for number in draw.choice(8, 5, replace=False) + 1:
        time.sleep(draw.uniform(0.0, 0.6))
        running[number].kill()
        running[number].join()
        running[number] = start(number)
    for process in running.values():
        process.join()
    # One that ended before it was killed was started again for nothing, and ends well, too.
    assert [process.exitcode for process in running.values()] == [0] * 8
    assert_same_meis(read(tmp_path), whole)
    assert not list(tmp_path.glob("*.lock"))
    numbers = [record["number"] for record in records(tmp_path / "meis.zarr")]
    assert sorted(numbers) == list(range(7))


def records(store):
    lines = [line for path in (store / "records").iterdir() for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines if line]


def test_where_there_are_no_locks_the_store_of_who_was_first_is_taken(tmp_path, monkeypatch, whole):
    """Both shards see that there is no store; when the second one makes it, it is there."""
    create, made = ml.MEIStore.create, []

    def too_late(path, *args, **options):
        if not made:
            made.append(path)
            create(path, *args, **options)
        return create(path, *args, **options)

    monkeypatch.setattr(ml.MEIStore, "create", too_late)
    for number in (1, 2):
        meis = find(video_model(), NEURONS, **SETTINGS, directory=tmp_path, shard=(number, 2))
    assert len(made) == 1
    assert_same_meis(meis.load(), whole)


@pytest.mark.slow
def test_a_killed_command_goes_on_with_the_same_command(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mei-lightning"])
    command = [
        *("fit", "--model.retina=simulated", "--model.neurons={indices: [0, 1, 2]}", "--model.rows_per_device=2"),
        *("--model.max_steps=20", "--model.restarts=1", "--trainer.logger=false", "--shard=2/2"),
        *("--trainer.enable_progress_bar=false", f"--results.directory={tmp_path}", "--results.report=false"),
    ]
    first = subprocess.Popen([sys.executable, "-m", "mei_lightning.cli.main", *command])
    while not any((tmp_path / "meis.zarr" / "records").glob("*")):
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = {record["number"]: record["time"] for record in records(tmp_path / "meis.zarr")}
    main(command)
    after = {record["number"]: record["time"] for record in records(tmp_path / "meis.zarr")}
    assert set(after) == {1, 3, 5, 7}
    assert before.items() <= after.items()


# Several devices


@needs_fork
@pytest.mark.slow
def test_a_shard_on_two_devices(tmp_path, whole):
    for number in (1, 2):
        fit(tmp_path, 2, model=video_model(), neurons=NEURONS, shard=(number, 2), **SETTINGS)
    assert_same_meis(read(tmp_path), whole)


def test_several_machines_need_a_directory():
    with pytest.raises(ml.MEIError, match="num_nodes=2 needs a directory"):
        ml.find_meis("no such model", NEURONS, num_nodes=2)
    with pytest.raises(ml.MEIError, match="num_nodes=0 must be at least 1"):
        ml.find_meis("no such model", NEURONS, num_nodes=0)


def test_the_number_of_machines_is_that_of_the_trainer(tmp_path, monkeypatch):
    asked = []

    def note(**options):
        asked.append(options)
        raise InterruptedError

    monkeypatch.setattr("mei_lightning.find.Trainer", note)
    with pytest.raises(InterruptedError):
        find(video_model(), NEURONS, **SETTINGS, directory=tmp_path, num_nodes=3)
    assert asked[0]["num_nodes"] == 3
    assert asked[0]["strategy"].startswith("sharded")
