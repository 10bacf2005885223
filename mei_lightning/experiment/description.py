"""What the frames of an experiment are, for programs (JSON) and for people (a text)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from mei_lightning import __version__
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.experiment.frames import ProjectorStimuli
from mei_lightning.plots.frames import dataset_stimulus_format

_FILES = {
    "stimuli.npy": "the frames, [frame, height, width, 3], 8-bit red, green, blue: numpy.load",
    "stimuli.mp4": "the same frames as a video, without loss (H.264, RGB)",
    "stimuli.avi": "the same frames as a video, without loss (FFV1)",
    "frame_times.csv": "for each frame: neuron (empty for the background), repeat, frame of the stimulus, onset in s",
    "levels.csv": "for each neuron and channel: colour, background, lowest and highest value, how many were clipped",
    "stimuli.json": "what this text says, for programs",
    "show_with_psychopy.py": "shows the frames: python show_with_psychopy.py (needs psychopy)",
}


def describe_experiment(meis: xr.Dataset, stimuli: ProjectorStimuli, screen_rate: float | None) -> dict[str, Any]:
    """All that one has to know of some frames to show them, and to tell later what was shown.

    Args:
        meis: the dataset that they are of.
        stimuli: the frames.
        screen_rate: images per second of the screen; None for the frame rate.

    Raises:
        ValueError: if the screen's rate is no whole multiple of the frame rate.
    """
    facts = dataset_stimulus_format(meis)
    rate = stimuli.frame_rate
    times = round((screen_rate or rate) / rate)
    if times < 1 or not np.isclose(times * rate, screen_rate or rate, rtol=1e-3):
        raise InvalidValueError(
            f"screen_rate={screen_rate} is no whole multiple of the {rate:g} frames per second of the stimuli."
        )
    shown = list(dict.fromkeys(stimuli.levels["neuron"]))
    values = meis["stimulus"].sel(neuron=shown).transpose("neuron", ...).values.astype(np.float64)
    norms = np.sqrt((values**2).reshape(len(shown), -1).sum(axis=1))
    enlargement = stimuli.shown_as["screen_pixels_of_a_pixel"]
    of_channel = stimuli.levels.drop_duplicates("channel").set_index("channel")
    return {
        "model": meis.attrs.get("model"),
        "weights_digest": meis.attrs.get("weights_digest"),
        "mei_lightning": __version__,
        "pixel_size_um": facts.pixel_size,
        "screen_pixel_should_be_um": None if facts.pixel_size is None else facts.pixel_size / enlargement,
        "frame_height": stimuli.frames.shape[1],
        "frame_width": stimuli.frames.shape[2],
        "frames": len(stimuli.frames),
        "frame_rate_hz": rate,
        "screen_rate_hz": float(screen_rate or rate),
        "screen_images_of_a_frame": times,
        "duration_s": len(stimuli.frames) / rate,
        **stimuli.shown_as,
        "background": of_channel["background"].to_dict(),
        "colours": of_channel["colour"].to_dict(),
        "mean": None if facts.mean is None else list(facts.mean),
        "sd": None if facts.sd is None else list(facts.sd),
        "norm": dict(zip(shown, norms.tolist(), strict=True)),
        "clipped": int(stimuli.levels["below"].sum() + stimuli.levels["above"].sum()),
        "presentations": stimuli.presentations.to_dict("records"),
    }


def readme_of(description: Mapping[str, Any], files: Sequence[str]) -> str:
    """The same for people, with what each file is."""
    facts = description
    um, screen = "of unknown size", ""
    if facts["pixel_size_um"] is not None:
        um = f"of {facts['pixel_size_um']:g} um on the retina"
        screen = f", each of {facts['screen_pixel_should_be_um']:g} um"
    side = facts["screen_pixels_of_a_pixel"]
    seed, square = facts["order_seed"], facts["trigger_pixels"]
    order = "in the order given" if seed is None else f"each in a random order, seed {seed}"
    colours = ", ".join(f"{channel}: {letters}" for channel, letters in facts["colours"].items())
    background = ", ".join(f"{channel}: {value}" for channel, value in facts["background"].items())
    norms = ", ".join(f"{neuron}: {norm:.3f}" for neuron, norm in facts["norm"].items())
    onsets = [f"  {one['onset_s']:10.3f} s  {one['neuron']}, repeat {one['repeat']}" for one in facts["presentations"]]
    lines = {
        "model": f"{facts['model']}, weights {facts['weights_digest']} (mei_lightning {facts['mei_lightning']})",
        "pixels": f"{um}; {side} x {side} pixels of the screen show one{screen}",
        "frame": f"{facts['frame_height']} x {facts['frame_width']} screen pixels (height x width)",
        "frame rate": f"{facts['frame_rate_hz']:g} Hz; a screen of {facts['screen_rate_hz']:g} Hz shows each frame "
        f"{facts['screen_images_of_a_frame']} time(s)",
        "duration": f"{facts['duration_s']:.3f} s, {facts['frames']} frames",
        "gap": f"{facts['gap_s']:g} s of background before each stimulus and at the end",
        "background": f"{background} (the 0 of the model); sent as R, G, B {facts['background_rgb']}",
        "colours": f"{colours} of the projector",
        "values": f"stimulus * sd + mean, mean {facts['mean']}, sd {facts['sd']}; {facts['clipped']} were clipped",
        "light": facts["light"],
        "rounds": f"{facts['repeats']}, {order}",
        "trigger": f"a square of {square} screen pixels, white in the first frame of a stimulus" if square else "none",
        "norm (L2)": f"{norms} (model's units)",
    }
    described = [f"{name + ':':14}{text}" for name, text in lines.items()]
    named = [f"{name:24}{_FILES[name]}" for name in files if name in _FILES]
    return "\n".join(
        ["MEIs as a projector shows them", "", *described, "", "Files:", *named, "", "Onsets:", *onsets, ""]
    )
