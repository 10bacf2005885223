"""MEIs cluster by cell type, wherever they are and however they move."""

import numpy as np
import pytest
import xarray as xr
from conftest import find, still_model
from scipy import ndimage
from sklearn.metrics import adjusted_rand_score

import mei_lightning as ml
from mei_lightning.analysis.clusters import clustering_features


@pytest.fixture(scope="module")
def measures(twin):
    meis = find(twin, "all", search="quick", restarts=1, max_steps=12)
    return ml.measure_meis(meis, twin, accelerator="cpu", progress_bar=False).load()


@pytest.mark.slow
def test_clusters_of_the_twins_meis_are_its_cell_types(measures):
    # Without the types.
    found = ml.cluster_meis(measures.drop_vars("type"))
    assert "adjusted_rand_index" not in found.attrs
    assert adjusted_rand_score(measures["type"], found.cluster) >= 0.8
    assert ml.cluster_meis(measures).attrs["adjusted_rand_index"] == adjusted_rand_score(
        measures["type"], found.cluster
    )
    assert (found.cluster_probability > 0.5).all()
    sizes = np.bincount(found.cluster)
    assert (np.diff(sizes) <= 0).all()
    # On the map, too, the nearest neuron is of the same type.
    places = found["map"].values
    distances = np.linalg.norm(places[:, None] - places, axis=2) + np.diag(np.full(len(places), np.inf))
    nearest = measures["type"].values[distances.argmin(axis=1)]
    assert (nearest == measures["type"].values).mean() > 0.9


@pytest.mark.slow
def test_the_number_of_clusters_can_be_given(measures):
    for clusters in (1, 8):
        found = ml.cluster_meis(measures, clusters)
        assert sorted(set(found.cluster.values)) == list(range(clusters))
    assert found.attrs["adjusted_rand_index"] >= 0.8
    xr.testing.assert_identical(found, ml.cluster_meis(measures, 8))


@pytest.mark.slow
def test_order_norm_and_place_do_not_matter(measures):
    found = ml.cluster_meis(measures)
    order = np.random.default_rng(0).permutation(measures.sizes["neuron"])
    changed = measures.isel(neuron=order).copy(deep=True)
    changed["temporal_kernel"] *= 7
    changed["centre_y"] += 100
    again = ml.cluster_meis(changed)
    np.testing.assert_array_equal(again.cluster, found.cluster[order])


@pytest.mark.slow
def test_direction_selective_cells_of_all_directions_are_one_cluster(measures, twin):
    directions = twin.neurons["direction"].values
    cells = np.isfinite(directions)
    assert len(set(directions[cells])) == 4
    clusters = ml.cluster_meis(measures).cluster.values
    values, counts = np.unique(clusters[cells], return_counts=True)
    assert counts.max() >= 22
    assert (clusters[~cells] != values[counts.argmax()]).all()


def test_features_do_not_depend_on_the_direction_of_motion():
    y, x, frame = np.arange(18)[:, None], np.arange(16), np.arange(40)[:, None, None]
    envelope = (
        np.exp(-((y - 8.5) ** 2 + (x - 7.5) ** 2) / 18) * ndimage.gaussian_filter1d(np.eye(40)[25], 4)[:, None, None]
    )

    def drift(angle, phase):
        along = x * np.cos(angle) + y * np.sin(angle)
        return envelope * np.cos(2 * np.pi * (along / 6 - frame / 10) + phase)

    spot = envelope * np.ones((40, 18, 16))
    generator = np.random.default_rng(0)
    stimuli = [drift(angle, generator.uniform(0, 6)) for angle in np.arange(8) * np.pi / 4] + [spot, 0.9 * spot]
    stimuli = np.repeat(np.array(stimuli, dtype=np.float32)[:, None], 2, axis=1)
    meis = xr.Dataset(
        {
            "stimulus": (("neuron", "channel", "time", "y", "x"), stimuli),
            "score": ("neuron", np.ones(10)),
            "status": ("neuron", np.full(10, "converged")),
        },
        {
            "neuron": [str(number) for number in range(10)],
            "session": ("neuron", [""] * 10),
            "index": ("neuron", range(10)),
            "channel": ["green", "UV"],
            "time": np.arange(40) / 30,
            "y": np.arange(18) * 50.0,
            "x": np.arange(16) * 50.0,
        },
        {"frame_rate": 30.0, "pixel_size": 50.0},
    )
    measures = ml.measure_meis(meis, progress_bar=False)
    assert len(set(measures["direction"].values[:8].round(-1))) == 8
    features = clustering_features(measures.assign(polarity=measures["polarity"].where(False, "")))
    # Gratings are seen at any phase, so that their courses in time differ, too.
    for part in ("course", "direction"):
        values = features.values[:, features["feature"].values == part]
        drifting, standing = values[:8], values[8:]
        spread = np.linalg.norm(drifting - drifting.mean(axis=0), axis=1).max()
        assert spread < 0.3 * np.linalg.norm(drifting.mean(axis=0) - standing.mean(axis=0)), part


@pytest.mark.slow
def test_neurons_without_an_mei_belong_to_no_cluster(measures):
    known = measures.isel(neuron=slice(40))
    expected = ml.cluster_meis(known, 5)
    failed = measures.isel(neuron=slice(42)).copy(deep=True)
    for name in ("temporal_kernel", "centre_size", "direction_index"):
        failed[name][40:] = np.nan
    failed["polarity"][40:] = ""
    found = ml.cluster_meis(failed, 5)
    assert (found.cluster[40:] == -1).all()
    assert np.isnan(found["map"][40:]).all()
    assert np.isnan(found.cluster_probability[40:]).all()
    np.testing.assert_array_equal(found.cluster[:40], expected.cluster)
    with pytest.raises(ValueError, match=r"1 of these 3 neurons have an MEI"):
        ml.cluster_meis(failed.isel(neuron=[39, 40, 41]))
    with pytest.raises(ValueError, match=r"clusters=41 is not between 1 and .* 40"):
        ml.cluster_meis(failed, 41)


def test_few_neurons_still_images_and_sizes_that_could_not_be_measured():
    images = ml.measure_meis(find(still_model(), range(5), max_steps=5, restarts=1), still_model(), progress_bar=False)
    images["centre_size"][2] = np.nan
    found = ml.cluster_meis(images)
    # Fewer than six neurons are too few to tell clusters.
    assert (found.cluster == 0).all()
    assert np.isfinite(found["map"]).all()
    two = ml.cluster_meis(images.isel(neuron=[0, 1]))
    assert np.isfinite(two["map"]).all()
