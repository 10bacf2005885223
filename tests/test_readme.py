"""What the README tells a user to do works."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import matplotlib
import pytest
from readme import README, ROOT, blocks

import mei_lightning as ml

# These two are what the continuous integration runs.
RUN_BY_CI = {"bash scripts/quickstart.sh", "bash scripts/test.sh"}


def commands():
    return [line for block in blocks("bash") for line in block.splitlines() if line]


def test_python_listings_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    listings = blocks("python")
    assert len(listings) == 18
    names = {"__name__": "readme"}
    for listing in listings:
        exec(compile(listing, "README.md", "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} >= {"meis.png", "meis.zarr", "meis.mp4", "mei.mp4"}
    assert set(names["meis"].status.values) == {"converged"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    directory = tmp_path_factory.mktemp("results")
    ml.find_meis("digital_twin", [("session_1", 5), ("session_1", 7)], search="quick", directory=directory)
    return directory / "meis.zarr"


@pytest.mark.parametrize("command", [command for command in commands() if command not in RUN_BY_CI])
def test_commands_run(command, tmp_path, store):
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    if "results/meis.zarr" in command:
        shutil.copytree(store, tmp_path / "results" / "meis.zarr")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if command.startswith("tensorboard"):
        with subprocess.Popen([*shlex.split(command), "--port", "6093"], cwd=tmp_path, env=environment) as server:
            try:
                assert "TensorBoard" in page("http://localhost:6093")
            finally:
                server.terminate()
        return
    result = subprocess.run(shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def page(address):
    for _ in range(120):
        try:
            return urllib.request.urlopen(address).read().decode()
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"Nothing answers at {address}.")


def test_commands_of_the_gate_are_in_the_readme():
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in RUN_BY_CI:
        assert command in commands()
        assert command in gate


def test_papers_that_recipes_are_named_after_are_in_the_references():
    references = README.split("## References")[1].replace("ö", "oe").lower()
    named = {re.match(r"([a-z]+)_(\d{4})", path.stem) for path in (ROOT / "scripts" / "configs").glob("*.yaml")}
    papers = {match.groups() for match in named if match}
    assert len(papers) > 5
    for author, year in papers:
        assert re.search(rf"- {author}[^-]*? {year}\. ", references), (author, year)


def test_pictures_exist():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)
