"""Videos in notebooks and files, compared with what openretina would show."""

import base64
import io
import re

import av
import numpy as np
import pytest
import torch

from mei_lightning import openretina_api

RANDOM = np.random.default_rng(0)
display = pytest.importorskip("IPython.display", reason="IPython is not installed")


@pytest.fixture
def theirs():
    return pytest.importorskip("openretina.utils.plotting", reason="openretina is not installed")


@pytest.fixture
def shown(monkeypatch):
    """What is displayed in the notebook."""
    objects = []
    monkeypatch.setattr(display, "display", objects.append)
    return objects


def frames_of(source):
    with av.open(source if isinstance(source, str) else io.BytesIO(source)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("shape", [(9, 8, 6, 1), (9, 8, 6, 2), (9, 8, 6, 3), (2, 9, 7, 5), (1, 9, 8, 6)])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.uint8])
def test_frames_are_those_of_openretina(shape, kind, theirs):
    video = (100 * RANDOM.random(shape) + 20).astype(kind)
    np.testing.assert_array_equal(
        openretina_api.prepare_video_for_display(video), theirs.prepare_video_for_display(video.copy())
    )


def test_the_scale_of_the_projector_is_that_of_openretina(theirs):
    video = torch.from_numpy(RANDOM.standard_normal((2, 5, 4, 3))).float()
    before = video.clone()
    torch.testing.assert_close(
        openretina_api.undo_video_normalization(video), theirs.undo_video_normalization(video), rtol=0, atol=0
    )
    high = openretina_api.MEAN_STD_DICT_74x64
    torch.testing.assert_close(
        openretina_api.undo_video_normalization(video, high), theirs.undo_video_normalization(video, high)
    )
    assert torch.equal(video, before)
    with pytest.raises(ValueError, match="channel_2_mean"):
        openretina_api.undo_video_normalization(torch.zeros(3, 1, 2, 2))


def test_constants_are_those_of_openretina():
    constants = pytest.importorskip("openretina.data_io.hoefling_2024.constants")
    for name in (
        "FRAME_RATE_MODEL",
        "STIMULUS_RANGE_CONSTRAINTS",
        "pre_normalisation_values_18x16",
        "MEAN_STD_DICT_74x64",
    ):
        assert getattr(openretina_api, name) == getattr(constants, name)


def test_a_stimulus_is_played_in_its_colours():
    stimulus = torch.zeros(2, 6, 18, 16)
    stimulus[0, :, :9] = 1.0
    stimulus[1, :, 9:] = 1.0
    html = openretina_api.play_stimulus(stimulus.requires_grad_()).data
    (data,) = re.findall(r"base64,([^\"]+)\"", html)
    frames = frames_of(base64.b64decode(data)).astype(int)
    half = frames.shape[1] // 2
    assert len(frames) == 6
    np.testing.assert_allclose(frames[:, : half - 24].mean(axis=(0, 1, 2)), [0, 255, 0], atol=12)
    np.testing.assert_allclose(frames[:, half + 24 :].mean(axis=(0, 1, 2)), [255, 0, 255], atol=12)
    assert openretina_api.play_stimulus(0.5 * torch.ones(1, 3, 4, 4), normalise=False).data.startswith("<video")
    with pytest.raises(ValueError, match=r"stimulus\[0\]"):
        openretina_api.play_stimulus(stimulus[None])


def test_a_stimulus_is_played_beside_its_response():
    html = openretina_api.play_sample_batch(torch.rand(2, 3, 6, 5), torch.rand(3, 2), 1).data
    assert "animation" in html
    with pytest.raises(ValueError, match="3 frames and the response 2"):
        openretina_api.play_sample_batch(torch.rand(2, 3, 6, 5), torch.rand(2, 2))


def test_arrays_are_written_and_shown(tmp_path, shown):
    video = np.broadcast_to(np.linspace(0, 1, 5)[:, None, None, None], (5, 32, 48, 3))
    path = tmp_path / "video.mp4"
    openretina_api.numpy_to_mp4_video(video, path, display_video=False, fps=10)
    assert shown == []
    found = frames_of(str(path)).astype(int)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), [0, 63, 127, 191, 255], atol=3)
    openretina_api.numpy_to_mp4_video(video, display_width=200)
    openretina_api.display_video(None, path)
    openretina_api.display_video(video, tmp_path / "another.mp4")
    assert (tmp_path / "another.mp4").exists()
    assert len(shown) == 3
    assert all(isinstance(video, display.Video) for video in shown)
    assert shown[0].width == 200
    for one in shown:
        assert "data:video/mp4;base64," in one._repr_html_()


def test_what_cannot_be_shown_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nothing to do"):
        openretina_api.numpy_to_mp4_video(np.zeros((2, 4, 4, 3)), display_video=False)
    with pytest.raises(ValueError, match=r"end in '\.mp4'"):
        openretina_api.numpy_to_mp4_video(np.zeros((2, 4, 4, 3)), tmp_path / "video.avi")
    with pytest.raises(ValueError, match="no video_array"):
        openretina_api.display_video(None, tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="one to three channels"):
        openretina_api.prepare_video_for_display(np.zeros((5, 6, 7, 4)))
