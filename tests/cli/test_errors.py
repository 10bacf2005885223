"""What a user sees of errors on the command line: the message of a refusal, the traceback of a defect."""

import inspect
import subprocess
import sys
from pathlib import Path

import example_meis
import pytest
import torch
from torch import nn

import mei_lightning
from mei_lightning.cli.errors import is_explained
from mei_lightning.cli.main import commands, main
from mei_lightning.objectives import SliceMeanReducer
from mei_lightning.optimization.strategies import deal
from mei_lightning.results.dataset import save_dataset
from mei_lightning.results.store import MEIStore

ONE_NEURON = ["--model.neurons=[[session_1,0]]", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
COMMANDS = [
    "fit",
    "status",
    "analyze",
    "report",
    "validate",
    "share",
    "export",
    "experiment",
    "diverse",
    "surround",
    "invariance",
    "receptive-field",
    "cluster",
]


@pytest.fixture(autouse=True)
def _as_a_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mei-lightning"])
    monkeypatch.delenv("MEI_LIGHTNING_TRACEBACK")


def refusal(capsys, *command):
    """What is printed when a command is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(command))
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["analyze", "nothing.zarr"], "There is no store of MEIs at nothing.zarr."),
        (["report", "nothing.zarr"], "There is no store of MEIs at nothing.zarr."),
        (["validate", "nothing.zarr", "simulated"], "There is no store of MEIs at nothing.zarr."),
        (["share", "nothing.zarr", "simulated"], "There is no store of MEIs at nothing.zarr."),
        (["export", "nothing.zarr", "meis.npz"], "There is no store of MEIs at nothing.zarr."),
        (["experiment", "nothing.zarr", "shown", "[session_1/5]"], "There is no store of MEIs at nothing.zarr."),
        (
            ["surround", "--model=simulated", "--neurons=all", "--target=here"],
            "here exists already; results are not overwritten. Give another target, or move it.",
        ),
        (
            ["fit", "--model.retina=simulated", "--model.neurons=[[session_1,99]]"],
            "Session 'session_1' has no neuron 99: its 36 neurons are 0 to 35.",
        ),
    ],
)
def test_of_a_refusal_there_is_the_message_only(capsys, command, message):
    Path("here").mkdir()
    assert refusal(capsys, *command) == f"error: {message}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["parameterization mei_lightning.LowRank", "parameterization.rank 0"],
            "LowRank(rank=0) must be a whole number, at least 1.",
        ),
        (["parameterization mei_lightning.Pyramid", "parameterization.levels 0"], "Pyramid(levels=0) must be a"),
        (["initial mei_lightning.PinkNoise", "initial.amplitude -1"], "PinkNoise(amplitude=-1.0) has to be positive"),
        (["initial mei_lightning.GivenStimuli", "initial.stimuli no.zarr"], "There is no store of MEIs at no.zarr."),
        (["constraint mei_lightning.Compose", "constraint.constraints []"], "Compose([])"),
        (["regularizer mei_lightning.TemporalSmoothness", "regularizer.factor .nan"], "TemporalSmoothness(factor=nan)"),
        (["retina mei_lightning.Ensemble", "retina.members []"], "Ensemble([]) has no members; give at least one"),
        (["robustness+ mei_lightning.Noise", "robustness.standard_deviation 0"], "Noise(standard_deviation=0.0) has"),
    ],
    ids=lambda value: value[0].replace(" mei_lightning", "") if isinstance(value, list) else "",
)
def test_of_a_refused_part_of_the_model_there_is_the_message_only(capsys, options, message):
    command = ["fit", "--model.retina=simulated", *ONE_NEURON]
    printed = refusal(capsys, *command, *(word for option in options for word in f"--model.{option}".split()))
    assert printed.startswith(f"error: {message}")
    assert printed.count("\n") == 1


@pytest.mark.slow
def test_a_message_of_several_lines_is_whole(capsys):
    command = ["fit", "--model.retina=simulated", *ONE_NEURON, "--model.max_steps=1", "--results.directory=here"]
    main([*command, "--results.report=false"])
    lines = refusal(capsys, *command, "--model.seed=1").splitlines()
    lines = lines[lines.index("error: here/meis.zarr holds the results of a run with other settings:") :]
    assert lines[1] == "  seed: it was 0, now it is 1"
    assert lines[2].startswith("Give these results' settings to continue")
    assert len(lines) == 3


def test_of_a_full_disk_there_is_no_number(capsys, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    message = refusal(capsys, "fit", "--model.retina=simulated", *ONE_NEURON, "--model.max_steps=1")
    assert "error: No space for" in message
    assert "Errno" not in message


def test_the_traceback_is_there_on_request(monkeypatch):
    monkeypatch.setenv("MEI_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="There is no store"):
        main(["analyze", "nothing.zarr"])


class DefectivePart(mei_lightning.Parameterization):
    """A user's part of the model that cannot be made."""

    def __init__(self) -> None:
        super().__init__()
        raise ValueError("of the user's own")


class Defective(nn.Module):
    """A user's model that goes wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(4))

    def forward(self, stimulus):
        raise ValueError("of the user's own")


def test_of_a_defective_network_there_is_the_line(capsys):
    Path("own.yaml").write_text(
        "model: {neurons: [0], retina: {class_path: mei_lightning.RetinaModel, init_args: {neurons_per_session: 4, "
        f"network: {{class_path: {__name__}.Defective}}, "
        "stimulus_format: {channel_names: [grey], height: 5, width: 7}}}}",
        encoding="utf-8",
    )
    line = inspect.getsourcelines(Defective)[1] + 8
    message = refusal(capsys, "fit", "--config=own.yaml")
    assert f"of the user's own (line {line} of {__file__})" in message


def test_of_a_defective_part_there_is_the_line_and_the_traceback_on_request(capsys, monkeypatch):
    options = ["--model.retina=simulated", *ONE_NEURON, f"--model.parameterization={__name__}.DefectivePart"]
    line = inspect.getsourcelines(DefectivePart)[1] + 5
    message = refusal(capsys, "fit", *options)
    assert f"test_errors.py, line {line}, in DefectivePart.__init__: ValueError: of the user's own." in message
    monkeypatch.setenv("MEI_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(ValueError, match="of the user's own"):
        main(["fit", *options])


def raised(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_refusals_are_told_from_defects():
    assert is_explained(raised(SliceMeanReducer, 0, -1, 10))
    assert is_explained(raised(MEIStore, "nothing"))
    # The first is Python's own error in a line of the package; the second is raised by another package.
    defects = [raised(deal, [1], []), raised(SliceMeanReducer(0, 0, 1).forward, torch.zeros(()))]
    assert [type(defect) for defect in defects] == [ValueError, IndexError]
    assert not any(map(is_explained, defects))
    assert not is_explained(ValueError("never raised"))


def test_what_lightning_refuses_is_a_refusal(capsys):
    message = refusal(capsys, "fit", "--model.retina=simulated", *ONE_NEURON, "--trainer.devices=0")
    assert "error: `Trainer(devices='0')` value is not a valid input" in message


@pytest.mark.slow
def test_of_two_processes_one_says_why():
    command = [str(Path(sys.executable).with_name("mei-lightning")), "fit", "--model.retina=simulated", *ONE_NEURON]
    command += ["--trainer.devices=2", "--trainer.accelerator=cpu", "--results.directory=here"]
    Path("here/meis.zarr").mkdir(parents=True)
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("error:") == 1
    assert "error: here/meis.zarr is not a store of MEIs" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_all_commands_are_listed_with_a_line_each(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert "MEI_LIGHTNING_TRACEBACK=1" in text
    for command in COMMANDS:
        described = text.split(f"\n    {command}")[1].split("\n    ")
        assert len(" ".join(described[:2]).split()) > 4, command


def test_the_commands_are_the_public_functions_and_their_lines_are_the_first_of_the_documentation():
    known = commands()
    assert list(known) == COMMANDS
    assert all(inspect.getdoc(command.load()).split("\n")[0] == command.line for command in known.values())


@pytest.mark.parametrize(("typed", "code"), [(["--help"], 0), (["nonsense"], 2), (["fti"], 2), ([], 2)])
def test_which_commands_there_are_is_told_without_loading_what_they_need(typed, code):
    heavy = "{'torch', 'lightning', 'numpy', 'pandas', 'xarray', 'matplotlib', 'sklearn', 'av', 'jinja2'}"
    program = f"""
import sys
from mei_lightning.cli.main import main
try:
    main({typed})
finally:
    print("loaded:", *({heavy} & sys.modules.keys()))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == code
    assert ended.stdout.split("loaded:")[1].split() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["parameterization mei_lightning.LowRnk"], "no LowRnk. Do you mean mei_lightning.LowRank?"),
        (
            ["parameterization LowRnk"],
            "model.parameterization: mei_lightning has no LowRnk. Do you mean mei_lightning.Lo",
        ),
        (["initial mei_lightning.PinkNose", "initial.amplitude 2"], "Do you mean mei_lightning.PinkNoise"),
        (["robustness+ mei_lightning.Nois", "robustness.standard_deviation 1"], "Do you mean mei_lightning.Noise"),
        (["optimizer torch.optim.Adm"], "model.optimizer: torch.optim has no Adm. Do you mean torch.optim.Adam"),
        (["initial mei_lightning.Qqqqqqq"], "model.initial: mei_lightning has no Qqqqqqq.\n"),
        (["nrom 3"], "error: unrecognized arguments: --model.nrom 3. Do you mean --model.norm"),
        (
            ["parameterization mei_lightning.LowRank", "parameterization.rnk 3"],
            "LowRank has no argument rnk. Do you mean rank?",
        ),
        (["norm much"], "--model.norm much must be one positive, finite number"),
        (["norm [5,many]"], "--model.norm many must be one positive, finite number, as each value of a list"),
        (["ranges 3"], "--model.ranges 3: give one (low, high) for each channel"),
        (["seed 1.5"], "--model.seed 1.5 must be a whole number."),
        (["time_steps [8,9]"], '--model.time_steps "[8, 9]" must be a whole number.'),
        (["max_steps many"], "--model.max_steps many must be a whole number."),
        (["rows_per_device 2.5"], "--model.rows_per_device 2.5 must be a whole number."),
        (["search fast"], "--model.search fast: choose one of quick, normal, thorough"),
        (["fast_path often"], "--model.fast_path often: choose True, False or 'bfloat16'."),
        (["neurons monday"], "--model.neurons monday names no neurons: give a list"),
    ],
)
def test_a_misspelt_option_is_answered_briefly(capsys, options, message):
    words = [word for option in options for word in f"--model.{option}".split()]
    printed = refusal(capsys, "fit", "--model.retina=simulated", *ONE_NEURON, *words)
    assert message in printed
    assert printed.startswith("error: ")
    assert printed.endswith("\nOption --help tells what there is.\n")
    assert len(printed.splitlines()) == 2


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--norm=3", "--model.norm?"),
        ("--results.directry=x", "--results.directory?"),
        ("--directory=x", "--results.direc"),
    ],
)
def test_an_option_of_fit_is_found_by_what_it_is_near_to(capsys, typed, meant):
    printed = refusal(capsys, "fit", "--model.retina=simulated", *ONE_NEURON, typed)
    assert f"Do you mean {meant}" in printed


def test_a_misspelt_option_in_a_file_is_answered_with_the_right_one(capsys):
    Path("own.yaml").write_text("model: {nrom: 3}", encoding="utf-8")
    assert "'model.nrom'. Do you mean --model.norm" in refusal(capsys, "fit", "--config=own.yaml")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["fit", "--model.retina=simulated", *ONE_NEURON, "--model.restarts=0"],
            "--model.restarts 0 must be at least 1.",
        ),
        (["report", "found.zarr"], "Say --overwrite true to replace it"),
    ],
)
def test_settings_in_messages_are_spelt_as_they_are_typed(capsys, command, message):
    save_dataset(example_meis.meis(), "found.zarr")
    Path("report.html").touch()
    assert message in refusal(capsys, *command)


def test_a_misspelt_option_of_another_command_is_answered_briefly(capsys):
    printed = refusal(capsys, "analyze", "meis.zarr", "--overwritten=true")
    assert "--overwritten=true. Do you mean --overwrite?" in printed
    assert "usage" not in printed


@pytest.mark.parametrize(("typed", "meant"), [("validat", "validate"), ("fti", "fit"), ("analyse", "analyze")])
def test_a_misspelt_command_is_answered_with_the_right_one(capsys, typed, meant):
    assert f"there is no command '{typed}'. Do you mean {meant}?" in refusal(capsys, typed)


@pytest.mark.parametrize("typed", [["nonsense"], []])
def test_a_typo_is_answered_with_all_commands(capsys, typed):
    message = refusal(capsys, *typed)
    assert typed == [] or all(f"'{command}'" in message for command in COMMANDS)
