"""The command line, as a user types it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from torch import nn

from mei_lightning import (
    Ensemble,
    NeuronSelection,
    RetinaModel,
    RowConvergence,
    StimulusFormat,
    find_meis,
    load_model,
    open_members,
    open_norms,
    open_repeats,
)
from mei_lightning.cli.main import main
from mei_lightning.optimization.stimulus_module import StimulusModule

CONFIGS = Path(__file__).parents[2] / "scripts" / "configs"
QUIET = "--trainer.enable_progress_bar=false"
ONE_NEURON = [
    "fit",
    "--model.retina=simulated",
    "--model.neurons=[[session_1,0]]",
    QUIET,
]


def directory_of_run():
    """Where the only run of a test has put its results."""
    (directory,) = Path("logs/meis").iterdir()
    return directory


def results():
    return xr.open_zarr(directory_of_run() / "meis.zarr").load()


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mei-lightning"])


class StillModel(nn.Module):
    """A user's own model of still images with three channels and no sessions."""

    def __init__(self, num_neurons: int) -> None:
        super().__init__()
        weights = torch.randn(num_neurons, 3 * 5 * 7, generator=torch.Generator().manual_seed(0))
        self.weights = nn.Parameter(weights)

    def forward(self, image):
        return nn.functional.softplus(image.flatten(1) @ self.weights.T)


@pytest.mark.slow
@pytest.mark.pictures
def test_command_line_writes_the_dataset_of_find_meis():
    main([*ONE_NEURON, "--model.max_steps=30", "--model.norm=10", "--model.seed=3"])
    written = results()
    expected = find_meis("simulated", [("session_1", 0)], norm=10, seed=3, max_steps=30, progress_bar=False)
    np.testing.assert_allclose(written.stimulus, expected.stimulus, atol=1e-6)
    assert written.attrs == expected.attrs
    assert set(written.variables) == set(expected.variables)
    directory = directory_of_run()
    assert re.fullmatch(r"simulated-[0-9a-f]{8}", directory.name)
    written = {path.name for path in directory.iterdir() if not path.name.startswith("events.out.tfevents.")}
    assert written == {"config.yaml", "hparams.yaml", "meis.zarr", "meis.png", "mei.png", "meis.mp4"}


def test_neurons_in_a_group_share_a_stimulus():
    group = "--model.neurons=[[[session_1,0],[session_2,0]],[session_1,1]]"
    main([*ONE_NEURON, group, "--model.max_steps=2"])
    assert list(results().neuron.values) == ["session_1/0+session_2/0", "session_1/1"]


@pytest.mark.slow
def test_neurons_by_what_they_are():
    chosen = "--model.neurons={sessions: [session_2, session_3], where: {type: on_off}, sample: 3}"
    main([*ONE_NEURON, chosen, "--model.max_steps=1"])
    selection = NeuronSelection(sessions=["session_2", "session_3"], where={"type": "on_off"}, sample=3)
    expected = [neuron.label for neuron in selection.of(load_model("simulated"))]
    assert list(results().neuron.values) == expected


@pytest.mark.slow
def test_own_model_by_class_path():
    config = {
        "retina": {
            "class_path": "mei_lightning.RetinaModel",
            "init_args": {
                "network": {"class_path": f"{__name__}.StillModel", "init_args": {"num_neurons": 4}},
                "stimulus_format": {"channel_names": ["red", "green", "blue"], "height": 5, "width": 7},
                "neurons_per_session": 4,
            },
        },
        "neurons": [1, 3],
        "norm": 2.0,
    }
    Path("own.yaml").write_text(yaml.safe_dump({"model": config}), encoding="utf-8")
    main(["fit", "--config=own.yaml", QUIET])
    meis = results()
    assert meis.stimulus.shape == (2, 3, 1, 5, 7)
    expected = StillModel(4).weights.detach()[[1, 3]].view(2, 3, 1, 5, 7)
    expected = 2.0 * expected / expected.flatten(1).norm(dim=1)[:, None, None, None, None]
    np.testing.assert_allclose(meis.stimulus, expected, atol=1e-3)


def test_constraint_regularizer_reducer_and_optimizer_from_yaml():
    config = {
        "time_steps": 30,
        "constraint": {
            "class_path": "mei_lightning.Compose",
            "init_args": {
                "constraints": [
                    {"class_path": "mei_lightning.SpatialLowPass", "init_args": {"sigma": 0.5}},
                    {"class_path": "mei_lightning.NormAndRange", "init_args": {"norm": 7, "ranges": [[-0.5, 1], None]}},
                ]
            },
        },
        "regularizer": {"class_path": "mei_lightning.TemporalSmoothness", "init_args": {"factor": 0.01}},
        "reducer": {"class_path": "mei_lightning.MaxReducer"},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}},
    }
    Path("all.yaml").write_text(yaml.safe_dump({"model": config}), encoding="utf-8")
    main([*ONE_NEURON, "--config=all.yaml", "--model.max_steps=5"])
    meis = results()
    green = meis.stimulus.sel(channel="green")
    assert np.linalg.norm(meis.stimulus) == pytest.approx(7, rel=1e-5)
    assert float(green.min()) >= -0.5
    assert float(green.max()) <= 1
    assert meis.score.item() == pytest.approx(meis.response.max().item(), rel=1e-5)
    assert '"class": "Adam"' in meis.attrs["configuration"]


@pytest.mark.slow
def test_a_mask_is_a_file_or_lists():
    mask = np.zeros((18, 16), dtype=bool)
    mask[5:10, 4:8] = True
    np.save("mask.npy", mask)
    main([*ONE_NEURON, "--model.max_steps=1", "--model.mask=mask.npy"])
    stimulus = results()["stimulus"].values
    assert stimulus[..., mask].any()
    assert not stimulus[..., ~mask].any()
    # The same settings, and so the same directory.
    main([*ONE_NEURON, "--model.max_steps=1", f"--model.mask={mask.astype(int).tolist()}"])
    assert len(results().neuron) == 1


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["norm=[4, 2]", f"rms=[{4 / 23040**0.5!r}, {2 / 23040**0.5!r}]"])
def test_several_norms_have_a_store_each(sizes):
    where = ["--model.time_steps=40", "--model.max_steps=2", "--results.directory=here"]
    main([*ONE_NEURON, *where, f"--model.{sizes}"])
    options = {"time_steps": 40, "max_steps": 2, "progress_bar": False}
    expected = find_meis("simulated", [("session_1", 0)], norm=[2, 4], **options)
    xr.testing.assert_allclose(open_norms("here"), expected, atol=1e-5)
    assert open_norms("here").attrs == expected.attrs


class PairOfModels(Ensemble):
    """Two linear models of still images, each of which sees another pixel."""

    def __init__(self) -> None:
        pixels = StimulusFormat(("grey",), height=1, width=2)
        networks = [nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False)) for _ in range(2)]
        for pixel, network in enumerate(networks):
            network[1].weight.data = torch.eye(2)[pixel : pixel + 1]
        super().__init__([RetinaModel(network, pixels) for network in networks])


PAIR = [
    "fit",
    f"--model.retina={__name__}.PairOfModels",
    "--model.neurons=[0]",
    "--model.norm=1",
    "--per_member=true",
    "--trainer.logger=false",
]


@pytest.mark.slow
def test_members_have_a_store_each_and_are_compared(capsys):
    main([*PAIR, "--results.directory=here"])
    expected = find_meis(PairOfModels(), [0], norm=1, per_member=True, progress_bar=False)
    xr.testing.assert_allclose(open_members("here"), expected, atol=1e-5)
    assert {path.name for path in Path("here").iterdir()} == {"meis.zarr", "member_0", "member_1", "members.zarr"}
    told = capsys.readouterr().out
    assert re.search(r"similarity +on_it +on_ensemble +on_others\n", told)
    assert re.search(r"member 0 +1 +0.707 +0.707 +0.707 +0.0\n", told)
    assert "Comparison of members (dataset): here/members.zarr" in told


@pytest.mark.slow
def test_repeats_have_a_store_each_and_are_compared(capsys):
    main([*ONE_NEURON, "--model.search=quick", "--trainer.logger=false", "--repeats=2", "--results.directory=here"])
    expected = find_meis("simulated", [("session_1", 0)], search="quick", repeats=2, progress_bar=False)
    xr.testing.assert_allclose(open_repeats("here"), expected, atol=1e-5)
    told = capsys.readouterr().out
    assert re.search(r"repeat +\n1 +1 +1.0 +0.0 +0.0 +1.0 +1.0 +1.0\n", told)
    assert "Comparison of repeats (dataset): here/repeats.zarr" in told


def test_members_that_cannot_be_compared_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(StimulusModule, "training_step", lambda *_: pytest.fail("work began"))
    with pytest.raises(ValueError, match="per_member=True needs a directory"):
        main(PAIR)
    where = "--results.directory=here"
    with pytest.raises(ValueError, match="MEIs are compared at one norm"):
        main([*PAIR, where, "--model.norm=[1,2]"])
    with pytest.raises(ValueError, match="model 'simulated' has no members to compare"):
        main([*ONE_NEURON, where, "--per_member=true"])
    with pytest.raises(ValueError, match=r"members 1\)' has no members to compare"):
        main([*PAIR, where, "--model.members=[1]"])
    assert not Path("here").exists()


def test_several_norms_without_a_directory_are_refused(monkeypatch):
    monkeypatch.setattr(StimulusModule, "training_step", lambda *_: pytest.fail("work began"))
    with pytest.raises(ValueError, match=r"norm=\[4.0, 2.0\] needs a directory"):
        main([*ONE_NEURON, "--model.norm=[4,2]"])
    with pytest.raises(ValueError, match="names 4 more than once"):
        main([*ONE_NEURON, "--model.norm=[4,4]", "--results.directory=here"])
    assert not Path("here").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "simulated"])
def test_shipped_configurations_run(name):
    main(["fit", f"--config={CONFIGS / name}.yaml", "--model.max_steps=1", QUIET])
    assert len(results().neuron) == 8


@pytest.mark.slow
def test_published_recipe_is_plain_gradient_ascent(tmp_path):
    checkpoints = pytest.importorskip("openretina_checkpoints")
    checkpoint = tmp_path / "model.ckpt"
    checkpoints.write_example_checkpoint(checkpoint)
    steps = 4
    main(
        [
            "fit",
            f"--config={CONFIGS / 'hoefling_2024.yaml'}",
            f"--model.retina.init_args.source={checkpoint}",
            f"--model.max_steps={steps}",
            QUIET,
        ]
    )
    meis = results()

    model = checkpoints.example_core_readout().eval()
    stimulus = torch.randn(1, 2, 50, 18, 16, generator=torch.Generator().manual_seed(meis.seed.item()))

    def constrained(x):
        x = 30 * x / x.norm()
        return torch.stack([x[:, 0].clamp(-0.654, 6.269), x[:, 1].clamp(-0.913, 6.269)], dim=1)

    stimulus, scores = constrained(stimulus), []
    for _ in range(steps + 1):
        stimulus.requires_grad_(True)
        score = model(stimulus, data_key="session_2_ventral2_20201016")[0, :, 10].mean()
        scores.append(score.item())
        (gradient,) = torch.autograd.grad(score, stimulus)
        stimulus = constrained((stimulus + 10 * gradient).detach())
    assert meis.score.item() == pytest.approx(max(scores), rel=1e-4)


@pytest.fixture
def steps(monkeypatch):
    """The numbers of rows in the steps that are taken."""
    taken = []
    original = StimulusModule.training_step

    def training_step(self, *arguments):
        taken.append(int(self.active.sum()))
        return original(self, *arguments)

    monkeypatch.setattr(StimulusModule, "training_step", training_step)
    return taken


@pytest.mark.slow
def test_the_same_command_continues_its_run(steps):
    command = [*ONE_NEURON, "--model.neurons=[[session_1,0],[session_1,5],[session_2,3]]", "--model.max_steps=20"]
    command += ["--model.rows_per_device=4", "--convergence.patience=1000", "--results.report=false"]
    command += ["--model.restarts=4"]
    main([*command, "--trainer.max_steps=30"])
    assert results().status.values.tolist() == ["step limit", "interrupted", "pending"]
    # Four starts, of which two go on after the trial.
    assert steps == [4] * 8 + [2] * 12 + [4] * 8 + [2] * 2
    steps.clear()
    main(command)
    assert steps == 2 * ([4] * 8 + [2] * 12)
    meis = results()
    assert (meis.steps == 20).all()
    steps.clear()
    main(command)
    assert not steps
    xr.testing.assert_identical(results(), meis)
    whole = find_meis(
        "simulated",
        [("session_1", 0), ("session_1", 5), ("session_2", 3)],
        restarts=4,
        max_steps=20,
        callbacks=[RowConvergence(patience=1000)],
        progress_bar=False,
    )
    for name in ("stimulus", "score", "restart_scores"):
        np.testing.assert_allclose(meis[name], whole[name], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--model.seed=1", "--model.max_steps=2", "--convergence.patience=7"])
def test_a_command_with_other_settings_is_another_run(option):
    command = [*ONE_NEURON, "--model.max_steps=1", "--results.report=false"]
    main(command)
    main([*command, option])
    assert len(list(Path("logs/meis").glob("*/meis.zarr"))) == 2


@pytest.mark.slow
def test_what_does_not_change_the_results_does_not_make_another_run(steps):
    command = [*ONE_NEURON, "--model.max_steps=1", "--model.restarts=2"]
    main([*command, "--results.report=false"])
    steps.clear()
    main([*command, "--model.rows_per_device=2"])
    assert len(list(Path("logs/meis").iterdir())) == 1
    assert not steps


@pytest.mark.slow
def test_resumes_from_a_checkpoint(steps):
    options = [*ONE_NEURON, "--model.norm=10", "--convergence.patience=1000", "--model.max_steps=20"]
    options += ["--results.report=false", "--model.check_interval=10", "--model.restarts=4"]
    main([*options, "--trainer.max_steps=10", "--trainer.enable_checkpointing=true"])
    checkpoint = next(directory_of_run().glob("checkpoints/*.ckpt"))
    assert results().status.item() == "interrupted"
    steps.clear()
    main([*options, f"--ckpt_path={checkpoint}"])
    assert len(steps) == 10
    resumed = results()
    main([*options, "--results.directory=whole"])
    whole = xr.open_zarr("whole/meis.zarr").load()
    np.testing.assert_allclose(resumed.stimulus, whole.stimulus, atol=1e-5)
    assert resumed.steps.item() == whole.steps.item() == 20
    with pytest.raises(ValueError, match=r"(?s)checkpoint is of another run.*\bseed\b"):
        main([*options, "--model.seed=1", f"--ckpt_path={checkpoint}"])


def test_there_are_no_checkpoints_unless_asked_for():
    main([*ONE_NEURON, "--model.max_steps=1"])
    assert not list(Path().rglob("*.ckpt"))


def test_checkpoint_is_not_unpickled():
    class Malicious:
        def __reduce__(self):
            return Path.touch, (Path("ran"),)

    torch.save({"state_dict": {}, "payload": Malicious()}, "malicious.ckpt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        main([*ONE_NEURON, "--ckpt_path=malicious.ckpt"])
    assert not Path("ran").exists()


def test_without_a_logger_nobodys_config_is_touched():
    Path("config.yaml").write_text("mine", encoding="utf-8")
    main([*ONE_NEURON, "--model.max_steps=1", "--trainer.logger=false", "--results.directory=here"])
    assert Path("config.yaml").read_text(encoding="utf-8") == "mine"
    assert Path("here/meis.zarr").is_dir()


def test_what_is_no_store_is_not_touched(monkeypatch):
    monkeypatch.setattr(StimulusModule, "training_step", lambda *_: pytest.fail("work began"))
    Path("here/meis.zarr").mkdir(parents=True)
    Path("here/meis.zarr/mine").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"here/meis.zarr is not a store of MEIs"):
        main([*ONE_NEURON, "--results.directory=here"])
    assert Path("here/meis.zarr/mine").read_text(encoding="utf-8") == "mine"


@pytest.mark.slow
def test_results_of_another_run_are_never_overwritten(monkeypatch):
    here = [*ONE_NEURON, "--results.directory=here", "--model.max_steps=1"]
    main(here)
    before = xr.open_zarr("here/meis.zarr").load()
    with monkeypatch.context() as context:
        context.setattr(StimulusModule, "training_step", lambda *_: pytest.fail("work began"))
        with pytest.raises(ValueError, match=r"(?s)here/meis.zarr holds .* other settings.*seed:.*\b0\b.*\b1\b"):
            main([*here, "--model.seed=1"])
    xr.testing.assert_identical(xr.open_zarr("here/meis.zarr").load(), before)
    main([*here, "--model.seed=1", "--results.start_anew=true"])
    (kept,) = Path("here").glob("meis_until_*.zarr")
    xr.testing.assert_identical(xr.open_zarr(kept).load(), before)
    assert xr.open_zarr("here/meis.zarr").load().seed.item() != before.seed.item()


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ("--model.neurons=[]", ValueError, r"name at least one.*session_1"),
        ("--model.neurons=[[session_9,0]]", ValueError, r"no session 'session_9'.*session_1, session_2"),
        ("--model.neurons=[[session_1,99]]", IndexError, r"'session_1' has no neuron 99: its 36 neurons are 0 to 35"),
        ("--model.ranges=[[0,1]]", ValueError, r"1 channel range\(s\) for a stimulus of 2 channel"),
        ("--model.time_steps=20", ValueError, r"time_steps=20 leaves no response.*more than 20 frames"),
        ("--model.restarts=0", ValueError, r"restarts=0 must be at least 1"),
        ("--model.max_steps=0", ValueError, r"max_steps=0 leaves nothing to do"),
        ("--model.rows_per_device=1", ValueError, r"rows_per_device=1 has no room for a neuron with restarts=3"),
        ("--stimulus_logger.neurons=[nobody]", ValueError, r"cannot show 'nobody'"),
    ],
)
def test_errors_name_what_is_wrong_before_any_work(monkeypatch, option, error, message):
    monkeypatch.setattr(StimulusModule, "training_step", lambda *_: pytest.fail("work began"))
    with pytest.raises(error, match=message):
        main([*ONE_NEURON, option])


def test_print_config_is_a_config(capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*ONE_NEURON, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["search"] == "normal"
    assert config["model"]["check_interval"] == 4
    assert config["trainer"]["enable_checkpointing"] is False
    assert config["weights_only"] is True
    assert config["convergence"] == {"relative_gain": 0.001, "patience": 5}


@pytest.mark.parametrize("given", ["words", "mapping"])
def test_a_configuration_may_have_the_command_in_it(given):
    config = {"model": {"retina": "simulated", "neurons": [["session_1", 0]], "max_steps": 1}}
    config["trainer"] = {"enable_progress_bar": False}
    Path("whole.yaml").write_text(yaml.safe_dump({"subcommand": "fit", "fit": config}), encoding="utf-8")
    main(["--config", "whole.yaml"] if given == "words" else {"subcommand": "fit", "fit": config})
    assert results().neuron.values.tolist() == ["session_1/0"]


def test_options_before_the_command_are_those_of_fit(capsys):
    Path("model.yaml").write_text(yaml.safe_dump({"fit": {"model": {"max_steps": 7}}}), encoding="utf-8")
    with pytest.raises(SystemExit, match="0"):
        main(["--config", "model.yaml", *ONE_NEURON, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"]["max_steps"] == 7
