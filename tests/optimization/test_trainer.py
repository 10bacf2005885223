"""A Lightning trainer of one's own."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import xarray as xr
from conftest import assert_same_meis, find, read, still_model, video_model
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy

import mei_lightning as ml
from mei_lightning.cli.main import main
from mei_lightning.optimization.strategies import cluster_plugins
from mei_lightning.optimization.trainer import silent_lightning

NEURONS = [("monday", 0), ("tuesday", 1)]
SETTINGS = {"time_steps": 9, "norm": 3.0, "search": "quick"}


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_trainer_without_arguments_finds_what_find_meis_finds():
    """But the accelerator, which find_meis is not given either."""
    module = ml.MEIModule(video_model(), NEURONS, **SETTINGS)
    trainer = Trainer(accelerator="cpu")
    trainer.fit(module)
    meis = module.meis()
    assert_same_meis(meis.load(), find(video_model(), NEURONS, **SETTINGS))
    assert set(meis.status.values) == {"converged"}
    assert trainer.max_epochs == -1


def test_a_limit_of_epochs_is_one():
    module = ml.MEIModule(video_model(), NEURONS, **SETTINGS)
    Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False).fit(module)
    assert module.meis().status.values.tolist() == ["interrupted"] * 2
    assert module.meis().steps.values.tolist() == [8, 8]


def test_before_the_fit_there_are_no_meis():
    module = ml.MEIModule(video_model(), NEURONS, **SETTINGS)
    with pytest.raises(FileNotFoundError, match=r"no MEIs yet: fit the module first, Trainer\(\)\.fit\(module\)"):
        module.meis()


IN_AN_ALLOCATION = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "meis", "SLURM_NTASKS": "4", "SLURM_NNODES": "1"}
"""What salloc -n 4 leaves in the environment."""
OF_A_STEP = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "0"}
"""What srun adds for each of four processes."""


def set_environment(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_one_device_runs_alone_whatever_is_allocated(monkeypatch):
    set_environment(monkeypatch, IN_AN_ALLOCATION)
    meis = find(still_model(), [0], max_steps=2, restarts=1)
    assert meis.sizes["neuron"] == 1
    # What is computed beside a run, too.
    assert ml.cross_responses(still_model(), meis, accelerator="cpu", progress_bar=False).shape == (1, 1)
    ml.find_diverse_stimuli(still_model(), [0], number=2, search="quick", max_steps=2, progress_bar=False)


def test_the_command_line_runs_alone_on_one_device(monkeypatch):
    set_environment(monkeypatch, IN_AN_ALLOCATION)
    options = ["--model.retina=simulated", "--model.neurons=[[session_1,0]]", "--model.max_steps=1"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    main(["fit", *options, *quiet, "--model.restarts=1", "--results.directory=here", "--results.report=false"])
    assert read("here").sizes["neuron"] == 1


def test_only_processes_that_srun_has_started_wait_for_each_other(monkeypatch):
    assert cluster_plugins() == []
    set_environment(monkeypatch, IN_AN_ALLOCATION)
    assert [type(plugin) for plugin in cluster_plugins()] == [LightningEnvironment]
    # A shell that is a step of its own, as salloc starts one on some clusters.
    set_environment(monkeypatch, {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"})
    assert [type(plugin) for plugin in cluster_plugins()] == [LightningEnvironment]
    set_environment(monkeypatch, OF_A_STEP)
    assert [type(plugin) for plugin in cluster_plugins()] == [SLURMEnvironment]
    assert not cluster_plugins()[0].auto_requeue
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert [type(plugin) for plugin in cluster_plugins()] == [TorchElasticEnvironment]


def test_the_first_process_names_the_directory_for_all(tmp_path, monkeypatch):
    """Of a name that is made of the time each process that a script starts makes another one."""
    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", lambda self, obj, src=0: str(obj).replace("second", "first"))
    meis = find(still_model(), [0], directory=tmp_path / "second", max_steps=2, restarts=1)
    assert meis.identical(xr.open_zarr(tmp_path / "first" / "meis.zarr", chunks=None).drop_encoding())
    assert not (tmp_path / "second").exists()


def test_lightning_speaks_again_after_threads_have_silenced_it():
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    first, second = silent_lightning(), silent_lightning()
    with ThreadPoolExecutor(1) as another:
        another.submit(first.__enter__).result()
        with second:
            another.submit(first.__exit__, None, None, None).result()
            assert not logger.isEnabledFor(logging.INFO)
    assert logger.level == level
