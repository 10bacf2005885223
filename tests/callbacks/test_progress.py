"""What a person sees of a run on the screen, in a log, and among its output."""

import io
import re

import pytest
import torch
from conftest import NO_LIMIT, fit, video_model
from lightning.pytorch import Callback

import mei_lightning as ml
from mei_lightning.cli.main import main

NEURONS = [("monday", 0), ("monday", 2), ("tuesday", 1)]
SETTINGS = {"time_steps": 9, "restarts": 2, "rows_per_device": 2, "max_steps": 15, "check_interval": 5}


class Clock(Callback):
    """A step takes 20 seconds on tqdm's clock."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)

    def on_train_batch_start(self, *_):
        self.now += 20


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(module, *callbacks, **options):
    fit(
        module,
        options.pop("max_steps", NO_LIMIT),
        ml.StepProgressBar(),
        *callbacks,
        enable_progress_bar=True,
        **options,
    )


def test_in_a_log_there_is_a_line_every_half_minute(monkeypatch, capsys):
    """One place, three neurons of 15 steps each: 45 steps, 900 seconds."""
    monkeypatch.delattr("sys.ps1", raising=False)
    shown(ml.MEIModule(video_model(), NEURONS, **SETTINGS), Clock(monkeypatch))
    printed = capsys.readouterr()
    assert "MEIs" not in printed.out
    lines = [line for line in printed.err.splitlines() if line.startswith("MEIs")]
    assert not re.search(r"[\r\x1b\u2588]", "".join(lines))
    assert lines[0] == "MEIs:   0% 0/3 neurons, 00:00"
    assert lines[-1] == "MEIs: 100% 3/3 neurons, 0.2 a minute, in 15:00"
    # 40 seconds are the least number of steps that takes at least 30.
    assert len(lines) == pytest.approx(900 / 40, abs=2)
    first = next(line for line in lines if " 1/3 " in line)
    pace, left = re.search(r" 33% 1/3 neurons, (\S+) a minute, (\S+) left", first).groups()
    minutes, seconds = map(int, left.split(":"))
    assert minutes + seconds / 60 == pytest.approx(2 / float(pace), rel=0.02)


def test_on_a_terminal_the_bar_ends_whole_and_green(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    shown(ml.MEIModule(video_model(), NEURONS, **SETTINGS))
    drawn = terminal.getvalue().split("\r")
    assert "\x1b[32m" in drawn[-1]
    assert "3/3 neurons" in drawn[-1]
    assert "100%" in drawn[-1]
    assert not any("\x1b[32m" in picture for picture in drawn[:-1])
    assert any("0/3 neurons" in picture for picture in drawn)


def test_neurons_of_earlier_runs_count_and_do_not_hasten(monkeypatch, capsys, tmp_path):
    for limit, expected in (
        (25, "33% 1/3 neurons"),
        (NO_LIMIT, "100% 3/3 neurons, 0.2 a minute"),
        (NO_LIMIT, "100% 3/3"),
    ):
        module = ml.MEIModule(video_model(), NEURONS, **SETTINGS)
        shown(module, Clock(monkeypatch), max_steps=limit, directory=tmp_path)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("MEIs")]
        assert expected in lines[-1]


def test_rows_without_names_end_whole_too(capsys):
    """They converge before the step limit."""
    module = ml.StimulusModule(
        lambda stimulus: stimulus[:, :, :3].mean((1, 2, 3, 4)),
        torch.randn(2, 1, 7, 4, 4, generator=torch.Generator().manual_seed(0)),
        constraint=ml.FixedNorm(2.0),
        max_steps=1000,
    )
    shown(module, ml.RowConvergence())
    last = capsys.readouterr().err.splitlines()[-1]
    steps, total = re.search(r"100% (\d+)/(\d+) steps", last).groups()
    assert steps == total
    assert int(steps) == int(module.steps.max()) < 1000


TITLES = ("Measures", "Responses to light and dark", "Responses to all MEIs")


def test_what_measures_and_predicts_reads_well_in_a_log_too(monkeypatch, capsys):
    monkeypatch.delattr("sys.ps1", raising=False)
    model = video_model()
    meis = ml.find_meis(model, NEURONS, time_steps=9, max_steps=3, accelerator="cpu", progress_bar=False)
    ml.measure_meis(meis, model)
    ml.cross_responses(model, meis, accelerator="cpu")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert not re.search(r"[\r\x1b\u2588]", printed.err)
    lines = {title: [line for line in printed.err.splitlines() if line.startswith(title)] for title in TITLES}
    for title, (first, last) in lines.items():
        whole = "3/3 neurons" if title == "Measures" else "1/1 batches"
        assert first.startswith(f"{title}:   0% 0/{whole[2:]}")
        assert last.startswith(f"{title}: 100% {whole}, ")


NOISE = ["GPU available", "TPU available", "litlogger", "deprecated", "Tip:"]


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("way", ["Python", "command line"])
def test_paths_go_to_standard_output_and_there_is_no_noise(way, tmp_path, monkeypatch, capsys, caplog, recwarn):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"):
        if way == "Python":
            neurons, settings = NEURONS[:1], {"time_steps": 9, "max_steps": 5}
            ml.find_meis(
                video_model(), neurons, **settings, directory="results", accelerator="cpu", log_directory="logs"
            )
        else:
            options = ["--model.neurons=[[session_1,0]]", "--model.max_steps=1", "--results.directory=results"]
            main(["fit", "--model.retina=simulated", *options])
    printed = capsys.readouterr()
    for name in ("meis.zarr", "meis.png", "mei.png", "meis.mp4"):
        assert f": results/{name}\n" in printed.out
    assert "MEIs: 100% 1/1 neurons" in printed.err
    # Python shows no DeprecationWarning of a library's, where pytest does.
    warned = [str(it.message) for it in recwarn if not issubclass(it.category, DeprecationWarning)]
    everything = "\n".join([printed.out, printed.err, caplog.text, *warned])
    assert not [line for line in everything.splitlines() if any(noise in line for noise in NOISE)]
