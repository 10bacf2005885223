"""The dataset of a run: what it says, and that it is on disk whatever happens."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import SESSIONS, VIDEO_FORMAT, find, fit, still_model, video_model
from lightning.pytorch import Callback

import mei_lightning as ml
from mei_lightning.models.base import weights_digest

NEURONS = [("monday", 1), ("tuesday", 0), [("monday", 0), ("tuesday", 2)]]


@pytest.fixture(scope="module")
def model():
    return video_model()


@pytest.fixture(scope="module")
def dataset(model):
    reducer = ml.SliceMeanReducer(axis=0, start=3, length=4)
    return find(
        model, NEURONS, time_steps=12, norm=6.0, ranges=[(-1.0, 2.0), None], reducer=reducer, restarts=3, max_steps=8
    )


def test_dimensions_and_coordinates(dataset):
    assert dict(dataset.sizes) == {"neuron": 3, "channel": 2, "time": 12, "y": 6, "x": 5, "response_time": 10}
    assert dataset["stimulus"].dims == ("neuron", "channel", "time", "y", "x")
    assert dataset["response"].dims == ("neuron", "response_time")
    assert dataset["neuron"].values.tolist() == ["monday/1", "tuesday/0", "monday/0+tuesday/2"]
    assert dataset["session"].values.tolist()[:2] == ["monday", "tuesday"]
    assert dataset["index"].values.tolist() == [1, 0, -1]
    assert dataset["channel"].values.tolist() == ["green", "UV"]
    np.testing.assert_allclose(dataset["time"], np.arange(12) / 30)
    np.testing.assert_allclose(dataset["x"], [0, 50, 100, 150, 200])
    np.testing.assert_allclose(dataset["y"], [0, 50, 100, 150, 200, 250])
    units = {name: dataset[name].attrs["units"] for name in ("time", "response_time", "x", "y")}
    assert units == {"time": "s", "response_time": "s", "x": "um", "y": "um"}
    # Each response frame is at the time of the last stimulus frame that it can depend on.
    np.testing.assert_allclose(dataset["response_time"], np.arange(2, 12) / 30)


def test_stimuli_scores_and_traces_belong_together(dataset, model):
    for row, group in enumerate([[("monday", 1)], [("tuesday", 0)], [("monday", 0), ("tuesday", 2)]]):
        stimulus = torch.from_numpy(dataset["stimulus"].values[row])[None]
        with torch.no_grad():
            trace = torch.stack([model(stimulus, data_key=session)[0, :, index] for session, index in group]).mean(0)
        np.testing.assert_allclose(dataset["response"].values[row], trace, rtol=1e-5)
        np.testing.assert_allclose(dataset["score"].values[row], trace[3:7].mean(), rtol=1e-5)
        assert stimulus.norm().item() == pytest.approx(6.0, rel=1e-5)
        assert stimulus[:, 0].min() >= -1.0 - 1e-5
        assert stimulus[:, 0].max() <= 2.0 + 1e-5


def test_named_seed_alone_gives_the_stimulus_and_no_other_restart_a_better_one(dataset, model):
    """Repeats every restart of a neuron on its own, from its seed."""
    seeds = ml.MEIModule(model, NEURONS, restarts=3).seeds
    for row, group in enumerate(NEURONS):
        scores = []
        for seed in seeds[3 * row : 3 * row + 3]:
            noise = torch.randn(2, 12, 6, 5, generator=torch.Generator().manual_seed(seed))[None]
            alone = ml.StimulusModule(
                ml.NeuronObjective(model, [group], ml.SliceMeanReducer(axis=0, start=3, length=4)),
                noise,
                constraint=ml.NormAndRange(6.0, [(-1.0, 2.0), None]),
            )
            fit(alone, 8)
            scores.append(alone.best_score.item())
            if seed == dataset["seed"].values[row]:
                np.testing.assert_allclose(dataset["stimulus"].values[row], alone.best_stimulus[0], atol=1e-4)
        score = float(dataset["score"].values[row])
        assert score == pytest.approx(scores[dataset["restart"].values[row]], rel=1e-5)
        assert score == pytest.approx(max(scores), rel=1e-4)


def test_status_and_steps_in_words(dataset, model):
    assert set(dataset["status"].values.tolist()) == {"step limit"}
    assert (dataset["steps"] == 8).all()
    converged = find(model, [("monday", 1)], time_steps=6, norm=3.0, max_steps=400, restarts=1)
    assert converged["status"].values.tolist() == ["converged"]
    assert 10 < converged["steps"].values[0] < 400


def test_attributes_identify_the_model_and_every_setting(dataset, model):
    attributes = dataset.attrs
    assert attributes["model"] == "VideoNetwork"
    assert attributes["weights_digest"] == weights_digest(video_model())
    assert attributes["weights_digest"] != weights_digest(video_model(seed=1))
    assert attributes["frame_rate"] == 30.0
    assert attributes["pixel_size"] == 50.0
    assert attributes["frames_lost"] == 2
    assert (attributes["window_start"], attributes["window_stop"]) == (3, 7)
    configuration = json.loads(attributes["configuration"])
    assert configuration["neurons"] == dataset["neuron"].values.tolist()
    assert configuration["time_steps"] == 12
    assert configuration["restarts"] == 3
    assert configuration["seed"] == 0
    assert configuration["optimizer"] == {"name": "AnnealedPowerMethod", "start": 1.0, "end": 0.02, "steps": 60}
    assert "norm=6" in configuration["constraint"]
    assert "(-1.0, 2.0)" in configuration["constraint"]
    assert "length=4" in configuration["reducer"]
    assert configuration["mei_lightning"]


def test_mean_and_sd_of_the_projector(model):
    """Present where the model knows them, so that a reader can show the stimulus on a projector."""
    assert "mean" not in find(model, [("monday", 0)], time_steps=4, max_steps=1).attrs
    dataset = find("simulated", [("session_1", 0)], max_steps=1, restarts=1)
    np.testing.assert_allclose(dataset.attrs["mean"], ml.load_model("simulated").stimulus_format.mean)
    np.testing.assert_allclose(dataset.attrs["sd"], ml.load_model("simulated").stimulus_format.sd)


def test_still_images_of_a_model_without_sessions():
    dataset = find(still_model(), [0, 3], norm=4.0, restarts=2, max_steps=5)
    assert dict(dataset.sizes) == {"neuron": 2, "channel": 1, "time": 1, "y": 7, "x": 6, "response_time": 1}
    assert dataset["neuron"].values.tolist() == ["0", "3"]
    assert dataset["session"].values.tolist() == ["", ""]
    assert dataset["index"].values.tolist() == [0, 3]
    assert dataset["channel"].values.tolist() == ["luminance"]
    assert dataset["time"].attrs["units"] == "frame"
    assert dataset["x"].attrs["units"] == "pixel"
    assert dataset["x"].values.tolist() == [0, 1, 2, 3, 4, 5]
    assert "frame_rate" not in dataset.attrs
    assert "window_start" not in dataset.attrs


@pytest.mark.parametrize("still", [False, True])
def test_round_trip_through_disk(still, dataset, tmp_path):
    dataset = find(still_model(), [0, 3], max_steps=2, restarts=1) if still else dataset
    path = ml.save_dataset(dataset, tmp_path / "meis.zarr")
    with xr.open_zarr(path) as read:
        xr.testing.assert_identical(read.load(), dataset)
        for name in ("neuron", "session", "channel", "status"):
            assert read[name].values.tolist() == dataset[name].values.tolist()
        assert read["seed"].dtype == np.int64
        assert read["stimulus"].dtype == np.float32


def test_one_neuron_is_one_chunk(dataset, tmp_path):
    """Reading one of a thousand neurons reads one small file."""
    path = ml.save_dataset(dataset, tmp_path / "meis.zarr")
    with xr.open_zarr(path) as read:
        assert read["stimulus"].encoding["chunks"] == (1, 2, 12, 6, 5)
        np.testing.assert_array_equal(read["stimulus"].sel(neuron="tuesday/0"), dataset["stimulus"][1])


def test_results_are_never_overwritten(dataset, tmp_path):
    path = tmp_path / "meis.zarr"
    ml.save_dataset(dataset, path)
    with pytest.raises(FileExistsError, match=r"meis\.zarr exists already.*not overwritten"):
        ml.save_dataset(dataset.isel(neuron=[0]), path)
    with xr.open_zarr(path) as read:
        assert read.sizes["neuron"] == 3


def module_of(model, neurons=NEURONS, **options):
    return ml.MEIModule(model, neurons, time_steps=12, restarts=2, **options)


class AtStep(Callback):
    """Does something after a number of steps."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.act()


def interrupt():
    raise KeyboardInterrupt


def test_writer_writes_dataset_pictures_and_video(model, tmp_path):
    module = module_of(model)
    fit(module, 5, ml.ResultsWriter(str(tmp_path / "run")))
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written == {"meis.zarr", "meis.png", "mei.png", "meis.mp4"}
    with xr.open_zarr(tmp_path / "run" / "meis.zarr") as read:
        xr.testing.assert_identical(read.load(), ml.to_dataset(module))


def test_writer_writes_no_video_of_still_images(tmp_path):
    fit(ml.MEIModule(still_model(), [0]), 3, ml.ResultsWriter(str(tmp_path)))
    assert {path.name for path in tmp_path.iterdir()} == {"meis.zarr", "meis.png", "mei.png"}


def test_writer_writes_what_there_is_when_the_user_interrupts(model, tmp_path):
    module = module_of(model)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(module, 50, ml.ResultsWriter(str(tmp_path)), AtStep(7, interrupt))
    with xr.open_zarr(tmp_path / "meis.zarr") as read:
        assert read.sizes["neuron"] == 3
        assert (read["score"] > 0).all()
        assert (read["steps"] == 7).all()
        stimulus = torch.from_numpy(read["stimulus"].values[:1])
    with torch.no_grad():
        score = model(stimulus, data_key="monday")[0, :, 1].mean()
    assert float(score) == pytest.approx(float(read["score"].values[0]), rel=1e-5)


def test_writer_writes_also_if_interrupted_before_the_first_step(model, tmp_path):
    class Impatient(Callback):
        def on_train_start(self, *_):
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(module_of(model), 50, ml.ResultsWriter(str(tmp_path)), Impatient())
    with xr.open_zarr(tmp_path / "meis.zarr") as read:
        assert (read["steps"] == 0).all()


def test_writer_refuses_to_overwrite_before_any_step(model, tmp_path):
    fit(module_of(model), 2, ml.ResultsWriter(str(tmp_path)))
    steps = []
    module = module_of(model)
    with pytest.raises(FileExistsError, match="Choose another directory"):
        fit(module, 2, ml.ResultsWriter(str(tmp_path)), AtStep(1, lambda: steps.append(1)))
    assert not steps
    assert (module.steps == 0).all()


def test_writer_needs_named_neurons(tmp_path):
    module = ml.StimulusModule(lambda stimulus: stimulus.sum((1, 2, 3, 4)), torch.ones(1, 1, 1, 2, 2))
    with pytest.raises(TypeError, match="of an MEIModule, not of a StimulusModule"):
        fit(module, 2, ml.ResultsWriter(str(tmp_path)))


def test_all_neurons_of_a_model_in_one_run(model):
    neurons = [(session, index) for session, count in SESSIONS.items() for index in range(count)]
    dataset = find(model, neurons, time_steps=5, max_steps=3)
    assert dataset["session"].values.tolist() == model.neurons["session"].tolist()
    assert dataset["index"].values.tolist() == model.neurons["index"].tolist()
    best = dataset["score"].groupby("session").max()
    assert (
        float(best.sel(session="tuesday")) == dataset["score"].sel(neuron=["tuesday/0", "tuesday/1", "tuesday/2"]).max()
    )
    assert dataset["stimulus"].sel(neuron="monday/3", channel="UV").shape == (
        5,
        VIDEO_FORMAT.height,
        VIDEO_FORMAT.width,
    )
