"""The script that tells the paper's story, on a neuron of each type."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documentation import HOW_TO, command

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce_hoefling.py"


def table(printed, title):
    """The numbers of a printed table by type."""
    lines = printed.split(title)[1].splitlines()
    found = (re.fullmatch(r"(\w+) +(-?[\d.]+)%?", line) for line in lines[2 : 2 + 8])
    return {match[1]: float(match[2]) for match in found}


@pytest.mark.slow
def test_the_opponent_type_is_found_and_answers_on_the_simulated_retina(tmp_path):
    _, _, *options = command(HOW_TO / "results.md", "python scripts/reproduce_hoefling.py")
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, "--output", tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    opponent = table(done.stdout, "Share of neurons whose MEI is opponent, by type:")
    assert opponent.pop("color_opponent") == 100
    assert set(opponent.values()) == {0}
    assert len(opponent) == 7
    responses = table(done.stdout, "Response of its cells of each type to the MEIs of color_opponent:")
    assert responses.pop("color_opponent") == 1
    assert all(response < 0.25 for response in responses.values())
    better = table(done.stdout, "over that to the best of the standard stimuli:")
    assert all(ratio > 1 for ratio in better.values())
    assert {"hoefling.png", "hoefling.pdf", "report.html", "analysis.zarr"} <= {it.name for it in tmp_path.iterdir()}
