"""The benchmark script on tiny cases: its tables and its numbers are there; how large they are decides nothing."""

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from documentation import EXPLANATION, command

import mei_lightning as ml

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("benchmark")


def lines_of(printed):
    """A printed table without its head."""
    return [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")][2:]


def test_repeated_sessions_answer_as_the_sessions_themselves(twin, benchmark):
    model = benchmark.RepeatedTwin(110)
    assert model.choice[:2] == [("session_1", 0), ("session_2", 0)]
    assert model.choice[108:] == [("session_1_copy_1", 0), ("session_2_copy_1", 0)]
    assert len(model.neurons) == sum(model.neurons_per_session.values()) == 2 * len(twin.neurons)
    stimulus = torch.randn(twin.stimulus_shape(30), generator=torch.Generator().manual_seed(0))
    expected = twin.read_out([0, 0], [ml.Neuron("session_1", 0), ml.Neuron("session_2", 0)])(stimulus)
    copies = model.read_out([0, 0], [ml.Neuron(*neuron) for neuron in model.choice[108:]])
    torch.testing.assert_close(copies(stimulus), expected)


@pytest.mark.slow
def test_populations(tmp_path):
    """As a user starts it."""
    numbers = tmp_path / "numbers.json"
    _, _, *options = command(EXPLANATION / "speed.md", "python scripts/benchmark.py population")
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, "--json", numbers],
        capture_output=True,
        text=True,
        # Thread pools that wait for each other take minutes on a machine that does something else as well.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert [line[0] for line in lines_of(done.stdout)] == ["1", "2"]
    rows = json.loads(numbers.read_text())["rows"]
    assert [row["neurons"] for row in rows] == [1, 2]
    for row in rows:
        assert {"seconds", "neurons_per_minute", "peak_memory_mb", "steps_per_neuron", "active_share"} <= row.keys()
        assert all(value > 0 for value in row.values())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("openretina") is None, reason="openretina is not installed")
def test_speed(tmp_path, benchmark, monkeypatch, capsys):
    # What is measured in passing, and asked for by no option, is measured on less, and other tests are left their logs.
    monkeypatch.setattr(benchmark, "matrix_product_peak", partial(benchmark.matrix_product_peak, repeats=1))
    monkeypatch.setattr(benchmark, "ROWS", 4)
    monkeypatch.setattr(benchmark, "be_quiet", lambda: None)
    arguments = ["speed", "--models", "low_res", "--populations", "2", "--cache", tmp_path / "cache"]
    arguments += ["--recipe-neurons", "2", "--recipe-steps", "2", "--timing-steps", "1", "--training-steps", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments), "--json", str(tmp_path / "numbers.json")])
    benchmark.main()
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert [line[:3] for line in lines_of(capsys.readouterr().out)] == [
        ["low_res", "openretina, published recipe", "1"],
        ["low_res", "optimize_stimulus, only imports changed", "1"],
        ["low_res", "find_meis", "2"],
    ]
    assert [row["steps_per_neuron"] for row in numbers["rows"][:2]] == [2, 2]
    assert [row["neurons_compared"] for row in numbers["rows"]] == [2, 2, 2]
    for row in numbers["rows"]:
        assert all(value is not None and (isinstance(value, str) or value > 0) for value in row.values()), row
    facts = numbers["models"]["low_res"]
    assert {"digest", "correlation", "peak_gflop_per_second", "step", "trainer_overhead"} <= facts.keys()
    (kept,) = (tmp_path / "cache").glob("recipe_*_2_steps.json")
    assert set(json.loads(kept.read_text())) == {"session_1/0", "session_2/0"}
