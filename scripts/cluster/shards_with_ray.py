"""MEIs of a population as tasks of a Ray cluster: a script to copy and edit.

pip install ray
python scripts/cluster/shards_with_ray.py --model digital_twin --shards 16 --gpus 1
"""

import argparse

import ray

from mei_lightning import NeuronSelection, find_meis, run_status


def find_shard(model: str, sample: int | None, directory: str, number: int, total: int) -> None:
    """Find the MEIs of one shard of the neurons."""
    find_meis(
        model,
        NeuronSelection(sample=sample),
        search="quick",
        directory=directory,
        shard=(number, total),
        progress_bar=False,
    )


def main() -> None:
    """Start a task for each shard, and wait for all."""
    parser = argparse.ArgumentParser(description="MEIs as tasks of a Ray cluster.")
    parser.add_argument("--model", default="digital_twin", help="as for find_meis")
    parser.add_argument("--sample", type=int, help="choose so many neurons at random; all by default")
    parser.add_argument("--shards", type=int, default=16, help="tasks")
    parser.add_argument("--output", required=True, help="the whole path of a directory that all machines have")
    parser.add_argument("--address", help="of the cluster; this machine alone by default")
    parser.add_argument("--cpus", type=float, default=1.0, help="of a task")
    parser.add_argument("--gpus", type=float, default=0.0, help="of a task; 0.5 lets two share one")
    arguments = parser.parse_args()

    ray.init(address=arguments.address, include_dashboard=False)
    # A task whose process or machine is lost is begun again, elsewhere, and goes on with what it has left.
    task = ray.remote(num_cpus=arguments.cpus, num_gpus=arguments.gpus, max_retries=5)(find_shard)
    found = [
        task.remote(arguments.model, arguments.sample, arguments.output, number, arguments.shards)
        for number in range(1, arguments.shards + 1)
    ]
    ray.get(found)
    status = run_status(f"{arguments.output}/meis.zarr")
    print(f"{status['done']} of {status['neurons']} neurons are done: {arguments.output}/meis.zarr")


if __name__ == "__main__":
    main()
