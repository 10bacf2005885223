"""A system that lacks fork, fcntl, SIGUSR1 and SIGKILL, as Windows does."""

import subprocess
import sys

RUN = """
import multiprocessing, os, signal, sys

# filelock and Lightning lack these too on Windows, where they have something else in their place.
import filelock
from lightning.pytorch.trainer.connectors import signal_connector

signal_connector._IS_WINDOWS = True
has = {signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGINT, signal.SIGSEGV, signal.SIGTERM}
for lacking in set(signal.Signals) - has:
    delattr(signal, lacking.name)
signal.valid_signals = lambda: has
del os.fork
multiprocessing.get_all_start_methods = lambda: ["spawn"]
sys.modules["fcntl"] = None

import mei_lightning as ml
from mei_lightning.strategies import IN_NOTEBOOKS

assert IN_NOTEBOOKS == "spawn", IN_NOTEBOOKS
meis = ml.find_meis(
    "digital_twin",
    [("session_1", 0), ("session_1", 1)],
    effort="quick",
    accelerator="cpu",
    progress_bar=False,
    directory=sys.argv[1],
)
assert meis.status.values.tolist() == ["converged"] * 2, meis.status.values
assert meis.neuron.values.tolist() == ["session_1/0", "session_1/1"]
assert sorted(os.listdir(sys.argv[1])) == ["mei.png", "meis.mp4", "meis.png", "meis.zarr"]
"""


def test_import_and_two_neurons(tmp_path):
    run = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
