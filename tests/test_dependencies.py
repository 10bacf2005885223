"""What the package needs: few packages, each that is imported is installed with it, and what is missing is named."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from documentation import ROOT

import mei_lightning as ml
from mei_lightning.models.openretina_checkpoints import import_core_readout
from mei_lightning.openretina_api import load_ensemble_model_from_remote

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "lazy_loader": "lazy-loader"}
"""Packages that are imported by another name than they are installed by."""
BROUGHT = {
    "jinja2": "torch",
    "markupsafe": "jinja2",
    "pandas": "xarray",
    "pillow": "matplotlib",
    "pyyaml": "lightning",
    "threadpoolctl": "scikit-learn",
    "torchmetrics": "lightning",
}
"""What is imported and has no line in pyproject.toml, since another package cannot be without it."""
OPTIONAL = {
    # Of notebooks: it is there where it is needed.
    "ipython",
    # Of the script that an export brings to the machine of the experiment.
    "psychopy",
    # Of the kernel for CUDA, where PyTorch brings it.
    "triton",
}
"""What is imported where it is used, and need not be there."""


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def imported():
    """All packages that the package imports, by the names that they are installed by."""
    for path in Path(ml.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            else:
                continue
            for top in {module.split(".")[0] for module in modules} - sys.stdlib_module_names - {"mei_lightning"}:
                yield DISTRIBUTIONS.get(top, top.lower())


def test_there_are_at_most_fourteen_and_each_says_its_lowest_version_and_why():
    dependencies = PROJECT["dependencies"]
    assert len(dependencies) <= 14
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for dependency in dependencies:
        (line,) = (line for line in lines if line.strip().startswith(f'"{dependency}"'))
        assert ">=" in dependency
        assert re.search(r'", +# \w{3,}', line), f"{dependency} has no reason beside it"


def test_all_that_is_imported_is_installed_with_the_package_and_nothing_else_is():
    listed = {name_of(dependency) for dependency in PROJECT["dependencies"]}
    assert set(imported()) == listed | BROUGHT.keys() | OPTIONAL


@pytest.mark.parametrize(("package", "by"), BROUGHT.items())
def test_what_has_no_line_is_brought_by_another(package, by):
    assert package in {name_of(line) for line in requires(by) if "extra ==" not in line}
    assert by in BROUGHT or by in {name_of(dependency) for dependency in PROJECT["dependencies"]}


@pytest.mark.slow
def test_the_package_and_its_commands_do_without_what_is_optional():
    optional = ["openretina", "h5netcdf", "h5py", "dask", "IPython", "ipywidgets", "psychopy", "triton", "wandb"]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({optional})); sys.argv = ['mei-lightning', '--version']\n"
        "import mei_lightning as ml; [getattr(ml, name) for name in ml.__all__]\n"
        "from mei_lightning.cli.main import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert ml.__version__ in result.stdout


def test_what_needs_openretina_names_the_command_that_installs_it(monkeypatch):
    for name in {"openretina", *(name for name in sys.modules if name.startswith("openretina."))}:
        monkeypatch.setitem(sys.modules, name, None)
    command = r'pip install "mei-lightning\[openretina\]"'
    with pytest.raises(ml.MEIError, match=command) as raised:
        import_core_readout()
    assert isinstance(raised.value, ImportError)
    with pytest.raises(ml.MEIError, match=command):
        ml.load_model("openretina:hoefling_2024_low_res", allow_unpickling=True)


def test_names_of_openretina_s_ensembles_ask_for_it_too(monkeypatch):
    for name in {"openretina", *(name for name in sys.modules if name.startswith("openretina."))}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("MEI_LIGHTNING_ALLOW_UNPICKLING", "1")
    with pytest.raises(ml.MEIError, match=r'pip install "mei-lightning\[openretina\]"'):
        load_ensemble_model_from_remote()
