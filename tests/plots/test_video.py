"""Stimuli as files: read back with the libraries that players use."""

import struct
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from mei_lightning.models.base import StimulusFormat
from mei_lightning.plots.frames import dataset_stimulus_format, stimulus_to_rgb_frames
from mei_lightning.plots.video import (
    animated_png_bytes,
    save_meis_to_mp4_video,
    save_stimulus_to_animated_png,
    save_stimulus_to_gif,
    save_stimulus_to_mp4_video,
)

HOEFLING_MEAN = (37.417, 36.132)
HOEFLING_SD = (28.905, 39.841)


def read_mp4(path):
    """Frames [time, height, width, 3] and the stream."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames, stream


def read_animation(source):
    with Image.open(source) as image:
        frames, durations = [], []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.array(image.convert("RGB")))
            durations.append(image.info["duration"])
        return np.stack(frames), durations, image.info.get("loop")


def patch_stimulus(channel, channels=2, value=1.0):
    """A bright patch in one channel on the neutral background."""
    stimulus = torch.zeros(channels, 12, 18, 16)
    stimulus[channel, :, 4:10, 4:10] = value
    return stimulus


def colors_in_mp4(path, height=18):
    """Colours in the middle of the patch and of the background."""
    frames, _ = read_mp4(path)
    factor = frames.shape[1] // height
    return frames[6, 7 * factor, 7 * factor].astype(int), frames[6, 15 * factor, 13 * factor].astype(int)


def test_mp4_plays_in_a_browser(tmp_path):
    path = tmp_path / "mei.mp4"
    save_stimulus_to_mp4_video(torch.randn(2, 40, 18, 15), str(path))

    frames, stream = read_mp4(path)
    assert stream.codec_context.name == "h264"
    assert stream.codec_context.pix_fmt == "yuv420p"
    assert len(frames) == 40
    assert stream.average_rate == 30
    height, width = frames.shape[1:3]
    assert height % 2 == 0
    assert width % 2 == 0
    assert height / 18 == width / 15
    assert 256 <= height <= 512
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(
    ("channels", "channel", "color"),
    [
        (2, 0, (128, 255, 128)),
        (2, 1, (255, 128, 255)),
        (1, 0, (255, 255, 255)),
        (3, 0, (255, 128, 128)),
        (3, 1, (128, 255, 128)),
        (3, 2, (128, 128, 255)),
    ],
)
def test_channels_have_their_colors(tmp_path, channels, channel, color):
    save_stimulus_to_mp4_video(patch_stimulus(channel, channels), tmp_path / "a.mp4")
    patch, background = colors_in_mp4(tmp_path / "a.mp4")
    np.testing.assert_allclose(patch, color, atol=6)
    np.testing.assert_allclose(background, 128, atol=3)


def test_dark_patch_on_grey_whatever_the_bright_side_does(tmp_path):
    save_stimulus_to_mp4_video(patch_stimulus(0, 1, value=-3.0), tmp_path / "a.mp4")
    patch, background = colors_in_mp4(tmp_path / "a.mp4")
    np.testing.assert_allclose(patch, 0, atol=4)
    np.testing.assert_allclose(background, 128, atol=3)


def test_rate_start_and_still_image(tmp_path):
    facts = StimulusFormat(("grey",), 8, 8, frame_rate=15.625)
    stimulus = torch.randn(1, 20, 8, 8)

    save_stimulus_to_mp4_video(stimulus, tmp_path / "own.mp4", stimulus_format=facts)
    assert read_mp4(tmp_path / "own.mp4")[1].average_rate == Fraction(15.625)

    save_stimulus_to_mp4_video(stimulus, tmp_path / "slow.mp4", fps=5, start_at_frame=13, stimulus_format=facts)
    frames, stream = read_mp4(tmp_path / "slow.mp4")
    assert stream.average_rate == 5
    assert len(frames) == 7
    expected = stimulus_to_rgb_frames(stimulus)[13]
    factor = frames.shape[1] // 8
    np.testing.assert_allclose(frames[0][factor // 2 :: factor, factor // 2 :: factor], expected, atol=8)

    save_stimulus_to_mp4_video(stimulus[:, :1], tmp_path / "still.mp4")
    assert len(read_mp4(tmp_path / "still.mp4")[0]) == 1


@pytest.mark.parametrize("size", [(31, 33), (385, 401)])
def test_odd_sizes(tmp_path, size):
    save_stimulus_to_mp4_video(np.random.default_rng(0).standard_normal((1, 3, *size)), tmp_path / "a.mp4")
    height, width = read_mp4(tmp_path / "a.mp4")[0].shape[1:3]
    assert (height % 2, width % 2) == (0, 0)
    assert height / size[0] == width / size[1]


def test_projector_values(tmp_path):
    levels = np.zeros((2, 12, 18, 16))
    levels[0] = 200
    levels[1] = 40
    stimulus = (levels - np.reshape(HOEFLING_MEAN, (2, 1, 1, 1))) / np.reshape(HOEFLING_SD, (2, 1, 1, 1))
    save_stimulus_to_mp4_video(stimulus, tmp_path / "a.mp4", apply_undo_video_normalization=True)
    patch, _ = colors_in_mp4(tmp_path / "a.mp4")
    np.testing.assert_allclose(patch, (40, 200, 40), atol=4)


def test_projector_values_are_clipped_not_wrapped():
    facts = StimulusFormat(("grey",), 1, 3, 30.0, mean=(100.0,), sd=(50.0,))
    stimulus = np.array([-10.0, 0.5, 10.0]).reshape(1, 1, 1, 3)
    frames = stimulus_to_rgb_frames(stimulus, apply_undo_video_normalization=True, stimulus_format=facts)
    np.testing.assert_array_equal(frames[0, 0, :, 0], [0, 125, 255])


@settings(max_examples=50)
@given(
    stimulus=npst.arrays(
        np.float64,
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
        elements=st.floats(-1e6, 1e6),
    ),
)
def test_scale_is_symmetric_about_mid_grey(stimulus):
    frames = stimulus_to_rgb_frames(stimulus).astype(int)
    mirrored = stimulus_to_rgb_frames(-stimulus).astype(int)
    np.testing.assert_allclose(frames - 128, 128 - mirrored, atol=1)
    shown = np.moveaxis(frames, -1, 0)[{1: [0], 2: [1, 0], 3: [0, 1, 2]}[len(stimulus)]]
    largest = np.abs(stimulus).max()
    np.testing.assert_allclose(shown - 128, 127 * stimulus / largest if largest else 0.0, atol=0.5 + 1e-6)


@pytest.mark.parametrize("undo", [False, True])
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_stimulus_is_not_changed(tmp_path, kind, undo):
    stimulus = np.random.default_rng(0).standard_normal((2, 5, 18, 16)).astype(np.float32)
    before = stimulus.copy()
    given_stimulus = stimulus if kind == "array" else torch.from_numpy(stimulus).requires_grad_()
    save_stimulus_to_mp4_video(given_stimulus, tmp_path / "a.mp4", apply_undo_video_normalization=undo)
    np.testing.assert_array_equal(stimulus, before)


def test_animated_png_is_exact_and_loops(tmp_path):
    stimulus = torch.randn(2, 12, 18, 16, generator=torch.Generator().manual_seed(0))
    save_stimulus_to_animated_png(stimulus, tmp_path / "a.png")

    frames, durations, loop = read_animation(tmp_path / "a.png")
    factor = frames.shape[1] // 18
    assert factor > 10
    expected = np.kron(stimulus_to_rgb_frames(stimulus), np.ones((1, factor, factor, 1), dtype=np.uint8))
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_allclose(durations, 1000 / 30, atol=0.5)
    assert loop == 0
    assert (tmp_path / "a.png").read_bytes() == animated_png_bytes(stimulus)


def test_animated_png_of_a_still_image_is_a_png():
    data = animated_png_bytes(torch.randn(3, 1, 20, 30))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width / 30 == height / 20
    with Image.open(BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 1


def test_gif(tmp_path):
    stimulus = torch.randn(1, 12, 18, 16, generator=torch.Generator().manual_seed(0))
    save_stimulus_to_gif(stimulus, tmp_path / "a.gif", fps=10, start_at_frame=2)
    frames, durations, loop = read_animation(tmp_path / "a.gif")
    expected = stimulus_to_rgb_frames(stimulus)[2:]
    factor = frames.shape[1] // 18
    np.testing.assert_array_equal(frames[:, ::factor, ::factor], expected)
    assert durations == [100] * 10
    assert loop == 0


def dataset_of_patches(count):
    stimuli = torch.zeros(count, 2, 6, 18, 16)
    for number in range(count):
        stimuli[number, number % 2, :, 4:10, 4:10] = number + 1.0
    return xr.Dataset(
        {"stimulus": (("neuron", "channel", "time", "y", "x"), stimuli.numpy())},
        coords={"channel": ["green", "UV"], "neuron": [f"session_1/{number}" for number in range(count)]},
        attrs={"frame_rate": 15.0, "pixel_size": 50.0, "mean": [1.0, 2.0], "sd": [3.0, 4.0], "frames_lost": 2},
    )


def test_format_of_a_dataset():
    facts = dataset_stimulus_format(dataset_of_patches(1))
    assert facts == StimulusFormat(("green", "UV"), 18, 16, 15.0, 50.0, (1.0, 2.0), (3.0, 4.0), 2)
    bare = dataset_of_patches(1)
    bare.attrs = {}
    assert dataset_stimulus_format(bare) == StimulusFormat(("green", "UV"), 18, 16)


@pytest.mark.parametrize("count", [1, 5, 150])
def test_mosaic_shows_every_neuron(tmp_path, count):
    save_meis_to_mp4_video(dataset_of_patches(count), tmp_path / "meis.mp4")
    frames, stream = read_mp4(tmp_path / "meis.mp4")
    assert stream.average_rate == 15
    assert len(frames) == 6
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    assert max(frames.shape[1:3]) <= 1400

    red, green, blue = frames[3].astype(int).transpose(2, 0, 1)
    green_area = np.sum((green > 230) & (red < 170) & (blue < 170))
    violet_area = np.sum((green < 160) & (red > 220) & (blue > 220))
    one_patch = (green_area + violet_area) / count
    assert green_area == pytest.approx(one_patch * ((count + 1) // 2), rel=0.1)
    assert violet_area == pytest.approx(one_patch * (count // 2), rel=0.1)
    factor = np.sqrt(one_patch) / 6
    assert factor == pytest.approx(round(factor), rel=0.05)


def test_mosaic_of_a_part_says_so_above_it(tmp_path):
    dataset = dataset_of_patches(2)
    frames = {}
    for total in (None, 2, 30):
        save_meis_to_mp4_video(dataset, tmp_path / "meis.mp4", total=total)
        frames[total] = read_mp4(tmp_path / "meis.mp4")[0]
    np.testing.assert_array_equal(frames[2], frames[None])
    strip = frames[30].shape[1] - frames[None].shape[1]
    assert strip > 0
    # Dark letters on white, and below them what there is without.
    assert frames[30][0, :strip].min() < 100
    assert np.median(frames[30][0, :strip]) > 250
    assert np.abs(frames[30][:, strip:].astype(int) - frames[None]).mean() < 1


def test_mosaic_survives_a_stimulus_that_is_not_finite(tmp_path):
    dataset = dataset_of_patches(2)
    dataset["stimulus"][0] = np.nan
    save_meis_to_mp4_video(dataset, tmp_path / "meis.mp4")
    red, green, blue = read_mp4(tmp_path / "meis.mp4")[0][3].astype(int).transpose(2, 0, 1)
    assert not np.any((green > 230) & (red < 170))
    assert np.any((green < 160) & (red > 220) & (blue > 220))


@pytest.mark.parametrize(
    ("shape", "path", "arguments", "message"),
    [
        ((1, 2, 40, 18, 16), "a.mp4", {}, r"shape \(1, 2, 40, 18, 16\).*stimulus\[0\]"),
        ((40, 18, 16), "a.mp4", {}, r"shape \(40, 18, 16\)"),
        ((2, 0, 18, 16), "a.mp4", {}, r"shape \(2, 0, 18, 16\)"),
        ((4, 40, 18, 16), "a.mp4", {}, "at most three channels, but the stimulus has 4"),
        ((2, 40, 18, 16), "a.avi", {}, r"'a\.avi'.*'\.mp4'"),
        ((2, 40, 18, 16), "a.mp4", {"start_at_frame": 40}, "frames 0 to 39.*start_at_frame=40"),
        ((2, 40, 18, 16), "a.mp4", {"start_at_frame": -1}, "start_at_frame=-1"),
        ((2, 40, 18, 16), "a.mp4", {"fps": 0}, "fps=0"),
        ((1, 40, 18, 16), "a.mp4", {"apply_undo_video_normalization": True}, "mean and sd are not known"),
        (
            (1, 40, 18, 16),
            "a.mp4",
            {
                "apply_undo_video_normalization": True,
                "stimulus_format": StimulusFormat(("a", "b"), 18, 16, 30.0, mean=(0, 0), sd=(1, 1)),
            },
            "has 1 channels, but stimulus_format has",
        ),
    ],
)
def test_bad_input_is_named_before_anything_is_written(tmp_path, monkeypatch, shape, path, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        save_stimulus_to_mp4_video(np.zeros(shape), path, **arguments)
    assert not list(tmp_path.iterdir())


def test_other_files_check_their_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"'a\.gif'.*'\.png'"):
        save_stimulus_to_animated_png(np.zeros((1, 2, 3, 3)), "a.gif")
    with pytest.raises(ValueError, match=r"'a\.png'.*'\.gif'"):
        save_stimulus_to_gif(np.zeros((1, 2, 3, 3)), "a.png")
    with pytest.raises(ValueError, match="no neurons"):
        save_meis_to_mp4_video(dataset_of_patches(2).isel(neuron=[]), tmp_path / "a.mp4")
