"""Stimuli to start from that the model is asked for: where its response rises, and which clip it answers best."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mei_lightning.acceleration.blocks import ROWS_PER_BLOCK
from mei_lightning.analysis.standard_stimuli import standard_stimuli
from mei_lightning.arguments import is_whole
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.gradients import gradient_of
from mei_lightning.models.base import RetinaModel
from mei_lightning.models.precision import precision_of_stimuli
from mei_lightning.starting_points.base import InitialStimuli, NeuronStart
from mei_lightning.starting_points.seeded_noise import initial_stimulus


class LinearReceptiveField(InitialStimuli):
    """Starts from the neuron's linear receptive field, the gradient of its score with respect to the stimulus.

    The first restart's is the gradient at 0, the mean level; the others' are those around white noise of their own, at
    the norm of the optimisation. What has no gradient starts from that noise. For a linear neuron it is the filter, as
    the score sees it: the mean over response frames has the mean of the filter at all these times. Its root mean square
    is 1; a fixed norm scales it.

    Example:
        >>> cell = [("session_1", 0)]  # a linear cell with a softplus
        >>> usual = ml.find_meis("simulated", cell, search="quick", progress_bar=False)
        >>> one_step = ml.find_meis(
        ...     "simulated", cell, initial=ml.LinearReceptiveField(), restarts=1, max_steps=1, progress_bar=False
        ... )
        >>> print(f"{one_step.score.item() / usual.score.item():.2f}")
        1.00
    """

    def __call__(self, neuron: NeuronStart, seeds: Sequence[int]) -> Tensor:
        """Gradients ``[restarts, channels, time, height, width]``."""
        precision = precision_of_stimuli(neuron.objective.model)
        noise = neuron.feasible(initial_stimulus(seeds, neuron.shape).to(precision))
        around = noise.clone()
        around[0] = 0
        with torch.enable_grad():
            around.requires_grad_()
            gradient = gradient_of(neuron.scores(around).sum(), around)
        size = gradient.flatten(1).square().mean(dim=1).sqrt().view(-1, 1, 1, 1, 1)
        return torch.where((size > 0) & size.isfinite(), gradient / size, noise)

    def __repr__(self) -> str:
        return "LinearReceptiveField()"


class BestNaturalClip(InitialStimuli):
    """Starts from the natural-like clips that the neuron answers best.

    The first restart is the best clip, the second the next, and so on, of clips that the constraint allows. The clips
    are those of ``naturalistic_movies`` (a still image's are single frames), the same for all neurons and seeds.

    Args:
        clips: how many there are to choose from.

    Raises:
        ValueError: unless it is a whole number, at least 1; when it is called, if there are more restarts than clips.

    Example:
        >>> cell = [("session_1", 0)]
        >>> settings = ml.MEISettings(initial=ml.BestNaturalClip(clips=5), restarts=2)
        >>> problem = ml.MEIProblem("simulated", cell, settings)
        >>> best, second = problem.values([0, 0], problem.starts(0))  # the responses to the two clips
        >>> bool(best > second)
        True
        >>> meis = ml.find_meis("simulated", cell, initial=ml.BestNaturalClip(clips=5), max_steps=4, progress_bar=False)
    """

    def __init__(self, clips: int = 100) -> None:
        if not is_whole(clips, 1):
            raise InvalidValueError(f"BestNaturalClip(clips={clips!r}) has to be a whole number, at least 1.")
        self.clips = clips
        self._made: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, neuron: NeuronStart, seeds: Sequence[int]) -> Tensor:
        """The best clips ``[restarts, channels, time, height, width]``."""
        if len(seeds) > self.clips:
            raise InvalidValueError(f"{self!r} has too few clips for {len(seeds)} restarts; give more clips.")
        model = neuron.objective.model
        assert isinstance(model, RetinaModel)
        if neuron.shape not in self._made:
            made = standard_stimuli(model.stimulus_format, neuron.shape[1], num_movies=self.clips)[-self.clips :]
            self._made[neuron.shape] = torch.stack([clip.make() for clip in made])
        clips = neuron.feasible(self._made[neuron.shape].to(precision_of_stimuli(model)))
        with torch.no_grad():
            scores = torch.cat([neuron.scores(part) for part in clips.split(ROWS_PER_BLOCK)])
        return clips[scores.argsort(descending=True, stable=True)[: len(seeds)].cpu()]

    def __repr__(self) -> str:
        return f"BestNaturalClip(clips={self.clips})"
