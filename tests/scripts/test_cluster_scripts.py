"""Files to copy for clusters: a job array for SLURM, submitit and Ray; and the soak test of shards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "scripts" / "cluster"
OPTIONS = ["--model", "simulated", "--sample", "2", "--shards", "2"]


def run_task(directory, task, exit_code=0, **environment):
    """Run a task of the job array where ``srun`` and ``scontrol`` note their arguments and end with an exit code.

    Returns:
        The exit code, and what was asked of srun and of scontrol.
    """
    programs = directory / ".venv" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    for program, code in (("srun", exit_code), ("scontrol", 0)):
        (programs / program).write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {directory / program}\nexit {code}\n')
        (programs / program).chmod(0o755)
        (directory / program).unlink(missing_ok=True)
    slurm = {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_CPUS_PER_TASK": "4"}
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    job = subprocess.run(
        ["bash", str(CLUSTER / "shards.sbatch"), "--model.neurons", "{indices: [0, 1]}"],
        cwd=directory,
        env={**own, **slurm, **environment},
        stdout=subprocess.DEVNULL,
    )
    asked = {path.name: path.read_text().splitlines() for path in directory.iterdir() if path.is_file()}
    return job.returncode, asked["srun"], asked.get("scontrol", [])


def test_the_tasks_of_the_array_are_the_shards(tmp_path):
    directives = [line for line in (CLUSTER / "shards.sbatch").read_text().splitlines() if line.startswith("#SBATCH")]
    (array,) = (line.partition("--array=")[2] for line in directives if "--array=" in line)
    first, last = map(int, array.split("-"))
    shards = []
    for task in range(first, last + 1):
        code, srun, scontrol = run_task(tmp_path, task)
        assert (code, scontrol) == (0, [])
        assert srun[srun.index("mei-lightning") + 1] == "fit"
        assert srun[-2:] == ["--model.neurons", "{indices: [0, 1]}"]
        assert "--results.directory=logs/shards" in srun
        shards += [option.partition("=")[2] for option in srun if option.startswith("--shard=")]
    assert shards == [f"{number}/{last}" for number in range(1, last + 1)]


def test_a_few_tasks_that_are_submitted_again_have_the_shards_that_they_had(tmp_path):
    """Of ``sbatch --array=3,7``, where SLURM counts two tasks."""
    _, srun, _ = run_task(tmp_path, 7, SLURM_ARRAY_TASK_COUNT="2", SLURM_ARRAY_TASK_MAX="7", SLURM_ARRAY_TASK_MIN="3")
    assert "--shard=7/16" in srun


@pytest.mark.parametrize(
    ("exit_code", "restarts", "comes_back"),
    [
        pytest.param(128 + 9, None, True, id="killed"),
        pytest.param(1, "4", True, id="failed after some restarts"),
        pytest.param(1, "5", False, id="failed again and again"),
        pytest.param(2, None, False, id="refused"),
    ],
)
def test_a_task_that_failed_comes_back_unless_it_would_fail_again(tmp_path, exit_code, restarts, comes_back):
    environment = {} if restarts is None else {"SLURM_RESTART_COUNT": restarts}
    code, _, scontrol = run_task(tmp_path, 3, exit_code, **environment)
    assert code == exit_code
    assert scontrol == (["requeue", "4711_3"] if comes_back else [])


def run_script(directory, name, *options):
    result = subprocess.run(
        [sys.executable, str(CLUSTER / name), *OPTIONS, *options],
        cwd=directory,
        # Ray keeps something at home, and tells others that it is used.
        env={**os.environ, "HOME": str(directory), "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 of 2 neurons are done" in result.stdout
    meis = xr.open_zarr(directory / "results" / "meis.zarr", chunks=None)
    assert not set(meis.status.values) & {"pending", "interrupted"}


@pytest.mark.slow
def test_jobs_of_submitit(tmp_path):
    pytest.importorskip("submitit")
    run_script(tmp_path, "shards_with_submitit.py", "--output", "results", "--cluster", "local")


@pytest.mark.slow
def test_tasks_of_ray(tmp_path):
    pytest.importorskip("ray")
    run_script(tmp_path, "shards_with_ray.py", "--output", str(tmp_path / "results"))


@pytest.mark.slow
def test_killed_shards_lose_nothing(tmp_path):
    """Two kills; the script itself is for many."""
    options = ["--shards=3", "--neurons=5", "--minutes=0", "--kills=2"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "soak_shards.py"), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 neurons lost, 0 found twice" in result.stdout
