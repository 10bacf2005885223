"""What processes of a notebook need is checked before there are any, and what the package makes can be sent."""

import pickle
import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from conftest import assert_same_meis, find, read, video_model
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

import mei_lightning as ml
from mei_lightning.optimization.launcher import check_can_be_sent
from mei_lightning.optimization.strategies import IN_NOTEBOOKS

NEURONS = [("monday", 0), ("tuesday", 2)]
NORM = ml.NormAndRange(3.0, [(-1.0, 1.0), None])

MODULES = {
    "plain": {},
    "constraint": {"constraint": NORM},
    "lists of constraints": {"constraint": ml.Compose([ml.TemporalLowPass(1.5), NORM])},
    "regularizer": {"regularizer": ml.TemporalSmoothness(0.1) + ml.RangePenalty([(-1.0, 1.0), None])},
    "optimizer": {"optimizer": partial(torch.optim.SGD, lr=1.0)},
    "Fourier": {"parameterization": ml.Fourier(temporal=(None, 10.0))},
    "low rank": {"parameterization": ml.LowRank(1)},
    "pyramid": {"parameterization": ml.Pyramid(levels=2)},
    "implicit network": {"parameterization": ml.ImplicitNetwork(hidden=5)},
    "perturbations": {"robustness": [ml.Jitter(space=1), ml.Noise(0.1)]},
    "pink noise": {"initial": ml.PinkNoise()},
    "receptive field": {"initial": ml.LinearReceptiveField()},
    "natural clip": {"initial": ml.BestNaturalClip(clips=4)},
    "given": {"initial": ml.GivenStimuli(torch.randn(2, 2, 5, 6, 5))},
    "reducer": {"reducer": ml.SliceMeanReducer(axis=0, start=1, length=2)},
    "objective": {"objective": partial(ml.TargetLevelObjective, level=[0.5, 1.0])},
}


def assert_arrives(module):
    arrived = pickle.loads(pickle.dumps(module))
    assert arrived.configuration == module.configuration
    assert arrived.problem.starts.seed_of(1, 2) == module.problem.starts.seed_of(1, 2)
    torch.testing.assert_close(arrived.problem.starts(1), module.problem.starts(1))
    stimuli = module.best_stimulus[:1].repeat(2, 1, 1, 1, 1)
    torch.testing.assert_close(arrived.objective(stimuli), module.objective(stimuli))


@pytest.mark.parametrize("options", MODULES.values(), ids=MODULES)
def test_what_a_run_is_made_of_can_be_sent(options):
    assert_arrives(ml.MEIModule(video_model(), NEURONS, time_steps=5, restarts=2, **options))


@pytest.mark.parametrize(
    "model",
    [
        lambda: ml.Ensemble([video_model(0), video_model(1)]),
        lambda: ml.InnerUnits(video_model(), "dropout"),
        ml.SimulatedRetina,
        ml.DigitalTwin,
    ],
    ids=["ensemble", "inner units", "simulated", "digital twin"],
)
def test_models_can_be_sent(model):
    model = model()
    session = next(iter(model.neurons_per_session)) or None
    assert_arrives(ml.MEIModule(model, [(session, 0), (session, 1)], restarts=2))


def test_openretina_models_can_be_sent(tmp_path):
    pytest.importorskip("openretina")
    from openretina_checkpoints import write_example_checkpoint

    model = ml.load_model(str(write_example_checkpoint(tmp_path / "model.ckpt")), allow_unpickling=True)
    session = next(iter(model.neurons_per_session))
    assert_arrives(ml.MEIModule(model, [(session, 0), (session, 1)], restarts=2))


def notebook_trainer(start_method, directory):
    """Ends before there are processes, if it is refused."""
    return Trainer(
        accelerator="cpu",
        devices=2,
        strategy=ml.ShardedStrategy(start_method=start_method),
        callbacks=[ml.RowConvergence(), ml.ResultsWriter(str(directory), report=False), ml.TimeLimit()],
        max_epochs=-1,
        logger=TensorBoardLogger(str(directory), name="", default_hp_metric=False),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


class Defined(ml.MeanReducer):
    """Where it is defined is said by a test."""


def with_lambda():
    return {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=1.0)}


def with_local_class():
    class Mine(ml.MeanReducer):
        pass

    return {"reducer": Mine()}


def with_generator():
    reducer = ml.MeanReducer()
    reducer.weights = (number for number in range(3))
    return {"reducer": reducer}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (with_lambda, r"with_lambda.<locals>.<lambda> \(of .*test_launcher, line \d+\) has no name in a module"),
        (with_local_class, r"with_local_class.<locals>.Mine \(of .*test_launcher\) has no name in a module"),
        (with_generator, "cannot pickle 'generator' object"),
    ],
)
def test_what_cannot_be_sent_is_named_before_any_process_begins(tmp_path, options, named):
    module = ml.MEIModule(video_model(), NEURONS, time_steps=5, **options())
    with pytest.raises(ValueError, match=rf"{named}.*at the top of a module.*devices=1"):
        notebook_trainer("spawn", tmp_path / "run").fit(module)
    assert not (tmp_path / "run").exists()


def test_classes_of_a_script_can_be_sent_and_those_of_a_notebook_cannot(monkeypatch):
    monkeypatch.setattr(Defined, "__module__", "__main__")
    main = ModuleType("__main__")
    main.Defined = Defined
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(ValueError, match=r"Defined \(of __main__\) has no name in a module"):
        check_can_be_sent(Defined())
    main.__file__ = "script.py"
    check_can_be_sent(Defined())


@pytest.fixture
def cuda_has_begun(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)


REFUSED = r"CUDA, which has begun.*Restart the kernel.*model on the CPU.*devices=1.*command line"


@pytest.mark.usefixtures("cuda_has_begun")
@pytest.mark.skipif(IN_NOTEBOOKS != "fork", reason="nothing is forked")
def test_a_notebook_in_which_cuda_has_begun_is_not_forked(tmp_path):
    module = ml.MEIModule(video_model(), NEURONS, time_steps=5)
    with pytest.raises(ValueError, match=REFUSED):
        notebook_trainer("fork", tmp_path / "run").fit(module)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("cuda_has_begun")
@pytest.mark.skipif(IN_NOTEBOOKS != "fork", reason="nothing is forked")
def test_find_meis_refuses_to_fork_before_it_loads_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.raises(ValueError, match=REFUSED):
        ml.find_meis("no such model", NEURONS, devices=2, directory=tmp_path)
    with pytest.raises(ValueError, match="no such model"):
        ml.find_meis("no such model", NEURONS, devices=1, directory=tmp_path)


@pytest.mark.slow
def test_processes_that_begin_anew_find_what_one_finds(tmp_path):
    model = video_model()
    expected = find(model, NEURONS, time_steps=5, search="quick", directory=tmp_path / "one")
    module = ml.MEIModule(model, NEURONS, time_steps=5, search="quick")
    notebook_trainer("spawn", tmp_path / "two").fit(module)
    assert_same_meis(read(tmp_path / "two"), expected.load())
