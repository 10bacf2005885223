"""What the README and the documentation tell a user to do works, page by page and in the order of the page."""

import os
import re
import runpy
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import matplotlib
import pytest
import xarray as xr
from documentation import PAGES, README, ROOT, blocks, listings

from mei_lightning.cli.main import main

# The continuous integration runs these themselves.
RUN_BY_CI = {
    "bash scripts/quickstart.sh",
    "bash scripts/test.sh",
    "bash scripts/test.sh --all",
    "bash scripts/docs.sh",
    "bash scripts/lowest.sh",
    "bash scripts/wheel.sh",
    # In scripts/test.sh.
    "python -m ruff check .",
    "python -m ruff format --check .",
    "python -m mypy",
}
# These take from the page what they run.
RUN_BY_OTHER_TESTS = {
    "python scripts/reproduce_hoefling.py": "scripts/test_reproduce_hoefling.py",
    "python scripts/benchmark.py population": "scripts/test_benchmark.py",
}
# Notebooks are run when the documentation is built.
NOTEBOOKS = {"ten_minutes.md", "gallery.md"}
SHOWN_ONLY = {
    # What it prints, pictures of trees, headers of files.
    "text",
    # Commands for machines that a test does not have: see NOT_RUN.
    "console",
    "matlab",
}
NOT_RUN = {
    "bash scripts/install.sh": "makes an environment, from the net",
    "python -m venv mei": "makes an environment, from the net",
    'pip install -e ".[': "needs the net",
    "bash scripts/quickstart.sh": "the continuous integration runs it",
    "python scripts/gpu_check.py": "minutes, most of them for a GPU; its own test runs parts of it",
    "python scripts/benchmark.py speed": "hours; its own test runs parts of it",
    "python scripts/compare_searches.py": "half an hour; its own test runs a small case",
    "python scripts/make_gallery.py": "all recipes take many minutes; its own test runs some of them",
    "python scripts/reproduce_hoefling.py": "all neurons take many minutes; its own test runs it for a few",
    "mei-lightning report": "run in the how-to guide about the report",
    "tensorboard --logdir": "run in the how-to guide about TensorBoard",
    "python scripts/soak.py": "takes half an hour; test_many_devices.py kills a run twice with it",
    "python scripts/soak_shards.py": "takes ten minutes; test_cluster_scripts.py kills a shard or two with it",
    "sbatch scripts/cluster/shards.sbatch": "needs a cluster; test_cluster_scripts.py runs it without one",
    "python scripts/cluster/shards_with": "need submitit or Ray; test_cluster_scripts.py runs them where these are",
    "sbatch scripts/cluster/population.sbatch": "needs a cluster; test_many_devices.py starts the job's processes",
    "torchrun --nnodes 2": "needs two nodes; test_many_devices.py has two on one machine",
    "git clone": "needs the address of the repository",
    "git switch": "would change the checkout that the tests run in",
    "source .venv": "changes the shell that it is typed into",
    "python -m pytest": "these tests run as tests",
    "bash scripts/mutants.sh": "needs mutmut, and minutes",
}
"""Why what stands in a block of the console is not run, by its first words."""
LEFT = {
    "README.md": {"meis.png", "results/meis.zarr", "results/report.html"},
    "openretina.md": {"mei.mp4"},
    "own_model.md": {"results/meis.zarr"},
    "norm_range_window.md": {"norms/norm_5/meis.zarr", "more_norms/norm_10/meis.zarr", "scores.pdf", "by_norm.pdf"},
    "population.md": {"opponent/meis.zarr", "results/meis.zarr", "logs/population/meis.zarr"},
    "cluster.md": {"results/meis.zarr", "divided/meis.zarr"},
    "methods.md": {"results/fu_2023.zarr"},
    "results.md": {
        "meis.png",
        "meis.mp4",
        "copy.zarr",
        "meis.h5",
        "results/measures.csv",
        "results/report.html",
        "across/members.zarr",
        "across/report.html",
        "members.pdf",
    },
    "experiment.md": {"to_show/stimuli.npy", "ten_times/stimuli.npy", "by_command/stimuli.mp4"},
}
"""Some of the files that a page's listings leave, by which it is seen that they do what the page says of them."""
ENDED = {"converged", "step limit"}
"""What a page shows has come to an end; few steps, to be quick, can be the limit."""


def runnable(page):
    return [block for block in blocks(page) if block.language in ("python", "bash", "yaml") or block.file]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if runnable(page) and page.name not in NOTEBOOKS],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_page_does_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = {"__name__": page.stem}
    for block in runnable(page):
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, str(page), "exec"), names)
        elif block.language == "bash":
            for command in commands_of(block):
                if command.startswith(tuple(RUN_BY_OTHER_TESTS)):
                    continue
                if command.startswith(("mei-lightning", "python scripts/")) and "devices" not in command:
                    run_here(command, monkeypatch)
                else:
                    run(command, tmp_path)
        else:
            pytest.fail(f"A block of {block.language} without a caption, in which its file is named:\n{block.text}")
    assert [name for name in LEFT.get(page.name, ()) if not (tmp_path / name).exists()] == []
    assert {name: statuses_of(value) for name, value in names.items() if statuses_of(value) - ENDED} == {}
    if page == README:
        assert statuses_of(names["meis"]) == {"converged"}


def statuses_of(value):
    """How the optimisations ended, if a listing's value is MEIs."""
    return set(value["status"].values.flat) if isinstance(value, xr.Dataset) and "status" in value else set()


def commands_of(block):
    return [line for line in block.text.replace("\\\n", " ").splitlines() if line and line not in RUN_BY_CI]


def run_here(command, monkeypatch):
    """Run a command of the package, or a script, without a process of its own, which would take seconds to begin."""
    words = shlex.split(command)
    if words[0] == "python":
        del words[0]
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(sys, "argv", words)
        try:
            if words[0].endswith(".py"):
                meanwhile.syspath_prepend(str(ROOT / "scripts"))
                runpy.run_path(words[0], run_name="__main__")
            else:
                main(words[1:])
        except SystemExit as ended:
            if ended.code:
                pytest.fail(f"{command} ended with {ended.code}")


def run(command, directory):
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(paths), "PYTHONPATH": str(directory)}
    if command.startswith("tensorboard"):
        with subprocess.Popen([*shlex.split(command), "--port", "6093"], cwd=directory, env=environment) as server:
            try:
                assert "TensorBoard" in answer_of("http://localhost:6093")
            finally:
                server.terminate()
        return
    result = subprocess.run(shlex.split(command), cwd=directory, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stderr}"


def answer_of(address):
    for _ in range(120):
        try:
            return urllib.request.urlopen(address).read().decode()
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"Nothing answers at {address}.")


def test_every_block_is_run_or_known_not_to_be():
    for page in PAGES:
        for block in blocks(page):
            known = block.language in SHOWN_ONLY or block.file or block.language in ("python", "bash", "yaml")
            assert known or page.name in NOTEBOOKS or block.language.startswith("{"), (page, block)
            if block.language == "console":
                assert any(block.text.startswith(words) for words in NOT_RUN), (page, block.text)


def test_commands_of_the_gate_are_in_the_readme():
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for text in listings(README, "bash") for line in text.splitlines()]
    for command in ("bash scripts/quickstart.sh", "bash scripts/test.sh"):
        assert command in commands
        assert command in gate


def test_commands_that_other_tests_run_are_taken_from_a_page():
    for beginning, file in RUN_BY_OTHER_TESTS.items():
        assert f'"{beginning}"' in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_papers_that_recipes_are_named_after_are_in_the_references():
    references = (ROOT / "docs" / "references.md").read_text(encoding="utf-8").replace("ö", "oe").lower()
    named = {re.match(r"([a-z]+)_(\d{4})", path.stem) for path in (ROOT / "scripts" / "configs").glob("*.yaml")}
    papers = {match.groups() for match in named if match}
    assert len(papers) > 5
    for author, year in papers:
        assert re.search(rf"- {author}[^-]*? {year}\. ", references), (author, year)


def test_pictures_and_linked_files_exist():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not target.startswith("mailto:"):
                place = page.parent / target
                assert place.exists() or place.with_suffix(".md").exists(), (page, target)
