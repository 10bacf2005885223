"""MEIs for an experiment: what a program that plays or reads the files gets."""

import json
import warnings
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import find, still_model
from hypothesis import given, settings
from hypothesis import strategies as st

import mei_lightning as ml
from mei_lightning.cli.main import main

MEAN, SD = np.array([37.417, 36.132]), np.array([28.905, 39.841])
FILES = {"stimuli.npy", "frame_times.csv", "levels.csv", "stimuli.json", "README.txt", "show_with_psychopy.py"}


def meis_of_levels(levels, channels=("green", "UV"), mean=MEAN, sd=SD, rate=30.0):
    """Labelled MEIs that have these levels [neuron, channel, time, y, x] on the projector's scale."""
    levels = np.asarray(levels, dtype=np.float64)
    shape = (1, -1, 1, 1, 1)
    attrs = {"frames_lost": 0, "mean": list(mean), "sd": list(sd)} | ({"frame_rate": rate} if rate else {})
    return xr.Dataset(
        {
            "stimulus": (
                ("neuron", "channel", "time", "y", "x"),
                (levels - np.reshape(mean, shape)) / np.reshape(sd, shape),
            ),
            "status": ("neuron", ["converged"] * len(levels)),
        },
        coords={"neuron": [f"a/{number}" for number in range(len(levels))], "channel": list(channels)},
        attrs=attrs,
    )


def random_levels(neurons=3, channels=2, time_steps=7, height=6, width=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (neurons, channels, time_steps, height, width))


def read_video(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
        return frames, [frame.time for frame in decoded], stream.average_rate


@pytest.mark.parametrize("video", ["mp4", "avi"])
@pytest.mark.parametrize(("height", "width"), [(18, 16), (7, 5)])
def test_every_file_has_the_levels_bit_for_bit(tmp_path, video, height, width):
    levels = random_levels(height=height, width=width)
    chosen = ["a/2", "a/0"]
    ml.export_for_experiment(meis_of_levels(levels), tmp_path, chosen, gap=0.1, video=video)
    assert {path.name for path in tmp_path.iterdir()} == FILES | {f"stimuli.{video}"}

    frames = np.load(tmp_path / "stimuli.npy")
    assert frames.dtype == np.uint8
    decoded, seconds, rate = read_video(tmp_path / f"stimuli.{video}")
    np.testing.assert_array_equal(decoded, frames)
    assert rate == Fraction(30)

    times = pd.read_csv(tmp_path / "frame_times.csv", keep_default_na=False)
    assert len(times) == len(frames) == 2 * 7 + 3 * 3
    np.testing.assert_allclose(times["onset_s"], seconds, atol=1e-3)
    np.testing.assert_allclose(np.diff(times["onset_s"]), 1 / 30)
    assert times["neuron"].drop_duplicates().tolist() == ["", "a/2", "a/0"]
    for neuron in chosen:
        shown = frames[times["neuron"] == neuron]
        number = int(neuron[-1])
        np.testing.assert_array_equal(shown[..., 1], levels[number, 0])
        np.testing.assert_array_equal(shown[..., 2], levels[number, 1])
        assert times["frame"][times["neuron"] == neuron].tolist() == list(range(7))
    assert (frames[..., 0] == 0).all()
    background = frames[times["neuron"] == ""]
    np.testing.assert_array_equal(np.unique(background.reshape(-1, 3), axis=0), [[0, 37, 36]])


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(0, 4), st.floats(0, 0.5))
def test_order_gap_and_length(seed, neurons, gap):
    meis = meis_of_levels(random_levels(5, time_steps=2, height=2, width=2, seed=seed))
    chosen = np.random.default_rng(seed).permutation(meis["neuron"].values)[: neurons + 1].tolist()
    shown = ml.projector_stimuli(meis, chosen, gap=gap)
    rest = round(gap * 30)
    assert len(shown.frames) == len(shown.frame_times) == rest + len(chosen) * (2 + rest)
    expected = [""] * rest + [label for neuron in chosen for label in [neuron] * 2 + [""] * rest]
    assert shown.frame_times["neuron"].tolist() == expected


def outside():
    levels = random_levels().astype(float)
    levels[1, 1, 3, 2, 2] = 299.7
    levels[1, 1, 4, 2, 2] = 256.0
    levels[2, 0, 0, 0, 0] = -12.0
    return levels


def test_values_outside_are_an_error_that_says_where_and_the_way_out(tmp_path):
    meis = meis_of_levels(outside())
    with pytest.raises(ValueError, match="3 of 1260 values") as error:
        ml.export_for_experiment(meis, tmp_path / "out", ["a/0", "a/1", "a/2"])
    assert f"a/1, UV: 0 below and 2 above, from {outside()[1, 1].min():.1f} to 299.7" in str(error.value)
    assert "a/2, green: 1 below and 0 above, from -12.0 to" in str(error.value)
    assert not (tmp_path / "out").exists()
    # The ranges it proposes are the projector's.
    proposed = eval(str(error.value).split("ranges=")[1].split("]")[0] + "]")
    np.testing.assert_allclose(np.array(proposed) * SD[:, None] + MEAN[:, None], [[0, 255]] * 2, atol=0.05)
    # A neuron that is within can be shown alone.
    ml.projector_stimuli(meis, ["a/0"])


def test_clipping_is_by_consent_and_reported():
    levels = outside()
    with pytest.warns(UserWarning, match="3 of 1260 values"):
        shown = ml.projector_stimuli(meis_of_levels(levels), ["a/0", "a/1", "a/2"], gap=0, clip=True)
    np.testing.assert_array_equal(shown.frames[7:14, :, :, 2], levels[1, 1].clip(0, 255).round())
    np.testing.assert_array_equal(shown.frames[14:, :, :, 1], levels[2, 0].clip(0, 255).round())
    table = shown.levels.set_index(["neuron", "channel"])
    assert table.loc[("a/1", "UV"), ["below", "above"]].tolist() == [0, 2]
    assert table.loc[("a/2", "green"), ["below", "above"]].tolist() == [1, 0]
    assert table["above"].sum() + table["below"].sum() == 3
    assert table.loc[("a/1", "UV"), "highest"] == pytest.approx(299.7)
    assert table.loc[("a/2", "green"), "lowest"] == pytest.approx(-12.0)


def test_what_rounds_to_the_range_is_inside():
    levels = random_levels().astype(float)
    levels[0, 0, 0, 0, :2] = -0.4, 255.4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = ml.projector_stimuli(meis_of_levels(levels), ["a/0"], gap=0)
    assert shown.frames[0, 0, :2, 1].tolist() == [0, 255]


def test_colours_of_the_projector():
    levels = random_levels(1)
    exchanged = ml.projector_stimuli(meis_of_levels(levels), ["a/0"], gap=0, colours={"green": "r", "UV": "GB"})
    np.testing.assert_array_equal(exchanged.frames[..., 0], levels[0, 0])
    np.testing.assert_array_equal(exchanged.frames[..., 1], levels[0, 1])
    np.testing.assert_array_equal(exchanged.frames[..., 2], levels[0, 1])
    grey = meis_of_levels(levels[:, :1], ["grey"], MEAN[:1], SD[:1])
    shown = ml.projector_stimuli(grey, ["a/0"], gap=0)
    np.testing.assert_array_equal(shown.frames, np.repeat(levels[0, 0][..., None], 3, axis=-1))


def test_still_images_of_a_run(tmp_path):
    images = find(still_model(), [0, 3], max_steps=5).assign_attrs(mean=[120.0], sd=[20.0])
    shown = ml.export_for_experiment(
        images, tmp_path / "images", ["3", "0"], gap=2.0, frame_rate=0.5, colours={"luminance": "RGB"}
    )
    assert shown.frame_times["neuron"].tolist() == ["", "3", "", "0", ""]
    assert shown.frame_times["onset_s"].tolist() == [0, 2, 4, 6, 8]
    expected = (images["stimulus"].sel(neuron="3").values[0, 0] * 20 + 120).round()
    np.testing.assert_array_equal(np.load(tmp_path / "images" / "stimuli.npy")[1, :, :, 0], expected)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"neurons": ["a/0", "b/7"]}, "no neuron 'b/7' among these MEIs; there are a/0, a/1"),
        ({}, {"neurons": []}, "at least one label"),
        ({}, {"neurons": "a/0"}, "list of at least one label"),
        ({}, {"gap": -1.0}, "-1.0 s"),
        ({}, {"gap": float("nan")}, "nan s"),
        ({}, {"frame_rate": 60.0}, "30 frames per second"),
        ({}, {"colours": {"green": "G"}}, "does not have the channels green, UV"),
        ({}, {"colours": {"green": "G", "UV": "G"}}, "one channel only"),
        ({}, {"colours": {"green": "G", "UV": "X"}}, "R, G or B"),
        ({}, {"colours": {"green": "G", "UV": ""}}, "R, G or B"),
        ({}, {"repeats": 0}, "repeats=0 has to be"),
        ({}, {"enlargement": 1.5}, "enlargement=1.5 has to be"),
        ({}, {"trigger": -1}, "trigger=-1 has to be"),
        ({}, {"gamma": 0.0}, "gamma=0.0 has to be"),
        ({}, {"gamma": 2.2, "measured_light": np.arange(256.0)}, "not both"),
        ({}, {"measured_light": np.arange(255.0)}, r"shape \(255, 3\); give 256"),
        ({}, {"measured_light": np.arange(256.0)[::-1]}, "has to increase"),
        ({}, {"measured_light": "nothing.csv"}, "nothing.csv cannot be read"),
        ({"rate": None}, {}, "images per second"),
        ({"channels": ("L", "M")}, {}, "channels L, M. Say it"),
    ],
)
def test_errors(change, options, message):
    meis = meis_of_levels(random_levels(), **change)
    with pytest.raises(ValueError, match=message):
        ml.projector_stimuli(meis, **({"neurons": ["a/0"]} | options))


def test_unfinished_neurons_and_unknown_mean_are_errors():
    meis = meis_of_levels(random_levels())
    meis["stimulus"][1] = np.nan
    meis["status"] = ("neuron", ["interrupted", "pending", "converged"])
    ml.projector_stimuli(meis, ["a/2"])
    for neuron, status in (("a/0", "interrupted"), ("a/1", "pending")):
        with pytest.raises(ValueError, match=f"{neuron} has no finished stimulus \\(status '{status}'\\)"):
            ml.projector_stimuli(meis, ["a/2", neuron])
    del meis.attrs["mean"]
    with pytest.raises(ValueError, match="mean and sd are not known"):
        ml.projector_stimuli(meis, ["a/2"])


def test_files_are_not_overwritten(tmp_path):
    meis = meis_of_levels(random_levels())
    (tmp_path / "levels.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"levels\.csv"):
        ml.export_for_experiment(meis, tmp_path, ["a/0"])
    assert (tmp_path / "levels.csv").read_text() == "mine"
    with pytest.raises(ValueError, match="'mov'"):
        ml.export_for_experiment(meis, tmp_path, ["a/0"], video="mov")


def test_from_a_store_on_the_command_line(tmp_path, capsys):
    levels = random_levels()
    ml.save_dataset(meis_of_levels(levels), tmp_path / "meis.zarr")
    main(["experiment", str(tmp_path / "meis.zarr"), str(tmp_path / "shown"), "[a/1,a/2]", "--gap", "0"])
    frames = np.load(tmp_path / "shown" / "stimuli.npy")
    np.testing.assert_array_equal(frames[:7, :, :, 1], levels[1, 0])
    printed = capsys.readouterr().out
    assert "14 frames, 0.5 s" in printed
    assert "a/2" in printed


def test_each_round_shows_all_in_an_order_that_its_seed_determines():
    meis = meis_of_levels(random_levels(5))
    chosen = meis["neuron"].values.tolist()
    orders = {}
    for seed in (1, 1, 2, None):
        shown = ml.projector_stimuli(meis, chosen, gap=0.1, repeats=4, order_seed=seed)
        rounds = [list(part["neuron"]) for _, part in shown.presentations.groupby("repeat")]
        assert [sorted(one) for one in rounds] == [chosen] * 4
        assert orders.setdefault(seed, rounds) == rounds
        for one in shown.presentations.itertuples():
            number, first = int(one.neuron[-1]), one.first_frame
            np.testing.assert_array_equal(shown.frames[first : first + 7, :, :, 2], random_levels(5)[number, 1])
            assert one.onset_s == pytest.approx(first / 30)
    assert orders[1] != orders[2]
    assert len({tuple(one) for one in orders[1]}) > 1
    assert orders[None] == [chosen] * 4


def test_pixels_are_enlarged_and_a_square_marks_the_first_frame():
    meis = meis_of_levels(random_levels())
    plain = ml.projector_stimuli(meis, ["a/0", "a/1"], gap=0.1)
    shown = ml.projector_stimuli(meis, ["a/0", "a/1"], gap=0.1, enlargement=4, trigger=3)
    assert shown.frames.shape[1:] == (6 * 4 + 3, 5 * 4, 3)
    np.testing.assert_array_equal(shown.frames[:, :24], np.kron(plain.frames, np.ones((1, 4, 4, 1), dtype=np.uint8)))
    assert (shown.frames[:, 24:, 3:] == 0).all()
    square = shown.frames[:, 24:, :3]
    is_first = np.isin(np.arange(len(shown.frames)), shown.presentations["first_frame"])
    assert (square[is_first] == 255).all()
    assert (square[~is_first] == 0).all()


@pytest.mark.parametrize("source", ["gamma", "array", "csv", "npy"])
def test_the_light_of_what_is_sent_is_the_light_that_is_wanted(tmp_path, source):
    levels = random_levels()
    value = np.arange(256) / 255
    light = np.stack([value**2.2, value**1.8, (np.exp(2 * value) - 1) * 7 + 3], axis=1)
    if source == "gamma":
        light, given = np.repeat(light[:, :1], 3, axis=1), {"gamma": 2.2}
    elif source == "array":
        given = {"measured_light": light}
    else:
        path = tmp_path / f"light.{source}"
        np.savetxt(path, light, delimiter=",") if source == "csv" else np.save(path, light)
        given = {"measured_light": path}
    frames = ml.projector_stimuli(meis_of_levels(levels), ["a/0"], gap=0, **given).frames.astype(int)
    for colour, channel in ((1, 0), (2, 1)):
        scale = (light[:, colour] - light[0, colour]) / (light[-1, colour] - light[0, colour])
        wanted, sent = levels[0, channel] / 255, frames[..., colour]
        # No neighbouring value is on the same side and nearer.
        assert (scale[(sent - 1).clip(0)] <= wanted + 1e-9).all()
        assert (wanted - 1e-9 <= scale[(sent + 1).clip(max=255)]).all()
        assert set(sent[wanted == 0]) <= {0}
        assert set(sent[wanted == 1]) <= {255}


def test_the_description_says_all_that_was_shown(tmp_path):
    meis = meis_of_levels(random_levels()).assign_attrs(model="retina", weights_digest="abc123", pixel_size=50.0)
    options = {"gap": 0.5, "enlargement": 5, "repeats": 2, "order_seed": 3, "trigger": 4, "gamma": 2.0}
    shown = ml.export_for_experiment(meis, tmp_path, ["a/2", "a/0"], screen_rate=60.0, **options)
    facts = json.loads((tmp_path / "stimuli.json").read_text(encoding="utf-8"))
    assert (facts["model"], facts["weights_digest"]) == ("retina", "abc123")
    assert (facts["pixel_size_um"], facts["screen_pixels_of_a_pixel"], facts["screen_pixel_should_be_um"]) == (
        50,
        5,
        10,
    )
    assert (facts["frame_rate_hz"], facts["screen_rate_hz"], facts["screen_images_of_a_frame"]) == (30, 60, 2)
    assert (facts["gap_s"], facts["repeats"], facts["order_seed"], facts["trigger_pixels"]) == (0.5, 2, 3, 4)
    assert facts["colours"] == {"green": "G", "UV": "B"}
    assert facts["background"] == {"green": 37, "UV": 36}
    assert facts["background_rgb"] == shown.frames[0, 0, 0].tolist()
    assert facts["norm"] == {
        name: pytest.approx(np.linalg.norm(meis.stimulus.sel(neuron=name))) for name in ("a/2", "a/0")
    }
    assert [one["onset_s"] for one in facts["presentations"]] == shown.presentations["onset_s"].tolist()
    assert len(facts["presentations"]) == 4
    readme = (tmp_path / "README.txt").read_text(encoding="utf-8")
    for said in ("abc123", "50 um", "of 10 um", "60 Hz", "seed 3", "** 2;", "UV: 36", f"{facts['norm']['a/0']:.3f}"):
        assert said in readme, said
    for one in facts["presentations"]:
        assert f"{one['onset_s']:.3f} s  {one['neuron']}, repeat {one['repeat']}" in readme
    assert all(path.name in readme for path in tmp_path.iterdir() if path.name != "README.txt")


def test_a_screen_of_a_rate_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="screen_rate=75"):
        ml.export_for_experiment(meis_of_levels(random_levels()), tmp_path / "out", ["a/0"], screen_rate=75.0)
    assert not (tmp_path / "out").exists()
