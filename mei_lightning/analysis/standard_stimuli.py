"""What an experimenter would show: full-field chirps, spots, moving bars, drifting gratings, natural-like movies."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mei_lightning.models.base import StimulusFormat
from mei_lightning.models.natural_movies import naturalistic_movies

_DIRECTIONS = tuple(range(0, 360, 45))
_ORIENTATIONS = (0, 45, 90, 135)
_POLARITIES = {"ON": 1.0, "OFF": -1.0}

# Sizes are shares of the image's smaller side, so that they suit any resolution.
_SPOT_DIAMETERS = (1 / 4, 1 / 2)
_BAR_WIDTH = 1 / 4
_GRATING_PERIODS = (0.4, 1.0)

_FLICKER = 4.0
_GRATING_FREQUENCIES = (2.0, 4.0)
_CHIRP_FREQUENCIES = (0.5, 8.0)
_CHIRP_CONTRAST_FREQUENCY = 2.0


@dataclass(frozen=True)
class StandardStimulus:
    """A stimulus that is made when it is needed.

    Args:
        kind: "chirp", "spot", "bar", "grating" or "natural-like movie".
        name: what it is, with sizes, places and directions (0 towards growing x, 90 towards growing y).
        make: makes it, ``[channels, time, height, width]``, 0 being the mean level; of no particular norm.
    """

    kind: str
    name: str
    make: Callable[[], Tensor]


def standard_stimuli(stimulus_format: StimulusFormat, time_steps: int, num_movies: int = 100) -> list[StandardStimulus]:
    """Standard stimuli in the size of a model's stimuli, each in all colours.

    Colours are all channels together, each channel alone, and each pair of channels in opposite phase. Movies of
    models:

    - full-field steps of light and dark, chirps (a sweep of 0.5 to 8 Hz, and 2 Hz of rising contrast)
    - spots of two sizes all over the image, that turn light or dark, or flicker at 4 Hz
    - bars that cross the image once or twice in eight directions, light and dark
    - gratings of two periods that drift in eight directions at 2 and 4 Hz
    - natural-like movies (``naturalistic_movies``), the same in each call

    Still images: full-field, spots, bars and gratings that stand still, and frames of natural-like movies.

    Args:
        stimulus_format: the model's.
        time_steps: frames of each stimulus.
        num_movies: how many natural-like movies. They have two colours, which further channels take in turn.
    """
    screen = _Screen(stimulus_format, time_steps)
    patterns = itertools.chain(
        _full_field(screen),
        _spots(screen),
        _bars(screen) if screen.moves else _standing_bars(screen),
        _gratings(screen),
    )
    stimuli = [
        StandardStimulus(kind, f"{name}, {color}", partial(_colored, pattern, weights))
        for kind, name, pattern in patterns
        for color, weights in _colors(stimulus_format.channel_names).items()
    ]
    movies = [
        StandardStimulus("natural-like movie", f"natural-like movie {number}", partial(_movie, screen, number))
        for number in range(num_movies)
    ]
    return stimuli + movies


_Pattern = Callable[[], Tensor]
_Patterns = Iterator[tuple[str, str, _Pattern]]


class _Screen:
    """Pixels and frames, and how to say where and how large something is."""

    def __init__(self, stimulus_format: StimulusFormat, time_steps: int) -> None:
        self.height, self.width, self.time_steps = stimulus_format.height, stimulus_format.width, time_steps
        self.moves = time_steps > 1
        self.channels = len(stimulus_format.channel_names)
        # Where the frame rate is not known, frequencies are those at the paper's.
        self.frame_rate = stimulus_format.frame_rate or 30.0
        self.pixel_size = stimulus_format.pixel_size
        self.side = min(self.height, self.width)
        self.y = torch.arange(float(self.height))[:, None] - (self.height - 1) / 2
        self.x = torch.arange(float(self.width)) - (self.width - 1) / 2
        self.seconds = torch.arange(float(time_steps)) / self.frame_rate

    def length(self, pixels: float) -> str:
        return f"{pixels:.1f} pixels" if self.pixel_size is None else f"{pixels * self.pixel_size:.0f} um"

    def speed(self, pixels_per_frame: float) -> str:
        if self.pixel_size is None:
            return f"{pixels_per_frame:.1f} pixels per frame"
        return f"{pixels_per_frame * self.pixel_size * self.frame_rate:.0f} um/s"

    def place(self, y: float, x: float) -> str:
        y, x = y + (self.height - 1) / 2, x + (self.width - 1) / 2
        if self.pixel_size is None:
            return f"({y:.1f}, {x:.1f}) pixels"
        return f"({y * self.pixel_size:.0f}, {x * self.pixel_size:.0f}) um"

    def along(self, degrees: float) -> Tensor:
        """How far each pixel ``[height, width]`` lies in a direction."""
        angle = math.radians(degrees)
        return self.x * math.cos(angle) + self.y * math.sin(angle)

    def frequencies(self, wanted: Iterable[float]) -> list[float]:
        """Frequencies (Hz), those that are too fast for the frames lowered to a third of the frame rate."""
        return sorted({min(frequency, self.frame_rate / 3) for frequency in wanted})

    def steps(self) -> dict[str, Tensor]:
        """Courses in time ``[time]`` of what turns lighter, or darker, and stays in its place."""
        step = (torch.arange(self.time_steps) >= self.time_steps // 2).float()
        return {polarity: sign * step for polarity, sign in _POLARITIES.items()}

    def sine(self, frequency: float) -> Tensor:
        """A sine of a frequency (Hz), ``[time]``."""
        return torch.sin(2 * math.pi * frequency * self.seconds)


def _colors(channel_names: tuple[str, ...]) -> dict[str, Tensor]:
    """Weights ``[channels]`` of each colour."""
    one = torch.eye(len(channel_names))
    colors = dict(zip(channel_names, one, strict=True))
    if len(channel_names) > 1:
        colors[" and ".join(channel_names)] = torch.ones(len(channel_names))
    for first, second in itertools.combinations(range(len(channel_names)), 2):
        colors[f"{channel_names[first]} against {channel_names[second]}"] = one[first] - one[second]
    return colors


def _colored(pattern: _Pattern, weights: Tensor) -> Tensor:
    return weights[:, None, None, None] * pattern()


def _full_field(screen: _Screen) -> _Patterns:
    courses = {f"full-field step {polarity}": course for polarity, course in screen.steps().items()}
    if screen.moves:
        low, high = min(_CHIRP_FREQUENCIES), screen.frequencies(_CHIRP_FREQUENCIES)[-1]
        duration = screen.time_steps / screen.frame_rate
        cycles = low * screen.seconds + (high - low) * screen.seconds**2 / (2 * duration)
        rising = (screen.seconds + 1 / screen.frame_rate) / duration
        for polarity, sign in _POLARITIES.items():
            courses[f"chirp of frequency {polarity}"] = sign * torch.sin(2 * math.pi * cycles)
            courses[f"chirp of contrast {polarity}"] = sign * rising * screen.sine(_CHIRP_CONTRAST_FREQUENCY)
    for name, course in courses.items():
        yield "chirp", name, partial(_standing, course, torch.ones(screen.height, screen.width))


def _spots(screen: _Screen) -> _Patterns:
    courses = {f"{polarity} spot": course for polarity, course in screen.steps().items()}
    if screen.moves:
        (flicker,) = screen.frequencies([_FLICKER])
        courses[f"spot flickering at {flicker:g} Hz"] = screen.sine(flicker)
    for share in _SPOT_DIAMETERS:
        diameter = share * screen.side
        for y, x in itertools.product(_places(screen.height, diameter / 2), _places(screen.width, diameter / 2)):
            # At the border pixels are grey, not light or dark.
            spot = (diameter / 2 + 0.5 - torch.hypot(screen.y - y, screen.x - x)).clamp(0, 1)
            for what, course in courses.items():
                name = f"{what}, {screen.length(diameter)} at {screen.place(y, x)}"
                yield "spot", name, partial(_standing, course, spot)


def _places(pixels: int, spacing: float) -> list[float]:
    """Places about so far from each other, at least a pixel, all over a side of an image, from its middle."""
    count = max(1, min(pixels, round(pixels / spacing)))
    return [(place + 0.5) * pixels / count - pixels / 2 for place in range(count)]


def _standing(course: Tensor, image: Tensor) -> Tensor:
    return course[:, None, None] * image


def _bars(screen: _Screen) -> _Patterns:
    for direction, crossings, (polarity, sign) in itertools.product(_DIRECTIONS, (1, 2), _POLARITIES.items()):
        path = _extent(screen, direction) + _BAR_WIDTH * screen.side
        speed = crossings * path / screen.time_steps
        name = f"{polarity} bar moving at {screen.speed(speed)} in direction {direction} degrees"
        yield "bar", name, partial(_moving_bar, screen, direction, speed, path, sign)


def _extent(screen: _Screen, degrees: float) -> float:
    """The length of the image in a direction."""
    angle = math.radians(degrees)
    return screen.width * abs(math.cos(angle)) + screen.height * abs(math.sin(angle))


def _moving_bar(screen: _Screen, direction: float, speed: float, path: float, sign: float) -> Tensor:
    middle = (speed * (torch.arange(float(screen.time_steps)) + 0.5)) % path - path / 2
    return sign * _bar_at(screen, direction, middle)


def _bar_at(screen: _Screen, direction: float, middle: Tensor) -> Tensor:
    """Bars across a direction ``[places, height, width]``."""
    distance = (screen.along(direction) - middle[:, None, None]).abs()
    return (_BAR_WIDTH * screen.side / 2 + 0.5 - distance).clamp(0, 1)


def _standing_bars(screen: _Screen) -> _Patterns:
    for orientation in _ORIENTATIONS:
        extent = _extent(screen, orientation)
        places = _places(round(extent), _BAR_WIDTH * screen.side / 2)
        for place, (polarity, sign) in itertools.product(places, _POLARITIES.items()):
            name = f"{polarity} bar across {orientation} degrees, {screen.length(place)} from the middle"
            bar = _bar_at(screen, orientation, torch.tensor([place]))
            yield "bar", name, partial(_standing, torch.tensor([sign]), bar[0])


def _gratings(screen: _Screen) -> _Patterns:
    for share in _GRATING_PERIODS:
        period = share * screen.side
        if screen.moves:
            for direction, hertz in itertools.product(_DIRECTIONS, screen.frequencies(_GRATING_FREQUENCIES)):
                name = f"grating of {screen.length(period)}, {hertz:g} Hz in direction {direction} degrees"
                yield "grating", name, partial(_grating, screen, direction, period, hertz * screen.seconds)
        else:
            for orientation, phase in itertools.product(_ORIENTATIONS, (0, 90, 180, 270)):
                name = f"grating of {screen.length(period)} across {orientation} degrees, phase {phase} degrees"
                yield "grating", name, partial(_grating, screen, orientation, period, torch.tensor([phase / 360]))


def _grating(screen: _Screen, direction: float, period: float, cycles: Tensor) -> Tensor:
    return torch.cos(2 * math.pi * (screen.along(direction) / period - cycles[:, None, None]))


def _movie(screen: _Screen, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    movie = naturalistic_movies(1, screen.time_steps, generator, screen.height, screen.width)[0]
    return movie[[channel % len(movie) for channel in range(screen.channels)]]
