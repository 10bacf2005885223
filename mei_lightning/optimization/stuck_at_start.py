"""Neurons whose stimuli are still the noise that they began with, and count as converged."""

import numpy as np
import torch
import xarray as xr

from mei_lightning.acceleration.blocks import all_threads
from mei_lightning.acceleration.row_arithmetic import cosines, per_row, row_norms
from mei_lightning.gradients import gradient_of
from mei_lightning.optimization.row_state import Status
from mei_lightning.problem import MEIProblem

_LOOKED_AT = 10
"""Neurons that are looked at: what ends where it began does so in few steps, and so do most neurons of such a run."""
_ALIKE = 0.9
"""Cosine similarity to the initial noise that no stimulus has which was optimised."""
_STEPS = (0.03, 0.1, 0.3, 1.0)
"""Relative to the norm."""
_GAIN = 0.1
"""How much better a single step has to do than the whole run, relative to its value."""


def stuck_at_start(problem: MEIProblem, device: torch.device, meis: xr.Dataset) -> list[str]:
    """Which neurons' stimuli are the noise that they began with, though a single step does better.

    Of those that are called converged, the ones of the fewest steps are looked at. The step is a plain one along the
    gradient of the stimulus itself, without perturbations. So a stimulus that began as good as can be is none of them.

    Args:
        problem: that the run is about; its initial stimuli are noise.
        device: where to compute.
        meis: its results.
    """
    converged = np.flatnonzero(meis["status"].values == Status.CONVERGED.label)
    fewest = np.sort(converged[np.argsort(meis["steps"].values[converged], kind="stable")][:_LOOKED_AT])
    meis = meis[["stimulus", "best_restart"]].isel(neuron=fewest).load()
    with all_threads():
        found = [_is_stuck(problem, device, meis.isel(neuron=[n]), number) for n, number in enumerate(fewest.tolist())]
    return [str(label) for label in meis["neuron"].values[found]]


def _is_stuck(problem: MEIProblem, device: torch.device, mei: xr.Dataset, number: int) -> bool:
    space = problem.space
    start = problem.starts(number)[mei["best_restart"].values].to(device)
    found = torch.from_numpy(mei["stimulus"].values).to(start)
    parameters, stimuli = space.initial_parameters(torch.cat([start.roll(moved, 2) for moved in problem.frames_moved]))
    alike = cosines(stimuli, found.expand_as(stimuli))
    if not (alike >= _ALIKE).any():
        return False
    initial = parameters[alike.nan_to_num(-1).argmax()][None]
    with torch.enable_grad():
        initial.requires_grad_()
        gradient = gradient_of(problem.values([number], space.stimuli(initial)).sum(), initial)
    if not gradient.isfinite().all() or not gradient.any():
        return False
    with torch.no_grad():
        move = gradient * per_row(row_norms(initial) / row_norms(gradient), gradient)
        steps = torch.cat([initial + step * move for step in _STEPS])
        if space.parameterization is None:
            steps = space.project(steps)
        value = problem.values([number], found)
        values = problem.values([number] * len(steps), space.stimuli(steps))
        return bool((values > value + _GAIN * value.abs()).any())
