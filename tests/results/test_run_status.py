"""How far a run is, as told from its store."""

import math
import sys
import time

import numpy as np
import pytest
from conftest import find, video_model
from lightning.pytorch import Callback

import mei_lightning as ml
from mei_lightning.cli.main import main
from mei_lightning.exceptions import NotPermittedError
from mei_lightning.results.claim import Claim, turn
from mei_lightning.results.starts import note_start
from mei_lightning.shard import Shard

NEURONS = [("monday", 0), ("tuesday", 2), ("monday", 3), ("tuesday", 0), ("monday", 1)]


def result(problem, number, status="converged"):
    return ml.MEIResult(
        number=number,
        stimulus=np.ones(problem.shape),
        response=np.ones(problem.description.sizes["response_time"]),
        score=1.0,
        status=status,
        steps=3,
        best_restart=0,
        seed=1,
        restart_scores=np.ones(1),
        restart_similarity=math.nan,
    )


@pytest.fixture
def problem():
    return ml.MEIProblem(video_model(), NEURONS, ml.MEISettings(time_steps=5, restarts=1))


@pytest.fixture
def store(tmp_path, problem):
    return ml.MEIStore.create(tmp_path / "meis.zarr", problem.description, problem.configuration)


def row(status, shard):
    table = status["shards"].set_index("shard")
    return table.loc[shard].to_dict()


def test_each_shard_has_what_it_did_and_its_state(store, problem, monkeypatch):
    begun = time.time_ns()
    for shard in (Shard(1, 3), Shard(2, 3), Shard(2, 3)):
        note_start(store.path, shard)
    # Half a minute for each neuron.
    clock = iter(range(1, 100))
    monkeypatch.setattr("mei_lightning.results.journal.time.time_ns", lambda: begun + next(clock) * 30 * 10**9)
    store.write(result(problem, 0))
    store.write(result(problem, 3, "not finite"))
    store.write(result(problem, 1, "interrupted"))
    monkeypatch.setattr("mei_lightning.results.run_status.time.time_ns", lambda: begun + 4 * 30 * 10**9)
    claim = Claim(store.path, Shard(2, 3))
    with turn(store.path):
        claim.acquire()
    try:
        status = ml.run_status(store.path)
    finally:
        claim.release()
    assert (status["neurons"], status["done"]) == (5, 2)
    assert status["statuses"] == {"converged": 1, "not finite": 1, "interrupted": 1, "pending": 2}
    first, second, third = (row(status, f"{number}/3") for number in (1, 2, 3))
    assert (first["state"], first["neurons"], first["done"], first["failed"], first["starts"]) == ("done", 2, 2, 1, 1)
    # Two neurons in the minute from its start to the second of them.
    assert first["neurons_per_minute"] == pytest.approx(2.0, rel=1e-2)
    assert first["minutes_left"] == 0.0
    assert (second["state"], second["done"], second["starts"]) == ("running", 0, 2)
    assert (third["state"], third["neurons"], third["starts"]) == ("not begun", 1, 0)
    assert math.isnan(status["minutes_left"])


def test_the_time_left_is_that_of_the_slowest_that_runs(store, problem, monkeypatch):
    begun = time.time_ns()
    claims = [Claim(store.path, Shard(number, 2)) for number in (1, 2)]
    for claim in claims:
        note_start(store.path, claim.shard)
        claim.acquire()
    monkeypatch.setattr("mei_lightning.results.journal.time.time_ns", lambda: begun + 50 * 10**9)
    for number in (0, 2, 1):
        store.write(result(problem, number))
    monkeypatch.setattr("mei_lightning.results.run_status.time.time_ns", lambda: begun + 60 * 10**9)
    status = ml.run_status(store.path)
    for claim in claims:
        claim.release()
    # In a minute 2 of 3, and 1 of 2.
    assert status["shards"]["minutes_left"].tolist() == pytest.approx([0.5, 1.0], rel=1e-2)
    assert status["minutes_left"] == pytest.approx(1.0, rel=1e-2)
    assert status["neurons_per_minute"] == pytest.approx(3.0, rel=1e-2)
    # Nobody is at it any more.
    status = ml.run_status(store.path)
    assert status["shards"]["state"].tolist() == ["stopped", "stopped"]
    assert math.isnan(status["minutes_left"])


class Asks(Callback):
    """Asks how far the run is in the midst of it."""

    def __init__(self, store):
        self.store = store
        self.state = None

    def on_train_epoch_end(self, trainer, pl_module):
        self.state = self.state or ml.run_status(self.store)["shards"]["state"].tolist()


def test_an_undivided_run_is_a_single_shard(tmp_path):
    asks = Asks(tmp_path / "meis.zarr")
    find(video_model(), NEURONS, time_steps=5, max_steps=20, directory=tmp_path, callbacks=[asks])
    assert asks.state == ["running"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "meis.zarr").rglob("*")}
    status = ml.run_status(tmp_path / "meis.zarr")
    assert status["shards"][["shard", "state", "done"]].values.tolist() == [["1/1", "done", 5]]
    assert status["minutes_left"] == 0.0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "meis.zarr").rglob("*")}


def test_a_store_that_has_not_been_started_is_not_begun(store):
    status = ml.run_status(store.path)
    assert status["shards"][["shard", "state", "neurons"]].values.tolist() == [["1/1", "not begun", 5]]


def test_where_nothing_can_be_written_the_state_is_unknown(store, monkeypatch):
    def refuse(self):
        raise NotPermittedError(13, "Permission denied")

    note_start(store.path, None)
    monkeypatch.setattr("mei_lightning.results.lock.RunLock.acquire", refuse)
    status = ml.run_status(store.path)
    assert status["shards"]["state"].tolist() == ["unknown"]
    assert math.isnan(status["minutes_left"])


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no store of MEIs"):
        ml.run_status(tmp_path / "meis.zarr")


def test_the_command_says_which_shards_to_start(store, problem, capsys):
    note_start(store.path, Shard(1, 2))
    store.write(result(problem, 0))
    main(["status", str(store.path)])
    said = capsys.readouterr().out
    assert "1 of 5 neurons are done" in said
    assert "Not running, with neurons to find: 1/2, 2/2." in said


# What a run will take


def test_a_dry_run_says_what_it_takes_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mei-lightning"])
    options = ["--model.retina=simulated", "--model.neurons={indices: [0, 1]}", "--model.max_steps=4"]
    main(["fit", *options, "--model.restarts=1", "--shard=1/2", "--results.directory=results", "--dry-run"])
    said = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert "neurons: 3\n" in said
    assert "measured on 3 neurons, of which 3 were done" in said
    # 6 stimuli of 2 channels, 40 frames and 18 by 16 pixels of 4 bytes, and little more.
    stimuli = 6 * 2 * 40 * 18 * 16 * 4 / 1e6
    disk = float(said.partition("disk: ")[2].partition(" KB")[0]) / 1e3
    assert stimuli <= disk <= 1.1 * stimuli


def test_a_dry_run_of_several_norms_is_that_of_the_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mei-lightning"])
    options = ["--model.retina=simulated", "--model.neurons=[[session_1, 0]]", "--model.max_steps=4"]
    main(["fit", *options, "--model.norm=[5, 10]", "--results.directory=results", "--dry-run"])
    said = capsys.readouterr().out
    assert "neurons: 1\n" in said
    assert "So at the first of 2 values of norm" in said
    assert not list(tmp_path.iterdir())
