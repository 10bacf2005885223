"""MEIs scored on models that had no part in finding them, and copied for other programs, in Python and by command."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from conftest import VIDEO_FORMAT, find, still_model, video_model

import mei_lightning as ml
from mei_lightning.cli.main import main
from mei_lightning.neurons import group_label, group_of, group_of_label

NEURONS = [("tuesday", 2), [("monday", 1), ("tuesday", 0)], ("monday", 3)]
REDUCER = ml.SliceMeanReducer(axis=0, start=1, length=2)


def ensemble():
    return ml.Ensemble([video_model(seed) for seed in range(4)])


@pytest.fixture
def store(tmp_path):
    find(
        ml.select_members(ensemble(), [0, 2]),
        NEURONS,
        time_steps=6,
        max_steps=4,
        restarts=1,
        reducer=REDUCER,
        directory=tmp_path / "results",
    )
    return tmp_path / "results" / "meis.zarr"


def brute_force(store, models):
    """The mean over models of each neuron's response, one stimulus and one session at a time."""
    stimuli = torch.from_numpy(xr.open_zarr(store).stimulus.values)
    scores = []
    for stimulus, target in zip(stimuli, NEURONS, strict=True):
        members = [target] if isinstance(target, tuple) else target
        traces = [
            model(stimulus[None], data_key=session)[0, 1:3, index] for model in models for session, index in members
        ]
        scores.append(torch.stack(traces).mean().item())
    return scores


@pytest.mark.slow
def test_held_out_scores_are_those_of_the_other_members(store):
    before = xr.open_zarr(store).load()
    models = [video_model(seed) for seed in range(4)]
    scores = ml.score_held_out(store, ensemble(), [1, 3], accelerator="cpu", progress_bar=False)
    np.testing.assert_allclose(scores, brute_force(store, [models[1], models[3]]), rtol=1e-5)
    kept = xr.open_zarr(store)
    np.testing.assert_array_equal(kept.held_out_score, scores)
    np.testing.assert_allclose(kept.score, brute_force(store, [models[0], models[2]]), rtol=1e-5)
    xr.testing.assert_identical(kept.drop_vars("held_out_score").load(), before)
    # A second time, with another model, replaces the first.
    ml.score_held_out(store, video_model(7), accelerator="cpu", progress_bar=False)
    np.testing.assert_allclose(xr.open_zarr(store).held_out_score, brute_force(store, [video_model(7)]), rtol=1e-5)


def test_a_copy_of_the_dataset_is_scored_as_its_store_is(store, tmp_path):
    copy = ml.save_dataset(xr.open_zarr(store, chunks=None), tmp_path / "copy.zarr")
    scores = ml.score_held_out(copy, video_model(7), accelerator="cpu", progress_bar=False)
    np.testing.assert_allclose(xr.open_zarr(copy).held_out_score, scores)
    np.testing.assert_allclose(scores, brute_force(store, [video_model(7)]), rtol=1e-5)
    with pytest.raises(ValueError, match="not a store of MEIs that a run could continue"):
        ml.MEIStore(copy)


def test_neurons_that_nobody_began_have_no_score(tmp_path):
    module = ml.MEIModule(video_model(), NEURONS, time_steps=5)
    store = ml.MEIStore.create(tmp_path / "meis.zarr", module.description, module.configuration)
    assert np.isnan(ml.score_held_out(store.path, video_model(1), progress_bar=False)).all()


def test_a_store_that_cannot_be_written_is_refused_before_any_work(store, monkeypatch):
    path = store / ".zattrs"
    attributes = json.loads(path.read_text())
    path.write_text(json.dumps({**attributes, "mei_store_version": 99}))
    consolidated = store / ".zmetadata"
    everything = json.loads(consolidated.read_text())
    consolidated.unlink()
    with pytest.warns(RuntimeWarning), pytest.raises(ValueError, match="is a store of version 99"):
        ml.score_held_out(store, ensemble(), [1, 3])
    path.write_text(json.dumps(attributes))
    consolidated.write_text(json.dumps(everything))

    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr(ml.MEIStore, "check_writable", full)
    monkeypatch.setattr(ml.NeuronObjective, "traces", None)
    with pytest.raises(OSError, match="no space"):
        ml.score_held_out(store, ensemble(), [1, 3])


@pytest.mark.parametrize(
    ("retina", "members", "error", "message"),
    [
        (ensemble(), [2, 3], ValueError, r"members=\[2, 3\]: \[2\] had a part"),
        (ensemble(), [4], ValueError, r"members=\[4\]: name some of the members 0 to 3"),
        (ensemble(), [1, 1], ValueError, r"each once"),
        (video_model(), [0], TypeError, r"is not an ensemble"),
        (ml.select_members(ensemble(), [0, 2]), None, ValueError, r"found these MEIs itself"),
        (still_model(), None, ValueError, r"takes stimuli of shape .*1, 6, 7, 6.*have \(2, 6, 6, 5\)"),
    ],
)
def test_what_cannot_be_held_out_is_refused(tmp_path, retina, members, error, message):
    module = ml.MEIModule(ensemble(), NEURONS, members=[0, 2], time_steps=6)
    store = ml.MEIStore.create(tmp_path / "meis.zarr", module.description, module.configuration)
    with pytest.raises(error, match=message):
        ml.score_held_out(store.path, retina, members, progress_bar=False)


@pytest.mark.parametrize(
    ("has_sessions", "group"),
    [
        (True, [("a", 1)]),
        (True, [("mouse+1/left", 12), ("b+2", 3), ("c", 0)]),
        (False, [4]),
        (False, [4, 11, 0]),
    ],
)
def test_labels_name_their_neurons(has_sessions, group):
    neurons = group_of(group)
    assert (
        group_of_label(group_label(neurons), [neuron.session for neuron in neurons] if has_sessions else []) == neurons
    )


class OneOfFour(ml.RetinaModel):
    """A model that a YAML file can name."""

    def __init__(self, seed: int) -> None:
        super().__init__(video_model(seed).network, VIDEO_FORMAT, {"monday": 4, "tuesday": 3})


def test_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    members = [{"class_path": f"{__name__}.OneOfFour", "init_args": {"seed": seed}} for seed in range(4)]
    retina = {"class_path": "mei_lightning.Ensemble", "init_args": {"members": members}}
    config = {"retina": retina, "members": [0, 1], "neurons": "all", "time_steps": 5, "max_steps": 3, "restarts": 1}
    with open("run.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump({"model": config}, file)
    with open("other.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump({"retina": retina}, file)
    options = ["--results.directory=here", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    main(["fit", "--config=run.yaml", *options])
    main(["validate", "here/meis.zarr", "--config=other.yaml", "--members=[2,3]", "--accelerator=cpu"])
    assert "Held-out scores of 7 neurons" in capsys.readouterr().out
    meis = xr.open_zarr("here/meis.zarr", chunks=None)
    assert meis.held_out_score.shape == (7,)
    others = [video_model(2), video_model(3)]
    stimulus = torch.from_numpy(meis.stimulus.sel(neuron=["tuesday/1"]).values)
    expected = torch.stack([model(stimulus, data_key="tuesday")[0, :, 1] for model in others]).mean()
    assert meis.held_out_score.sel(neuron="tuesday/1").item() == pytest.approx(expected.item(), rel=1e-5)
    main(["export", "here/meis.zarr", "meis.npz"])
    with np.load("meis.npz") as exported:
        np.testing.assert_array_equal(exported["held_out_score"], meis.held_out_score)
    with pytest.raises(SystemExit, match="0"):
        main(["export", "--help"])
    assert "NetCDF4" in capsys.readouterr().out


def test_members_of_an_openretina_ensemble():
    checkpoints = pytest.importorskip("openretina_checkpoints")
    from openretina.modules.layers.ensemble import EnsembleModel

    networks = [checkpoints.unified_core_readout(seed=seed).eval() for seed in range(3)]
    model = ml.select_members(ml.load_model(EnsembleModel(*networks)), [0, 2])
    stimulus = torch.randn(2, 2, 35, 18, 16, generator=torch.Generator().manual_seed(0))
    session = "session_2_ventral2_20201016"
    expected = (networks[0](stimulus, data_key=session) + networks[2](stimulus, data_key=session)) / 2
    torch.testing.assert_close(model(stimulus, data_key=session), expected)
    assert "members 0, 2" in model.name
