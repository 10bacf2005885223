"""The job script for SLURM: what it starts, and when the job goes back into the queue."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "cluster" / "population.sbatch"


def run_job(directory, exit_code, **environment):
    """Run the script where ``srun`` notes its arguments and ends with an exit code.

    Returns:
        The script's exit code, and what was asked of srun and of scontrol.
    """
    programs = directory / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    for program, code in (("srun", exit_code), ("scontrol", 0)):
        (programs / program).write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {directory / program}\nexit {code}\n')
        (programs / program).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "4"}
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    job = subprocess.run(
        ["bash", str(SCRIPT), "--model.neurons", "{indices: [0, 1]}"],
        cwd=directory,
        env={**own, **slurm, **environment},
        stdout=subprocess.DEVNULL,
    )
    asked = {path.name: path.read_text().splitlines() for path in directory.iterdir() if path.is_file()}
    return job.returncode, asked["srun"], asked.get("scontrol", [])


def test_srun_ends_all_processes_with_the_first_that_fails(tmp_path):
    code, srun, scontrol = run_job(tmp_path, 0)
    assert code == 0
    assert {"--kill-on-bad-exit=1", "--cpus-per-task=4"} <= set(srun[: srun.index("mei-lightning")])
    assert srun[srun.index("mei-lightning") + 1] == "fit"
    assert {"--trainer.devices=8", "--trainer.num_nodes=2"} < set(srun)
    assert srun[-2:] == ["--model.neurons", "{indices: [0, 1]}"]
    assert scontrol == []


@pytest.mark.parametrize(
    ("exit_code", "restarts", "comes_back"),
    [
        pytest.param(1, None, True, id="another process was lost"),
        pytest.param(128 + 9, None, True, id="killed"),
        pytest.param(128 + 9, "4", True, id="killed after some restarts"),
        pytest.param(128 + 9, "5", False, id="killed again and again"),
        pytest.param(2, None, False, id="refused"),
    ],
)
def test_a_failed_run_comes_back_unless_it_would_fail_again(tmp_path, exit_code, restarts, comes_back):
    environment = {} if restarts is None else {"SLURM_RESTART_COUNT": restarts}
    code, _, scontrol = run_job(tmp_path, exit_code, **environment)
    assert code == exit_code
    assert scontrol == (["requeue", "4711"] if comes_back else [])
