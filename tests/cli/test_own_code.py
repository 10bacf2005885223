"""Errors in a module of one's own that a configuration names: in a line, with the file and the line."""

import sys

import pytest
import torch

from mei_lightning.cli.main import main

NETWORK = """from torch import nn
class Net(nn.Module):
    def __init__(self, hidden: int = 3):
        super().__init__()
        self.filters = nn.Conv3d(2, hidden, (3, 6, 5))
    def forward(self, stimulus):
        return self.filters(stimulus)[..., 0, 0].mT
"""
CONFIGURATION = """model:
  neurons: [0]
  retina:
    class_path: mei_lightning.RetinaModel
    init_args:
      network: {{class_path: {module}.Net, init_args: {arguments}}}
      stimulus_format: {{channel_names: [green, UV], height: 6, width: 5, frame_rate: 30.0}}
      weights: {weights}
results: {{directory: results}}
"""
SUPER = "        super().__init__()\n"
CASES = {
    "syntax": (NETWORK.replace("Module)", "Module"), "{file}, line 2: SyntaxError: ", "class Net(nn.Module:"),
    "a missing package": (
        f"import math\nimport nowhere\n{NETWORK}",
        "{file}, line 2: ModuleNotFoundError: ",
        "nowhere",
    ),
    "a missing name": (f"from torch import nnn\n{NETWORK}", "{file}, line 1: ImportError: ", "'nnn' from 'torch'"),
    "on import": (f"{NETWORK}x = 1 / 0\n", "{file}, line 8: ZeroDivisionError: division by zero", ""),
    "in the constructor": (
        NETWORK.replace(SUPER, f"{SUPER}        self.more = {{}}['more']\n"),
        "{file}, line 5, in Net.__init__: KeyError: 'more'",
        "",
    ),
    "in what torch does for it": (
        NETWORK.replace(SUPER, ""),
        "{file}, line 4, in Net.__init__: AttributeError: cannot assign module",
        "",
    ),
    "no such file": (None, "There is no module {module}: no {file} in ", "where the command is run"),
    "no such class": (NETWORK.replace("Net(", "Nett("), "{module} has no Net. Do you mean {module}.Nett?", ""),
    "no network": (NETWORK.replace("(nn.Module)", ""), "{module}.Net is no Module: derive it", "({file}, line 2)"),
}
ARGUMENTS = {
    "missing": (": int = 3", ": int", "{}", "{module}.Net needs hidden, which init_args has to give ({file}, line 2)"),
    "missing, of any type": (
        "hidden: int = 3",
        "more, hidden, rate=0.0",
        "{more: 1}",
        "Net needs the argument hidden: put it into init_args, or give it a default ({file}, line 2).",
    ),
    "unknown": ("", "", "{hiden: 4}", "{module}.Net has no argument hiden ({file}, line 2). Do you mean hidden?"),
    "of a wrong kind": (
        "",
        "",
        "{hidden: four}",
        ".Net, hidden=four: it has to be of type int ({file}, line 2)",
    ),
}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys, request):
    """What the command says of a module with some text; "{file}" and "{module}" in what is expected are its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("MEI_LIGHTNING_TRACEBACK")
    module = "".join(filter(str.isalnum, request.node.name))

    def refusal(text, *expected, arguments="{}", weights="null", options=()):
        if text is not None:
            (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
        configuration = CONFIGURATION.format(module=module, arguments=arguments, weights=weights)
        (tmp_path / "own.yaml").write_text(configuration, encoding="utf-8")
        with pytest.raises(SystemExit) as ended:
            main(["fit", "--config=own.yaml", *(option.replace("{module}", module) for option in options)])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        (line,) = (line for line in said.splitlines() if line.startswith("error: "))
        for part in expected:
            assert part.replace("{module}", module).replace("{file}", f"{module}.py") in line
        assert len(said.splitlines()) <= 2
        assert not (tmp_path / "results").exists()
        return said

    return refusal


@pytest.mark.parametrize("case", CASES)
def test_an_error_of_ones_own_module_is_told_by_its_line(refused, case):
    refused(*CASES[case])


@pytest.mark.parametrize("case", ARGUMENTS)
def test_an_argument_that_does_not_fit_is_told_by_the_class(refused, case):
    old, new, arguments, expected = ARGUMENTS[case]
    refused(NETWORK.replace(old, new) if old else NETWORK, expected, arguments=arguments)


def test_weights_that_do_not_fit_are_told_by_their_names(refused, tmp_path):
    torch.save({"filters.weight": torch.zeros(4, 2, 3, 6, 5)}, tmp_path / "own.pt")
    refused(NETWORK, "own.pt holds the weights of another network than Net: it lacks filters.bias", weights="own.pt")


def test_the_traceback_is_there_on_request(refused, monkeypatch):
    assert "MEI_LIGHTNING_TRACEBACK=1" in refused(f"{NETWORK}x = 1 / 0\n")
    monkeypatch.setenv("MEI_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(Exception, match="division by zero"):
        main(["fit", "--config=own.yaml"])


OBJECTIVE = """import mei_lightning as ml
class Weighed(ml.NeuronObjective):
    def __init__(self, model, neurons, response_reducer, factor, offset):
        raise AssertionError("made")
class Halved(ml.Constraint):
    def __init__(self, factor, **others):
        super().__init__()
class Less(Halved):
    def __init__(self, other=1, **others):
        super().__init__(**others)
        raise AssertionError("made")
"""


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("objective={module}.Weighed", "Weighed needs the arguments factor, offset: put them into init_args, or"),
        ("constraint={module}.Less", "Less needs the argument factor: put it into init_args, or"),
        (
            "constraint={class_path: mei_lightning.Compose, init_args: {constraints: [{class_path: {module}.Less}]}}",
            "Less needs the argument factor: put it into init_args, or",
        ),
    ],
)
def test_an_argument_without_a_type_is_missed_in_any_class(refused, part, expected):
    refused(f"{NETWORK}{OBJECTIVE}", expected, options=[f"--model.{part}"])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("channel_names", "channels", "stimulus_format has no channels. Do you mean channel_names?"),
        ("frame_rate", "framerate", "stimulus_format has no framerate. Do you mean frame_rate?"),
        (
            "height: 6, ",
            "",
            "stimulus_format of mei_lightning.RetinaModel needs height, which the configuration has to give.",
        ),
        ("height: 6, width: 5, ", "", "RetinaModel needs height, width, which the configuration has"),
    ],
)
def test_a_name_of_the_format_that_is_wrong_or_missing_is_told_in_a_line(refused, monkeypatch, old, new, expected):
    monkeypatch.setitem(globals(), "CONFIGURATION", CONFIGURATION.replace(old, new))
    refused(NETWORK, "error: --model.retina: stimulus_format", expected)
