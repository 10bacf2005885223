"""Exciting and suppressing surrounds: what around its centre changes a neuron's response most."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import nn

from mei_lightning.acceleration.memory import rows_that_fit
from mei_lightning.constraints import NormAndRange
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.methods.fitting import dataset, fit_rows, from_meis
from mei_lightning.objectives import SurroundObjective
from mei_lightning.problem import Neurons


def centre_mask(stimulus: ArrayLike, least: float = 0.1) -> NDArray[np.bool_]:
    """The pixels of a stimulus' centre: those around its strongest pixel that are not much weaker.

    The strength of a pixel is its root mean square over channels and time. The centre is the region of pixels of at
    least a share of the largest strength that is connected with it, without holes.

    Args:
        stimulus: ``[channels, time, height, width]``.
        least: the share.

    Returns:
        ``[height, width]``.
    """
    if not 0 < least < 1:
        raise InvalidValueError(f"least={least} has to be a share of the largest strength, between 0 and 1.")
    strength = np.sqrt(np.square(np.asarray(stimulus, dtype=np.float64)).mean(axis=(0, 1)))
    regions, _ = ndimage.label(strength >= least * strength.max(), structure=np.ones((3, 3)))
    own = regions == regions[np.unravel_index(strength.argmax(), strength.shape)]
    return ndimage.binary_fill_holes(own)  # type: ignore[no-any-return]


@in_usual_modes
def find_surrounds(
    model: nn.Module | str,
    neurons: Neurons,
    suppressing: bool = False,
    surround_norm: float | None = None,
    centre: float = 0.1,
    starts: int = 2,
    max_steps: int = 100,
    **options: Any,
) -> xr.Dataset:
    """Find the surround that raises, or lowers, the response to the centre of each neuron's MEI most.

    The MEI stays as it is inside its centre and is 0 elsewhere; there a surround is optimised (see
    ``SurroundObjective``; after Fu et al. 2023, bioRxiv, "Pattern completion and disruption characterize contextual
    modulation in mouse visual cortex").

    Args:
        model: as for ``find_meis``.
        neurons: as for ``find_meis``.
        suppressing: find the surround that lowers the response most in place of the one that raises it.
        surround_norm: L2 norm of the surround in the model's units; by default that of the MEI.
        centre: the centre consists of pixels with at least this share of the MEI's largest strength (``centre_mask``).
        starts: the number of initial surrounds of each neuron, of noise; the best result is kept.
        max_steps: the most steps that each takes.
        options: as for ``find_meis``: time_steps, norm, rms, ranges, mask, reducer, search, seed, directory,
            progress_bar.

    Returns:
        A dataset over ``neuron, channel, time, y, x`` of ``stimulus``, centre and surround; ``centre``, the
        same without the surround; ``centre_mask`` ``[neuron, y, x]``; ``score`` and ``centre_score``, the responses to
        them.

    Raises:
        ValueError: if an argument does not fit, a centre fills the image, or a ``constraint`` is given.
        IndexError: if a session has no such neuron.
        TypeError: if an option is none of these.

    Example:
        >>> found = ml.find_surrounds(
        ...     "simulated", [("session_1", 0)], suppressing=True, max_steps=8, search="quick", progress_bar=False
        ... )
        >>> bool(found.score < found.centre_score)
        True
        >>> whole = found.stimulus.where(found.centre_mask, 0.0)
        >>> bool((whole == found.centre).all())  # inside, the MEI is as it was
        True
    """
    if starts < 1:
        raise InvalidValueError(f"starts={starts} must be at least 1.")
    if options.get("constraint") is not None:
        raise InvalidValueError(
            "A surround takes norm and ranges in place of a constraint, and a mask: all of them hold in it too."
        )
    with from_meis(model, neurons, **options) as begun:
        meis = begun.stimuli
        masks = torch.from_numpy(np.stack([centre_mask(mei, centre) for mei in meis.numpy()]))
        centres = meis * masks[:, None, None]
        constraint = begun.constraint
        assert isinstance(constraint, NormAndRange)
        free = ~masks[:, None, None] if constraint.mask is None else ~masks[:, None, None] & constraint.mask
        filled = begun.meis["neuron"].values[~free.flatten(1).any(dim=1).numpy()]
        if len(filled):
            raise InvalidValueError(
                f"There is no room for a surround: the centre of {', '.join(filled)} fills the image."
            )
        norm = float(meis.flatten(1).norm(dim=1).max()) if surround_norm is None else surround_norm
        of_row = [neuron for neuron in range(len(meis)) for _ in range(starts)]
        objective = SurroundObjective(begun.stepping().for_rows(of_row), centres[of_row], free[of_row], suppressing)
        surrounds = fit_rows(
            objective,
            lambda row: begun.noise(of_row[row], row % starts) * free[of_row[row]],
            len(of_row),
            at_a_time=rows_that_fit(begun.objective, meis[:1], torch.device("cpu")),
            constraint=NormAndRange(norm, constraint.ranges, mask=constraint.mask),
            max_steps=max_steps,
        )
        whole = objective.whole(surrounds)
        scores = begun.responses(of_row, whole).view(-1, starts)
        best = scores.argmin(dim=1) if suppressing else scores.argmax(dim=1)
        centre_scores = begun.responses(range(len(meis)), centres)
    chosen = whole.unflatten(0, (-1, starts))[torch.arange(len(meis)), best]
    movie = begun.meis["stimulus"].dims
    variables = {
        "stimulus": (movie, chosen.numpy()),
        "centre": (movie, centres.numpy()),
        "centre_mask": (("neuron", "y", "x"), masks.numpy()),
        "score": ("neuron", scores.gather(1, best[:, None])[:, 0].numpy()),
        "centre_score": ("neuron", centre_scores.numpy()),
    }
    return dataset(begun, variables, surround="suppressing" if suppressing else "exciting", surround_norm=norm)
