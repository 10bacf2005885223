"""Objectives other than the response itself, through what a user calls."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from conftest import find, video_model

import mei_lightning as ml
from mei_lightning.cli.main import main
from mei_lightning.models.base import weights_digest

NEURONS = [("monday", 0), ("tuesday", 1), ("monday", 3)]
RANGES = [(-1.5, 2.0), (-2.0, 1.0)]
OBJECTIVES = {
    "one-hot": (NEURONS, ml.OneHotObjective),
    "contrast": (NEURONS, partial(ml.ContrastObjective, others=[[("tuesday", 0)], NEURONS[:1], [NEURONS[:2]]])),
    "level": (NEURONS, partial(ml.TargetLevelObjective, level=0.9)),
    "trace": (NEURONS, partial(ml.TargetTraceObjective, trace=[0.5, 1.0, 0.5, 1.0, 0.5, 1.0])),
    "direction": ([NEURONS[:2], NEURONS[1:]], partial(ml.DirectionObjective, direction=[1.0, -0.5])),
    "discriminative": ([NEURONS[0], NEURONS[1:]], ml.DiscriminativeObjective),
}


@pytest.fixture(params=OBJECTIVES.values(), ids=OBJECTIVES)
def case(request):
    """Neurons, and options that make a run short."""
    neurons, objective = request.param
    return neurons, {"objective": objective, "time_steps": 8, "max_steps": 10, "restarts": 2, "ranges": RANGES}


@pytest.mark.slow
def test_rows_do_not_know_of_each_other(case):
    neurons, options = case
    whole = find(video_model(), neurons, **options)
    # One place, so that each neuron is computed alone after the other.
    streamed = find(video_model(), neurons, rows_per_device=2, **options)
    for name in ("stimulus", "score", "response"):
        np.testing.assert_allclose(streamed[name], whole[name], rtol=1e-4, atol=1e-4, err_msg=name)
    for name in ("steps", "status", "best_restart"):
        np.testing.assert_array_equal(streamed[name], whole[name], err_msg=name)


def test_results_are_feasible_with_their_own_scores_and_the_model_is_unchanged(case):
    neurons, options = case
    model = video_model()
    model.train().requires_grad_(True)
    before = weights_digest(model)
    meis = find(model, neurons, norm=6.0, **options)
    stimulus = torch.from_numpy(meis["stimulus"].values)
    np.testing.assert_allclose(stimulus.double().flatten(1).norm(dim=1), 6.0, rtol=1e-5)
    for channel, (low, high) in enumerate(RANGES):
        assert stimulus[:, channel].min() >= low - 1e-5
        assert stimulus[:, channel].max() <= high + 1e-5
    assert weights_digest(model) == before
    assert all(part.training for part in model.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    objective = options["objective"](model.eval(), neurons, ml.MeanReducer())
    np.testing.assert_allclose(objective(stimulus).detach(), meis["score"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(objective.traces(stimulus).detach(), meis["response"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_objective_in_five_lines():
    """The listing of the page about objectives."""

    class Modulation(ml.NeuronObjective):
        def score(self, traces):  # responses [rows, time'] to scores [rows]
            return traces.std(dim=1) / traces.mean(dim=1)

    meis = ml.find_meis("simulated", [("session_1", 0), ("session_1", 4)], objective=Modulation, progress_bar=False)
    expected = meis["response"].std("response_time", ddof=1) / meis["response"].mean("response_time")
    np.testing.assert_allclose(meis["score"], expected, rtol=1e-4)
    plain = ml.find_meis("simulated", [("session_1", 0), ("session_1", 4)], progress_bar=False)["response"]
    assert (expected > 1.5 * plain.std("response_time", ddof=1) / plain.mean("response_time")).all()


class Late(ml.NeuronObjective):
    """The response from a frame on."""

    def __init__(self, model, neurons, response_reducer, start: int):
        super().__init__(model, neurons, response_reducer)
        self.start = start

    def score(self, traces):
        return super().score(traces[:, self.start :])


def test_settings_of_an_own_objective_are_part_of_the_configuration(tmp_path):
    options = {"time_steps": 8, "max_steps": 2, "directory": tmp_path}
    meis = find(video_model(), NEURONS, objective=partial(Late, start=3), **options)
    np.testing.assert_allclose(meis["score"], meis["response"][:, 3:].mean("response_time"), rtol=1e-5)
    assert meis.attrs["score"] == "Late(MeanReducer(axis=0), start=3)"
    expected = {"class": "Late", "arguments": {"start": 3}}
    assert json.loads(meis.attrs["configuration"])["objective"] == expected
    with pytest.raises(ValueError, match=r"objective\.start: it was 3, now it is 4"):
        find(video_model(), NEURONS, objective=partial(Late, start=4), **options)
    with pytest.raises(ValueError, match=r"The run's score is Late.*give the reducer"):
        ml.score_held_out(tmp_path / "meis.zarr", video_model(seed=1), progress_bar=False)


def test_the_plain_response_is_not_named_in_the_configuration():
    meis = find(video_model(), NEURONS, time_steps=8, max_steps=1)
    assert meis.attrs["score"] == "MeanReducer(axis=0)"
    assert "objective" not in json.loads(meis.attrs["configuration"])


def test_an_own_objective_from_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mei-lightning"])
    objective = {"class_path": f"{__name__}.Late", "init_args": {"start": 7}}
    model = {"retina": "simulated", "neurons": [["session_1", 0]], "objective": objective, "time_steps": 30}
    (tmp_path / "late.yaml").write_text(yaml.safe_dump({"model": model}))
    quick = ["--model.max_steps=2", "--trainer.enable_progress_bar=false", "--results.report=false"]
    main(["fit", "--config=late.yaml", "--results.directory=late", *quick])
    meis = xr.open_zarr("late/meis.zarr").load()
    np.testing.assert_allclose(meis["score"], meis["response"][:, 7:].mean("response_time"), rtol=1e-5)
