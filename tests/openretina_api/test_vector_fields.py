"""Local spike-triggered averages, compared with openretina's functions and with a linear neuron's filter."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import mei_lightning as ml
from mei_lightning import openretina_api

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _without_a_screen():
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture
def theirs():
    return pytest.importorskip(
        "openretina.insilico.vector_field_analysis.vector_field_analysis", reason="openretina is not installed"
    )


@pytest.fixture
def network():
    from openretina_checkpoints import unified_core_readout

    return unified_core_readout(
        data_info={"movie_norm_dict": {"default": {"norm_mean": 100.0, "norm_std": 40.0}}}, shape=(1, 18, 16)
    )


SESSION = "session_2_ventral2_20201016"


@pytest.mark.filterwarnings("ignore:No data key provided", "ignore:.*does not state its frame rate")
def test_the_analysis_is_that_of_openretina(theirs, network):
    model = ml.load_model(network)
    images = (255 * RANDOM.random((7, 1, 18, 16))).astype(np.float32)
    expected, grey = theirs.prepare_movies_dataset(network, SESSION, image_library=images.copy(), device="cpu")
    assert grey == 40
    averages, responses = theirs.compute_lsta_library(
        network, expected, SESSION, 3, batch_size=3, integration_window=(2, 9), device="cpu"
    )
    for ours in (network, model):
        movies, ours_grey = openretina_api.prepare_movies_dataset(ours, SESSION, image_library=images, device="cpu")
        np.testing.assert_allclose(movies, expected, rtol=1e-5, atol=1e-6)
        assert ours_grey == grey
        found = openretina_api.compute_lsta_library(
            ours, movies, SESSION, 3, batch_size=4, integration_window=(2, 9), device="cpu"
        )
        np.testing.assert_allclose(found[0], averages, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found[1], responses, rtol=1e-4, atol=1e-5)
        # Theirs works on our model.
        np.testing.assert_allclose(
            theirs.compute_lsta_library(ours, movies, SESSION, 3, integration_window=(2, 9), device="cpu")[0],
            averages,
            rtol=1e-3,
            atol=1e-6,
        )
    components = openretina_api.get_pc_from_pca(model, 0, averages, plot=True)
    for one, other in zip(components, theirs.get_pc_from_pca(network, 0, averages), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    first, second, explained = components
    places = openretina_api.get_images_coordinate(images[:, 0], first, second, plot=True)
    np.testing.assert_allclose(places, theirs.get_images_coordinate(images[:, 0], first, second), rtol=1e-4)
    for figure in (
        openretina_api.plot_untreated_vectorfield(averages, 0, first, second, places),
        openretina_api.plot_clean_vectorfield(averages, 0, first, second, images[:, 0], places, explained),
    ):
        assert [axes.get_title()[:3] for axes in figure.axes[1:]] == ["PC1", "PC2"]


class Linear(torch.nn.Module):
    """One neuron with a filter in space; the response of a frame is to that frame."""

    def __init__(self):
        super().__init__()
        self.filter = torch.nn.Parameter(torch.from_numpy(RANDOM.standard_normal((1, 6, 5))).float())

    def forward(self, stimulus, data_key=None):
        return torch.einsum("bcthw,chw->bt", stimulus, self.filter)[..., None]


def test_the_average_of_a_linear_neuron_is_its_filter():
    """Of 20 frames 10 count, so that half of the filter is the mean over frames."""
    model = Linear()
    movies = RANDOM.standard_normal((4, 1, 20, 6, 5))
    averages, responses = openretina_api.compute_lsta_library(model, movies, "any", 0, device="cpu")
    np.testing.assert_allclose(
        averages, np.broadcast_to(0.5 * model.filter.detach().numpy(), averages.shape), atol=1e-6
    )
    assert responses.shape == (4, 20, 1)
    assert model.filter.grad is None
    with pytest.raises(IndexError, match="neurons 0 to 0"):
        openretina_api.compute_lsta_library(model, movies, "any", 1, device="cpu")
    with pytest.raises(ValueError, match="has 20 frames"):
        openretina_api.compute_lsta_library(model, movies, "any", 0, integration_window=(10, 30), device="cpu")


def test_images_are_coarse_and_cut_out_of_the_middle(tmp_path):
    """openretina's function fails with NumPy 2."""
    pictures = [(255 * RANDOM.random((40, 37))).astype(np.uint8) for _ in range(3)]
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    images = openretina_api.load_and_preprocess_images(str(tmp_path), 18, 16, 2)
    assert images.shape == (3, 2, 18, 16)
    for image, picture in zip(images, pictures, strict=True):
        np.testing.assert_array_equal(image[0], picture[::2, ::2][1:19, 1:17])
        np.testing.assert_array_equal(image[1], image[0])
    with pytest.raises(ValueError, match="40 x 37 pixels, fewer than 50 x 50"):
        openretina_api.load_and_preprocess_images(str(tmp_path), 50, 50, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no PNG"):
        openretina_api.load_and_preprocess_images(str(tmp_path / "empty"), 5, 5, 1)


def test_bins_show_the_mean_of_their_arrows():
    averages, images = RANDOM.standard_normal((60, 1, 6, 5)), RANDOM.standard_normal((60, 6, 5))
    first, second = np.linalg.qr(RANDOM.standard_normal((30, 2)))[0].T
    places = openretina_api.get_images_coordinate(images, first, second)
    figure = openretina_api.plot_clean_vectorfield(
        averages, 0, first, second, images, places, np.array([0.5, 0.2]), 1, 1, responses=RANDOM.random(60)
    )
    (arrows,) = (part for part in figure.axes[0].collections if hasattr(part, "U"))
    mean = averages[:, 0].mean(axis=0).ravel()
    np.testing.assert_allclose([arrows.U[0], arrows.V[0]], [mean @ first, mean @ second])
    np.testing.assert_allclose(arrows.get_offsets()[0], places.mean(axis=0))
    shaded = openretina_api.plot_clean_vectorfield(
        averages, 0, first, second, images, places, np.array([0.5, 0.2]), responses=RANDOM.random(60)
    )
    assert shaded.axes[1].get_ylabel() == "Response magnitude"
    with pytest.raises(ValueError, match="60 averages, 59 images"):
        openretina_api.plot_clean_vectorfield(averages, 0, first, second, images[1:], places, np.array([0.5, 0.2]))


def test_movies_need_images_and_a_scale():
    data_info = {"input_shape": (1, 6, 5)}
    model = type("Model", (), {"data_info": data_info})()
    with pytest.raises(ValueError, match="one of them"):
        openretina_api.prepare_movies_dataset(model, "any", device="cpu")
    with pytest.raises(ValueError, match="normalize_movies=False"):
        openretina_api.normalize_movies_array(np.zeros((1, 1, 2, 6, 5)), model, "any", 1)
