"""The values of an 8-bit projector: which of its colours shows a channel, what is outside, what is sent to it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.paths import local_path

BRIGHTEST = 255
COLOURS = "RGB"
_KNOWN_COLOURS = {"green": "G", "uv": "B", "red": "R", "blue": "B", "grey": "RGB", "gray": "RGB"}
_NAMED_IN_MESSAGES = 5


def colours_of(channel_names: Sequence[str], colours: Mapping[str, str] | None) -> dict[str, str]:
    """The projector's colours of each channel.

    Raises:
        ValueError: if they are not known, or a colour is to show two channels.
    """
    if colours is None:
        unknown = [name for name in channel_names if name.lower() not in _KNOWN_COLOURS]
        if unknown:
            raise InvalidValueError(
                f"It is not known which colours of the projector show the channels {', '.join(unknown)}. Say it, e.g. "
                f"colours={dict.fromkeys(unknown, 'G')}."
            )
        chosen = {name: _KNOWN_COLOURS[name.lower()] for name in channel_names}
    else:
        if set(colours) != set(channel_names):
            raise InvalidValueError(f"colours={dict(colours)} does not have the channels {', '.join(channel_names)}.")
        chosen = {name: colours[name].upper() for name in channel_names}
    all_colours = "".join(chosen.values())
    if not all(chosen.values()) or set(all_colours) - set(COLOURS):
        raise InvalidValueError(
            f"A channel is shown by R, G or B, or several of them, e.g. 'RGB', but colours={chosen}."
        )
    if len(set(all_colours)) < len(all_colours):
        raise InvalidValueError(f"A colour of the projector can show one channel only, but colours={chosen}.")
    return chosen


def values_outside(levels: pd.DataFrame) -> str:
    """How many values are outside the projector's range, of which neurons, and how far; empty if there are none."""
    outside = levels[(levels["below"] > 0) | (levels["above"] > 0)]
    if outside.empty:
        return ""
    lines = [
        f"{row.neuron}, {row.channel}: {row.below} below and {row.above} above, from {row.lowest:.1f} to "
        f"{row.highest:.1f}"
        for row in outside.head(_NAMED_IN_MESSAGES).itertuples()
    ]
    if len(outside) > len(lines):
        lines.append(f"and {len(outside) - len(lines)} more")
    count = outside["below"].sum() + outside["above"].sum()
    return (
        f"{count} of {levels['values'].sum()} values are outside the projector's 0 to {BRIGHTEST}:\n  "
        + "\n  ".join(lines)
    )


def ranges_of_projector(facts: StimulusFormat) -> list[tuple[float, float]]:
    """Lowest and highest value of each channel, in the model's units; mean and sd of the format have to be known."""
    assert facts.mean is not None
    assert facts.sd is not None
    return [
        (round(float(-mean / sd), 3), round(float((BRIGHTEST - mean) / sd), 3))
        for mean, sd in zip(facts.mean, facts.sd, strict=True)
    ]


def light_of_values(gamma: float | None, measured_light: np.ndarray | str | Path | None) -> NDArray[np.float64] | None:
    """The light of red, green and blue for each value that is sent to the projector, ``[256, 3]``, from 0 to 1.

    Args:
        gamma: the light is ``(value / 255) ** gamma``.
        measured_light: the light, in any unit, that was measured for the values 0 to 255: ``[256]``, or ``[256, 3]``
            for red, green and blue; an array, or a .npy or .csv file of it (without a header).

    Returns:
        None if neither is given: the light is taken to be proportional to the value.

    Raises:
        ValueError: if both are given, gamma is not positive, or the measured light is not 256 values that increase.
    """
    if measured_light is None:
        if gamma is None:
            return None
        if not 0 < gamma < np.inf:
            raise InvalidValueError(f"gamma={gamma} has to be a positive number, e.g. 2.2.")
        return (np.arange(BRIGHTEST + 1)[:, None] / BRIGHTEST) ** np.full((1, 3), gamma)
    if gamma is not None:
        raise InvalidValueError(f"Give either gamma={gamma} or the measured light, not both.")
    light = _read(measured_light)
    if light.ndim == 1:
        light = np.repeat(light[:, None], len(COLOURS), axis=1)
    if light.shape != (BRIGHTEST + 1, len(COLOURS)):
        raise InvalidValueError(
            f"The measured light has shape {light.shape}; give 256 values, or 256 x 3 for red, green and blue: the "
            "light for each of the values 0 to 255."
        )
    if not np.isfinite(light).all() or (np.diff(light, axis=0) < 0).any() or (light[-1] <= light[0]).any():
        raise InvalidValueError("The measured light has to increase from the value 0 to 255; smooth what was measured.")
    return (light - light[0]) / (light[-1] - light[0])


def words_for_light(gamma: float | None, measured_light: np.ndarray | str | Path | None) -> str:
    """How the light of the projector is taken to depend on the value, for those who read what was shown."""
    if gamma is not None:
        return f"(value / 255) ** {gamma:g}; the values make up for it"
    if measured_light is None:
        return "taken to be proportional to the value; nothing makes up for it"
    source = f" ({Path(measured_light).name})" if isinstance(measured_light, str | Path) else ""
    return f"as measured{source}; the values make up for it"


def values_to_send(levels: NDArray[np.float64], light: NDArray[np.float64] | None) -> NDArray[np.uint8]:
    """The 8-bit values whose light is that of levels on a scale from 0 to 255, which are clipped to it.

    Args:
        levels: of one colour, of any shape.
        light: of the values 0 to 255 of this colour, ``[256]``, from 0 to 1; None if it is proportional to them.
    """
    if light is None:
        return levels.round().clip(0, BRIGHTEST).astype(np.uint8)
    wanted = levels.clip(0, BRIGHTEST) / BRIGHTEST
    return np.interp(wanted, light, np.arange(BRIGHTEST + 1)).round().astype(np.uint8)


def _read(measured: np.ndarray | str | Path) -> NDArray[np.float64]:
    if not isinstance(measured, str | Path):
        return np.asarray(measured, dtype=np.float64)
    path = local_path("measured_light", measured)
    try:
        return np.load(path).astype(np.float64) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",", ndmin=1)
    except (OSError, ValueError) as error:
        raise InvalidValueError(
            f"{path} cannot be read as a .npy or .csv file of 256 rows of measured light, without a header: {error}"
        ) from error
