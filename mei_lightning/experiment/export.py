"""The files of an experiment: frames, their times, what they are, and a program that shows them."""

import importlib.resources
import json
import shutil
import uuid
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import xarray as xr

from mei_lightning.exceptions import AlreadyThereError, InvalidValueError
from mei_lightning.experiment.description import describe_experiment, readme_of
from mei_lightning.experiment.frames import ProjectorStimuli, projector_stimuli
from mei_lightning.paths import local_path
from mei_lightning.plots.frames import Frames
from mei_lightning.results.dataset import check_store
from mei_lightning.results.disk_errors import check_writable
from mei_lightning.results.replacing import replace

_SCRIPT = "show_with_psychopy.py"


def export_for_experiment(
    meis: xr.Dataset | str | Path,
    directory: str | Path,
    neurons: Sequence[str],
    *,
    screen_rate: float | None = None,
    video: Literal["mp4", "avi"] = "mp4",
    **shown: Any,
) -> ProjectorStimuli:
    """Write the MEIs of some neurons for an experiment: what ``projector_stimuli`` returns, as files.

    ``stimuli.npy`` has the frames, for ``numpy.load``; ``stimuli.mp4`` (H.264) or ``stimuli.avi`` (FFV1) has the same
    frames, without loss, as RGB; ``frame_times.csv`` says when each is shown; ``levels.csv`` has the range of values
    of each neuron and channel, which of them were clipped, and the projector's colour. ``stimuli.json`` and, for
    people, ``README.txt`` say what they are: sizes, rates, gap, background, colours, norms, the model's weights, and
    the onset of each stimulus. ``show_with_psychopy.py`` shows them.

    Args:
        meis: MEIs as ``find_meis`` returns them, or the path of a store of them.
        directory: where to write; made if it is missing.
        neurons: labels, in the order of showing, e.g. ``["session_1/5", "session_1/7"]``.
        screen_rate: images per second (Hz) of the screen, a whole multiple of the frame rate: the program shows each
            frame so many times. By default the frame rate.
        video: "mp4" (H.264) or "avi" (FFV1), both lossless.
        shown: as for ``projector_stimuli``: gap, clip, colours, repeats, enlargement and so on.

    Returns:
        What was written.

    Raises:
        ValueError: as ``projector_stimuli``, or if ``video`` or ``screen_rate`` is something else; nothing is written.
        FileExistsError: if one of the files exists.
        FileNotFoundError: if there is no store at the path.
        PermissionError: if the directory cannot be written to.

    Example:
        >>> shown = [(-1.294, 7.528), (-0.907, 5.494)]  # green and UV that the projector has
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], ranges=shown, max_steps=4, progress_bar=False)
        >>> stimuli = ml.export_for_experiment(meis, "to_show", ["session_1/0"], gap=0.5)
        >>> np.load("to_show/stimuli.npy").shape  # 15 frames of background, 40 of the MEI, 15 of background
        (70, 18, 16, 3)
        >>> stimuli.presentations[["neuron", "onset_s"]].values.tolist()
        [['session_1/0', 0.5]]
    """
    if video not in ("mp4", "avi"):
        raise InvalidValueError(f"A lossless video is 'mp4' or 'avi', not {video!r}.")
    names = ("stimuli.npy", f"stimuli.{video}", "frame_times.csv", "levels.csv", "stimuli.json", "README.txt", _SCRIPT)
    directory = local_path("directory", directory)
    if existing := [name for name in names if (directory / name).exists()]:
        raise AlreadyThereError(f"{directory} has {', '.join(existing)} already; give another directory, or move it.")
    dataset = meis if isinstance(meis, xr.Dataset) else xr.open_zarr(check_store(meis), chunks=None)
    check_writable(directory)
    stimuli = projector_stimuli(dataset, neurons, **shown)
    description = describe_experiment(dataset, stimuli, screen_rate)
    directory.mkdir(parents=True, exist_ok=True)
    hidden = directory / f".{uuid.uuid4().hex}.partial"
    hidden.mkdir()
    try:
        np.save(hidden / names[0], stimuli.frames)
        _write_lossless(hidden / names[1], stimuli.frames, stimuli.frame_rate)
        stimuli.frame_times.to_csv(hidden / names[2], index=False)
        stimuli.levels.to_csv(hidden / names[3], index=False)
        (hidden / names[4]).write_text(json.dumps(description, indent=2), encoding="utf-8")
        (hidden / names[5]).write_text(readme_of(description, names), encoding="utf-8")
        script = importlib.resources.files("mei_lightning.experiment").joinpath(_SCRIPT).read_text(encoding="utf-8")
        (hidden / names[6]).write_text(script, encoding="utf-8")
        for name in names:
            replace(hidden / name, directory / name)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return stimuli


def _write_lossless(path: Path, frames: Frames, frame_rate: float) -> None:
    codec, pixel_format, options = {
        ".mp4": ("libx264rgb", "rgb24", {"qp": "0"}),
        ".avi": ("ffv1", "bgr0", {}),
    }[path.suffix]
    # What is before a colon would be a protocol.
    with av.open(str(path.absolute()), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(frame_rate).limit_denominator(1001), options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixel_format))
            )
        container.mux(stream.encode())
