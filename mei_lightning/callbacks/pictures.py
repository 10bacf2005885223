"""Pictures, as each kind of logger takes them."""

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary

Picture = np.ndarray | Figure | bytes
"""An image ``[height, width, colours]``, a figure, or an animated PNG."""


def shows_pictures(logger: Logger) -> bool:
    """Whether a logger does: TensorBoard's, and those that have Lightning's ``log_image``, as that of wandb has."""
    return isinstance(logger, TensorBoardLogger) or hasattr(logger, "log_image")


def show(loggers: Iterable[Logger], name: str, picture: Picture, step: int) -> None:
    """Give a picture to all loggers that show pictures."""
    for logger in filter(shows_pictures, loggers):
        if isinstance(logger, TensorBoardLogger):
            _show_in_tensorboard(logger, name, picture, step)
        elif not isinstance(picture, bytes):
            logger.log_image(name, [_image(picture)], step=step)  # type: ignore[attr-defined]
        elif hasattr(logger, "log_video"):
            with tempfile.TemporaryDirectory() as directory:
                animation = Path(directory) / "stimulus.gif"
                with Image.open(io.BytesIO(picture)) as frames:
                    frames.save(animation, save_all=True, loop=0)
                logger.log_video(name, [str(animation)], step=step, format=["gif"])


def _show_in_tensorboard(logger: TensorBoardLogger, name: str, picture: Picture, step: int) -> None:
    writer = logger.experiment
    if isinstance(picture, Figure):
        writer.add_figure(name, picture, step)
    elif isinstance(picture, bytes):
        # SummaryWriter.add_video needs an old moviepy; TensorBoard shows an animated PNG as it is.
        image = Summary.Image(colorspace=3, encoded_image_string=picture)
        writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
    else:
        writer.add_image(name, picture, step, dataformats="HWC")


def _image(picture: np.ndarray | Figure) -> Image.Image:
    if not isinstance(picture, Figure):
        return Image.fromarray(picture)
    drawn = io.BytesIO()
    picture.savefig(drawn)
    return Image.open(drawn)
