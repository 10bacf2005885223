"""Every recipe of scripts/configs runs on a small case."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml

from mei_lightning.cli.main import commands, main

CONFIGS = Path(__file__).parents[2] / "scripts" / "configs"
# Run by tests of their own.
ELSEWHERE = {"quickstart", "simulated", "hoefling_2024"}
PARAMETERIZATIONS = {"park_2013", "mordvintsev_2018", "sitzmann_2020", "burt_1983"}
FEW_FRAMES = {
    *PARAMETERIZATIONS,
    "burg_2024",
    "bashivan_2019",
    "olah_2017",
    "olah_2017_jitter",
    "erhan_2009",
    "natural_start",
    "population",
    "random_member",
}
QUICK = {
    "fit": [
        "--model.max_steps=1",
        "--model.fast_path=false",
        "--model.restarts=1",
        "--trainer.enable_progress_bar=false",
        "--results.directory=results",
        "--results.report=false",
    ],
    "diverse": ["--max_steps=1", "--search=quick", "--progress_bar=false", "--time_steps=22"],
    "surround": ["--max_steps=1", "--search=quick", "--progress_bar=false", "--time_steps=22"],
    "invariance": ["--max_steps=1", "--search=quick", "--progress_bar=false", "--time_steps=22", "--points=3"],
    "receptive-field": [],
    "cluster": ["--steps=1", "--neurons={indices: [0, 1, 2]}", "--clusters=2", "--time_steps=22"],
}
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in ELSEWHERE)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_run_as_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mei-lightning"])
    path = CONFIGS / f"{name}.yaml"
    (line,) = re.findall(r"^# mei-lightning (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    command, *arguments = shlex.split(line)
    assert arguments == ["--config", f"scripts/configs/{name}.yaml"]
    few_frames = ["--model.time_steps=22"] if name in FEW_FRAMES else []
    main([command, "--config", str(path), *QUICK[command], *few_frames])
    target = "results/meis.zarr" if command == "fit" else yaml.safe_load(path.read_text(encoding="utf-8"))["target"]
    found = xr.open_zarr(target).load()
    assert np.isfinite(found["stimulus"]).all()
    assert found.attrs["model"].startswith("digital_twin")


def test_every_method_has_a_recipe():
    in_recipes = {
        re.search(r"^# mei-lightning (\S+)", (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"), re.M)[1]
        for name in RECIPES
    }
    methods = {name for name, command in commands().items() if command.module == "methods"}
    assert len(methods) == 5
    assert methods <= in_recipes


def test_methods_do_not_overwrite_results(tmp_path):
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(FileExistsError, match=r"mine.zarr exists already"):
        main(["receptive-field", "--model=simulated", "--neurons=all", f"--target={tmp_path / 'mine.zarr'}"])
