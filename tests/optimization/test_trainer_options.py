"""Each option of Lightning's Trainer, and each callback of its own: it works, or it is refused by its name."""

import inspect
import warnings
from functools import partial

import pytest
import torch
from conftest import still_model
from lightning.pytorch import Trainer, callbacks
from lightning.pytorch.loggers import CSVLogger

import mei_lightning as ml

WORKS = "works"
OPTIONS = {
    "accelerator": ("cpu", WORKS),
    "strategy": ("auto", WORKS),
    "devices": (1, WORKS),
    "num_nodes": (1, WORKS),
    "precision": ("16-mixed", r"Trainer\(precision='16-mixed'\)|bf16"),
    "logger": (CSVLogger, WORKS),
    "callbacks": ([], WORKS),
    "fast_dev_run": (True, WORKS),
    "max_epochs": (1, WORKS),
    "min_epochs": (2, WORKS),
    "max_steps": (2, WORKS),
    "min_steps": (6, WORKS),
    "max_time": ("00:00:10:00", WORKS),
    "limit_train_batches": (1, r"Trainer\(limit_train_batches=1\) leaves out steps"),
    "limit_val_batches": (1, WORKS),
    "limit_test_batches": (1, WORKS),
    "limit_predict_batches": (1, WORKS),
    "overfit_batches": (2, r"Trainer\(overfit_batches=2\) leaves out steps"),
    "val_check_interval": (1, WORKS),
    "check_val_every_n_epoch": (2, WORKS),
    "num_sanity_val_steps": (1, WORKS),
    "log_every_n_steps": (1, WORKS),
    "enable_checkpointing": (True, WORKS),
    "enable_progress_bar": (True, WORKS),
    "enable_model_summary": (True, WORKS),
    "accumulate_grad_batches": (2, r"Trainer\(accumulate_grad_batches=2\) adds the gradients"),
    "gradient_clip_val": (0.5, r"Trainer\(gradient_clip_val=0.5\) clips"),
    "gradient_clip_algorithm": ("norm", WORKS),
    "deterministic": ("warn", WORKS),
    "benchmark": (False, WORKS),
    "inference_mode": (False, WORKS),
    "use_distributed_sampler": (False, WORKS),
    "profiler": ("simple", WORKS),
    "detect_anomaly": (True, WORKS),
    "barebones": (True, WORKS),
    "plugins": ([], WORKS),
    "sync_batchnorm": (True, WORKS),
    "reload_dataloaders_every_n_epochs": (1, WORKS),
    "default_root_dir": (".", WORKS),
    "enable_autolog_hparams": (False, WORKS),
    "model_registry": (None, WORKS),
}
SCORE = {"monitor": "score/mean"}
CALLBACKS = {
    "BackboneFinetuning": (callbacks.BackboneFinetuning, "BackboneFinetuning tunes"),
    "BaseFinetuning": (callbacks.BaseFinetuning, "BaseFinetuning tunes"),
    "BasePredictionWriter": (callbacks.BasePredictionWriter, WORKS),
    "BatchSizeFinder": (callbacks.BatchSizeFinder, "BatchSizeFinder tunes"),
    "Callback": (callbacks.Callback, WORKS),
    "Checkpoint": (callbacks.Checkpoint, WORKS),
    "DeviceStatsMonitor": (lambda: callbacks.DeviceStatsMonitor(cpu_stats=False), WORKS),
    "EarlyStopping": (lambda: callbacks.EarlyStopping(**SCORE, mode="max", patience=1), WORKS),
    "GradientAccumulationScheduler": (lambda: callbacks.GradientAccumulationScheduler({0: 2}), "adds the gradients"),
    "LambdaCallback": (callbacks.LambdaCallback, WORKS),
    "LearningRateFinder": (callbacks.LearningRateFinder, "LearningRateFinder tunes"),
    "LearningRateMonitor": (callbacks.LearningRateMonitor, "LearningRateMonitor shows learning rates"),
    "ModelCheckpoint": (lambda: callbacks.ModelCheckpoint(".", **SCORE, mode="max"), WORKS),
    "ModelPruning": (lambda: callbacks.ModelPruning("l1_unstructured", amount=0.5), "ModelPruning changes stimuli"),
    "ModelSummary": (callbacks.ModelSummary, WORKS),
    "OnExceptionCheckpoint": (lambda: callbacks.OnExceptionCheckpoint("."), WORKS),
    "ProgressBar": (callbacks.ProgressBar, WORKS),
    "RichModelSummary": (callbacks.RichModelSummary, WORKS),
    "RichProgressBar": (callbacks.RichProgressBar, WORKS),
    "StochasticWeightAveraging": (lambda: callbacks.StochasticWeightAveraging(1.0), "StochasticWeightAveraging chang"),
    "SpikeDetection": (callbacks.SpikeDetection, "SpikeDetection takes"),
    "ThroughputMonitor": (lambda: callbacks.ThroughputMonitor(lambda batch: 1), WORKS),
    "Timer": (lambda: callbacks.Timer("00:00:10:00"), WORKS),
    "TQDMProgressBar": (callbacks.TQDMProgressBar, WORKS),
    "EMAWeightAveraging": (callbacks.EMAWeightAveraging, "EMAWeightAveraging changes stimuli"),
    "WeightAveraging": (callbacks.WeightAveraging, "WeightAveraging changes stimuli"),
}
QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def check(verdict, *own, **options):
    """Fit with a trainer; refused is what is refused before the first evaluation with a gradient."""
    module = ml.MEIModule(still_model(), [0], restarts=1, max_steps=6, check_interval=2)
    trainer = Trainer(**{**QUIET, **options}, callbacks=[*own, ml.ResultsWriter("results", report=False)])
    if verdict != WORKS:
        module.training_step = lambda *_: pytest.fail("work began")
        with pytest.raises(ValueError, match=verdict) as refused:
            trainer.fit(module)
        assert isinstance(refused.value, ml.MEIError)
        return None
    trainer.fit(module)
    meis = module.meis().load()
    # The score of a stimulus is that of this very stimulus.
    score = module.problem.objective(torch.from_numpy(meis["stimulus"].values))
    assert meis["score"].item() == pytest.approx(score.item(), rel=1e-5)
    return meis


def test_the_table_has_every_option_and_every_callback():
    assert set(OPTIONS) == set(inspect.signature(Trainer).parameters)
    assert set(CALLBACKS) == set(callbacks.__all__)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_the_trainer_works_or_is_refused(option):
    value, verdict = OPTIONS[option]
    if inspect.isclass(value):
        value = value(".")
    options = {} if option == "callbacks" else {option: value}
    if option == "barebones":
        # It asks for these to be left out.
        options = {**dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar")), **options}
    with warnings.catch_warnings(action="ignore"):
        check(verdict, **options)


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_of_lightnings_works_or_is_refused(name):
    make, verdict = CALLBACKS[name]
    needs_logger = name in ("DeviceStatsMonitor", "LearningRateMonitor", "ThroughputMonitor")
    if name.startswith("Rich"):
        pytest.importorskip("rich")
    own = make.__new__(make) if inspect.isabstract(make) else make()
    options = {"enable_checkpointing": True, "enable_progress_bar": "ProgressBar" in name}
    with warnings.catch_warnings(action="ignore"):
        check(verdict, own, **{"logger": CSVLogger(".")} if needs_logger else {}, **options)


@pytest.mark.parametrize("kind", [callbacks.EarlyStopping, callbacks.ModelCheckpoint])
def test_who_waits_for_scores_to_fall_is_told(kind):
    check(
        rf"{kind.__name__}\(monitor='score/mean', mode='min'\) waits for scores to fall",
        kind(**SCORE),
        enable_checkpointing=True,
    )


def test_learning_rates_are_shown_where_there_are_some():
    module = ml.StimulusModule(
        lambda x: x.flatten(1).sum(1),
        torch.ones(1, 1, 1, 7, 6),
        max_steps=2,
        optimizer=partial(torch.optim.SGD, lr=0.5),
    )
    shown = callbacks.LearningRateMonitor()
    Trainer(**{**QUIET, "logger": CSVLogger(".")}, callbacks=[shown], max_epochs=1, log_every_n_steps=1).fit(module)
    assert shown.lrs == {"lr-SGD": [0.5] * len(shown.lrs["lr-SGD"])}


def test_early_stopping_ends_a_run_by_its_scores():
    stopping = callbacks.EarlyStopping(**SCORE, mode="max", patience=1, min_delta=1e9)
    meis = ml.find_meis(still_model(), [0], accelerator="cpu", progress_bar=False, restarts=1, callbacks=[stopping])
    assert stopping.stopped_epoch == 1
    assert meis["status"].item() == "interrupted"


def test_a_stimulus_module_refuses_them_too():
    module = ml.StimulusModule(lambda x: x.flatten(1).sum(1), torch.ones(1, 1, 1, 7, 6), max_steps=2)
    trainer = Trainer(**QUIET, accumulate_grad_batches=3, max_epochs=-1)
    with pytest.raises(ValueError, match=r"Trainer\(accumulate_grad_batches=3\)"):
        trainer.fit(module)
