"""The analysis of a store has all that is known across neurons, and nothing that is not."""

import warnings

import numpy as np
import pytest
import xarray as xr
from conftest import find, video_model

import mei_lightning as ml

QUIET = {"accelerator": "cpu", "progress_bar": False}


class SumReducer(ml.Reducer):
    def forward(self, responses):
        return responses.sum(dim=self.axis)


@pytest.mark.slow
def test_a_user_analyses_a_population(simulated, tmp_path):
    types = ["on_sustained", "on_transient", "color_opponent"]
    find(
        simulated,
        ml.NeuronSelection(sessions=["session_1"], where={"type": types}),
        search="quick",
        directory=tmp_path,
    )
    ml.analyze_meis(tmp_path / "meis.zarr", simulated, **QUIET)

    analysis = xr.open_zarr(tmp_path / "analysis.zarr", chunks=None).load()
    meis = xr.open_zarr(tmp_path / "meis.zarr", chunks=None)
    responses = ml.cross_responses(simulated, meis, **QUIET)
    np.testing.assert_allclose(analysis.cross_response, responses, rtol=1e-6)
    np.testing.assert_allclose(analysis.grey_response, responses.grey_response, rtol=1e-6)
    np.testing.assert_allclose(analysis.selectivity_index, ml.selectivity_index(responses), rtol=1e-6)
    np.testing.assert_allclose(analysis.type_response, ml.type_responses(responses), rtol=1e-6)
    np.testing.assert_allclose(analysis.type_selectivity_index, ml.type_selectivity_index(responses), rtol=1e-6)
    controls = ml.compare_with_standard_stimuli(simulated, meis, **QUIET)
    np.testing.assert_allclose(analysis.excitation_ratio, controls.excitation_ratio, rtol=1e-6)
    clusters = ml.cluster_meis(ml.measure_meis(meis, simulated, **QUIET))
    assert analysis["cluster"].values.tolist() == clusters["cluster"].values.tolist()
    assert analysis.attrs["adjusted_rand_index"] == clusters.attrs["adjusted_rand_index"]
    assert analysis.attrs["model"] == "simulated"
    table = ml.measures_table(analysis)
    assert {"type", "selectivity_index", "cluster", "excitation_ratio", "standard_kind"} <= set(table.columns)
    assert (table["excitation_ratio"] > 1).all()


def test_without_a_model_there_are_clusters_only(tmp_path):
    meis = find(video_model(), [("monday", 0), ("tuesday", 1)], time_steps=6, max_steps=2, restarts=1)
    analysis = ml.analyze_meis(ml.save_dataset(meis, tmp_path / "meis.zarr"), **QUIET)
    assert {"cluster", "map"} <= set(analysis)
    assert not {"cross_response", "selectivity_index", "excitation_ratio"} & set(analysis)


@pytest.mark.slow
def test_every_progress_bar_says_what_is_computed(tmp_path, capsys):
    meis = find(video_model(), [("monday", 0), ("tuesday", 1)], time_steps=6, max_steps=2, restarts=1)
    store = ml.save_dataset(meis, tmp_path / "meis.zarr")
    ml.analyze_meis(store, video_model(), accelerator="cpu", progress_bar=True)
    shown = "".join(capsys.readouterr())
    titles = ["Responses to all MEIs", "Responses to own MEIs", "Responses to standard stimuli"]
    assert [title for title in titles if f"{title}: 100%" not in shown] == []
    assert "DataLoader" not in shown


@pytest.mark.slow
def test_groups_and_neurons_without_an_mei(tmp_path):
    targets = [("monday", 0), [("monday", 1), ("tuesday", 0)], ("tuesday", 1)]
    meis = find(video_model(), targets, time_steps=6, max_steps=2, restarts=1)
    meis.stimulus[0], meis.score[0], meis.status[0] = np.nan, np.nan, "pending"
    analysis = ml.analyze_meis(ml.save_dataset(meis, tmp_path / "some.zarr"), video_model(), **QUIET)
    assert analysis.cross_response[:, 0].isnull().all()
    assert analysis.cluster[0] == -1
    assert np.isnan(analysis.excitation_ratio[0])
    assert np.isfinite(analysis.excitation_ratio[1:]).all()
    meis = meis.assign(score=meis.score * np.nan, stimulus=meis.stimulus * np.nan)
    store = ml.save_dataset(meis, tmp_path / "none.zarr")
    assert "cluster" not in ml.analyze_meis(store, video_model(), overwrite=True, **QUIET)


@pytest.mark.slow
def test_curvature_is_measured_where_it_is_asked_for(tmp_path):
    meis = find(video_model(), [("monday", 0), ("tuesday", 1)], time_steps=6, max_steps=4, restarts=1)
    store = ml.save_dataset(meis, tmp_path / "meis.zarr")
    assert "curvature" not in ml.analyze_meis(store, video_model(), **QUIET)
    with pytest.raises(ValueError, match="curvature=True, but there is no model"):
        ml.analyze_meis(store, curvature=True, overwrite=True, **QUIET)
    ml.analyze_meis(store, video_model(), curvature=True, overwrite=True, **QUIET)
    analysis = xr.open_zarr(tmp_path / "analysis.zarr", chunks=None).load()
    alone = ml.mei_curvature(video_model(), meis, **QUIET)
    assert set(alone) <= set(analysis)
    np.testing.assert_allclose(analysis.curvature, alone.curvature, rtol=1e-4, atol=1e-4)
    columns = {"free_directions", "free_share", "linear_curvature", "lowest_curvature", "highest_curvature"}
    assert columns <= set(ml.measures_table(analysis).columns)


@pytest.mark.slow
def test_a_reducer_of_the_users_own_is_replaced_by_the_mean_with_a_warning(tmp_path):
    meis = find(
        video_model(), [("monday", 0), ("tuesday", 1)], time_steps=6, max_steps=2, restarts=1, reducer=SumReducer()
    )
    store = ml.save_dataset(meis, tmp_path / "meis.zarr")
    with pytest.warns(UserWarning, match=r"SumReducer\(axis=0\), is not the response itself: .* means over time"):
        analysis = ml.analyze_meis(store, video_model(), **QUIET)
    frames = meis.sizes["response_time"]
    np.testing.assert_allclose(np.diagonal(analysis.cross_response), meis.score / frames, rtol=1e-5)
    assert "excitation_ratio" not in analysis
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ml.analyze_meis(store, overwrite=True, **QUIET)


@pytest.mark.slow
def test_groups_have_the_type_of_their_neurons(tmp_path, twin):
    by_type = ml.NeuronSelection(sessions=["session_1"], indices=range(16), together="type")
    find(twin, by_type, search="quick", max_steps=8, directory=tmp_path)
    analysis = ml.analyze_meis(tmp_path / "meis.zarr", twin, **QUIET)
    assert set(analysis["type"].values) == set(twin.neurons["type"][:16])
    assert np.isfinite(analysis["type_response"]).all()


@pytest.mark.slow
def test_a_group_of_several_types_has_none(tmp_path, twin):
    find(twin, [[("session_1", 0), ("session_1", 7)]], search="quick", max_steps=8, directory=tmp_path)
    analysis = ml.analyze_meis(tmp_path / "meis.zarr", twin, **QUIET)
    assert analysis["type"].values.tolist() == [""]
    assert "type_response" not in analysis


@pytest.mark.slow
def test_another_model_is_said_to_be_another_one(tmp_path, twin, simulated):
    find(twin, [("session_1", 0)], search="quick", max_steps=8, directory=tmp_path)
    with pytest.warns(UserWarning, match="found on the model 'digital_twin', and are analysed with 'simulated'"):
        ml.analyze_meis(tmp_path / "meis.zarr", simulated, **QUIET)


@pytest.mark.parametrize("use", [ml.analyze_meis, ml.write_report, lambda store: ml.score_held_out(store, "simulated")])
def test_the_directory_of_a_store_is_not_the_store(tmp_path, twin, use):
    find(twin, [("session_1", 0)], search="quick", max_steps=1, directory=tmp_path)
    with pytest.raises(ValueError, match=r"is not a store of MEIs.* Do you mean .*meis\.zarr\?"):
        use(tmp_path)
