"""The store of a run: what was written is what is read, whoever writes, reads, dies or runs out of space meanwhile."""

import ctypes
import errno
import json
import math
import os
import pickle
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import PROCESSES, needs_export, needs_fork
from hypothesis import given, settings
from hypothesis import strategies as st

import mei_lightning.results.store
from mei_lightning.results.export import export_meis
from mei_lightning.results.schema import VARIABLES, Variable
from mei_lightning.results.store import MEIResult, MEIStore

DONE = ("given up", "converged", "step limit", "no gradient", "not finite")


def read(path):
    # Without dask, whose threads a forked process would wait for in vain.
    return xr.open_zarr(path, chunks=None)


def description_of(neurons=3, channels=2, frames=4, height=3, width=5, response_frames=2, restarts=2):
    return xr.Dataset(
        coords={
            "neuron": np.array([f"monday/{index}" for index in range(neurons)], dtype="U"),
            "session": ("neuron", np.full(neurons, "monday", dtype="U")),
            "index": ("neuron", np.arange(neurons)),
            "channel": np.array(["green", "UV", "red"][:channels], dtype="U"),
            "time": ("time", np.arange(frames) / 30, {"units": "s"}),
            "y": ("y", np.arange(height) * 50.0, {"units": "um"}),
            "x": ("x", np.arange(width) * 50.0, {"units": "um"}),
            "response_time": ("response_time", np.arange(response_frames) / 30, {"units": "s"}),
            "restart": np.arange(restarts),
        },
        attrs={"model": "a model", "frame_rate": 30.0, "mean": [1.0, 2.0]},
    )


def result_of(number, description, seed=0, status="converged", dtype=np.float32):
    """Always the same for the same arguments, so that any process can tell what it should be."""
    generator = np.random.default_rng([number, seed])
    sizes = description.sizes
    shape = [sizes[name] for name in ("channel", "time", "y", "x")]
    scores = generator.normal(size=sizes["restart"])
    return MEIResult(
        number=number,
        stimulus=generator.normal(size=shape).astype(dtype),
        response=generator.normal(size=sizes["response_time"]).astype(dtype),
        score=float(scores.max()),
        status=status,
        steps=int(generator.integers(1000)),
        best_restart=int(scores.argmax()),
        seed=int(generator.integers(2**63 - 1)),
        restart_scores=scores,
        restart_similarity=float(generator.random()),
    )


def spread_of(result):
    # A start that was given up has no score.
    scores = [float(score) for score in result.restart_scores if not math.isnan(score)]
    if len(scores) < 2 or not all(map(math.isfinite, [*scores, result.score])):
        return math.nan
    return statistics.pstdev(scores) / abs(result.score)


def check_neuron(dataset, number, result):
    """Every variable of a neuron is what the result says, or what nothing says."""
    found = dataset.isel(neuron=number).load()
    if result is None:
        assert found["status"].item() == "pending"
        assert (found["best_restart"].item(), found["seed"].item(), found["steps"].item()) == (-1, -1, 0)
        for name in ("score", "score_spread", "restart_similarity", "response", "restart_scores"):
            assert np.isnan(found[name]).all(), name
        return
    for name in ("status", "steps", "best_restart", "seed"):
        assert found[name].item() == getattr(result, name)
    for name in ("stimulus", "response", "restart_scores", "score", "restart_similarity"):
        np.testing.assert_array_equal(found[name].values, getattr(result, name), err_msg=name)
    np.testing.assert_allclose(found["score_spread"], spread_of(result), rtol=1e-9)


@pytest.fixture
def description():
    return description_of()


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    return MEIStore.create(tmp_path_factory.mktemp("empty") / "meis.zarr", description_of(), {"seed": 0}).path


@pytest.fixture
def store(tmp_path, empty_store):
    return MEIStore(shutil.copytree(empty_store, tmp_path / "meis.zarr"))


def in_child(function, *args):
    """Runs a function in a forked process; that process's exit code, negative if it was killed."""

    def run():
        try:
            function(*args)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    process = PROCESSES.Process(target=run)
    process.start()
    process.join()
    return process.exitcode


def killed_at(event, function, *args):
    """Runs a function in a process that is killed when it opens, renames or removes a file for the given time.

    Returns:
        Whether it was killed, and did not end before.
    """

    def run():
        left = event

        def watch(name, arguments):
            nonlocal left
            if name in ("open", "os.rename", "os.remove", "os.mkdir"):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        function(*args)

    code = in_child(run)
    assert code in (0, -signal.SIGKILL)
    return code != 0


# What is written is what is read.


def test_fresh_store_has_labels_attributes_and_no_results(tmp_path, description):
    store = MEIStore.create(tmp_path / "new" / "meis.zarr", description, {"seed": 3, "optimizer": {"start": (1.0, 2)}})
    assert store.configuration == {"seed": 3, "optimizer": {"start": [1.0, 2]}}
    assert store.finished() == set()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["meis.zarr"]
    with read(store.path) as dataset:
        xr.testing.assert_identical(
            dataset.coords.to_dataset().drop_attrs(deep=False), description.drop_attrs(deep=False)
        )
        for name in description.coords:
            assert dataset[name].dtype == description[name].dtype
        for name, value in description.attrs.items():
            assert dataset.attrs[name] == value
        assert json.loads(dataset.attrs["configuration"]) == store.configuration
        assert dataset["stimulus"].dims == ("neuron", "channel", "time", "y", "x")
        assert dataset["stimulus"].encoding["chunks"] == (1, 2, 4, 3, 5)
        assert dataset["stimulus"].attrs == {"units": "model units"}
        assert dataset["stimulus"].dtype == dataset["response"].dtype == np.float32
        assert dataset["response"].dims == ("neuron", "response_time")
        assert dataset["restart_scores"].dims == ("neuron", "restart")
        assert dataset["seed"].dtype == np.int64
        assert np.isnan(dataset["stimulus"]).all()
        for number in range(3):
            check_neuron(dataset, number, None)


def test_stimuli_in_double_precision(tmp_path, description):
    store = MEIStore.create(tmp_path / "meis.zarr", description, {}, dtype=np.float64)
    result = result_of(1, description, dtype=np.float64)
    store.write(result)
    store.collect()
    with read(store.path) as dataset:
        check_neuron(dataset, 1, result)
        assert dataset["stimulus"].dtype == dataset["response"].dtype == np.float64


def test_readable_after_every_step(store, description):
    """Whoever reads finds a neuron's results once they are collected, and a status that never runs ahead of them."""
    written, collected = {}, {}
    for number, status, seed in [(1, "interrupted", 0), (0, "no gradient", 0), (1, "step limit", 1), (2, "pending", 0)]:
        with read(store.path) as dataset:
            for each in range(3):
                check_neuron(dataset, each, collected.get(each))
        if status == "pending":
            break
        written[number] = result_of(number, description, seed, status)
        store.write(written[number])
        with read(store.path) as dataset:
            np.testing.assert_array_equal(dataset["stimulus"][number], written[number].stimulus)
            expected = "pending" if number not in collected else collected[number].status
            assert dataset["status"][number] == expected
        store.collect()
        collected = dict(written)
    assert store.finished() == {0, 1}


SPECIAL = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-30])


@pytest.mark.slow
@settings(max_examples=20)
@given(data=st.data())
def test_any_sequence_of_writes_reads_like_a_dict(data):
    """Several stores at one place, of which each knows of the others only what is on disk."""
    size = st.integers(1, 3)
    description = description_of(data.draw(st.integers(1, 7)), *(data.draw(size) for _ in range(6)))
    neurons = description.sizes["neuron"]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(mei_lightning.results.store, "_NEURONS_PER_CHUNK", data.draw(st.integers(1, 4)))
        stores = [MEIStore.create(Path(folder) / "meis.zarr", description, {})]
        stores += [MEIStore(stores[0].path) for _ in range(2)]
        expected = {}
        for _ in range(data.draw(st.integers(0, 8))):
            store = data.draw(st.sampled_from(stores))
            action = data.draw(st.sampled_from(["write", "write", "write", "collect", "finished"]))
            if action != "write":
                getattr(store, action)()
                continue
            number = data.draw(st.integers(0, neurons - 1))
            status = data.draw(st.sampled_from([*DONE, "interrupted"]))
            result = result_of(number, description, data.draw(st.integers(0, 5)), status)
            special = data.draw(st.lists(SPECIAL, max_size=3))
            for array in (result.stimulus.reshape(-1), result.response, result.restart_scores):
                array[: len(special)] = special[: array.size]
            if special:
                result = replace(result, score=special[0], restart_similarity=special[-1])
            if result.score == 0:
                result = replace(result, score=1.0)
            store.write(result)
            expected[number] = result
        finished = {number for number, result in expected.items() if result.status != "interrupted"}
        assert all(store.finished() == finished for store in [*stores, MEIStore(stores[0].path)])
        data.draw(st.sampled_from(stores)).collect()
        with xr.open_zarr(stores[0].path) as dataset:
            for number in range(neurons):
                check_neuron(dataset, number, expected.get(number))


def test_spread_is_relative_to_the_size_of_the_score(store, description):
    for number, score, expected in [(0, 2.0, 0.5), (1, -4.0, 0.25)]:
        result = result_of(number, description)
        store.write(replace(result, score=score, restart_scores=np.array([score, score - 2.0])))
        store.collect()
        with read(store.path) as dataset:
            assert dataset["score_spread"][number] == expected


def test_last_written_counts_though_its_clock_is_behind(store, description, monkeypatch):
    """Clocks of two nodes differ, here by an hour."""
    store.write(result_of(0, description, status="interrupted"))
    now = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: now)
    later, last = MEIStore(store.path), MEIStore(store.path)
    later.write(result_of(0, description, seed=1))
    last.write(result_of(0, description, seed=2))
    last.collect()
    with read(store.path) as dataset:
        check_neuron(dataset, 0, result_of(0, description, seed=2))


def test_numbers_of_numpy_are_numbers(store, description):
    result = result_of(2, description)
    store.write(
        replace(
            result,
            number=np.int64(2),
            score=np.float64(result.score),
            steps=np.int32(result.steps),
            seed=np.int64(result.seed),
            restart_similarity=np.float64(result.restart_similarity),
        )
    )
    store.collect()
    with read(store.path) as dataset:
        check_neuron(dataset, 2, result)


def test_many_neurons_are_few_files(tmp_path, description):
    store = MEIStore.create(tmp_path / "meis.zarr", description_of(neurons=200), {})
    counts = []
    for numbers in (range(1), range(1, 200)):
        for number in numbers:
            store.write(result_of(number, description))
        store.collect()
        counts.append(sum(path.is_file() for path in store.path.rglob("*")))
    assert counts[1] - counts[0] == 199


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"number": 3}, IndexError, "number=3.*neurons 0 to 2"),
        ({"number": -1}, IndexError, "number=-1.*neurons 0 to 2"),
        ({"status": "done"}, ValueError, "status='done' is none of converged, step limit"),
        ({"stimulus": np.zeros((2, 4, 5, 3))}, ValueError, r"stimulus of neuron 0 has shape \(2, 4, 5, 3\)"),
        ({"response": np.zeros(3)}, ValueError, r"response of neuron 0 has shape \(3,\)"),
        ({"restart_scores": np.zeros(1)}, ValueError, r"restart_scores of neuron 0 has shape \(1,\)"),
    ],
)
def test_results_that_do_not_fit_are_refused(store, description, change, error, message):
    with pytest.raises(error, match=message):
        store.write(replace(result_of(0, description), **change))
    assert store.finished() == set()
    with read(store.path) as dataset:
        assert np.isnan(dataset["stimulus"]).all()


# What is at the path.


@pytest.mark.parametrize("there", ["store", "file", "empty directory"])
def test_nothing_is_overwritten(tmp_path, description, there):
    path = tmp_path / "meis.zarr"
    if there == "store":
        MEIStore.create(path, description, {}).write(result_of(0, description))
    elif there == "file":
        path.write_text("precious")
    else:
        path.mkdir()
    with pytest.raises(FileExistsError, match=r"meis\.zarr exists already"):
        MEIStore.create(path, description, {})
    assert [each.name for each in tmp_path.iterdir()] == ["meis.zarr"]
    if there == "store":
        assert MEIStore(path).finished() == {0}
    elif there == "file":
        assert path.read_text() == "precious"


def create_or_count(paths, description, start, refused):
    """At each path in turn, together with other processes."""
    for path, count in zip(paths, refused, strict=True):
        start.wait()
        try:
            MEIStore.create(path, description, {"creator": os.getpid()})
        except FileExistsError:
            with count.get_lock():
                count.value += 1


@pytest.mark.slow
def test_one_of_many_creators_succeeds(tmp_path, description):
    paths, start = [tmp_path / f"{attempt}.zarr" for attempt in range(3)], PROCESSES.Barrier(4)
    refused = [PROCESSES.Value("i", 0) for _ in paths]
    arguments = (paths, description, start, refused)
    processes = [PROCESSES.Process(target=create_or_count, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert [count.value for count in refused] == [3] * 3
    for path in paths:
        assert MEIStore(path).configuration["creator"] in [process.pid for process in processes]


def test_description_without_a_dimension_or_with_data_is_refused(tmp_path, description):
    with pytest.raises(ValueError, match="missing: restart"):
        MEIStore.create(tmp_path / "a.zarr", description.drop_dims("restart"), {})
    with pytest.raises(ValueError, match="data: score"):
        MEIStore.create(tmp_path / "a.zarr", description.assign(score=("neuron", np.zeros(3))), {})
    assert not list(tmp_path.iterdir())


def test_only_stores_are_opened(tmp_path, description):
    with pytest.raises(FileNotFoundError, match=r"no store of MEIs at .*meis\.zarr"):
        MEIStore(tmp_path / "meis.zarr")
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    description.to_zarr(tmp_path / "other.zarr", zarr_format=2)
    description.to_zarr(tmp_path / "other3.zarr", zarr_format=3)
    # It has the attributes of a store, but no records.
    with read(MEIStore.create(tmp_path / "store.zarr", description, {}).path) as dataset:
        dataset.to_zarr(tmp_path / "copy.zarr", zarr_format=2)
    for name in ("file", "folder", "other.zarr", "other3.zarr", "copy.zarr"):
        with pytest.raises(ValueError, match=f"{name} is not a store of MEIs"):
            MEIStore(tmp_path / name)


def test_store_of_another_version_is_refused(tmp_path, description):
    path = MEIStore.create(tmp_path / "meis.zarr", description, {"mei_lightning": "7.5"}).path
    attributes = json.loads((path / ".zattrs").read_text())
    (path / ".zattrs").write_text(json.dumps({**attributes, "mei_store_version": 99}))
    with pytest.raises(ValueError, match=r"version 99, made by mei_lightning 7\.5; this one understands version 1\."):
        MEIStore(path)


# Is it the same run?


CONFIGURATION = {
    "mei_lightning": "0.1.0",
    "neurons": [f"monday/{index}" for index in range(1000)],
    "norm": 30.0,
    "ranges": [None, (-1.0, 2.0)],
    "optimizer": {"name": "SGD", "lr": 0.1},
    "patience": math.inf,
    "unknown": math.nan,
}


def differences(path, now):
    try:
        MEIStore(path).check_configuration(now)
    except ValueError as error:
        text = str(error)
        assert str(path) in text
        assert "another directory" in text
        assert "anew" in text
        return [line.strip() for line in text.splitlines() if line.startswith("  ")]
    return []


def test_same_configuration_passes_and_the_package_version_does_not_matter(tmp_path, description):
    path = MEIStore.create(tmp_path / "meis.zarr", description, CONFIGURATION).path
    assert differences(path, CONFIGURATION) == []
    assert differences(path, {**dict(reversed(CONFIGURATION.items())), "mei_lightning": "0.2.0"}) == []
    assert differences(path, {name: value for name, value in CONFIGURATION.items() if name != "mei_lightning"}) == []


def test_every_difference_of_settings_is_listed(tmp_path, description):
    path = MEIStore.create(tmp_path / "meis.zarr", description, CONFIGURATION).path
    now = {
        **CONFIGURATION,
        "mei_lightning": "0.2.0",
        "norm": 20.0,
        "ranges": [None, (-1.0, 3.0)],
        "optimizer": {"name": "SGD", "lr": 0.2, "momentum": 0.9},
        "seed": 1,
        "patience": 5,
    }
    del now["unknown"]
    expected = [
        ("norm", "30.0", "20.0"),
        ("ranges", "[null, [-1.0, 2.0]]", "[null, [-1.0, 3.0]]"),
        ("optimizer.lr", "0.1", "0.2"),
        ("optimizer.momentum", "nothing", "0.9"),
        ("patience", '"inf"', "5"),
        ("unknown", '"nan"', "nothing"),
        ("seed", "nothing", "1"),
    ]
    lines = differences(path, now)
    for line, (name, stored, now_given) in zip(lines, expected, strict=True):
        assert re.fullmatch(f"{re.escape(name)}: .*{re.escape(stored)}, now .*{re.escape(now_given)}", line)


def test_long_lists_show_only_what_differs(tmp_path, description):
    path = MEIStore.create(tmp_path / "meis.zarr", description, CONFIGURATION).path
    neurons = CONFIGURATION["neurons"]

    def names(now):
        (line,) = differences(path, {**CONFIGURATION, "neurons": now})
        assert line.startswith("neurons: ")
        assert len(line) < 300
        return re.findall(r"\w+/\d+|\b\d+ only", line)

    assert names([*neurons[2:], "tuesday/0"]) == ["2 only", "monday/0", "monday/1", "1 only", "tuesday/0"]
    assert names(neurons[:500]) == ["500 only", *neurons[500:505]]
    assert names([*neurons[:7], neurons[8], neurons[7], *neurons[9:]]) == [
        *neurons[7:10],
        *[neurons[8], neurons[7], neurons[9]],
    ]
    assert names([*neurons, neurons[0]]) == [neurons[0]]


# Many processes, and some that die.


def big_description(neurons):
    return description_of(neurons, channels=2, frames=25, height=18, width=16, response_frames=20, restarts=4)


def write_a_third(store, description, start, first, collects, reads):
    """The results of every third neuron from the first one on; of a store, or a pickled one.

    Three times it waits for the reader, so that this one sees a store half full however slow it is.
    """
    here = pickle.loads(store) if isinstance(store, bytes) else store
    start.wait()
    for number in range(first, 60, 3):
        here.write(result_of(number, description))
        if collects:
            here.collect()
        if number // 3 in (5, 10, 15):
            # One that has begun by now, and one more.
            enough = reads.value + 2
            while reads.value < enough:
                time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("collectors", "pickled"), [(1, False), (1, True), (3, False)])
def test_many_processes_write_while_others_read(tmp_path, collectors, pickled):
    """With one collector whoever reads finds all that a status promises; with several, once they have ended."""
    description = big_description(61)
    store = MEIStore.create(tmp_path / "meis.zarr", description, {})
    store.write(result_of(60, description))
    sent = pickle.dumps(store) if pickled else store
    start, reads = PROCESSES.Barrier(4), PROCESSES.Value("i", 0)
    processes = [
        PROCESSES.Process(
            target=write_a_third, args=(sent, description, start, first, first < collectors, reads), daemon=True
        )
        for first in range(3)
    ]
    for process in processes:
        process.start()
    start.wait()
    seen = set()
    while any(process.is_alive() for process in processes):
        with read(store.path) as dataset:
            written = np.flatnonzero(dataset["status"].values != "pending")
            seen.add(len(written))
            finished = store.finished()
            assert finished.issuperset(written)
            for number in finished:
                np.testing.assert_array_equal(dataset["stimulus"][number], result_of(number, description).stimulus)
            dataset.drop_vars("stimulus").load()
            for number in written if collectors == 1 else ():
                check_neuron(dataset, number, result_of(number, description))
        reads.value += 1
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(seen) > 2, "the reader never saw a store half full: it tested nothing"
    assert len(list((store.path / "records").iterdir())) == 4, "on network file systems two cannot append to one file"
    store.collect()
    assert store.finished() == set(range(61))
    with read(store.path) as dataset:
        for number in range(61):
            check_neuron(dataset, number, result_of(number, description))


def test_collector_who_knew_less_does_not_have_the_last_word(store, description, monkeypatch):
    """Another process writes and collects while this one is about to put its older view on disk."""
    first, other = result_of(0, description), MEIStore(store.path)
    store.write(first)
    put, nested = os.replace, []

    def interfere(source, target):
        if not nested:
            nested.append(target)
            other.write(result_of(1, description))
            other.collect()
        put(source, target)

    monkeypatch.setattr(os, "replace", interfere)
    store.collect()
    assert nested
    with read(store.path) as dataset:
        check_neuron(dataset, 0, first)
        check_neuron(dataset, 1, result_of(1, description))
        check_neuron(dataset, 2, None)


def check_after_death(path, description, versions):
    """The store is whole, and each neuron that claims anything is exactly one of the versions that were written."""
    store = MEIStore(path)
    finished = store.finished()
    with read(path) as dataset:
        dataset.load()
        for number in finished:
            expected = result_of(number, description, *versions[-1])
            np.testing.assert_array_equal(dataset["stimulus"][number], expected.stimulus)
    store.collect()
    with read(path) as dataset:
        dataset.load()
        known = {version[1]: version for version in versions}
        for number, status in enumerate(dataset["status"].values):
            assert (status not in ("pending", "interrupted")) == (number in finished)
            expected = None if status == "pending" else result_of(number, description, *known[status])
            check_neuron(dataset, number, expected)
    return finished


@pytest.mark.slow
@needs_fork
def test_process_killed_before_any_file_that_it_touches(tmp_path):
    """At every file that is opened, renamed or removed on the way from an interrupted to a finished neuron."""
    description, versions = description_of(neurons=2), [(0, "interrupted"), (1, "converged")]
    empty = MEIStore.create(tmp_path / "empty.zarr", description, {}).path

    def run(path):
        store = MEIStore(path)
        for version in versions:
            store.write(result_of(1, description, *version))
        store.collect()

    outcomes = []
    for event in range(1000):
        path = shutil.copytree(empty, tmp_path / f"{event}.zarr")
        killed = killed_at(event, run, path)
        outcomes.append(len(check_after_death(path, description, versions)))
        if not killed:
            break
        MEIStore(path).write(result_of(1, description, *versions[1]))
        assert check_after_death(path, description, versions) == {1}
    assert outcomes == sorted(outcomes)
    assert outcomes.count(0) > 5
    assert outcomes.count(1) > 5


@needs_fork
def test_creator_killed_at_any_moment_leaves_a_store_or_nothing(tmp_path, description):
    seen = set()
    for event in sorted({int(1.4**power) for power in range(50)}):
        path = tmp_path / f"{event}.zarr"
        killed = killed_at(event, MEIStore.create, path, description, {})
        seen.add(path.exists())
        if path.exists():
            with read(path) as dataset:
                check_neuron(dataset, 0, None)
        else:
            MEIStore.create(path, description, {})
        if not killed:
            break
    assert seen == {False, True}


@pytest.mark.slow
@needs_fork
def test_writer_killed_at_random_moments_again_and_again(tmp_path):
    description, versions = big_description(20), [(0, "interrupted"), (1, "step limit")]
    path = MEIStore.create(tmp_path / "meis.zarr", description, {}).path

    def run():
        store = MEIStore(path)
        for number in sorted(set(range(20)) - store.finished()):
            for version in versions:
                store.write(result_of(number, description, *version))
            store.collect()

    chance, kills, finished = random.Random(0), 0, set()
    while len(finished) < 20:
        process = PROCESSES.Process(target=run)
        process.start()
        # Later as it goes on, so that the test ends on any machine.
        process.join(timeout=chance.uniform(0.005, 0.05) + 0.002 * kills)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        now = check_after_death(path, description, versions)
        assert now >= finished
        finished = now
    assert kills > 5


def test_a_chunk_is_on_the_disk_before_it_takes_its_place(store, description, monkeypatch):
    """In the other order a power failure in between leaves an empty chunk, and no reader can open the variable."""
    events, fsync, move = [], os.fsync, os.replace

    def on_disk(descriptor):
        fsync(descriptor)
        events.append(("on disk", os.fstat(descriptor).st_ino))

    def in_place(source, target):
        move(source, target)
        events.append(("in place", os.stat(target).st_ino))

    monkeypatch.setattr(os, "fsync", on_disk)
    monkeypatch.setattr(os, "replace", in_place)
    store.write(result_of(0, description))
    store.collect()
    chunks = [chunk for event, chunk in events if event == "in place"]
    assert len(chunks) == 1 + len(VARIABLES)
    assert events == [(event, chunk) for chunk in chunks for event in ("on disk", "in place")]


# Disks that are full, or not ours.


@contextmanager
def own_mounts():
    """In a forked process: a private view of the mounts. Exits with 77 where the machine does not allow it."""
    new_mounts, new_user = 0x00020000, 0x10000000
    user = os.geteuid()
    flags = new_mounts if user == 0 else new_mounts | new_user
    if ctypes.CDLL(None).unshare(flags) != 0:
        os._exit(77)
    if user != 0:
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="utf-8")
    if subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True).returncode != 0:
        os._exit(77)
    yield


def mount(*arguments):
    if subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode != 0:
        os._exit(77)


def check_in_own_mounts(function, *args):
    def run():
        with own_mounts():
            function(*args)

    code = in_child(run)
    if code == 77:
        pytest.skip("this machine does not let tests mount a file system")
    assert code == 0


def no_space(action, *args):
    """What the error says where there is no space, or nothing if there is."""
    try:
        action(*args)
    except OSError as error:
        return str(error) if error.errno == errno.ENOSPC else pytest.fail(f"another error: {error}")
    return ""


def fill(path, leave=0):
    """Writes a file until the disk is full, and then frees ``leave`` bytes."""
    with path.open("ab", buffering=0) as file:
        while not no_space(file.write, bytes(4096)):
            pass
        file.truncate(max(0, path.stat().st_size - leave))


@pytest.mark.slow
@needs_fork
def test_full_disk_keeps_what_is_finished_and_says_what_to_do(tmp_path):
    description = big_description(200)

    def run():
        mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path)
        store = MEIStore.create(tmp_path / "meis.zarr", description, {})
        for number in range(200):
            message = no_space(store.write, result_of(number, description))
            if message:
                break
        assert re.search(r"meis\.zarr .*finished are safe.*free space.*same command", message)
        finished = store.finished()
        assert finished == set(range(number))
        assert number > 10
        assert not list(store.path.rglob("*.partial"))
        filler, failures = tmp_path / "filler", 0
        for leave in range(0, 24 * 4096, 4096):
            fill(filler, leave)
            message = no_space(MEIStore(store.path).collect)
            with read(store.path) as dataset:
                for each in np.flatnonzero(dataset["status"].values != "pending"):
                    check_neuron(dataset, each, result_of(each, description))
            if not message:
                break
            failures += 1
            assert "free space and run the same command" in message
        assert failures > 0
        fill(filler)
        assert "Nothing was made: free space" in no_space(MEIStore.create, tmp_path / "other.zarr", description, {})
        assert {each.name for each in tmp_path.iterdir()} == {"meis.zarr", "filler"}
        filler.unlink()
        mount("-o", "remount,size=64m", tmp_path)
        again = MEIStore(store.path)
        for number in set(range(200)) - again.finished():
            again.write(result_of(number, description))
        again.collect()
        with read(store.path) as dataset:
            for number in range(200):
                check_neuron(dataset, number, result_of(number, description))

    check_in_own_mounts(run)


@needs_fork
def test_record_cut_by_a_full_disk_counts_as_not_written(tmp_path):
    """The disk is full when the record comes, after the stimulus; the same process goes on when there is space."""

    def run():
        mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path)
        # Long records, so that there is space for a part of one.
        description = description_of(neurons=30, response_frames=3000)
        store = MEIStore.create(tmp_path / "meis.zarr", description, {})
        store.write(result_of(0, description))
        failures = 0
        for number in range(1, 15):
            fill(tmp_path / "filler", leave=4096 * (number % 5))
            if no_space(store.write, result_of(number, description)):
                failures += 1
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert number not in MEIStore(store.path).finished()
            (tmp_path / "filler").unlink()
            store.write(result_of(number + 15, description, seed=1))
            store.write(result_of(number, description, seed=1))
        assert failures > 5
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fresh = MEIStore(store.path)
            assert fresh.finished() == set(range(30)) - {15}
            assert caught, "no record was cut: the test tested nothing"
            assert all(".jsonl cannot be read" in str(warning.message) for warning in caught)
            fresh.collect()
        with read(store.path) as dataset:
            for number in fresh.finished() - {0}:
                check_neuron(dataset, number, result_of(number, description, seed=1))

    check_in_own_mounts(run)


def check_refusals(store, description, reason):
    actions = {
        "probe": store.check_writable,
        "write": lambda: store.write(result_of(1, description)),
        "collect": store.collect,
        "create": lambda: MEIStore.create(store.path.with_name("other.zarr"), description, {}),
    }
    for action in actions.values():
        with pytest.raises(PermissionError, match=f"cannot be written to.*{os.strerror(reason)}.*another dir") as error:
            action()
        assert error.value.errno == reason
    assert store.finished() == {0}


@needs_fork
def test_read_only_disk(tmp_path, description):
    def run():
        mount("-t", "tmpfs", "tmpfs", tmp_path)
        store = MEIStore.create(tmp_path / "meis.zarr", description, {})
        store.check_writable()
        store.write(result_of(0, description))
        mount("-o", "remount,ro", tmp_path)
        check_refusals(store, description, errno.EROFS)

    check_in_own_mounts(run)


@needs_fork
@pytest.mark.parametrize("folder", [".", "records", "stimulus", "status"])
def test_store_of_someone_else(description, folder):
    """One forbidden folder is found before any work; with all of them, everything is refused and still read."""

    def run(path):
        store = MEIStore.create(path / "meis.zarr", description, {})
        store.check_writable()
        store.write(result_of(0, description))
        folders = [path, *(each for each in store.path.rglob("*") if each.is_dir())]
        for each in folders if folder == "." else [store.path / folder]:
            each.chmod(0o555)
        if os.geteuid() == 0:
            os.setuid(65534)
        if folder == ".":
            check_refusals(store, description, errno.EACCES)
            with read(store.path) as dataset:
                np.testing.assert_array_equal(dataset["stimulus"][0], result_of(0, description).stimulus)
        else:
            with pytest.raises(PermissionError, match="cannot be written to"):
                store.check_writable()

    # Not in pytest's folder, which another user may not enter.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        assert in_child(run, Path(place)) == 0
        for each in Path(place).rglob("*"):
            if each.is_dir():
                each.chmod(0o755)


# Records that cannot be read.


def journal_of(store):
    (journal,) = (store.path / "records").iterdir()
    return journal


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line[: len(line) // 2],
        lambda line: "{}",
        lambda line: "1",
        lambda line: "\x00" * 40,
        lambda line: line.replace('"number": 1', '"number": 77'),
        lambda line: line.replace('"response": "', '"response": "AAAA'),
        lambda line: line.replace('"steps"', '"step"'),
    ],
    ids=["cut", "empty", "number", "zeros", "no such neuron", "longer response", "without steps"],
)
def test_corrupt_record_counts_as_not_written_and_is_named(store, description, spoil):
    for number in range(3):
        store.write(result_of(number, description))
    lines = journal_of(store).read_text().split("\n")
    (spoilt,) = (position for position, line in enumerate(lines) if '"number": 1' in line)
    lines[spoilt] = spoil(lines[spoilt])
    journal_of(store).write_text("\n".join(lines))
    again = MEIStore(store.path)
    with pytest.warns(UserWarning, match=journal_of(store).name):
        assert again.finished() == {0, 2}
    again.collect()
    with read(store.path) as dataset:
        check_neuron(dataset, 0, result_of(0, description))
        check_neuron(dataset, 1, None)
        check_neuron(dataset, 2, result_of(2, description))
    again.write(result_of(1, description, seed=1))
    assert again.finished() == {0, 1, 2}


@pytest.mark.parametrize("ask", [MEIStore.finished, MEIStore.collect])
def test_a_warning_of_a_record_is_shown_with_the_line_that_asks(store, description, ask):
    store.write(result_of(0, description))
    with journal_of(store).open("ab") as journal:
        journal.write(b"spoilt\n")
    with pytest.warns(UserWarning, match="cannot be read") as caught:
        ask(MEIStore(store.path))
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.slow
def test_record_in_the_making_is_waited_for(store, description):
    store.write(result_of(0, description))
    whole = journal_of(store).read_bytes()
    for length in range(len(whole)):
        journal_of(store).write_bytes(whole[:length])
        reader = MEIStore(store.path)
        assert reader.finished() == set()
        journal_of(store).write_bytes(whole)
        assert reader.finished() == {0}


def test_files_that_dead_processes_left_do_no_harm(store, description):
    (store.path / "stimulus" / ".0.0.0.0.0.dead.partial").write_bytes(b"half")
    (store.path / "status" / ".0.dead.partial").write_bytes(b"half")
    (store.path / "records" / "node-1-dead.jsonl").write_bytes(b"")
    store.write(result_of(0, description))
    store.collect()
    assert MEIStore(store.path).finished() == {0}
    with read(store.path) as dataset:
        check_neuron(dataset, 0, result_of(0, description))
        check_neuron(dataset, 1, None)


# One file of it.


@pytest.fixture(params=[".nc", ".h5", ".npz"])
def suffix(request):
    if request.param != ".npz":
        needs_export()
    return request.param


def filled(store, description):
    for number, status in ((0, "converged"), (2, "interrupted")):
        store.write(result_of(number, description, status=status))
    store.collect()
    return store


def read_export(target):
    """The variables, coordinates and attributes of an exported file."""
    if target.suffix == ".npz":
        with np.load(target, allow_pickle=False) as file:
            arrays = dict(file)
        return arrays, json.loads(arrays.pop("attributes").item())
    with xr.open_dataset(target, engine="h5netcdf") as dataset:
        return {name: variable.values for name, variable in dataset.variables.items()}, dataset.attrs


def test_export_equals_the_store(store, description, suffix, tmp_path):
    filled(store, description)
    target = tmp_path / f"meis{suffix}"
    assert export_meis(str(store.path), str(target)) == target
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["meis.zarr", target.name])
    arrays, attributes = read_export(target)
    with read(store.path) as dataset:
        assert arrays.keys() == dataset.variables.keys()
        for name, variable in dataset.variables.items():
            np.testing.assert_array_equal(arrays[name], variable.values, err_msg=name)
            if variable.dtype.kind in "fi":
                assert arrays[name].dtype == variable.dtype
        assert attributes.keys() == dataset.attrs.keys()
        for name, value in dataset.attrs.items():
            np.testing.assert_array_equal(attributes[name], value)
    assert arrays["status"].tolist() == ["converged", "pending", "interrupted"]


def test_netcdf_keeps_units_and_dimensions(store, description, tmp_path):
    needs_export()
    export_meis(filled(store, description).path, tmp_path / "meis.nc")
    with xr.open_dataset(tmp_path / "meis.nc", engine="h5netcdf") as dataset, read(store.path) as expected:
        assert dataset["stimulus"].dims == expected["stimulus"].dims
        for name in ("stimulus", "time", "x"):
            assert dataset[name].attrs == expected[name].attrs
        np.testing.assert_array_equal(
            dataset["stimulus"].sel(neuron="monday/2", channel="UV"), result_of(2, description).stimulus[1]
        )


def test_export_of_a_long_configuration(tmp_path, suffix):
    """HDF5 has limits for what stands in an attribute, which the labels of thousands of neurons may exceed."""
    description = description_of(neurons=5000, frames=1, height=1, width=1)
    configuration = {"neurons": [f"a_session_with_a_long_name/{number}" for number in range(5000)]}
    store = MEIStore.create(tmp_path / "meis.zarr", description, configuration)
    with pytest.MonkeyPatch.context() as patch:
        # Stimuli are not the point, and each takes a millisecond.
        patch.setattr(xr, "open_zarr", lambda *_, open_zarr=xr.open_zarr, **o: open_zarr(*_, **o).isel(neuron=slice(9)))
        arrays, attributes = read_export(export_meis(store.path, tmp_path / f"meis{suffix}"))
    assert json.loads(attributes["configuration"]) == configuration
    assert arrays["neuron"].tolist() == description["neuron"].values[:9].tolist()


@pytest.mark.slow
def test_export_needs_the_memory_of_few_neurons(tmp_path, suffix):
    description = description_of(48, channels=2, frames=128, height=32, width=32)
    store = MEIStore.create(tmp_path / "meis.zarr", description, {})
    for number in range(48):
        store.write(result_of(number, description))
    with read(store.path) as dataset:
        bytes_in_all = dataset["stimulus"].nbytes
    export_meis(store.path, tmp_path / f"imports_done{suffix}")
    tracemalloc.start()
    export_meis(store.path, tmp_path / f"meis{suffix}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bytes_in_all > 40e6
    assert peak < 12e6


def test_export_overwrites_nothing(store, suffix, tmp_path):
    target = tmp_path / f"meis{suffix}"
    target.write_text("precious")
    with pytest.raises(FileExistsError, match=f"meis{suffix} exists already"):
        export_meis(store.path, target)
    assert target.read_text() == "precious"


@pytest.mark.parametrize("name", ["meis.mat", "meis", "meis.NPZ2"])
def test_export_to_other_files_is_refused(store, tmp_path, name):
    with pytest.raises(ValueError, match=r"in \.nc, \.h5 or \.npz"):
        export_meis(store.path, tmp_path / name)


def test_export_of_nothing(suffix, tmp_path):
    with pytest.raises(FileNotFoundError):
        export_meis(tmp_path / "absent.zarr", tmp_path / f"meis{suffix}")
    assert not list(tmp_path.iterdir())


def test_export_that_fails_leaves_nothing(store, description, suffix, tmp_path):
    filled(store, description)
    (store.path / "stimulus" / "2.0.0.0.0").write_bytes(b"spoilt")
    with pytest.raises((RuntimeError, ValueError, OSError)):
        export_meis(store.path, tmp_path / f"meis{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == ["meis.zarr"]


@pytest.mark.slow
@needs_fork
def test_export_that_is_killed_leaves_no_file_of_the_name(store, description, suffix, tmp_path):
    filled(store, description)
    target = tmp_path / f"meis{suffix}"
    export_meis(store.path, tmp_path / f"imports_done{suffix}")
    kills = 0
    while killed_at(kills * 5, export_meis, store.path, target):
        assert not target.exists()
        kills += 1
    assert kills > 3
    assert target.exists()


@pytest.mark.parametrize("package", ["h5netcdf", "h5py", "dask"])
def test_export_names_the_missing_package(store, tmp_path, monkeypatch, package):
    needs_export()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package}: pip install "mei-lightning\[export\]"'):
        export_meis(store.path, tmp_path / "meis.nc")
    export_meis(store.path, tmp_path / "meis.npz")
    assert (tmp_path / "meis.npz").exists()


def test_a_further_variable_is_in_new_stores_and_older_ones_do_without(monkeypatch, tmp_path):
    description = description_of()
    older = MEIStore.create(tmp_path / "older.zarr", description, {})
    doubled = Variable("doubled_score", np.nan, "twice the score", derived=lambda record: 2 * record["score"])
    monkeypatch.setattr("mei_lightning.results.store.VARIABLES", (doubled, *VARIABLES))
    newer = MEIStore.create(tmp_path / "newer.zarr", description, {})
    for store in (MEIStore(older.path), newer):
        store.write(result_of(1, description))
        store.collect()
    old, new = read(older.path), read(newer.path)
    assert "doubled_score" not in old
    np.testing.assert_array_equal(new["doubled_score"], 2 * new["score"])
    np.testing.assert_array_equal(new["doubled_score"].notnull(), [False, True, False])
    xr.testing.assert_equal(new.drop_vars("doubled_score"), old)


def test_the_status_is_put_down_last_wherever_it_stands_in_the_list(monkeypatch, tmp_path):
    by_status_first = sorted(VARIABLES, key=lambda it: it.name != "status")
    monkeypatch.setattr("mei_lightning.results.store.VARIABLES", by_status_first)
    store = MEIStore.create(tmp_path / "meis.zarr", description_of(), {})
    store.write(result_of(1, description_of()))
    written = []

    def watched(source, target):
        written.append(target.parent.name)
        os.replace(source, target)

    monkeypatch.setattr("mei_lightning.results.store.replace", watched)
    store.collect()
    assert sorted(written) == sorted(it.name for it in VARIABLES)
    assert written[-1] == "status"


def test_a_variable_that_cannot_be_derived_is_no_unreadable_record(monkeypatch, tmp_path):
    description = description_of()
    wrong = Variable("wrong", np.nan, "wrong", derived=lambda values: values["nothing"])
    monkeypatch.setattr("mei_lightning.results.store.VARIABLES", (wrong, *VARIABLES))
    store = MEIStore.create(tmp_path / "meis.zarr", description, {})
    store.write(result_of(1, description))
    with pytest.raises(RuntimeError, match="wrong of neuron 1 cannot be derived: 'nothing'"):
        store.collect()
