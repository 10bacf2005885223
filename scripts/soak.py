"""Kill a run at random moments, resume it each time, and compare: is anything lost, doubled or unreadable?

    python scripts/soak.py --kills 20 -- --model.retina digital_twin --model.neurons all

What follows ``--`` are options of ``mei-lightning fit``. The run is made once on one process, once on two, and once
more while it is killed with SIGKILL at random moments and started again, on one or two processes by turns. A reader
opens the stores all the time. Exits with an error unless all three runs have the same results.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import xarray as xr

EQUAL = 1e-5
NOT_DONE = ("pending", "interrupted")


def main() -> None:
    """Run, kill, resume, compare."""
    parser = argparse.ArgumentParser(description="Kill and resume a run, and compare it with an undisturbed one.")
    parser.add_argument(
        "--kills", type=int, default=20, help="how often the third run is killed, unless it ends before"
    )
    parser.add_argument("--seed", type=int, default=0, help="determines when")
    parser.add_argument("--directory", help="where the three runs go; a temporary directory by default")
    parser.add_argument("options", nargs="*", help="options of mei-lightning fit, after --")
    arguments = parser.parse_args()
    directory = Path(arguments.directory or tempfile.mkdtemp())
    try:
        soak(directory, arguments.kills, random.Random(arguments.seed), arguments.options)
    finally:
        if arguments.directory is None:
            shutil.rmtree(directory)


def soak(directory: Path, kills: int, chance: random.Random, options: list[str]) -> None:
    """Make the three runs and compare them."""
    seconds, first_done = {}, {}
    for devices in (1, 2):
        reader = Reader(directory / f"processes_{devices}" / "meis.zarr")
        reader.start()
        began = time.monotonic()
        if start(directory / f"processes_{devices}", devices, options).wait() != 0:
            sys.exit(f"The run on {devices} process(es) failed; see {directory / f'processes_{devices}'}.txt")
        seconds[devices] = time.monotonic() - began
        reader.stop()
        first_done[devices] = (reader.first_done or time.monotonic()) - began
        print(f"{devices} process(es), undisturbed: {seconds[devices]:.0f} s", flush=True)

    killed = directory / "killed"
    reader = Reader(killed / "meis.zarr")
    reader.start()
    killed_times = 0
    # What is not done when it is killed is begun anew: a run makes progress only after the time that the first neurons
    # take. Kills keep pace with the neurons that are done, so that the last ones hit the last neurons.
    first, share = max(first_done.values()), max(seconds.values()) / max(kills, 1)
    neurons = xr.open_zarr(directory / "processes_1" / "meis.zarr").sizes["neuron"]
    while killed_times < kills:
        is_ahead = reader.done / neurons > killed_times / kills
        run = start(killed, 1 + killed_times % 2, options)
        try:
            run.wait(timeout=chance.uniform(0, first if is_ahead else 2 * first + share))
            break
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            killed_times += 1
            print(f"killed {killed_times} times, {reader.done} neurons done", flush=True)
    if start(killed, 1, options).wait() != 0:
        sys.exit(f"The killed run could not be finished; see {killed}.txt")
    reader.stop()

    one = xr.open_zarr(directory / "processes_1" / "meis.zarr").load()
    for name in ("processes_2", "killed"):
        compare(one, xr.open_zarr(directory / name / "meis.zarr").load(), name)
    print(
        f"{one.sizes['neuron']} neurons: equal to {EQUAL:g} on one process, on two, and killed {killed_times} times. "
        f"The store was read {reader.times} times while it was written, always whole."
    )


def start(directory: Path, devices: int, options: list[str]) -> subprocess.Popen:
    """Start the command line in a process group of its own."""
    command = [
        str(Path(sys.executable).with_name("mei-lightning")),
        "fit",
        "--trainer.accelerator=cpu",
        f"--trainer.devices={devices}",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        f"--results.directory={directory}",
        *options,
    ]
    threads = str(max(1, (os.cpu_count() or 1) // devices))
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".txt").open("a") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={"OMP_NUM_THREADS": threads, **os.environ},
            start_new_session=True,
        )


class Reader(threading.Thread):
    """Reads a store over and over; what is done stays done, with its stimulus as it was."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.times = 0
        self.done = 0
        self.first_done: float | None = None
        self.error: BaseException | None = None
        self._stopped = threading.Event()
        self._seen: dict[str, float] = {}

    def run(self) -> None:
        """Read every second until told to stop."""
        while not self._stopped.wait(1.0):
            try:
                if self.path.exists():
                    self._read()
            except BaseException as error:
                self.error = error
                return

    def stop(self) -> None:
        """Stop, and raise what went wrong."""
        self._stopped.set()
        self.join()
        if self.error is not None:
            raise RuntimeError("A reader found the store unreadable or changed.") from self.error

    def _read(self) -> None:
        meis = xr.open_zarr(self.path)
        done = meis.isel(neuron=~np.isin(meis["status"].values, NOT_DONE))
        lost = self._seen.keys() - set(done["neuron"].values.tolist())
        if lost:
            raise ValueError(f"Neurons were done and are not any more: {sorted(lost)[:10]}")
        for label, score in zip(done["neuron"].values.tolist(), done["score"].values.tolist(), strict=True):
            if label not in self._seen:
                if not np.isfinite(done["stimulus"].sel(neuron=label).values).all():
                    raise ValueError(f"Neuron {label} is said to be done, but its stimulus is not there.")
                self._seen[label] = score
        self.times += 1
        self.done = len(self._seen)
        if self.done and self.first_done is None:
            self.first_done = time.monotonic()


def compare(one: xr.Dataset, other: xr.Dataset, name: str) -> None:
    """Exit with an error unless two runs have the same neurons with the same results."""
    if one["neuron"].values.tolist() != other["neuron"].values.tolist():
        sys.exit(f"{name}: the neurons differ.")
    if np.isin(other["status"], NOT_DONE).any() or (one["status"] != other["status"]).any():
        sys.exit(f"{name}: a neuron is missing, or ended otherwise.")
    for variable in ("score", "stimulus", "response"):
        size = float(np.abs(one[variable]).max())
        difference = float(np.abs(one[variable] - other[variable]).max()) / size
        if not difference <= EQUAL:
            sys.exit(f"{name}: {variable} differs by {difference:.1e} of its largest value.")
        print(f"{name}: {variable} differs by at most {difference:.1e} of its largest value")


if __name__ == "__main__":
    main()
