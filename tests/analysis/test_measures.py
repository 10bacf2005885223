"""The measures of each MEI as a dataset, as a table, and kept beside a store."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import LinearNetwork, find, linear_model, still_model, video_model
from torch import nn

import mei_lightning as ml
from mei_lightning.analysis import measures as measures_module
from mei_lightning.analysis.decomposition import decompose, temporal_frequency
from mei_lightning.analysis.measure_list import MEASURES, Copied, Measure
from mei_lightning.analysis.polarity import polarity_of_responses, responses_to_steps, step_of_light, step_onset
from mei_lightning.cli.main import main
from mei_lightning.constraints import range_bounds
from mei_lightning.plots.measures import plottable_measures
from mei_lightning.results.configuration import as_data
from mei_lightning.results.dataset import ranges_of

TARGETS = [("monday", 0), [("monday", 1), ("tuesday", 0)], ("tuesday", 2)]
RANGES = [(-0.3, 0.6), (None, 0.5)]


def measure(meis, model=None):
    return ml.measure_meis(meis, model, accelerator="cpu", progress_bar=False)


@pytest.fixture(scope="module")
def meis():
    return find(video_model(), TARGETS, time_steps=8, max_steps=4, restarts=2, norm=3.0, ranges=RANGES)


def made(stimuli, **attributes):
    """A dataset as find_meis returns it, with stimuli of our own ``[neuron, channel, time, y, x]``."""
    neurons, channels, frames, height, width = np.shape(stimuli)
    description = ml.StimulusFormat(tuple("abc"[:channels]) if channels != 2 else ("green", "UV"), height, width)
    facts = {"frame_rate": 30.0, "pixel_size": 50.0, "model": "made", "configuration": "{}", **attributes}
    pixel = facts.get("pixel_size") or 1.0
    space = {"units": "um" if facts.get("pixel_size") else "pixel"}
    return xr.Dataset(
        {
            "stimulus": (("neuron", "channel", "time", "y", "x"), np.asarray(stimuli, dtype=np.float32)),
            "score": ("neuron", np.ones(neurons)),
            "status": ("neuron", np.full(neurons, "converged")),
        },
        {
            "neuron": [str(number) for number in range(neurons)],
            "session": ("neuron", np.full(neurons, "")),
            "index": ("neuron", np.arange(neurons)),
            "channel": list(description.channel_names),
            "time": np.arange(frames) / 30,
            "y": ("y", np.arange(height) * pixel, space),
            "x": ("x", np.arange(width) * pixel, space),
        },
        {name: value for name, value in facts.items() if value is not None},
    )


def spot(y, x, sd, shape=(18, 16)):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sd**2))


COURSE = np.exp(-((np.arange(40) - 32) ** 2) / 18) - 0.7 * np.exp(-((np.arange(40) - 22) ** 2) / 18)


def test_a_user_measures_meis(meis):
    model = video_model()
    measures = ml.measure_meis(meis, model)
    table = ml.measures_table(measures)
    assert table.index.tolist() == ["monday/0", "monday/1+tuesday/0", "tuesday/2"]
    assert table.loc["tuesday/2", "session"] == "tuesday"
    assert table["index"].tolist() == [0, -1, 2]
    np.testing.assert_array_equal(table["score"], meis["score"])
    assert table["status"].tolist() == meis["status"].values.tolist()
    assert table.attrs["units"]["temporal_frequency_green"] == "Hz"
    assert set(table["polarity"]) <= {"ON", "OFF", "ON-OFF"}
    for number, stimulus in enumerate(meis["stimulus"].values):
        for channel, name in enumerate(("green", "UV")):
            temporal, spatial, share = decompose(stimulus[channel])
            kernels = measures.isel(neuron=number, channel=channel)
            np.testing.assert_allclose(
                np.outer(kernels["temporal_kernel"], kernels["spatial_kernel"]),
                np.outer(temporal, spatial),
                atol=1e-5,
            )
            assert table[f"explained_share_{name}"].iloc[number] == pytest.approx(share)
            assert table[f"temporal_frequency_{name}"].iloc[number] == pytest.approx(
                temporal_frequency(temporal, 30.0), rel=1e-5
            )
        norms = np.linalg.norm(stimulus.reshape(2, -1), axis=1)
        assert table["dominant_channel"].iloc[number] == ("green", "UV")[norms.argmax()]


def test_every_measure_says_what_it_is(meis):
    measures = measure(meis)
    assert set(measures.data_vars) >= {"temporal_kernel", "opponent", "polarity", "norm_outside_receptive_field"}
    for name, variable in measures.data_vars.items():
        assert variable.attrs["long_name"], name
        assert "units" in variable.attrs, name
    assert measures["centre_size"].attrs["units"] == "um"
    assert measures.attrs == meis.attrs
    assert "type" not in measures.coords


def test_share_of_clipped_values(meis):
    stimulus = meis["stimulus"].values
    at_limit = (stimulus[:, 0] == np.float32(-0.3)) | (stimulus[:, 0] == np.float32(0.6))
    at_limit = np.stack([at_limit, stimulus[:, 1] == np.float32(0.5)], axis=1)
    assert at_limit.any()
    np.testing.assert_allclose(measure(meis)["clipped_share"], at_limit.mean(axis=(1, 2, 3, 4)))


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (ml.NormAndRange(3.0, [(-1.0, 2.0), None]), [(-1, 2), (-np.inf, np.inf)]),
        (ml.ChannelRange([(float("-inf"), 2.0), (None, 1e-3)]), [(-np.inf, 2), (-np.inf, 1e-3)]),
        (ml.RescaleThenClip(3.0, [(-1.0, 2.0), (-2.0, 1.5)]), [(-1, 2), (-2, 1.5)]),
        (
            ml.Compose([ml.SpatialLowPass(1.0), ml.NormAndRange(3.0, [(-1, 2), (-2, 1)], mask=[1, 0])]),
            [(-1, 2), (-2, 1)],
        ),
        (ml.FixedNorm(3.0), None),
    ],
)
def test_ranges_are_those_of_the_constraint(constraint, expected):
    # As the constraint of a run stands in its configuration, and as it stood in that of version 0.1.
    for kept in (as_data(constraint), repr(constraint)):
        stimuli = made(np.zeros((1, 2, 4, 6, 5)), configuration=json.dumps({"constraint": kept}))
        found = ranges_of(stimuli)
        if expected is None:
            assert found is None
        else:
            np.testing.assert_array_equal(range_bounds(found), np.array(expected, dtype=np.float32).T)


def test_known_stimuli_are_measured_in_their_units():
    green = -0.5 * COURSE[:, None, None] * spot(5.2, 9.1, 1.5)
    uv = COURSE[:, None, None] * spot(5.2, 9.1, 1.5)
    meis = made([[green, uv]], pixel_size=30.0)
    # The origin need not be the first pixel.
    meis = meis.assign_coords(y=meis["y"] + 1000, x=meis["x"] - 273)
    table = ml.measures_table(measure(meis)).iloc[0]
    place_and_size = table[["centre_y", "centre_x", "centre_size"]].astype(float)
    np.testing.assert_allclose(place_and_size, [1156, 0, 45], rtol=1e-3, atol=0.05)
    assert table["dominant_channel"] == "UV"
    assert table["polarity"] == "ON"
    assert table["opponent"]
    # Angle of (-0.5, 1): atan(1.5 / 0.5).
    assert table["opponency_angle"] == pytest.approx(np.arctan(3), rel=1e-4)
    # From trough to peak, in the brightest pixel.
    assert table["temporal_contrast_UV"] == pytest.approx(np.ptp(COURSE) * spot(5.2, 9.1, 1.5).max(), rel=1e-4)
    # The energy of a Gaussian image beyond 3 sd of it.
    assert table["norm_outside_receptive_field"] == pytest.approx(np.exp(-9), abs=1e-4)


def test_a_channel_takes_its_sign_from_the_dominant_channels_centre():
    # The same bars under windows at either side, so that another lobe is the largest of each channel.
    columns = np.arange(16)

    def bars(window):
        return np.ones((18, 1)) * np.exp(-((columns - window) ** 2) / 18) * np.sin(2 * np.pi * (columns - 7.5) / 6)

    stimuli = np.stack([COURSE[:, None, None] * bars(6.5), 1.5 * COURSE[:, None, None] * bars(8.5)])
    alone = [decompose(channel)[0] for channel in stimuli]
    assert alone[0] @ alone[1] < 0
    measures = measure(made([stimuli])).isel(neuron=0)
    assert not measures["opponent"]
    assert measures["temporal_kernel"].values[0] @ measures["temporal_kernel"].values[1] > 0
    # Both have the largest magnitude 1; that of the dominant channel is positive.
    np.testing.assert_allclose(np.abs(measures["spatial_kernel"]).max(("y", "x")), 1)
    assert measures["spatial_kernel"].sel(channel="UV").max() == pytest.approx(1)


def test_norm_outside_the_receptive_field():
    centre = spot(5, 5, 1.2)
    artefact = np.zeros((18, 16))
    artefact[16, 14] = 0.5
    stimulus = COURSE[:, None, None] * (centre + artefact)
    share = measure(made([[stimulus]]))["norm_outside_receptive_field"].item()
    assert share == pytest.approx(0.25 / (0.25 + np.sum(centre**2)), abs=1e-3)


def test_neurons_without_a_result_are_nan_and_change_nothing(meis):
    broken = meis.copy(deep=True)
    broken["stimulus"][0] = np.nan
    broken["score"][1] = np.nan
    found, whole = (measure(dataset, video_model()) for dataset in (broken, meis))
    for number in (0, 1):
        row = found.isel(neuron=number).drop_vars(["score", "status", "seed_stability"])
        for name, variable in row.data_vars.items():
            if variable.dtype.kind == "f":
                assert np.isnan(variable).all(), name
            else:
                assert not variable.any() if variable.dtype == bool else (variable == "").all(), name
    xr.testing.assert_identical(found.isel(neuron=[2]), whole.isel(neuron=[2]))
    assert measure(broken.isel(neuron=[0]), video_model())["polarity"].item() == ""


def test_a_store_that_nothing_has_been_written_to(tmp_path):
    module = ml.MEIModule(video_model(), TARGETS, time_steps=5)
    store = ml.MEIStore.create(tmp_path / "meis.zarr", module.description, module.configuration)
    table = ml.measures_table(measure(xr.open_zarr(store.path, chunks=None), video_model()))
    assert (table["status"] == "pending").all()
    assert table["centre_size"].isna().all()


def test_zeros_are_not_a_crash():
    green = COURSE[:, None, None] * spot(8, 8, 1.5)
    measures = measure(made([[green, 0 * green], [0 * green, 0 * green]]))
    one, nothing = (ml.measures_table(measures).iloc[number] for number in (0, 1))
    assert one["dominant_channel"] == "green"
    assert not one["opponent"]
    # UV does not change, so green gives the peaks.
    assert one["temporal_contrast_green"] == pytest.approx(1.7, abs=0.02)
    assert one["opponency_angle"] == pytest.approx(np.pi / 4)
    assert np.isnan(one["temporal_frequency_UV"])
    assert nothing["dominant_channel"] == nothing["polarity"] == ""
    assert nothing["direction_index"] == 0
    assert np.isnan(nothing["norm_outside_receptive_field"])


@pytest.mark.parametrize("channels", [1, 3])
def test_other_numbers_of_channels(channels):
    stimulus = COURSE[:, None, None] * spot(8, 8, 1.5)
    table = ml.measures_table(measure(made([np.stack([stimulus] * channels)]))).iloc[0]
    assert table["centre_size"] == pytest.approx(75, rel=1e-3)
    assert np.isnan(table["opponency_angle"])
    assert not table["opponent"]
    assert table["dominant_channel"] == "a"
    assert f"temporal_contrast_{'abc'[channels - 1]}" in table.index


def test_an_unknown_size_of_pixels_gives_pixels():
    measures = measure(made([[COURSE[:, None, None] * spot(8, 8, 1.5)]], pixel_size=None))
    assert measures["centre_size"].attrs["units"] == "pixel"
    assert measures["centre_size"].item() == pytest.approx(1.5, rel=1e-3)
    assert measures["centre_y"].item() == pytest.approx(8, rel=1e-3)


def test_still_images():
    model = still_model()
    meis = find(model, [0, 3], max_steps=3, restarts=1)
    measures = measure(meis, model)
    for name in ("temporal_frequency", "direction", "opponency_angle"):
        assert np.isnan(measures[name]).all()
    image = meis["stimulus"].values[0, 0, 0]
    largest = np.unravel_index(np.abs(image).argmax(), image.shape)
    assert measures["temporal_contrast"].values[0, 0] == pytest.approx(image[largest])
    assert np.isfinite(measures["orientation_index"]).all()
    assert set(measures["polarity"].values) <= {"ON", "OFF", "ON-OFF"}


def test_how_many_are_read_at_a_time_does_not_matter(meis, monkeypatch):
    whole = measure(meis)
    monkeypatch.setattr(measures_module, "_BYTES_AT_A_TIME", 1)
    xr.testing.assert_identical(measure(meis), whole)


def test_dimensions_in_another_order(meis):
    turned = meis.transpose("x", "y", "time", "channel", ..., "neuron")
    xr.testing.assert_allclose(measure(turned), measure(meis))


def test_held_out_scores_and_seed_stability_are_taken_over(meis):
    measures = measure(meis)
    np.testing.assert_array_equal(measures["seed_stability"], meis["restart_similarity"])
    assert np.isnan(measures["held_out_score"]).all()
    scores = np.array([1.0, np.nan, 3.0])
    np.testing.assert_array_equal(measure(meis.assign(held_out_score=("neuron", scores)))["held_out_score"], scores)


OWN = (
    Measure("brightest", "model units", "the largest value", lambda mei: mei.stimulus.max()),
    Measure(
        "frames_above_half",
        "frames",
        "frames of a channel above half of its largest value",
        lambda mei: (mei.parts.temporal > mei.parts.temporal.max(axis=1, keepdims=True) / 2).sum(axis=1),
        dimensions=("channel",),
        pending=-1,
    ),
    Measure("phase", "degrees", "an angle", lambda mei: 12.0),
    Measure("drift", "", "a word", lambda mei: "along " * 3, pending=""),
    Measure("copy", "1", "of what another analysis knows", Copied("known_elsewhere")),
    Measure("found_by", "", "the model", lambda mei: "", pending="", with_model=lambda probe: [probe.model.name] * 2),
)


def test_an_own_measure_is_an_entry_in_the_list(meis, monkeypatch):
    monkeypatch.setattr("mei_lightning.analysis.measure_list.MEASURES", (*MEASURES, *OWN))
    broken = meis.copy(deep=True).assign(known_elsewhere=("neuron", [1.0, 2.0, 3.0]))
    broken["stimulus"][1] = np.nan
    for model in (None, video_model()):
        measures = measure(broken, model)
        assert list(measures)[-len(OWN) :] == [it.name for it in OWN]
        table = ml.measures_table(measures)
        np.testing.assert_array_equal(table["brightest"], broken["stimulus"].max(("channel", "time", "y", "x")))
        assert table["frames_above_half_UV"].tolist()[1] == -1
        assert measures["frames_above_half"].dtype == np.int64
        assert table["drift"].tolist() == ["along along along ", "", "along along along "]
        assert table["copy"].tolist() == [1.0, 2.0, 3.0]
        assert table["found_by"].tolist() == [
            "" if model is None else model.name,
            "",
            "" if model is None else model.name,
        ]
        assert table.attrs["units"]["frames_above_half_UV"] == "frames"
        assert table.attrs["long_name"]["brightest"] == "the largest value"
    assert {"brightest", "frames_above_half", "drift"} <= set(plottable_measures(measures))
    assert measure(meis)["copy"].isnull().all()


@pytest.mark.slow
def test_an_own_measure_is_in_the_tables_of_the_command_line_and_of_the_report(store, monkeypatch, capsys):
    monkeypatch.setattr("mei_lightning.analysis.measure_list.MEASURES", (*MEASURES, *OWN))
    main(["analyze", str(store), "--accelerator", "cpu"])
    printed = capsys.readouterr().out
    assert "brightest" in printed
    assert "frames_above_half_green" in printed
    # The median of angles depends on where the circle is cut.
    assert "phase" not in printed
    assert "brightest" in pd.read_csv(store.parent / "measures.csv")
    page = ml.write_report(store).read_text(encoding="utf-8")
    assert re.search(r'<th scope="row">brightest</th><td>model units</td><td>3</td>', page)
    assert re.search(r'<th scope="row">frames above half UV</th><td>frames</td><td>3</td>', page)


@pytest.mark.parametrize(
    ("on", "off", "polarity"),
    [(3, 0.9, "ON"), (0, 2, "OFF"), (3, 1.1, "ON-OFF"), (-1, -2, ""), (-1, 2, "OFF"), (np.nan, 2, ""), (0, 0, "")],
)
def test_polarity_of_responses(on, off, polarity):
    assert polarity_of_responses(on, off) == polarity


class Contrast(nn.Module):
    """Neurons 0 to 2 answer to the centre: to light, to dark, and to both; the response is 4 frames long."""

    def forward(self, stimulus):
        drive = stimulus[:, 0, 2:, 3, 2]
        return torch.stack([drive.relu(), (-drive).relu(), drive.abs()], dim=-1) + 5.0


def test_steps_tell_on_off_where_meis_do_not():
    model = ml.RetinaModel(Contrast(), ml.StimulusFormat(("a",), 6, 5, frame_rate=12.0, frames_lost=2), 3)
    step = spot(3, 2, 1.0, (6, 5))[None]
    on, off = responses_to_steps(
        model, [0, 1, 2, [0, 1]], np.stack([step] * 4), 2, 6, accelerator="cpu", progress_bar=False
    )
    np.testing.assert_allclose(on, [1, 0, 1, 0.5])
    np.testing.assert_allclose(off, [0, 1, 1, 0.5])
    stimuli = [[np.sign(number - 0.5) * np.ones((6, 1, 1)) * step[0]] for number in (1, 0, 1)]
    assert measure(made(stimuli), model)["polarity"].values.tolist() == ["ON", "OFF", "ON-OFF"]
    group = made(stimuli[:1]).assign_coords(neuron=["0+1"], index=("neuron", [-1]))
    assert measure(group, model)["polarity"].item() == "ON-OFF"


def test_a_step_has_the_colours_of_the_mei_and_stays_within_limits():
    temporal = np.stack([-0.5 * COURSE, 2 * COURSE])
    spatial = np.stack([spot(8, 8, 1.5), spot(8, 8, 2.0)])
    step = step_of_light(temporal, spatial, 1)
    largest = 2 * np.abs(COURSE).max()
    np.testing.assert_allclose(step, np.array([-0.25, 1.0])[:, None, None] * largest * spatial)
    # The sign of the course does not matter: an OFF cell's step of light is light as well.
    np.testing.assert_allclose(step_of_light(-temporal, spatial, 1), step)
    limited = step_of_light(temporal, spatial, 1, np.array([(-0.654, 6.269), (-0.913, 6.269)]))
    assert np.abs(limited[1]).max() == pytest.approx(0.913)
    np.testing.assert_allclose(limited * (step.max() / limited.max()), step)
    assert not step_of_light(0 * temporal, spatial, 1).any()


@pytest.mark.parametrize(
    ("frame_rate", "frames_lost", "time_steps", "onset"),
    [(30.0, 20, 40, 20), (30.0, 30, 50, 30), (30.0, 20, 21, 13), (30.0, 2, 6, 0), (None, 0, 1, 0), (2.0, 4, 5, 4)],
)
def test_onset_of_steps(frame_rate, frames_lost, time_steps, onset):
    facts = ml.StimulusFormat(("a",), 3, 3, frame_rate=frame_rate, frames_lost=frames_lost)
    assert step_onset(facts, time_steps) == onset


def test_what_does_not_fit_is_refused_before_any_work(meis, monkeypatch):
    monkeypatch.setattr(measures_module, "OneMEI", None)
    with pytest.raises(ValueError, match=r"not a dataset of MEIs.* it has no stimulus"):
        measure(meis.drop_vars("stimulus"))
    with pytest.raises(
        ValueError, match=r"takes stimuli of shape \(2, 8, 6, 5\)|takes stimuli of shape \(1, 8, 7, 6\)"
    ):
        measure(meis, still_model())
    other = ml.RetinaModel(video_model().network, ml.StimulusFormat(("green", "UV"), 6, 5, 30.0), {"monday": 4})
    with pytest.raises(ValueError, match="no session 'tuesday'"):
        measure(meis, other)
    few = ml.RetinaModel(video_model().network, other.stimulus_format, {"monday": 4, "tuesday": 2})
    with pytest.raises(IndexError, match="'tuesday' has no neuron 2"):
        measure(meis, few)
    with pytest.raises(ValueError, match="has sessions, but the MEIs are of neurons like '0'"):
        measure(find(linear_model(), [0], time_steps=4, max_steps=1, restarts=1), video_model())
    with pytest.raises(ValueError, match="has no sessions, but the MEIs are of neurons like 'monday/0'"):
        measure(meis, linear_model())
    long = ml.RetinaModel(LinearNetwork(), ml.StimulusFormat(("green", "UV"), 6, 5, 30.0, frames_lost=8), 3)
    with pytest.raises(ValueError, match="of more than 8 frames"):
        measure(meis, long)


@pytest.fixture
def store(meis, tmp_path):
    return ml.save_dataset(meis, tmp_path / "meis.zarr")


@pytest.mark.slow
def test_analysis_stands_beside_the_store(meis, store):
    analysis = ml.analyze_meis(store, video_model(), accelerator="cpu", progress_bar=False)
    kept = xr.open_zarr(store.parent / "analysis.zarr", chunks=None)
    xr.testing.assert_identical(kept.load(), analysis)
    measures = measure(meis, video_model())
    xr.testing.assert_identical(analysis[list(measures)].drop_attrs(), measures.drop_attrs())
    assert analysis.attrs == {**measures.attrs, "meis_digest": analysis.attrs["meis_digest"]}
    assert all(analysis[name].attrs == measures[name].attrs for name in measures.variables)
    table = pd.read_csv(store.parent / "measures.csv", index_col="neuron", keep_default_na=False, na_values=[""])
    pd.testing.assert_frame_equal(table, ml.measures_table(analysis))
    assert {path.name for path in store.parent.iterdir()} == {"meis.zarr", "analysis.zarr", "measures.csv"}


@pytest.mark.slow
def test_an_analysis_is_not_overwritten_unless_told(store, monkeypatch):
    options = {"accelerator": "cpu", "progress_bar": False}
    ml.analyze_meis(store, video_model(), **options)
    (store.parent / "analysis.zarr" / "notes.txt").write_text("mine")
    before = (store.parent / "measures.csv").read_text()
    with monkeypatch.context() as patch:
        patch.setattr("mei_lightning.analysis.analyze.measure_meis", None)
        with pytest.raises(FileExistsError, match=r"analysis\.zarr exists already"):
            ml.analyze_meis(store, **options)
    assert (store.parent / "analysis.zarr" / "notes.txt").exists()

    def fails(*_, **__):
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr("mei_lightning.analysis.analyze.measures_table", fails)
        with pytest.raises(RuntimeError, match="in the middle"):
            ml.analyze_meis(store, overwrite=True, **options)
    assert (store.parent / "analysis.zarr" / "notes.txt").exists()
    assert (store.parent / "measures.csv").read_text() == before
    ml.analyze_meis(store, overwrite=True, **options)
    assert not (store.parent / "analysis.zarr" / "notes.txt").exists()
    assert {path.name for path in store.parent.iterdir()} == {"meis.zarr", "analysis.zarr", "measures.csv"}


def test_nothing_to_analyse(tmp_path):
    with pytest.raises(FileNotFoundError, match="no store of MEIs at"):
        ml.analyze_meis(tmp_path / "meis.zarr")


@pytest.mark.slow
def test_command(tmp_path, capsys, caplog):
    neurons = [("session_1", 0), ("session_1", 2), ("session_1", 4)]
    find("simulated", neurons, search="quick", directory=tmp_path)
    caplog.clear()
    main(["analyze", str(tmp_path / "meis.zarr"), "--model", "simulated", "--accelerator", "cpu"])
    assert not caplog.text
    printed = capsys.readouterr().out
    assert "Measures of 3 neurons" in printed
    assert "No neuron has two starts that were optimised to the end" in printed
    table = pd.read_csv(tmp_path / "measures.csv", index_col="neuron")
    assert table["type"].tolist() == ["on_sustained", "off_sustained", "on_off"]
    assert table["polarity"].tolist() == ["ON", "OFF", "ON-OFF"]
    with pytest.raises(FileExistsError):
        main(["analyze", str(tmp_path / "meis.zarr")])
    main(["analyze", str(tmp_path / "meis.zarr"), "--overwrite", "true"])
    assert "type" not in pd.read_csv(tmp_path / "measures.csv")
