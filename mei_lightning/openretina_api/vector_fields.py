"""Local spike-triggered averages: how a neuron's response to an image changes with each pixel (Goldin et al. 2022)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from torch import nn

from mei_lightning.exceptions import InvalidValueError, NothingThereError, UnknownNeuronError
from mei_lightning.gradients import gradient_of
from mei_lightning.openretina_api.vector_field_plots import plot_components, plot_points
from mei_lightning.paths import local_path

Array = NDArray[Any]

_EXTRA_GREY_FRAMES = 10


def load_and_preprocess_images(image_dir: str, target_h: int, target_w: int, n_channels: int) -> Array:
    """The PNG images of a folder, every so many-th pixel of their middle.

    Args:
        image_dir: the folder; the images are of one size, and grey.
        target_h: height to cut out.
        target_w: width to cut out.
        n_channels: how often to repeat an image.

    Returns:
        ``[images, n_channels, target_h, target_w]``, in the order of the names.

    Raises:
        FileNotFoundError: if the folder has no PNG images.
        ValueError: if the images are coloured, of different sizes, or smaller than what is to be cut out.
    """
    paths = sorted(path for path in local_path("image_dir", image_dir).iterdir() if path.suffix.lower() == ".png")
    if not paths:
        raise NothingThereError(f"The folder '{image_dir}' has no PNG images.")
    pictures = [np.asarray(Image.open(path)) for path in paths]
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1 or pictures[0].ndim != 2:
        raise InvalidValueError(
            f"The images in '{image_dir}' have to be grey and of one size; their shapes: "
            f"{', '.join(map(str, sorted(shapes)))}."
        )
    images = np.stack(pictures)
    height, width = images.shape[1:]
    if height < target_h or width < target_w:
        raise InvalidValueError(
            f"The images in '{image_dir}' have {height} x {width} pixels, fewer than {target_h} x {target_w}."
        )
    factor = max(1, int(min(height / target_h, width / target_w)))
    coarse = images[:, ::factor, ::factor]
    top, left = (coarse.shape[1] - target_h) // 2, (coarse.shape[2] - target_w) // 2
    cut = coarse[:, top : top + target_h, left : left + target_w].astype(np.float32)
    return np.repeat(cut[:, None], n_channels, axis=1)


@torch.no_grad()
def get_model_temporal_padding(
    model: nn.Module, n_channels: int, target_h: int, target_w: int, device: str | torch.device
) -> int:
    """How many frames fewer the response of a model has than a stimulus of 100 frames.

    Args:
        model: a model of this package or of openretina.
        n_channels: channels of its stimulus.
        target_h: height of its stimulus.
        target_w: width of its stimulus.
        device: where the model is.
    """
    frames = 100
    return frames - model(torch.zeros(1, n_channels, frames, target_h, target_w, device=device)).shape[1]


def normalize_movies_array(movies: Array, model: Any, session_id: str, n_channels: int) -> Array:
    """Movies in the model's units, ``(value - mean) / sd``, with the mean and sd that it states.

    Args:
        movies: ``[movies, channels, time, height, width]``; changed in place, as openretina does.
        model: with ``data_info["movie_norm_dict"]``.
        session_id: the session; where the model states nothing of it, its default counts.
        n_channels: so many channels.

    Raises:
        ValueError: if the model states no mean and sd.
    """
    stated = model.data_info.get("movie_norm_dict", {})
    values = stated.get(session_id, stated.get("default"))
    if values is None:
        raise InvalidValueError(
            f"The model states no mean and sd of session {session_id!r} in data_info['movie_norm_dict'] (it has "
            f"{', '.join(map(str, stated)) or 'nothing'}). Give movies in its units, and normalize_movies=False."
        )
    movies[:, :n_channels] = (movies[:, :n_channels] - values["norm_mean"]) / values["norm_std"]
    return movies


def prepare_movies_dataset(
    model: Any,
    session_id: str,
    n_image_frames: int = 16,
    normalize_movies: bool = True,
    image_library: Array | None = None,
    image_dir: str | None = None,
    device: str | torch.device = "cuda",
) -> tuple[Array, int]:
    """Movies that each show grey, for as long as the model looks back, and then a still image.

    Args:
        model: a model of this package or of openretina, with ``data_info``.
        session_id: the session whose mean and sd count.
        n_image_frames: frames of the image.
        normalize_movies: whether the images are on the screen's scale; otherwise they are in the model's units.
        image_library: ``[images, channels, height, width]``; or else
        image_dir: a folder for ``load_and_preprocess_images``.
        device: where the model is.

    Returns:
        The movies ``[images, channels, time, height, width]``, and how many frames of each are grey.

    Raises:
        ValueError: if not exactly one of ``image_library`` and ``image_dir`` is given, or as the functions above.
        FileNotFoundError: as ``load_and_preprocess_images``.
    """
    if (image_library is None) == (image_dir is None):
        raise InvalidValueError("Give images by image_library or by image_dir, one of them.")
    channels, height, width = model.data_info["input_shape"]
    if image_dir is not None:
        images = load_and_preprocess_images(image_dir, height, width, channels)
    else:
        images = np.asarray(image_library)
        if images.ndim != 4 or images.shape[1:] != (channels, height, width):
            raise InvalidValueError(
                f"image_library has shape {images.shape}, but the model sees [images, {channels}, {height}, {width}]."
            )
    grey_frames = get_model_temporal_padding(model, channels, height, width, device) + _EXTRA_GREY_FRAMES
    movies = np.repeat(images[:, :, None], grey_frames + n_image_frames, axis=2)
    if normalize_movies:
        # Whole numbers would be rounded.
        movies = normalize_movies_array(movies.astype(np.float32), model, session_id, channels)
    movies[:, :, :grey_frames] = movies.mean()
    return movies, grey_frames


def compute_lsta_library(
    model: nn.Module,
    movies: Array,
    session_id: str,
    cell_id: int,
    batch_size: int = 64,
    integration_window: tuple[int, int] = (5, 15),
    device: str | torch.device = "cuda",
) -> tuple[Array, Array]:
    """The local spike-triggered average of a neuron for each movie, and the responses of all neurons.

    It is the gradient of the neuron's response, summed over a window of response frames, by the movie, averaged over
    all frames of the movie (Goldin et al. 2022, "Context-dependent selectivity to natural images in the retina").

    Args:
        model: a model of this package or of openretina.
        movies: ``[movies, channels, time, height, width]``, in the model's units.
        session_id: the neuron's session.
        cell_id: the neuron.
        batch_size: movies at a time.
        integration_window: first response frame of the window and the one after its last.
        device: where the model is.

    Returns:
        Local spike-triggered averages ``[movies, channels, height, width]`` and responses
        ``[movies, time', neurons]``.

    Raises:
        IndexError: if the session has no such neuron.
        ValueError: if the window is not inside the response.
    """
    model.eval()
    first, last = integration_window
    gradients, responses = [], []
    for batch in torch.from_numpy(np.asarray(movies, dtype=np.float32)).split(batch_size):
        shown = batch.to(device).requires_grad_()
        response = model(shown, data_key=session_id)
        frames, neurons = response.shape[1:]
        if not 0 <= cell_id < neurons:
            raise UnknownNeuronError(f"cell_id={cell_id}: session {session_id!r} has neurons 0 to {neurons - 1}.")
        if not 0 <= first < last <= frames:
            raise InvalidValueError(
                f"integration_window={integration_window} is not inside the response, which has {frames} frames."
            )
        gradient = gradient_of(response[:, first:last, cell_id].sum(), shown)
        gradients.append(gradient.mean(dim=2).cpu().numpy())
        responses.append(response.detach().cpu().numpy())
    return np.concatenate(gradients), np.concatenate(responses)


def get_pc_from_pca(model: Any, channel: int, lsta_library: Array, plot: bool = False) -> tuple[Array, Array, Array]:
    """The two images along which local spike-triggered averages differ most, their first principal components.

    Args:
        model: accepted for openretina's callers; the averages tell their size.
        channel: the channel to look at.
        lsta_library: ``[movies, channels, height, width]``.
        plot: whether to show them in a new figure.

    Returns:
        The first and the second component, ``[height * width]``, and the shares of variance that they explain.
    """
    averages = lsta_library[:, channel]
    pca = PCA(n_components=2).fit(averages.reshape(len(averages), -1))
    first, second = pca.components_
    if plot:
        plot_components(first, second, pca.explained_variance_ratio_, averages.shape[1:])
    return first, second, pca.explained_variance_ratio_


def get_images_coordinate(images: Array, PC1: Array, PC2: Array, plot: bool = False) -> Array:
    """Where images lie in the plane of two components.

    Args:
        images: ``[images, height, width]``.
        PC1: the first component, ``[height * width]``.
        PC2: the second.
        plot: whether to show them in a new figure.

    Returns:
        ``[images, 2]``.
    """
    coordinates = images.reshape(len(images), -1) @ np.stack([PC1, PC2], axis=1)
    if plot:
        plot_points(coordinates)
    return coordinates
