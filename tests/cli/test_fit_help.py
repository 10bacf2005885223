"""What ``fit --help`` tells, and in how many lines."""

import pytest

import mei_lightning as ml
from mei_lightning.cli.main import main


@pytest.fixture
def told(capsys, monkeypatch):
    """What the help prints, on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["mei-lightning"])

    def told(*words):
        with pytest.raises(SystemExit, match="0"):
            main(["fit", *words])
        return capsys.readouterr().out

    return told


def test_the_help_is_brief_and_begins_with_our_options(told):
    text = told("--help")
    assert text.count("\n") < 150
    options = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert options[:2] == ["--model.retina", "--model.neurons"]
    ours = [option for option in options if option.split(".")[0][2:] in ("model", "results", "convergence")]
    assert ours == options[: len(ours)]
    assert {"--model.norm", "--model.search", "--results.directory", "--trainer.devices", "--config"} <= {*options}
    assert "--help=trainer" in text
    assert "SUPPRESS" not in text


@pytest.mark.parametrize("words", [["--help=all"], ["--help=model"], ["--help", "trainer"], ["-h", "results"]])
def test_the_help_of_a_group_describes_every_option_of_it(told, words):
    text = told(*words)
    group = words[-1].removeprefix("--help=")
    described = text.split("\n  --")[1:]
    assert len(described) > 3
    for option in described:
        assert group == "all" or option.startswith(f"{group}.")
        assert len([word for word in option.split("(type:")[0].split() if word.isalpha()]) > 3, option
    assert "torch.nn.Linear" not in text


def test_all_options_are_in_the_help_of_all(told):
    text = told("--help=all")
    assert {"--trainer.gradient_clip_val", "--model.norm", "--ckpt_path", "--results.directory"} <= {*text.split()}


@pytest.mark.parametrize("command", [["--version"], ["-h"]])
def test_the_version_is_told(capsys, monkeypatch, command):
    monkeypatch.setattr("sys.argv", ["mei-lightning"])
    with pytest.raises(SystemExit, match="0"):
        main(command)
    assert (f"mei-lightning {ml.__version__}" in capsys.readouterr().out) == (command == ["--version"])
