"""Logs of runs that are started again, continued or refused, and loggers other than TensorBoard's."""

import numpy as np
import pytest
from conftest import NO_LIMIT, find, fit, video_model
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mei_lightning as ml
from mei_lightning.results.run_log import RunLogger

pytestmark = pytest.mark.pictures

NEURONS = [("monday", 0), ("monday", 2), ("tuesday", 1)]
SETTINGS = {"time_steps": 9, "restarts": 2, "rows_per_device": 2, "max_steps": 16}


class InterruptedAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def start(directory, *callbacks, neurons=NEURONS, **settings):
    places = {"directory": directory / "results", "log_directory": directory / "logs"}
    return find(video_model(), neurons, callbacks=callbacks, **places, **{**SETTINGS, **settings})


def event_files(directory):
    return sorted(directory.rglob("events.out.tfevents.*"))


def logged(directory):
    """Steps and values of all scalars and the steps of all images, of all starts in their order."""
    (place,) = {file.parent for file in event_files(directory)}
    events = EventAccumulator(str(place), size_guidance=dict.fromkeys(("images", "scalars"), 0)).Reload()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return scalars, {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


@pytest.mark.slow
def test_a_finished_run_that_is_started_again_logs_nothing(tmp_path):
    start(tmp_path)
    files, before = event_files(tmp_path), logged(tmp_path)
    start(tmp_path)
    assert event_files(tmp_path) == files
    assert logged(tmp_path) == before
    assert all(np.isfinite(value) for events in before[0].values() for _, value in events)


@pytest.mark.slow
def test_a_continued_run_continues_its_curves(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, InterruptedAt(26))
    first_scalars, first_images = logged(tmp_path)
    start(tmp_path)
    scalars, images = logged(tmp_path)
    for tag in ("score/mean", "neurons/done", "stimulus/norm"):
        steps = [step for step, _ in scalars[tag]]
        assert scalars[tag][: len(first_scalars[tag])] == first_scalars[tag]
        assert len(steps) > len(first_scalars[tag])
        assert np.all(np.diff(steps) > 0)
    done = [value for _, value in scalars["neurons/done"]]
    assert done == sorted(done)
    assert done[-1] == 3
    assert "epoch" not in scalars
    for tag, steps in first_images.items():
        assert images[tag][: len(steps)] == steps
        assert np.all(np.diff(images[tag]) > 0)


@pytest.mark.slow
def test_a_refused_run_writes_nothing(tmp_path):
    find(video_model(), NEURONS, directory=tmp_path / "results", **SETTINGS)
    with pytest.raises(ValueError, match="other settings"):
        start(tmp_path, seed=1)
    with pytest.raises(ValueError, match="nobody"):
        start(tmp_path, ml.StimulusLogger(["nobody"]))
    assert not (tmp_path / "logs").exists()


def test_steps_go_on_from_the_last_one_unless_they_do_so_by_themselves(tmp_path):
    for steps in ([10, 20], [24, 30], [4, 8]):
        # The third one begins anew, where the second one was resumed from a checkpoint.
        logger = RunLogger(tmp_path, "", "run")
        for step in steps:
            logger.log_metrics({"score": 1.0}, step)
        logger.finalize("success")
    scalars, _ = logged(tmp_path)
    assert [step for step, _ in scalars["score"]] == [10, 20, 24, 30, 34, 38]


class LogsPictures(DummyLogger):
    """As the logger of wandb takes pictures."""

    def __init__(self):
        super().__init__()
        self.images, self.frames = {}, {}

    def log_image(self, key, images, step):
        self.images.setdefault(key, []).append((step, *(image.size for image in images)))

    def log_video(self, key, videos, step, format):
        assert format == ["gif"]
        with Image.open(videos[0]) as video:
            self.frames.setdefault(key, []).append((step, video.n_frames))


@pytest.mark.slow
def test_a_logger_that_takes_pictures_gets_them(tmp_path):
    logger = LogsPictures()
    module = ml.MEIModule(video_model(), NEURONS[:1], time_steps=9, restarts=2, max_steps=8)
    fit(module, NO_LIMIT, ml.StimulusLogger(), logger=logger, log_every_n_steps=1)
    assert set(logger.images) == {"monday/0/frames", "monday/0/composition"}
    for pictures in logger.images.values():
        assert [step for step, _ in pictures] == [4, 8]
        assert all(min(size) > 50 for _, size in pictures)
    assert logger.frames == {"monday/0/stimulus": [(4, 9), (8, 9)]}


def test_of_a_logger_without_pictures_it_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("mei_lightning.callbacks.tensorboard.rank_zero_info", said.append)
    module = ml.MEIModule(video_model(), NEURONS[:1], time_steps=9, restarts=2, max_steps=8)
    fit(module, NO_LIMIT, ml.StimulusLogger(), logger=CSVLogger(tmp_path), log_every_n_steps=1)
    assert said == ["CSVLogger: numbers, but no pictures. TensorBoardLogger and WandbLogger show the stimuli."]
