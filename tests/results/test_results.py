"""The dataset of a run: what it says, and that it is on disk whatever happens."""

import errno
import json
import os

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import NO_LIMIT, SESSIONS, VIDEO_FORMAT, find, fit, read, still_model, video_model
from lightning.pytorch import Callback, Trainer
from matplotlib.figure import Figure

import mei_lightning as ml
from mei_lightning.callbacks import results_writer
from mei_lightning.models.base import weights_digest
from mei_lightning.results.configuration import as_call

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
    sizes = {"neuron": 3, "channel": 2, "time": 12, "y": 6, "x": 5, "response_time": 10, "restart": 3}
    assert dict(dataset.sizes) == sizes
    assert dataset["restart_scores"].dims == ("neuron", "restart")
    assert dataset["restart"].values.tolist() == [0, 1, 2]
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


def alone(model, group, seed):
    """One restart of a neuron of ``dataset`` on its own, from nothing but its seed: stimulus and score."""
    noise = torch.randn(2, 12, 6, 5, generator=torch.Generator().manual_seed(seed))[None]
    module = ml.StimulusModule(
        ml.NeuronObjective(model, [group], ml.SliceMeanReducer(axis=0, start=3, length=4)),
        noise,
        constraint=ml.NormAndRange(6.0, [(-1.0, 2.0), None]),
    )
    fit(module, 8)
    return module.best_stimulus[0].double().numpy().ravel(), module.best_score.item()


def test_restarts_are_what_each_one_finds_alone(dataset, model):
    """The best one is kept; spread and similarity of all are those of brute force."""
    seed_of = ml.MEIModule(model, NEURONS, restarts=3).problem.starts.seed_of
    for row, group in enumerate(NEURONS):
        stimuli, scores = zip(*(alone(model, group, seed_of(row, restart)) for restart in range(3)), strict=True)
        found = dataset.isel(neuron=row)
        np.testing.assert_allclose(found["restart_scores"], scores, rtol=1e-5)
        best = int(found["best_restart"])
        assert scores[best] >= max(scores) * (1 - 2e-5)
        assert float(found["score"]) == pytest.approx(scores[best], rel=1e-5)
        assert int(found["seed"]) == seed_of(row, best)
        np.testing.assert_allclose(found["stimulus"].values.ravel(), stimuli[best], atol=1e-4)
        assert float(found["score_spread"]) == pytest.approx(np.std(scores) / max(scores), rel=1e-3, abs=1e-6)
        cosines = [stimuli[best] @ other / 6.0**2 for number, other in enumerate(stimuli) if number != best]
        assert float(found["restart_similarity"]) == pytest.approx(np.mean(cosines), abs=1e-4)
    # There is something to find: restarts differ, and not the first one is always the best.
    assert (dataset["score_spread"] > 1e-3).any()
    assert (dataset["restart_similarity"] < 0.99).any()
    assert (dataset["best_restart"] > 0).any()


def test_one_restart_has_no_spread_and_nothing_to_be_similar_to(model):
    meis = find(model, [("monday", 1)], time_steps=4, max_steps=2, restarts=1)
    assert meis["score_spread"].isnull().all()
    assert meis["restart_similarity"].isnull().all()
    assert meis["restart_scores"].values.tolist() == [meis["score"].values.tolist()]


def test_status_and_steps_in_words(dataset, model, tmp_path):
    assert set(dataset["status"].values.tolist()) == {"step limit"}
    assert (dataset["steps"] == 8).all()
    converged = find(model, [("monday", 1)], time_steps=6, norm=3.0, max_steps=400, restarts=1)
    assert converged["status"].values.tolist() == ["converged"]
    assert 10 < converged["steps"].values[0] < 400
    # The trainer's limit interrupts a neuron, the next one has not been begun.
    fit(ml.MEIModule(model, NEURONS[:2], restarts=2, rows_per_device=2), 7, directory=tmp_path)
    assert read(tmp_path)["status"].values.tolist() == ["interrupted", "pending"]
    assert read(tmp_path)["steps"].values.tolist() == [7, 0]


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
    assert configuration["max_steps"] == 8
    rule = {"class": "RowConvergence", "arguments": {"relative_gain": 1e-3, "patience": 5}}
    assert configuration["convergence"] == rule
    assert "check_interval" not in configuration
    assert "rows_per_device" not in configuration
    optimizer = {"class": "AdaptivePowerMethod", "arguments": {"start": 1.0, "smallest": 0.02}}
    assert configuration["optimizer"] == optimizer
    assert configuration["constraint"]["class"] == "NormAndRange"
    assert configuration["constraint"]["arguments"]["norm"] == 6
    assert [-1.0, 2.0] in configuration["constraint"]["arguments"]["ranges"]
    assert configuration["reducer"]["arguments"]["length"] == 4
    assert configuration["mei_lightning"]


def test_mean_and_sd_of_the_projector(model):
    """Present where the model knows them, so that a reader can show the stimulus on a projector."""
    assert "mean" not in find(model, [("monday", 0)], time_steps=4, max_steps=1).attrs
    dataset = find("simulated", [("session_1", 0)], max_steps=1, restarts=1)
    np.testing.assert_allclose(dataset.attrs["mean"], ml.load_model("simulated").stimulus_format.mean)
    np.testing.assert_allclose(dataset.attrs["sd"], ml.load_model("simulated").stimulus_format.sd)


def test_still_images_of_a_model_without_sessions():
    dataset = find(still_model(), [0, 3], norm=4.0, restarts=2, max_steps=5)
    sizes = {"neuron": 2, "channel": 1, "time": 1, "y": 7, "x": 6, "response_time": 1, "restart": 2}
    assert dict(dataset.sizes) == sizes
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


@pytest.mark.slow
@pytest.mark.pictures
def test_writer_writes_dataset_pictures_and_video(model, tmp_path):
    """Into the directory of the run, also if nobody has asked for a writer."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        default_root_dir=tmp_path / "run",
        callbacks=[ml.RowConvergence()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module_of(model, max_steps=5))
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written == {"meis.zarr", "meis.png", "mei.png", "meis.mp4"}
    expected = find(model, NEURONS, time_steps=12, restarts=2, max_steps=5)
    xr.testing.assert_identical(read(tmp_path / "run"), expected)


@pytest.mark.slow
@pytest.mark.pictures
def test_writer_prints_a_table_and_where_things_are(model, tmp_path, capsys):
    fit(module_of(model, max_steps=5), NO_LIMIT, ml.ResultsWriter(str(tmp_path)))
    printed = capsys.readouterr().out
    for name in ("meis.zarr", "meis.png", "mei.png", "meis.mp4"):
        assert str(tmp_path / name) in printed
    meis = read(tmp_path)
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line[:6] in ("monday", "tuesda")}
    assert {session: int(numbers[0]) for session, numbers in lines.items()} == {"monday": 2, "tuesday": 1}
    for session, numbers in lines.items():
        median = np.median(meis["score"].values[meis["session"].values == session])
        assert float(numbers[-2]) == pytest.approx(median, abs=1e-3)
        assert float(numbers[-1]) == 5


@pytest.mark.pictures
def test_pictures_of_a_part_of_the_neurons_say_so(model, tmp_path, monkeypatch):
    titles, totals = [], []
    monkeypatch.setattr(results_writer, "_NEURONS_IN_PICTURES", 2)
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: titles.extend(it.get_text() for it in figure.texts))
    monkeypatch.setattr(results_writer, "save_meis_to_mp4_video", lambda *_, total: totals.append(total))
    fit(module_of(model, max_steps=2), NO_LIMIT, ml.ResultsWriter(str(tmp_path)))
    assert any(title.endswith("MEIs of 2 of 3 neurons") for title in titles)
    assert totals == [3]


@pytest.mark.pictures
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
        assert set(read["status"].values) == {"interrupted"}
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
        assert set(read["status"].values) == {"pending"}


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"seed": 1}, r"seed:.*\b0\b.*\b1\b"),
        ({"max_steps": 3}, r"max_steps:.*\b2\b.*\b3\b"),
        ({"retina": video_model(seed=1)}, "weights_digest:"),
        ({"neurons": NEURONS[:2]}, r"neurons:.*monday/0\+tuesday/2"),
        ({"convergence": [ml.RowConvergence()]}, r"convergence.patience:.*\b1000000000\b.*\b5\b"),
    ],
)
def test_writer_refuses_results_of_another_run_before_any_step(model, tmp_path, options, difference):
    settings = {"retina": model, "neurons": NEURONS, "time_steps": 12, "restarts": 2, "max_steps": 2}
    fit(ml.MEIModule(**settings), NO_LIMIT, directory=tmp_path)
    before = read(tmp_path)
    steps = []
    other = dict(options)
    convergence = other.pop("convergence", [])
    module = ml.MEIModule(**{**settings, **other})
    with pytest.raises(ValueError, match=rf"(?s)results of a run with other settings.*{difference}"):
        fit(module, NO_LIMIT, *convergence, AtStep(1, lambda: steps.append(1)), directory=tmp_path)
    assert not steps
    assert not module.steps.any()
    xr.testing.assert_identical(read(tmp_path), before)


def test_before_a_run_has_begun_its_writer_has_no_dataset(tmp_path):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(FileNotFoundError, match=r"There are no MEIs yet at .*meis\.zarr"):
        ml.ResultsWriter(str(tmp_path)).dataset(trainer)
    assert not list(tmp_path.iterdir())


def test_of_another_optimizer_the_name_is_told_and_how_to_start_anew(model, tmp_path):
    fit(module_of(model, max_steps=2), NO_LIMIT, directory=tmp_path)
    other = module_of(model, max_steps=2, optimizer=torch.optim.Adam)
    with pytest.raises(ValueError, match="other settings") as refused:
        fit(other, NO_LIMIT, directory=tmp_path)
    _, *differences, advice = str(refused.value).splitlines()
    assert [line.strip() for line in differences if "optimizer" in line] == [
        "optimizer: it was AdaptivePowerMethod(start=1.0, smallest=0.02), now it is "
        f"{as_call(other.configuration['optimizer'])}"
    ]
    assert other.configuration["optimizer"]["class"] == "Adam"
    assert "or say --results.start_anew true (ResultsWriter(start_anew=True))" in advice
    same_optimizer = module_of(model, max_steps=2, optimizer=lambda stimuli: ml.AdaptivePowerMethod(stimuli, start=0.5))
    with pytest.raises(ValueError, match=r"optimizer\.start: it was 1.0, now it is 0.5"):
        fit(same_optimizer, NO_LIMIT, directory=tmp_path)


def test_writer_starts_anew_and_keeps_the_old_results(model, tmp_path):
    fit(module_of(model, max_steps=2), NO_LIMIT, directory=tmp_path)
    old = read(tmp_path)
    fit(module_of(model, max_steps=3), NO_LIMIT, ml.ResultsWriter(str(tmp_path), start_anew=True, report=False))
    assert (read(tmp_path)["steps"] == 3).all()
    (kept,) = set(tmp_path.iterdir()) - {tmp_path / "meis.zarr"}
    xr.testing.assert_identical(xr.open_zarr(kept).load(), old)


def test_a_finished_neuron_is_on_disk_while_others_are_computed(model, tmp_path):
    seen = []

    def look():
        with xr.open_zarr(tmp_path / "meis.zarr") as meis:
            seen.append((ml.MEIStore(tmp_path / "meis.zarr").finished(), meis["stimulus"].notnull().all("time").values))

    fit(module_of(model, max_steps=10, rows_per_device=2), NO_LIMIT, AtStep(15, look), directory=tmp_path)
    ((finished, written),) = seen
    assert finished == {0}
    assert written.all(axis=(1, 2, 3)).tolist() == [True, False, False]


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


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_with_what_to_do_and_nothing_lost(model, tmp_path, monkeypatch):
    options = {"time_steps": 6, "norm": 3.0, "max_steps": 6, "restarts": 1, "rows_per_device": 1}
    neurons = [("monday", index) for index in range(4)]
    expected = find(model, neurons, **options)
    calls = []

    def full_after_two(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr("mei_lightning.results.store.os.fsync", full_after_two)
        with pytest.raises(OSError, match=r"meis\.zarr.*run the same command again") as error:
            find(model, neurons, **options, directory=tmp_path)
    assert error.value.errno == errno.ENOSPC
    assert len(ml.MEIStore(tmp_path / "meis.zarr").finished()) == 2
    xr.testing.assert_identical(find(model, neurons, **options, directory=tmp_path).load(), expected)


def test_a_store_of_another_version_is_refused_before_any_step(model, tmp_path, monkeypatch):
    find(model, [("monday", 0)], time_steps=6, max_steps=2, directory=tmp_path)
    for name in (".zattrs", ".zmetadata"):
        path = tmp_path / "meis.zarr" / name
        path.write_text(path.read_text().replace('"mei_store_version": 1', '"mei_store_version": 99'))
    monkeypatch.setattr(ml.StimulusModule, "training_step", lambda *_: pytest.fail("work began"))
    with pytest.raises(ValueError, match="99"):
        find(model, [("monday", 0)], time_steps=6, max_steps=2, directory=tmp_path)


@pytest.mark.slow
def test_the_fast_path_finds_the_same(twin):
    options = {"neurons": [("session_1", 1), ("session_2", 5), ("session_3", 2)], "restarts": 2}
    fast, plain = (find(twin, **options, fast_path=fast) for fast in (True, False))
    np.testing.assert_allclose(fast.score, plain.score, rtol=1e-4)
    np.testing.assert_allclose(fast.response, plain.response, rtol=1e-3, atol=1e-3)
