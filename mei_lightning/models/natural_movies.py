"""Stimulus movies for a retina of two colours: natural scenes, and the artificial stimuli of an experiment."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def naturalistic_movies(
    num_movies: int, num_frames: int, generator: torch.Generator, height: int = 18, width: int = 16
) -> Tensor:
    """Movies ``[num_movies, 2, num_frames, height, width]`` in units of z-scored green and UV intensity.

    Each movie is of one kind, drawn at random: a natural scene (1/f spectrum, colours correlated) under drift and
    saccades; noise of several grains; moving bars; flickering spots, small to full-field; drifting gratings seen
    through a window; flickering blobs; or a scene with such blobs on top. Contrast varies between and within movies.

    Args:
        num_movies: how many.
        num_frames: frames of each (at 30 Hz).
        generator: the sole source of randomness.
        height: rows of pixels.
        width: columns of pixels.
    """
    kinds = (_scene, _scene, _noise, _bar, _spots, _grating, _blobs, _scene_with_blobs)
    choices = torch.randint(len(kinds), (num_movies,), generator=generator).tolist()
    return torch.stack([kinds[choice](num_frames, height, width, generator) for choice in choices])


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _smooth_noise(num_series: int, num_frames: int, generator: torch.Generator) -> Tensor:
    """Time series ``[num_series, num_frames]`` of unit variance, each smooth over 0 to 5 frames."""
    noise = torch.randn(1, num_series, num_frames + 40, generator=generator)
    lag = torch.arange(-20, 21.0)
    sd = 0.2 + 5 * torch.rand(num_series, 1, generator=generator) ** 2
    kernel = torch.exp(-(lag**2) / (2 * sd**2))
    kernel = kernel / kernel.norm(dim=1, keepdim=True)
    return F.conv1d(noise, kernel[:, None], groups=num_series)[0]


def _colors(num_objects: int, generator: torch.Generator) -> Tensor:
    """Green and UV contrasts ``[num_objects, 2]`` of unit norm: any mixture, of either sign, alike often."""
    angle = 2 * math.pi * torch.rand(num_objects, generator=generator)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def _pixels(height: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.arange(float(height))[:, None], torch.arange(float(width))


def _place(height: int, width: int, generator: torch.Generator) -> tuple[float, float]:
    return _uniform(0, height - 1, generator), _uniform(0, width - 1, generator)


def _window(height: int, width: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """A Gaussian ``[height, width]`` somewhere in the image, with an sd between ``low`` and ``high`` pixels."""
    y, x = _pixels(height, width)
    y0, x0 = _place(height, width, generator)
    sd = _uniform(low, high, generator)
    return torch.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * sd**2))


def _scene(num_frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    size = 64
    frequency = torch.fft.fftfreq(size)
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt().clamp(min=1 / size)
    shared, own = torch.randn(2, 2, size, size, generator=generator)
    similarity = _uniform(0.3, 0.95, generator)
    channels = math.sqrt(similarity) * shared[:1] + math.sqrt(1 - similarity) * own
    spectrum = torch.fft.fft2(channels) * radius ** -_uniform(0.7, 1.3, generator)
    image = torch.fft.ifft2(spectrum).real
    image = (image - image.mean((1, 2), keepdim=True)) / image.std((1, 2), keepdim=True)

    drift = torch.randn(2, generator=generator) * _uniform(0.0, 0.8, generator)
    jitter = 0.15 * torch.randn(num_frames, 2, generator=generator)
    saccade = (torch.rand(num_frames, 1, generator=generator) < 0.04) * torch.randn(num_frames, 2, generator=generator)
    path = (drift + jitter + 10 * saccade).cumsum(0) + size * torch.rand(2, generator=generator)
    y, x = _pixels(height, width)
    rows = (path[:, 0, None, None] + y) % size
    columns = (path[:, 1, None, None] + x) % size
    top, left = rows.floor().long() % size, columns.floor().long() % size
    below, right = (top + 1) % size, (left + 1) % size
    dy, dx = rows - rows.floor(), columns - columns.floor()
    upper = (1 - dx) * image[:, top, left] + dx * image[:, top, right]
    lower = (1 - dx) * image[:, below, left] + dx * image[:, below, right]
    contrast = torch.exp(0.4 * _smooth_noise(1, num_frames, generator)[0])[:, None, None]
    return _uniform(0.4, 1.6, generator) * contrast * ((1 - dy) * upper + dy * lower)


def _noise(num_frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    grain, hold = (int(torch.randint(1, 5, (), generator=generator)) for _ in range(2))
    shape = (2, -(-num_frames // hold), -(-height // grain), -(-width // grain))
    noise = torch.randn(shape, generator=generator)
    if torch.rand((), generator=generator) < 0.3:
        noise = noise[:1].expand(shape)
    noise = noise.repeat_interleave(hold, 1).repeat_interleave(grain, 2).repeat_interleave(grain, 3)
    return _uniform(0.4, 1.8, generator) * noise[:, :num_frames, :height, :width]


def _bar(num_frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    angle = _uniform(0, 2 * math.pi, generator)
    y, x = _pixels(height, width)
    along = (x - (width - 1) / 2) * math.cos(angle) + (y - (height - 1) / 2) * math.sin(angle)
    speed, bar_width = _uniform(0.2, 1.5, generator), _uniform(1.0, 6.0, generator)
    repeat = 24 + bar_width
    front = (speed * torch.arange(float(num_frames)) + _uniform(0, repeat, generator))[:, None, None]
    distance = (front - along + 12) % repeat
    profile = torch.sigmoid(2 * distance) * torch.sigmoid(2 * (bar_width - distance))
    color = _colors(1, generator)[0] * _uniform(0.7, 3.0, generator)
    return color[:, None, None, None] * profile


def _spots(num_frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    y, x = _pixels(height, width)
    y0, x0 = _place(height, width, generator)
    radius = _uniform(1.0, 14.0, generator)
    spot = torch.sigmoid(3 * (radius - ((y - y0) ** 2 + (x - x0) ** 2).sqrt()))
    time_course = _smooth_noise(2, num_frames, generator)
    if torch.rand((), generator=generator) < 0.5:
        time_course = time_course.sign()
    if torch.rand((), generator=generator) < 0.5:
        time_course = _colors(1, generator)[0][:, None] * 1.4 * time_course[:1]
    return _uniform(0.5, 2.0, generator) * time_course[:, :, None, None] * spot


def _grating(num_frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    angle = _uniform(0, 2 * math.pi, generator)
    y, x = _pixels(height, width)
    phase = 2 * math.pi / _uniform(4, 14, generator) * (x * math.cos(angle) + y * math.sin(angle))
    turn = 2 * math.pi * torch.arange(num_frames) / _uniform(5, 25, generator) + _uniform(0, 2 * math.pi, generator)
    grating = torch.cos(phase - turn[:, None, None]) * _window(height, width, 1.0, 8.0, generator)
    color = _colors(1, generator)[0] * _uniform(0.7, 3.0, generator)
    return color[:, None, None, None] * grating


def _blobs(num_frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    count = int(torch.randint(1, 9, (), generator=generator))
    windows = torch.stack([_window(height, width, 0.7, 3.0, generator) for _ in range(count)])
    time_courses = _smooth_noise(count, num_frames, generator)
    amplitudes = _colors(count, generator) * 3 * torch.rand(count, 1, generator=generator)
    return torch.einsum("oc,ot,ohw->cthw", amplitudes, time_courses, windows)


def _scene_with_blobs(num_frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    scene = _scene(num_frames, height, width, generator)
    return _uniform(0.1, 0.7, generator) * scene + _blobs(num_frames, height, width, generator)
