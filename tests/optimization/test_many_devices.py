"""Several processes on one machine: the same results as one process, also when runs are interrupted and moved."""

import json
import re
import shlex
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from conftest import START_METHOD, video_model
from lightning.pytorch import Callback
from processes import (
    BARE,
    BIN,
    COMMAND,
    NEURONS,
    OPTIONS,
    ROOT,
    assert_same,
    finish,
    fit,
    free_port,
    read,
    run_here,
    start,
    start_slurm_job,
)

import mei_lightning as ml


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("alone"), 1)


ADAM = partial(torch.optim.Adam, lr=0.3)


@pytest.fixture(scope="module")
def alone_by(tmp_path_factory, alone):
    """By optimizer."""
    return {ml.AdaptivePowerMethod: alone, ADAM: fit(tmp_path_factory.mktemp("adam"), 1, optimizer=ADAM)}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [ml.AdaptivePowerMethod, ADAM], ids=["power method", "Adam"])
@pytest.mark.parametrize(("devices", "rows"), [(2, 2), (2, None), (3, 4)])
def test_several_devices_find_what_one_finds(tmp_path, alone_by, devices, rows, optimizer):
    assert_same(fit(tmp_path, devices, rows_per_device=rows, optimizer=optimizer), alone_by[optimizer])


@pytest.mark.slow
def test_more_devices_than_neurons(tmp_path, alone):
    meis = fit(tmp_path, 3, neurons=NEURONS[:1])
    assert_same(meis, alone.isel(neuron=[0]))


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (2, 3)])
def test_interrupted_runs_go_on_with_other_devices(tmp_path, alone, first, then):
    part = fit(tmp_path, first, rows_per_device=2, trainer={"max_steps": 30})
    statuses = set(part.status.values)
    assert statuses & {"interrupted", "pending"}
    assert statuses - {"interrupted", "pending"}
    assert_same(fit(tmp_path, then, rows_per_device=4), alone)


class NotesMetrics(Callback):
    def __init__(self, directory):
        self.directory = directory

    def on_fit_end(self, trainer, pl_module):
        logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
        (self.directory / f"{trainer.global_rank}.json").write_text(json.dumps(logged))


@pytest.mark.slow
def test_metrics_are_of_the_neurons_of_all_devices(tmp_path):
    meis = fit(tmp_path / "results", 2, rows_per_device=2, callbacks=[NotesMetrics(tmp_path)])
    for rank in range(2):
        logged = json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))
        assert logged["neurons/done"] == len(NEURONS)
        assert logged["neurons/converged_share"] == pytest.approx((meis.status == "converged").mean().item())
        assert logged["neurons/seed_similarity"] == pytest.approx(meis.restart_similarity.mean().item(), abs=1e-5)
        assert logged["score/mean"] == pytest.approx(meis.score.mean().item(), rel=1e-5)


def test_each_neuron_is_computed_on_one_device(tmp_path):
    fit(tmp_path, 2, rows_per_device=2)
    records = [path.read_text(encoding="utf-8").split("\n") for path in (tmp_path / "meis.zarr" / "records").iterdir()]
    written = [[json.loads(line)["number"] for line in lines if line] for lines in records]
    assert sorted(number for numbers in written for number in numbers) == list(range(len(NEURONS)))
    assert min(map(len, written)) >= 2


@pytest.mark.slow
def test_data_parallel_training_is_refused(tmp_path):
    with pytest.raises(Exception, match=r'averages gradients over devices.*Trainer\(strategy="sharded"\)'):
        fit(tmp_path, 2, strategy=f"ddp_{START_METHOD}")


@pytest.mark.slow
def test_find_meis_on_two_devices_of_a_notebook(tmp_path, alone, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    options = {**OPTIONS, "devices": 2, "accelerator": "cpu", "progress_bar": False}
    with pytest.raises(ValueError, match="devices=2 needs a directory"):
        ml.find_meis(video_model(), NEURONS, **options)
    meis = ml.find_meis(video_model(), NEURONS, **options, directory=tmp_path, callbacks=[ml.RowConvergence()])
    assert_same(meis.load(), alone)


# From here on as a user starts it: the command line in processes of its own.


@pytest.fixture(scope="module")
def command_alone(tmp_path_factory):
    directory = tmp_path_factory.mktemp("command") / "results"
    (output,) = finish(start(COMMAND, directory))
    assert re.search(r"session_1 +\d+", output)
    return read(directory)


@pytest.mark.slow
def test_torchrun_on_two_nodes(tmp_path, command_alone):
    port = free_port()
    nodes = [
        start(
            [
                str(BIN / "torchrun"),
                *shlex.split(f"--nnodes=2 --nproc_per_node=1 --node_rank={rank}"),
                *shlex.split(f"--master_addr=127.0.0.1 --master_port={port}"),
                *BARE,
                "--trainer.num_nodes=2",
            ],
            tmp_path / "results",
        )
        for rank in range(2)
    ]
    finish(*nodes)
    assert_same(read(tmp_path / "results"), command_alone)


@pytest.mark.slow
def test_slurm_job_ends_in_time_and_goes_back_into_the_queue(tmp_path, command_alone):
    queue = tmp_path / "queue"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {queue}\n')
    scontrol.chmod(0o755)
    # One neuron at a time: after 30 steps the first ones are done, the last ones are not.
    told = ("--model.rows_per_device=1", "--trainer.callbacks=process_callbacks.IsToldThatTimeIsNearlyOver")
    finish(*start_slurm_job(tmp_path / "results", free_port(), *told))
    assert queue.read_text(encoding="utf-8") == "requeue 4711\n"
    statuses = read(tmp_path / "results").status.values
    unfinished = np.isin(statuses, ["interrupted", "pending"])
    assert unfinished.any()
    assert not unfinished.all()

    finish(*start_slurm_job(tmp_path / "results", free_port()))
    assert_same(read(tmp_path / "results"), command_alone)
    assert queue.read_text(encoding="utf-8") == "requeue 4711\n"


@pytest.mark.slow
def test_ctrl_c_keeps_what_all_processes_have(tmp_path, command_alone):
    two = ("--model.rows_per_device=2", "--trainer.devices=2")
    pressed = "--trainer.callbacks=process_callbacks.PressesCtrlC"
    run = start([*COMMAND, *two, pressed], tmp_path / "results")
    output = run.communicate(timeout=300)[0]
    assert run.returncode == 130, output
    assert "Traceback" not in output
    meis = read(tmp_path / "results")
    interrupted = meis.isel(neuron=meis.status == "interrupted")
    # Each of the two has places for two neurons.
    assert interrupted.sizes["neuron"] == 4
    assert (interrupted.steps == 8).all()
    assert_same(run_here(tmp_path / "results"), command_alone)


@pytest.mark.slow
def test_killed_runs_lose_nothing(tmp_path):
    """A few kills; ``scripts/soak.py`` is for many."""
    options = [option for option in BARE[2:] if "trainer" not in option]
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "soak.py"), "--kills=2", f"--directory={tmp_path}", "--", *options],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "16 neurons: equal to 1e-05" in result.stdout
