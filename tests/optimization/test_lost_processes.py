"""A process of a run is killed, so that it can tell nobody: the others end, and what was found is there."""

import signal
import time

import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import StrategyRegistry
from process_callbacks import IsKilled
from processes import BARE, assert_same, fit, free_port, read, run_here, start, start_slurm_job
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from mei_lightning.results.store import MEIStore

SECONDS = 60
"""Within which all other processes have to end."""
MESSAGE = "error: Another process of the run has ended"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("alone"), 1)


@pytest.mark.slow
@pytest.mark.parametrize(("lost", "then"), [(0, 1), (1, 3), (2, 1)])
def test_a_run_goes_on_with_other_devices(tmp_path, alone, lost, then):
    began = time.monotonic()
    with pytest.raises((ProcessExitedException, ProcessRaisedException)):
        fit(tmp_path, 3, rows_per_device=2, callbacks=[IsKilled(lost)])
    assert time.monotonic() - began < SECONDS
    assert 0 < len(MEIStore(tmp_path / "meis.zarr").finished()) < len(alone.neuron)
    assert_same(fit(tmp_path, then), alone)


def test_gpus_talk_through_gloo_which_notices_lost_processes(monkeypatch):
    begun = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **options: begun.append(backend))
    for name in ("sharded", "sharded_notebook", "ddp"):
        strategy = StrategyRegistry.get(name)
        strategy.parallel_devices = [torch.device("cuda", 0), torch.device("cuda", 1)]
        strategy.cluster_environment = LightningEnvironment()
        strategy.setup_distributed()
    assert begun == ["gloo", "gloo", "nccl"]


# From here on as a user starts it: the command line in processes of its own.


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """For results; processes find the callback and print what a user sees."""
    monkeypatch.setenv("MEI_LIGHTNING_TRACEBACK", "0")
    return tmp_path / "results"


@pytest.fixture(scope="module")
def command_alone(tmp_path_factory):
    return run_here(tmp_path_factory.mktemp("command") / "results")


def kill(rank):
    """Options by which a process is killed when some neurons are done and some are not."""
    callback = f"{{class_path: process_callbacks.IsKilled, init_args: {{rank: {rank}, note: killed}}}}"
    return f"--trainer.callbacks={callback}", "--model.rows_per_device=1"


def end(directory, *processes):
    """Wait until one is killed, and for the others; their output ends when the last process that writes to it does."""
    while not (directory.parent / "killed").exists() and all(process.poll() is None for process in processes):
        time.sleep(0.05)
    outputs = [process.communicate(timeout=SECONDS)[0] for process in processes]
    assert (directory.parent / "killed").exists(), outputs
    assert "Traceback" not in "".join(outputs)
    return outputs, [process.returncode for process in processes]


@pytest.mark.slow
def test_the_command_line_loses_a_process_that_it_has_started(directory, command_alone):
    ([output], [code]) = end(directory, start([*BARE, "--trainer.devices=3", *kill(1)], directory))
    # Lightning looks after these processes every five seconds, and ends all if it is the first to notice.
    assert (code == 1 and f"{MESSAGE} (process 1: SIGKILL)" in output) or (code == -9 and "code -9" in output)
    assert output.count(MESSAGE) <= 1
    assert 0 < len(MEIStore(directory / "meis.zarr").finished()) < len(command_alone.neuron)
    assert_same(run_here(directory), command_alone)


@pytest.mark.slow
def test_the_command_line_loses_its_first_process(directory):
    ([output], [code]) = end(directory, start([*BARE, "--trainer.devices=3", *kill(0)], directory))
    assert code == -signal.SIGKILL
    assert output.count(MESSAGE) == 1
    status = read(directory).status
    assert 0 < (~status.isin(["pending", "interrupted"])).sum() < len(status)


@pytest.mark.slow
def test_a_slurm_job_loses_a_process(directory):
    outputs, codes = end(directory, *start_slurm_job(directory, free_port(), *kill(1)))
    assert codes == [1, -signal.SIGKILL]
    assert [output.count(MESSAGE) for output in outputs] == [1, 0]
    status = read(directory).status
    assert 0 < (~status.isin(["pending", "interrupted"])).sum() < len(status)
