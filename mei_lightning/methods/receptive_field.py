"""The gradient of the response as a receptive field: the linear reference for an MEI."""

from contextlib import nullcontext

import torch
import xarray as xr
from torch import Tensor, nn

from mei_lightning.acceleration.memory import rows_that_fit
from mei_lightning.acceleration.rounding import full_precision
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.gradients import gradient_of
from mei_lightning.models.base import frozen
from mei_lightning.models.loading import load_model
from mei_lightning.objectives import Reducer
from mei_lightning.problem import MEIProblem, Neurons
from mei_lightning.settings import MEISettings


@in_usual_modes
def find_receptive_fields(
    model: nn.Module | str,
    neurons: Neurons,
    at: Tensor | None = None,
    *,
    time_steps: int | None = None,
    reducer: Reducer | None = None,
) -> xr.Dataset:
    """The gradient of each neuron's response with respect to the stimulus: its local receptive field.

    ``d s / d x`` at a stimulus x is the direction in which the response rises fastest there, what a local
    spike-triggered average measures with small perturbations around x (Goldin et al. 2022, Nature Communications 13,
    "Context-dependent selectivity to natural images in the retina"). For a linear neuron it is the MEI up to its norm,
    at every x.

    Args:
        model: as for ``find_meis``.
        neurons: as for ``find_meis``.
        at: the stimulus, ``[channels, time, height, width]`` for all neurons or ``[neurons, channels, ...]``, in the
            model's units; by default 0 everywhere, the mean level.
        time_steps: frames of the stimulus; by default those of ``at``, or as many as give one response frame.
        reducer: how the response over time becomes one number; by default its mean over all response frames.

    Returns:
        A dataset over ``neuron, channel, time, y, x`` of ``stimulus``, the gradient, in responses per unit of
        the model's stimulus; and ``response`` ``[neuron]``, the reduced response to x.

    Raises:
        ValueError: if an argument does not fit the model.
        IndexError: if a session has no such neuron.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
        >>> network[1].weight.data = torch.tensor([[0.0, 3.0, -1.0, 0.0]])
        >>> model = ml.RetinaModel(network, ml.StimulusFormat(("grey",), height=2, width=2))
        >>> ml.find_receptive_fields(model, [0]).stimulus.squeeze().values  # of a linear neuron its weights
        array([[ 0.,  3.],
               [-1.,  0.]], dtype=float32)
    """
    with frozen(model) if isinstance(model, nn.Module) else nullcontext():
        retina = load_model(model).to("cpu")
        if time_steps is None:
            time_steps = retina.stimulus_format.frames_lost + 1 if at is None else at.shape[-3]
        problem = MEIProblem(retina, neurons, MEISettings(time_steps=time_steps, reducer=reducer))
        shape = (len(problem.groups), *problem.shape)
        stimuli = (torch.zeros(()) if at is None else at).detach().to("cpu", problem.dtype)
        try:
            stimuli = stimuli.expand(shape)
        except RuntimeError:
            raise InvalidValueError(
                f"at of shape {tuple(stimuli.shape)} should be {shape[1:]}, or {shape} with one for each neuron."
            ) from None
        gradients, responses = [], []
        size = rows_that_fit(problem.objective, stimuli[:1], torch.device("cpu"))
        for first in range(0, len(stimuli), size):
            rows = range(first, min(first + size, len(stimuli)))
            part = stimuli[first : first + size].clone().requires_grad_()
            with torch.enable_grad(), full_precision():
                scores = problem.objective.for_rows(rows)(part)
                gradients.append(gradient_of(scores.sum(), part))
            responses.append(scores.detach())
    description = problem.description.drop_vars(["response_time", "restart"])
    return description.assign(
        stimulus=(("neuron", "channel", "time", "y", "x"), torch.cat(gradients).numpy()),
        response=("neuron", torch.cat(responses).numpy()),
    ).assign_attrs(units="response per unit of the stimulus")
