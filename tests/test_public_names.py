"""The names that the package offers."""

import subprocess
import sys
from importlib.metadata import version

import mei_lightning as ml


def test_the_import_alone_loads_nothing_that_it_does_not_use():
    heavy = "{'torch', 'lightning', 'xarray', 'zarr', 'matplotlib', 'sklearn', 'av', 'jinja2', 'tensorboard'}"
    command = f"import sys, mei_lightning; print(*({heavy} & sys.modules.keys()))"

    loaded = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)

    assert loaded.stdout.split() == []


def test_every_name_is_there_when_it_is_asked_for():
    assert len(ml.__all__) == len(set(ml.__all__)) > 100
    assert all(getattr(ml, name).__module__.startswith("mei_lightning.") for name in ml.__all__)
    assert set(ml.__all__) <= set(dir(ml))


def test_the_version_is_that_of_the_installed_package():
    assert ml.__version__ == version("mei-lightning")
