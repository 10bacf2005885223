"""MEIs of a population as jobs of a cluster, submitted from Python by submitit: a script to copy and edit.

pip install submitit
python scripts/cluster/shards_with_submitit.py --model digital_twin --shards 16
"""

import argparse

import submitit
from submitit.helpers import Checkpointable

from mei_lightning import NeuronSelection, find_meis, run_status


class FindShard(Checkpointable):
    """A job: one shard of the neurons. One that is preempted, or at its time limit, is submitted again and goes on."""

    def __init__(self, model: str, sample: int | None, directory: str) -> None:
        self.model = model
        self.sample = sample
        self.directory = directory

    def __call__(self, number: int, total: int) -> None:
        """Find the MEIs of the shard."""
        neurons = NeuronSelection(sample=self.sample)
        find_meis(
            self.model,
            neurons,
            search="quick",
            directory=self.directory,
            shard=(number, total),
            progress_bar=False,
        )


def main() -> None:
    """Submit a job for each shard, and wait for all."""
    parser = argparse.ArgumentParser(description="MEIs as jobs of a cluster.")
    parser.add_argument("--model", default="digital_twin", help="as for find_meis")
    parser.add_argument("--sample", type=int, help="choose so many neurons at random; all by default")
    parser.add_argument("--shards", type=int, default=16, help="jobs")
    parser.add_argument("--output", default="logs/shards", help="where the results go, and are continued")
    parser.add_argument("--cluster", help="'slurm', or 'local' for processes of this machine; what there is by default")
    parser.add_argument("--minutes", type=int, default=240, help="time limit of a job")
    arguments = parser.parse_args()

    executor = submitit.AutoExecutor(folder=f"{arguments.output}/jobs", cluster=arguments.cluster)
    executor.update_parameters(name="meis", timeout_min=arguments.minutes, cpus_per_task=4)
    if executor.cluster == "slurm":
        executor.update_parameters(gpus_per_node=1)
    numbers = range(1, arguments.shards + 1)
    find_shard = FindShard(arguments.model, arguments.sample, arguments.output)
    jobs = executor.map_array(find_shard, numbers, [arguments.shards] * arguments.shards)
    # Those that have failed raise here; started again, the script goes on with what they have left.
    for job in jobs:
        job.result()
    status = run_status(f"{arguments.output}/meis.zarr")
    print(f"{status['done']} of {status['neurons']} neurons are done: {arguments.output}/meis.zarr")


if __name__ == "__main__":
    main()
