"""Runs in processes: forked or spawned ones, and those that a user, torchrun or SLURM starts."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import video_model
from lightning.pytorch import Trainer

import mei_lightning as ml
from mei_lightning.cli.main import main

TESTS = Path(__file__).parent
ROOT = TESTS.parent
BIN = Path(sys.executable).parent
NEURONS = [("monday", 0), ("tuesday", 2), ("monday", 3), ("tuesday", 0), ("monday", 1)]
OPTIONS = {"time_steps": 5, "norm": 3.0, "restarts": 2, "max_steps": 25}
COMMAND = [
    str(BIN / "mei-lightning"),
    "fit",
    "--model.retina=simulated",
    "--model.neurons={sessions: [session_1, session_2], indices: [0, 1, 2, 3, 4, 5, 6, 7]}",
    "--model.restarts=1",
    "--model.time_steps=26",
    "--model.max_steps=20",
    "--model.rows_per_device=4",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
]
BARE = [*COMMAND, "--results.report=false", "--trainer.logger=false"]
"""Without pictures and logs, which take longer than all the rest."""


def fit(
    directory,
    devices,
    *,
    model=None,
    neurons=NEURONS,
    strategy="sharded_notebook",
    trainer=None,
    callbacks=(),
    shard=None,
    **options,
):
    """Fit in forked processes (or spawned ones, if all tests do so), or in this one."""
    module = ml.MEIModule(model or video_model(), neurons, **{**OPTIONS, **options})
    Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy if devices > 1 else "auto",
        max_epochs=-1,
        logger=False,
        callbacks=[ml.RowConvergence(), ml.ResultsWriter(str(directory), report=False, shard=shard), *callbacks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **(trainer or {}),
    ).fit(module)
    return read(directory)


def read(directory):
    return xr.open_zarr(Path(directory) / "meis.zarr").load()


def assert_same(meis, expected):
    assert meis.neuron.values.tolist() == expected.neuron.values.tolist()
    assert meis.status.values.tolist() == expected.status.values.tolist()
    assert meis.steps.values.tolist() == expected.steps.values.tolist()
    for variable in ("score", "stimulus", "response", "restart_scores"):
        np.testing.assert_allclose(meis[variable], expected[variable], rtol=1e-5, atol=1e-5, err_msg=variable)


def start(command, directory, **environment):
    """Start a command that writes results; what ``process_callbacks`` has can be named in it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "MASTER", "WORLD"))}
    own["PYTHONPATH"] = os.pathsep.join([str(TESTS), own.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [*command, f"--results.directory={directory}"],
        cwd=directory.parent,
        env={**own, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_here(directory):
    """What ``BARE`` finds, without a process of its own, which would take seconds to begin."""
    directory.parent.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory.parent)
        words = [*BARE, f"--results.directory={directory}"]
        patch.setattr(sys, "argv", words)
        main(words[1:])
    return read(directory)


def finish(*processes):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start_slurm_job(directory, port, *options):
    """Two tasks on two nodes, as srun starts them."""
    return [
        start(
            [*BARE, "--trainer.num_nodes=2", "--trainer.strategy=sharded", *options],
            directory,
            PATH=f"{directory.parent}{os.pathsep}{os.environ['PATH']}",
            SLURM_JOB_ID="4711",
            SLURM_JOB_NAME="meis",
            SLURM_NTASKS="2",
            SLURM_STEP_ID="0",
            SLURM_STEP_NUM_TASKS="2",
            SLURM_NTASKS_PER_NODE="1",
            SLURM_NNODES="2",
            SLURM_NODELIST="localhost",
            SLURM_PROCID=str(rank),
            SLURM_NODEID=str(rank),
            SLURM_LOCALID="0",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        for rank in range(2)
    ]
