"""Kill processes that find shards of one run side by side, and compare what they leave with an undivided run.

    python scripts/soak_shards.py --shards 8 --minutes 10

The shards of a small run of the simulated model are begun all at once. A random one is killed with SIGKILL at a random
moment, also while it makes the store or writes, and begun again, each at most four times; so it goes round by round,
each with a new store, until time, or the number of kills, is over. Exits with an error if a neuron is lost, was found
twice, or has another result than in the undivided run.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from lightning.pytorch import Trainer

import mei_lightning as ml

KILLS_OF_A_SHARD = 4
"""In a round. What is not done when it is killed is begun anew, and has to be done some time."""
EQUAL = 1e-5
NOT_DONE = ("pending", "interrupted")
# Copies of this process have imported everything already: a kill finds them at work.
PROCESSES = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")


def main() -> None:
    """Run, kill, begin again, compare."""
    parser = argparse.ArgumentParser(description="Kill shards of a run, and compare with an undivided one.")
    parser.add_argument("--shards", type=int, default=8, help="processes")
    parser.add_argument("--neurons", type=int, default=16, help="at most 108")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no round is begun")
    parser.add_argument("--kills", type=int, default=10**6, help="after which nothing is killed any more")
    parser.add_argument("--seed", type=int, default=0, help="determines when, and which")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="soak_shards_"))
    try:
        soak(directory, arguments)
    finally:
        shutil.rmtree(directory)


def soak(directory: Path, arguments: argparse.Namespace) -> None:
    """Make the undivided run, then rounds of shards, and compare."""
    end = time.monotonic() + 60 * arguments.minutes
    chance = random.Random(arguments.seed)
    began = time.monotonic()
    whole = begin(directory / "whole", arguments.neurons, None)
    whole.join()
    if whole.exitcode:
        sys.exit("The undivided run failed.")
    seconds = time.monotonic() - began
    print(f"{arguments.neurons} neurons, undivided: {seconds:.1f} s", flush=True)
    kills = rounds = 0
    while not rounds or (time.monotonic() < end and kills < arguments.kills):
        rounds += 1
        place = directory / f"round_{rounds}"
        kills += killed_round(place, arguments, chance, seconds, arguments.kills - kills)
        print(f"round {rounds}: {kills} kills in all", flush=True)
    expected = xr.open_zarr(directory / "whole" / "meis.zarr", chunks=None).load()
    found = [compared(directory / f"round_{number}", expected) for number in range(1, rounds + 1)]
    lost, doubled = (sum(one[place] for one in found) for place in (0, 1))
    largest = max(one[2] for one in found)
    print(
        f"{rounds} rounds of {arguments.neurons} neurons in {arguments.shards} shards, {kills} kills: {lost} neurons "
        f"lost, {doubled} found twice, largest difference {largest:.1e} of the largest value"
    )
    if lost or doubled or not largest <= EQUAL:
        sys.exit(1)


def killed_round(place: Path, arguments: argparse.Namespace, chance: random.Random, seconds: float, most: int) -> int:
    """One run in shards, of which some are killed; how many kills there were."""
    shards = range(1, arguments.shards + 1)
    running = {number: begin(place, arguments.neurons, (number, arguments.shards)) for number in shards}
    killed: Counter[int] = Counter()
    while sum(killed.values()) < most:
        # Half of the waits are short: the store is made, and locks are taken, at the beginning.
        time.sleep(chance.uniform(0.0, chance.choice([0.05, 0.5]) * seconds))
        alive = [number for number in shards if running[number].is_alive() and killed[number] < KILLS_OF_A_SHARD]
        if not alive:
            break
        number = chance.choice(alive)
        running[number].kill()
        running[number].join()
        killed[number] += 1
        running[number] = begin(place, arguments.neurons, (number, arguments.shards))
    for number, process in running.items():
        process.join()
        if process.exitcode:
            sys.exit(f"Shard {number} ended with code {process.exitcode}.")
    return sum(killed.values())


def begin(place: Path, neurons: int, shard: tuple[int, int] | None) -> BaseProcess:
    """Start a process that finds the neurons, or a shard of them."""
    process = PROCESSES.Process(target=find, args=(place, neurons, shard))
    process.start()
    return process


def find(place: Path, neurons: int, shard: tuple[int, int] | None) -> None:
    """Find them, without pictures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model = ml.load_model("simulated")
    chosen = ml.NeuronSelection().of(model)[:neurons]
    module = ml.MEIModule(model, chosen, restarts=1, time_steps=26, max_steps=12, rows_per_device=2)
    Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        callbacks=[ml.ResultsWriter(str(place), report=False, shard=shard)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module)


def compared(place: Path, expected: xr.Dataset) -> tuple[int, int, float]:
    """How many neurons of a run are lost, how many were found twice, and by how much the others differ at most."""
    meis = xr.open_zarr(place / "meis.zarr", chunks=None).load()
    done = ~np.isin(meis["status"].values, NOT_DONE)
    lines = [line for path in (place / "meis.zarr" / "records").iterdir() for line in path.read_text().splitlines()]
    records = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    times = Counter(record["number"] for record in records if record["status"] not in NOT_DONE)
    differ = [float((meis["status"].values[done] != expected["status"].values[done]).any())]
    for variable in ("score", "stimulus", "response"):
        values, known = meis[variable].values[done], expected[variable].values[done]
        differ.append(float(np.abs(values - known).max() / np.abs(known).max()) if len(values) else 0.0)
    return int((~done).sum()), sum(number > 1 for number in times.values()), max(differ)


if __name__ == "__main__":
    main()
