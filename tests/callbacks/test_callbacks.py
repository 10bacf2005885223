"""What a run leaves in TensorBoard, in a CSV file, in checkpoints and on the screen."""

import csv
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NO_LIMIT, assert_same_meis, find, fit, results, still_model, video_model
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import mei_lightning as ml

pytestmark = pytest.mark.pictures

RANGES = [(-0.2, 0.5), (-0.3, 0.4)]
NEURONS = [("monday", 0), ("monday", 2), ("tuesday", 1)]
QUANTILES = ["0.00", "0.25", "0.50", "0.75", "1.00"]


def module_of(model, neurons=NEURONS, **options):
    settings = {"time_steps": 9, "restarts": 2, "norm": 4.0, "ranges": RANGES, "check_interval": 10}
    return ml.MEIModule(model, neurons, **{**settings, **options})


def events_in(directory):
    (file,) = Path(directory).rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file), size_guidance=dict.fromkeys(("images", "scalars", "histograms", "tensors"), 0))
    events.Reload()
    return events


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 50 steps (5 checks) with two shown neurons: its module, its results and its events."""
    directory = tmp_path_factory.mktemp("run")
    module = module_of(video_model(), max_steps=50)
    shown = ml.StimulusLogger(["monday/2", "tuesday/1"], every_n_checks=2)
    trainer = fit(module, NO_LIMIT, shown, logger=tensorboard(directory), log_every_n_steps=1)
    return module, results(trainer), events_in(directory)


def tensorboard(directory):
    return TensorBoardLogger(directory, name="", default_hp_metric=False)


def scalars_of(events):
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.slow
def test_scalars_tell_of_the_population(run):
    _, meis, events = run
    scalars = scalars_of(events)
    expected = {"score/mean", "rows/active", "rows/active_share_of_steps", "neurons/done", "neurons/per_minute"}
    expected |= {"stimulus/norm", "stimulus/clipped_share"} | {f"score/quantile_{level}" for level in QUANTILES}
    assert expected <= set(scalars)
    assert scalars["rows/active"] == [6.0] * 5
    assert scalars["rows/active_share_of_steps"] == [1.0] * 5
    assert scalars["neurons/done"] == [0.0] * 4 + [3.0]
    assert scalars["neurons/per_minute"][-1] > 0
    np.testing.assert_allclose(scalars["stimulus/norm"], 4.0, rtol=1e-5)
    assert np.all(np.diff(scalars["score/mean"]) >= 0)
    assert scalars["score/mean"][-1] > scalars["score/mean"][0]

    stimulus = meis["stimulus"].values
    low, high = (np.reshape(bounds, (1, 2, 1, 1, 1)).astype(np.float32) for bounds in zip(*RANGES, strict=True))
    share = ((stimulus <= low) | (stimulus >= high)).mean()
    assert 0.01 < share < 0.99
    assert scalars["stimulus/clipped_share"][-1] == pytest.approx(share, abs=1e-5)


class CountsRowSteps(Callback):
    """Counts the rows of every step, and those of them that are not done."""

    computed = active = 0

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.computed += pl_module.rows_in_computation
        active = pl_module.active
        if pl_module.max_steps is not None:
            active = active & (pl_module.steps < pl_module.max_steps)
        self.active += int(active.sum())


def test_the_share_of_steps_on_active_rows_counts_every_step():
    # Neurons that reach the step limit at other times than those beside them.
    counts = CountsRowSteps()
    neurons = [(session, number) for session in ("monday", "tuesday") for number in range(2)]
    module = ml.MEIModule(video_model(), neurons, time_steps=16, rows_per_device=10, max_steps=14, check_interval=4)
    fit(module, NO_LIMIT, ml.RowConvergence(), counts)
    assert 0.5 < counts.active / counts.computed < 1
    assert module.active_share == pytest.approx(counts.active / counts.computed, rel=1e-6)


@pytest.mark.slow
def test_scalars_count_neurons_that_stream(tmp_path):
    """One place, three neurons of 15 steps, that is of two checks each; the second check's rows idle for 5 steps."""
    module = module_of(video_model(), rows_per_device=2, max_steps=15)
    trainer = fit(module, NO_LIMIT, ml.StimulusLogger(), logger=tensorboard(tmp_path), log_every_n_steps=1)
    scalars = scalars_of(events_in(tmp_path))
    assert trainer.global_step == 60
    assert scalars["neurons/done"] == [0.0, 1.0, 1.0, 2.0, 2.0, 3.0]
    assert scalars["rows/active"] == [2.0] * 6
    shares = [10 / 10, 15 / 20, 25 / 30, 30 / 40, 40 / 50, 45 / 60]
    np.testing.assert_allclose(scalars["rows/active_share_of_steps"], shares, rtol=1e-6)
    scores = results(trainer)["score"].values
    # So far no neuron has converged; how alike its seeds' stimuli are, each tells when it is done.
    assert scalars["neurons/converged_share"] == [0.0] * 5
    similarities = results(trainer)["restart_similarity"].values
    means = np.cumsum(similarities) / np.arange(1, 4)
    np.testing.assert_allclose(scalars["neurons/seed_similarity"], means[[0, 0, 1, 1, 2]], rtol=1e-5)
    # Scores of neurons that have left count too.
    np.testing.assert_allclose(scalars["score/mean"][1::2], [scores[:1].mean(), scores[:2].mean(), scores.mean()], 1e-5)


def test_quantiles_and_mean_are_those_of_the_neurons(run):
    """Of the best restart of each, as in the results: a bad restart that is not kept does not count."""
    _, meis, events = run
    scores = meis["restart_scores"].max("restart").values
    assert events.Scalars("score/mean")[-1].value == pytest.approx(scores.mean(), rel=1e-4)
    for level in QUANTILES:
        logged = events.Scalars(f"score/quantile_{level}")[-1].value
        assert logged == pytest.approx(np.quantile(scores, float(level)), rel=1e-4)


def test_histogram_of_scores(run):
    _, meis, events = run
    histogram = events.Histograms("scores")[-1].histogram_value
    scores = meis["restart_scores"].max("restart").values
    assert histogram.num == 3
    assert histogram.sum == pytest.approx(scores.sum(), rel=1e-4)
    assert histogram.max == pytest.approx(scores.max(), rel=1e-4)


def test_shown_neurons_have_pictures_at_every_second_check_and_at_the_end(run):
    _, _, events = run
    kinds = ("stimulus", "frames", "composition")
    assert set(events.Tags()["images"]) == {f"{label}/{kind}" for label in ("monday/2", "tuesday/1") for kind in kinds}
    for tag in events.Tags()["images"]:
        assert sorted({event.step for event in events.Images(tag)}) == [10, 30, 50]


def test_stimulus_is_an_animation_of_every_frame(run):
    _, meis, events = run
    (stimulus,) = meis["stimulus"].sel(neuron=["tuesday/1"]).values
    event = events.Images("tuesday/1/stimulus")[-1]
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        assert image.n_frames == 9
        frames = []
        for number in range(9):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB"), dtype=float))
    assert frames[0].shape[0] / frames[0].shape[1] == pytest.approx(6 / 5, rel=0.05)
    brightness = np.array([frame.mean() for frame in frames])
    assert np.corrcoef(brightness, stimulus.mean((0, 2, 3)))[0, 1] > 0.9


def test_pictures_of_the_run_differ_and_can_be_decoded(run):
    _, _, events = run
    for kind in ("frames", "composition"):
        images = [event.encoded_image_string for event in events.Images(f"monday/2/{kind}")]
        pictures = [np.asarray(Image.open(io.BytesIO(image))) for image in images]
        assert min(pictures[0].shape[:2]) > 50
        assert not np.array_equal(pictures[0], pictures[-1])


def test_configuration_among_the_hyperparameters(run):
    module, meis, events = run
    content = HParamsPluginData.FromString(events.PluginTagToContent("hparams")["_hparams_/session_start_info"])
    values = {name: value.string_value for name, value in content.session_start_info.hparams.items()}
    assert values["model"] == "VideoNetwork"
    assert values["neurons"] == "monday/0, monday/2, tuesday/1"
    assert values["time_steps"] == "9"
    assert values["seed"] == "0"
    ranges = [list(pair) for pair in module.configuration["constraint"]["arguments"]["ranges"]]
    assert values["constraint"] == f"NormAndRange(norm=4.0, ranges={ranges}, norm_is='fixed')"
    assert values["weights_digest"] == module.configuration["weights_digest"]
    assert values["max_steps"] == "50"
    assert values["convergence"] == "RowConvergence(relative_gain=0.001, patience=1000000000)"
    expected = meis["restart_scores"].max("restart").mean().item()
    assert events.Scalars("final/score_mean")[-1].value == pytest.approx(expected, rel=1e-4)
    assert events.Scalars("final/steps")[-1].value == 50


@pytest.mark.slow
def test_find_meis_logs_the_first_four_neurons(tmp_path):
    neurons = [("monday", 0), ("monday", 1), ("monday", 2), ("tuesday", 0), ("tuesday", 1)]
    find(video_model(), neurons, time_steps=5, restarts=1, max_steps=3, log_directory=tmp_path)
    shown = {tag.rsplit("/", 1)[0] for tag in events_in(tmp_path).Tags()["images"]}
    assert shown == {"monday/0", "monday/1", "monday/2", "tuesday/0"}


def test_still_image_has_no_animation(tmp_path):
    find(still_model(), [2], restarts=1, max_steps=3, log_directory=tmp_path)
    assert set(events_in(tmp_path).Tags()["images"]) == {"2/frames", "2/composition"}


@pytest.mark.slow
def test_stimuli_without_names_or_format(tmp_path):
    """A plain StimulusModule: an objective and a tensor."""
    module = ml.StimulusModule(
        lambda stimulus: stimulus[:, :, :3].mean((1, 2, 3, 4)),
        torch.randn(2, 1, 7, 4, 4),
        constraint=ml.FixedNorm(2.0),
    )
    module.retire(torch.tensor([False, True]), ml.Status.CONVERGED)
    fit(module, 10, ml.StimulusLogger(), logger=tensorboard(tmp_path), log_every_n_steps=1)
    events = events_in(tmp_path)
    scalars = scalars_of(events)
    counts = [scalars[f"rows/{status}"][-1] for status in ("active", "converged", "no_gradient", "not_finite")]
    assert counts == [1.0, 1.0, 0.0, 0.0]
    assert {"row_0/stimulus", "row_1/stimulus"} <= set(events.Tags()["images"])
    assert events.Histograms("scores")


def test_unknown_neuron_is_an_error_before_any_step():
    trained = []
    module = module_of(video_model())
    module.training_step = lambda *_: trained.append(1)
    with pytest.raises(ValueError, match=r"cannot show 'friday/1'; the run has monday/0, monday/2, tuesday/1"):
        fit(module, 2, ml.StimulusLogger(["monday/0", "friday/1"]))
    assert (module.steps == 0).all()
    assert not trained


def test_interval_must_be_positive():
    with pytest.raises(ValueError, match=r"every_n_checks=0\) must be at least 1"):
        ml.StimulusLogger(every_n_checks=0)


def test_csv_logger(tmp_path):
    module = module_of(video_model(), max_steps=30)
    options = {"logger": CSVLogger(tmp_path, name=""), "log_every_n_steps": 1}
    trainer = fit(module, NO_LIMIT, ml.StimulusLogger(), **options)
    with open(Path(trainer.logger.log_dir) / "metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["rows/active"]) for row in rows] == [6.0] * 3
    means = [float(row["score/mean"]) for row in rows]
    assert means == sorted(means)
    assert means[-1] > means[0]


def test_model_checkpoint_of_the_best_mean_score(tmp_path):
    """Monitors what the module logs; the checkpoint holds stimuli only and brings them back."""
    module = module_of(video_model())
    checkpoint = ModelCheckpoint(tmp_path, monitor="score/mean", mode="max", filename="best")
    fit(module, 40, checkpoint)
    saved = torch.load(checkpoint.best_model_path, weights_only=True)
    assert not any("objective" in name or "network" in name for name in saved["state_dict"])
    scores = saved["state_dict"]["best_score"].view(3, 2).amax(1)
    assert float(checkpoint.best_model_score) == pytest.approx(scores.mean().item(), rel=1e-4)
    again = module_of(video_model())
    again.load_state_dict(saved["state_dict"])
    assert torch.equal(again.stimulus, saved["state_dict"]["stimulus"])
    assert again.neuron_in_slot.tolist() == [0, 1, 2]
    twice = [neuron for neuron in NEURONS for _ in range(2)]
    recomputed = ml.NeuronObjective(video_model(), twice, ml.MeanReducer())(again.best_stimulus)
    torch.testing.assert_close(recomputed, again.best_score)


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_in_whatever_order_callbacks_are_given_they_find_and_keep_the_same(order, tmp_path):
    def module():
        return ml.MEIModule(video_model().double(), [("monday", 0), ("tuesday", 1)], time_steps=16, max_steps=20)

    expected = results(fit(module(), NO_LIMIT, ml.RowConvergence()))
    callbacks = [
        ml.RowConvergence(),
        ml.ResultsWriter(str(tmp_path / "results"), report=False),
        ModelCheckpoint(tmp_path, save_on_train_epoch_end=True),
    ]
    trainer = fit(module(), NO_LIMIT, *[callbacks[number] for number in order])
    assert_same_meis(results(trainer), expected, atol=1e-9)
    checkpoint = torch.load(callbacks[2].best_model_path, weights_only=True)
    assert checkpoint["global_step"] == trainer.global_step
