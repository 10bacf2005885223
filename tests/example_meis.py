"""Datasets of MEIs of known form."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from mei_lightning.models.base import StimulusFormat


def three_axes(freq=True):
    figure = Figure(figsize=(10, 8))
    axes = figure.subplots(2, 2)
    return axes[0, 0], axes[0, 1] if freq else None, axes[1, 0]


LOW_RES = StimulusFormat(("green", "UV"), 18, 16, 30.0, 50.0, frames_lost=20)


def gaussian(height=18, width=16):
    y, x = np.mgrid[:height, :width]
    return np.exp(-((y - height // 2) ** 2 + (x - width // 2) ** 2) / (0.02 * height * width))


def separable_stimulus(frequencies=(3.0, 6.0), amplitudes=(1.0, -2.0), time_steps=40, height=18, width=16, rate=30.0):
    """[channels, time, height, width]: a sine in time (whole periods) times a spot, for each channel."""
    seconds = np.arange(time_steps) / rate
    temporals = [a * np.sin(2 * np.pi * f * seconds) for f, a in zip(frequencies, amplitudes, strict=True)]
    return np.array([temporal[:, None, None] * gaussian(height, width) for temporal in temporals])


def meis(count=3, channel_names=("green", "UV"), still=False, **attrs):
    """A dataset as ``find_meis`` returns it, of separable stimuli."""
    random = np.random.default_rng(0)
    time_steps, frames_lost = (1, 0) if still else (40, 20)
    height, width = (18, 32) if still else (18, 16)
    stimuli = random.standard_normal((count, len(channel_names), time_steps, 1, 1)) * gaussian(height, width)
    facts = {"model": "digital_twin", "frames_lost": frames_lost}
    if not still:
        facts |= {"frame_rate": 30.0, "pixel_size": 50.0, "window_start": 10, "window_stop": 20}
    rate = facts.get("frame_rate", 1.0)
    response_time = (np.arange(time_steps - frames_lost) + frames_lost) / rate
    return xr.Dataset(
        {
            "stimulus": (("neuron", "channel", "time", "y", "x"), stimuli.astype(np.float32)),
            "score": ("neuron", np.arange(count) + 1.25),
            "response": (("neuron", "response_time"), random.random((count, len(response_time)))),
            "status": ("neuron", ["converged"] * count),
            "steps": ("neuron", [30] * count),
            "seed": ("neuron", [0] * count),
        },
        coords={
            "neuron": [f"session_{number % 3}/{number}" for number in range(count)],
            "session": ("neuron", [f"session_{number % 3}" for number in range(count)]),
            "index": ("neuron", list(range(count))),
            "channel": list(channel_names),
            "time": np.arange(time_steps) / rate,
            "y": np.arange(height) * facts.get("pixel_size", 1.0),
            "x": np.arange(width) * facts.get("pixel_size", 1.0),
            "response_time": response_time,
        },
        attrs=facts | attrs,
    )
