"""What a stimulus has to withstand while it is optimised."""

from collections.abc import Sequence

from torch import Tensor

from mei_lightning.objectives import Objective


class Robustness:
    """Something that differs from step to step, so that a stimulus which only just works is not found.

    The gradient of a step is that of what is perturbed. Scores, the best iterate and convergence are those of the
    stimulus itself on the whole model.

    Example:
        >>> all(isinstance(part, ml.Robustness) for part in [ml.Jitter(space=1), ml.Noise(0.1), ml.RandomMember()])
        True
        >>> settings = ml.MEISettings(robustness=[ml.Jitter(space=1), ml.Noise(0.1)])  # moved, then with noise
        >>> settings.robustness
        (Jitter(space=1, time=0), Noise(standard_deviation=0.1))
    """

    def check(self, objective: Objective, stimulus_shape: Sequence[int]) -> None:
        """Raise an error unless it suits the objective and stimuli of this shape ``[rows, channels, ...]``."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Perturbation(Robustness):
    """A small random change of the stimulus; derive from it for one of your own.

    What is random about it has to come from the keys (see ``draws``), so that it depends on the row and its step only.
    Its settings belong to the configuration of a run: those arguments of the constructor that are kept as attributes of
    the same names or, if it has others, what ``__repr__`` tells.

    Example:
        >>> class Flicker(ml.Perturbation):
        ...     def __call__(self, stimulus, keys):
        ...         contrast = 1 + (keys % 21 - 10) / 100  # from 0.9 to 1.1
        ...         return stimulus * contrast.view(-1, 1, 1, 1, 1)
        >>> Flicker()(torch.ones(3, 1, 1, 1, 1), keys=torch.tensor([0, 10, 20])).flatten()
        tensor([0.9000, 1.0000, 1.1000])
        >>> meis = ml.find_meis(
        ...     "simulated", [("session_1", 0)], robustness=[Flicker()], max_steps=4, progress_bar=False
        ... )
    """

    def __call__(self, stimulus: Tensor, keys: Tensor) -> Tensor:
        """Perturbed stimuli.

        Args:
            stimulus: ``[rows, channels, time, height, width]``.
            keys: a number for each row, ``[rows]``, another one at each step.
        """
        raise NotImplementedError
