"""Which of openretina's names there are, and that they take its arguments in its order."""

import importlib
import inspect
import subprocess
import sys

import pytest
from documentation import HOW_TO

from mei_lightning import openretina_api

INSILICO = (
    "stimulus_optimization.objective",
    "stimulus_optimization.optimization_stopper",
    "stimulus_optimization.optimizer",
    "stimulus_optimization.regularizer",
    "tuning_analyses.response_gradient",
    "vector_field_analysis.vector_field_analysis",
)
OTHERS = (
    "openretina.models.core_readout",
    "openretina.modules.layers.ensemble",
    "openretina.utils.debug_model",
    "openretina.utils.model_utils",
    "openretina.utils.nnfabrik_model_loading",
    "openretina.utils.plotting",
    "openretina.utils.video_analysis",
)
INTERNAL = {"convert_to_list"}
EARLIER = {"SingleNeuronObjective"}
"""Names of openretina's earlier versions, which notebooks still have."""


def names_of(module):
    """The functions and classes that a module defines for others."""
    return {
        name: value
        for name, value in vars(importlib.import_module(module)).items()
        if getattr(value, "__module__", None) == module and not name.startswith("_") and callable(value)
    }


def parameters(function):
    return [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def test_all_names_are_there_and_in_the_table():
    table = (HOW_TO / "openretina.md").read_text(encoding="utf-8").split("| names | here |")[1].split("\n\n")[0]
    listed = [name.strip(" `") for row in table.splitlines()[2:] for name in row.split("|")[1].split(",")]
    assert sorted(listed) == sorted(openretina_api.__all__)
    assert all(hasattr(openretina_api, name) for name in openretina_api.__all__)


@pytest.mark.slow
def test_they_are_loaded_when_they_are_used():
    command = (
        "import sys; from mei_lightning.openretina_api import OptimizationStopper; "
        "print(*({'matplotlib', 'sklearn', 'av'} & sys.modules.keys()))"
    )
    loaded = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert "sklearn" not in loaded.stdout.split()


@pytest.mark.parametrize("module", [f"openretina.insilico.{name}" for name in INSILICO])
def test_everything_of_insilico_is_there(module):
    pytest.importorskip(module, reason="openretina is not installed")
    assert names_of(module).keys() - INTERNAL <= set(openretina_api.__all__)


def test_arguments_are_those_of_openretina():
    for module in OTHERS:
        pytest.importorskip(module, reason="openretina is not installed")
    theirs = {}
    for module in (*(f"openretina.insilico.{name}" for name in INSILICO), *OTHERS):
        theirs |= names_of(module)
    compared = [name for name in openretina_api.__all__ if name in theirs]
    assert len(compared) > 50
    for name in compared:
        expected, found = parameters(theirs[name]), parameters(getattr(openretina_api, name))
        assert found[: len(expected)] == expected, name
    functions = {name for name in openretina_api.__all__ if callable(getattr(openretina_api, name))}
    assert functions - set(compared) == EARLIER
