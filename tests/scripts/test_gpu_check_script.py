"""The script for a new GPU, tried on the CPU as the continuous integration can: its tables, its file, its exit code."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.autograd import DeviceType

import mei_lightning as ml

SCRIPTS = Path(__file__).parents[2] / "scripts"
TITLES = [
    "Does everything run?",
    "Scores, as shares of the CPU's",
    "Milliseconds of the parts of a step",
    "Populations",
]
# Bases of what users can choose from; and what stands for a recipe or a base itself, and is tried through others.
CHOICES = (ml.NeuronObjective, ml.Reducer, ml.Regularizer, ml.Parameterization, ml.Constraint, ml.InitialStimuli)
TRIED_THROUGH_OTHERS = {
    "Reducer",
    "Regularizer",
    "Parameterization",
    "Constraint",
    "InitialStimuli",
    "Perturbation",
    "Robustness",
    "ChangeNormJointlyClipRangeSeparately",
    "RangeRegularizationLoss",
    "TemporalGaussianLowPassFilterProcessor",
}


@pytest.fixture
def script(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("gpu_check")


@pytest.fixture
def measures(script):
    return importlib.import_module("gpu_check_measures")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run as a user starts it: what it did, and its numbers."""
    output = tmp_path_factory.mktemp("check") / "new" / "numbers.json"
    done = subprocess.run(
        [sys.executable, SCRIPTS / "gpu_check.py", "--device", "cpu", "--quick", "--output", output],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done, json.loads(output.read_text())


@pytest.mark.slow
def test_all_is_well_on_the_cpu(run):
    done, found = run
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line in TITLES] == TITLES
    assert found["passed"]
    assert found["machine"]["torch"] == torch.__version__
    sections = found["sections"]
    assert list(sections) == ["cases", "scores", "parts", "waits", "kernels", "populations"]
    assert not any(section["failed"] for section in sections.values())
    assert {name for name, section in sections.items() if "skipped" in section} == {"waits", "kernels"}
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    heads = len(TITLES)
    assert len(rows) == heads + sum(len(section["rows"]) for section in sections.values())


@pytest.mark.slow
def test_all_that_can_be_chosen_is_tried(run):
    cases = run[1]["sections"]["cases"]["rows"]
    assert [case["result"] for case in cases] == ["ok"] * len(cases)
    assert len({(case["kind"], case["case"]) for case in cases}) == len(cases) > 60
    tried = set(re.findall(r"\w+", " ".join(case["case"] for case in cases)))
    public = {name: getattr(ml, name) for name in ml.__all__}
    classes = {name for name, value in public.items() if isinstance(value, type) and issubclass(value, CHOICES)}
    robustness = {
        name for name, value in public.items() if isinstance(value, type) and issubclass(value, ml.Robustness)
    }
    methods = {name for name in public if re.match(r"find_(?!meis)|cluster_by", name)}
    assert len(classes) > 25
    assert (classes | robustness | methods) - TRIED_THROUGH_OTHERS <= tried


@pytest.mark.slow
def test_scores_are_the_cpus(run):
    rows = run[1]["sections"]["scores"]["rows"]
    assert [row["model"] for row in rows] == ["digital_twin", "ensemble of 2"]
    for row in rows:
        assert row["neurons"] == 2
        assert 1 - 1e-5 <= row["least"] <= row["greatest"] <= 1 + 1e-5
        assert 0 <= row["response difference"] <= 1e-5
        assert row["found, least"] <= row["found, median"] <= row["found, greatest"]


@pytest.mark.slow
def test_parts_and_populations_have_times(run):
    sections = run[1]["sections"]
    parts = sections["parts"]["rows"]
    assert len(parts) == 2 * 3 + 1
    assert all(row[f"{count} rows"] > 0 for row in parts for count in (2, 4))
    populations = sections["populations"]["rows"]
    assert [row["model"] for row in populations] == ["digital_twin", "ensemble of 2", "high_res"]
    for row in populations:
        assert row["per second"] == pytest.approx(row["neurons"] / row["run"])
        assert 0 < row["run"] <= row["seconds"] <= sections["populations"]["seconds"]


def test_a_broken_case_is_reported_and_stops_no_other(script, tmp_path, monkeypatch, capsys):
    def broken():
        print("something that a run prints")
        raise ZeroDivisionError("no | such device")

    monkeypatch.setattr(script, "cases", lambda device: {"model": {"broken": broken, "whole": lambda: None}})
    sections = script.sections
    monkeypatch.setattr(script, "sections", lambda check: {"cases": sections(check)["cases"]})
    output = tmp_path / "numbers.json"
    assert script.main(["--device", "cpu", "--quick", "--output", str(output)]) == 1
    printed = capsys.readouterr().out
    assert "| model | broken | error | " in printed
    assert "| model | whole | ok | " in printed
    assert "Failed, cases: model, broken: ZeroDivisionError: no | such device" in printed
    assert "something that a run prints" not in printed
    found = json.loads(output.read_text())
    assert not found["passed"]
    assert [row["result"] for row in found["sections"]["cases"]["rows"]] == ["error", "ok"]
    assert "in broken" in found["sections"]["cases"]["rows"][0]["traceback"]


def test_a_section_that_fails_stops_no_other(script, tmp_path, monkeypatch):
    def fails(check):
        yield {"line": "first", "waits": 1}
        raise ValueError("no driver")

    columns = {"line": ("line", "{}"), "waits": ("waits", "{}")}
    monkeypatch.setattr(
        script,
        "sections",
        lambda check: {
            "one": script.Section("One", fails, columns),
            "two": script.Section("Two", lambda check: iter([{"line": "second", "waits": 2}]), columns),
        },
    )
    output = tmp_path / "numbers.json"
    assert script.main(["--device", "cpu", "--output", str(output)]) == 1
    sections = json.loads(output.read_text())["sections"]
    assert [len(section["rows"]) for section in sections.values()] == [1, 1]
    assert [len(section["failed"]) for section in sections.values()] == [1, 0]
    assert sections["one"]["failed"][0].startswith("ValueError: no driver")


@pytest.mark.slow
def test_scores_that_are_off_fail(script, measures, monkeypatch):
    check = script.Check(torch.device("cpu"), script.QUICK)
    scores = measures.scores_on_cpu
    monkeypatch.setattr(measures, "scores_on_cpu", lambda *arguments: scores(*arguments) * (1 + 1e-4))
    row = measures.compare_scores(check, check.twin)
    assert row["greatest"] == pytest.approx(1 - 1e-4, abs=1e-6)
    assert "1e-05" in row["error"]


def test_a_device_that_is_not_there_is_refused(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(script.IS_THERE, "cuda", lambda: False)
    with pytest.raises(SystemExit) as refused:
        script.main(["--output", str(tmp_path / "numbers.json")])
    assert refused.value.code == 2
    assert re.search(r"error: --device cuda: .*finds no such device here. Use one of cpu", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_size_that_needs_too_much_memory_is_noted(script, measures):
    parts = importlib.import_module("gpu_check_parts")

    def part(stimulus):
        if len(stimulus) == 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return stimulus.sum

    check = script.Check(torch.device("cpu"), script.QUICK)
    times = parts.time_for_rows(check, part, (2, 4, 6))
    assert times["4 rows"] == "out of memory"
    assert times["2 rows"] > 0
    assert times["6 rows"] > 0
    with pytest.raises(RuntimeError, match="something else"):
        parts.time_for_rows(check, lambda stimulus: (_ for _ in ()).throw(RuntimeError("something else")), (2,))


def test_waits_are_told_by_the_innermost_line_of_the_package(measures):
    class Waits(ml.Constraint):
        def forward(self, stimulus):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
            return stimulus

    with measures.waits_by_line() as waits:
        for _ in range(3):
            ml.Compose([Waits()])(torch.zeros(1, 1, 1, 1, 1))
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    ((line, count), elsewhere) = waits.most_common()
    assert re.fullmatch(r"constraints.compose.py:\d+", line)
    assert count == 3
    assert elsewhere == ("elsewhere", 1)


def test_kernels_are_those_of_the_device(measures):
    def event(key, count, time, kind=DeviceType.CUDA, is_span=False):
        return SimpleNamespace(
            key=key, count=count, self_device_time_total=time, device_type=kind, is_user_annotation=is_span
        )

    events = [event("short", 30, 1e5), event("aten::mm", 10, 4e5, DeviceType.CPU), event("long", 10, 4e5)]
    events.append(event("Optimizer.step", 3, 5e5, is_span=True))
    whole, *longest = measures.longest_kernels(events, seconds=2.0)
    assert whole == {"kernel": "all", "count": 40, "milliseconds": 500.0, "share": 0.25}
    assert [row["kernel"] for row in longest] == ["long", "short"]
    assert [row["share"] for row in longest] == [0.2, 0.05]


def test_random_models_read_out_what_they_compute(script):
    check = script.Check(torch.device("cpu"), script.QUICK)
    model = check.low_res
    assert len(model.neurons) == 3000
    stimulus = torch.randn(model.stimulus_shape(32, 2), generator=torch.Generator().manual_seed(0))
    neurons = [ml.Neuron("session_60", 3), ml.Neuron("session_1", 49)]
    expected = [model(stimulus, data_key=neuron.session)[row, :, neuron.index] for row, neuron in enumerate(neurons)]
    torch.testing.assert_close(model.read_out([0, 1], neurons)(stimulus), torch.stack(expected))
    # Neurons answer differently, and to the stimulus: there is something to find.
    assert np.ptp([response.mean().item() for response in expected]) > 0.01
    assert min(response.std().item() for response in expected) > 0.01


@pytest.mark.skipif(importlib.util.find_spec("openretina") is None, reason="openretina is not installed")
@pytest.mark.parametrize("name", ["LOW_RES", "HIGH_RES"])
def test_architectures_are_those_of_openretina(name, script):
    from openretina.modules.core.base_core import SimpleCoreWrapper

    models = importlib.import_module("reference_models")
    architecture = dict(getattr(models, name))
    ours = models.random_core(architecture)
    channels, *_ = shape = architecture.pop("in_shape")
    theirs = SimpleCoreWrapper(
        channels=(channels, *architecture.pop("hidden_channels")),
        hidden_padding=architecture.pop("core_hidden_padding"),
        cut_first_n_frames=0,
        **dict.fromkeys(("gamma_input", "gamma_temporal", "gamma_in_sparse", "gamma_hidden"), 0.0),
        **architecture,
    ).features

    def shapes_of_layers(core, last):
        """The shape after each layer, without computing anything."""
        shapes = []
        for part in core.modules():
            if isinstance(part, last):
                part.register_forward_hook(lambda part, inputs, output: shapes.append(output.shape))
        core.to("meta").eval()(torch.empty(1, *shape, device="meta"))
        return shapes

    parts = torch.nn.BatchNorm3d, torch.nn.ELU, torch.nn.MaxPool3d
    assert shapes_of_layers(ours, parts) == shapes_of_layers(theirs, parts)
