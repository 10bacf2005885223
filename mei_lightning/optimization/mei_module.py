"""The module for MEIs of named neurons, from the arguments that a user gives; it keeps its results."""

import json
from collections.abc import Sequence
from typing import Any

import xarray as xr
from lightning.pytorch import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from mei_lightning.callbacks.convergence import RowConvergence
from mei_lightning.callbacks.results_writer import ResultsWriter
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError, NothingThereError
from mei_lightning.models.base import RetinaModel
from mei_lightning.optimization.population import PopulationModule
from mei_lightning.optimization.power_method import AdaptivePowerMethod
from mei_lightning.optimization.stuck_at_start import stuck_at_start
from mei_lightning.problem import MEIProblem, Neurons
from mei_lightning.results.configuration import Setting, configuration_differences
from mei_lightning.settings import settings_named, takes_settings
from mei_lightning.starting_points import PinkNoise, WhiteNoise
from mei_lightning.wording import first_few

_EPOCHS_OF_TRAINER = 1000
"""Of Lightning's ``Trainer()`` without a limit."""


class ProblemModule(PopulationModule):
    """The MEIs of a problem: results are written, and only the same run continues them; arguments as for its base."""

    @in_usual_modes
    def __init__(self, problem: MEIProblem, check_interval: int = 4) -> None:
        super().__init__(problem, check_interval)
        self.save_hyperparameters(problem.summary)

    def configure_callbacks(self) -> list[Callback]:
        """As in ``StimulusModule``; rows converge, and results are written, also if nobody asked for it."""
        given = self._callbacks_of_trainer()
        wanted = [kind() for kind in (RowConvergence, ResultsWriter) if not any(isinstance(it, kind) for it in given)]
        # First, so that the model is still frozen, and on the device, when what there is of a failed run is written.
        return [*wanted, *super().configure_callbacks()]

    def _callbacks_of_trainer(self) -> list[Callback]:
        return self.trainer.callbacks  # type: ignore[attr-defined]

    def _writer(self) -> ResultsWriter:
        return next(callback for callback in self._callbacks_of_trainer() if isinstance(callback, ResultsWriter))

    def meis(self) -> xr.Dataset:
        """The results so far, as ``find_meis`` returns them; values are read from the store as they are used.

        Raises:
            FileNotFoundError: if no trainer has begun to fit the module.
        """
        if self._trainer is None:
            raise NothingThereError("There are no MEIs yet: fit the module first, Trainer().fit(module).")
        return self._writer().dataset(self.trainer)

    def setup(self, stage: str) -> None:
        """As in ``StimulusModule``; and make it part of the configuration when a row has converged."""
        super().setup(stage)
        if self.trainer.max_epochs == _EPOCHS_OF_TRAINER:
            # Nobody has asked for a limit, and many neurons take more.
            self.trainer.fit_loop.max_epochs = -1
        rule = next(rule for rule in self._callbacks_of_trainer() if isinstance(rule, RowConvergence))
        self.configuration.put("convergence", Setting.of(rule))
        self.description.attrs["configuration"] = json.dumps(self.configuration)
        self.hparams.update(convergence=self.configuration["convergence"])

    def on_train_end(self) -> None:
        """Warn of stimuli that are still the noise that they began with."""
        super().on_train_end()
        settings = self.problem.settings
        is_noise = isinstance(self.problem.initial, WhiteNoise | PinkNoise)
        if not self.trainer.is_global_zero or not is_noise:
            return
        if labels := stuck_at_start(self.problem, self.device, self.meis()):
            optimizer = self.configuration["optimizer"]["class"]
            steps = "longer steps" if optimizer == AdaptivePowerMethod.__name__ else "a larger learning rate"
            less = f"less of {', '.join(map(repr, settings.robustness))}, or " if settings.robustness else ""
            rank_zero_warn(
                f"Called converged, but still the noise that they began with, of which a single step makes a better "
                f"stimulus: {first_few(labels)}, and perhaps others. Try {less}{steps} of {optimizer}."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the configuration with the rows."""
        # Lightning's command line would take hyperparameters found in a checkpoint for the user's options.
        checkpoint.pop(self.CHECKPOINT_HYPER_PARAMS_KEY, None)
        checkpoint["configuration"] = dict(self.configuration)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the rows of another run.

        Raises:
            ValueError: if the checkpoint is of another model, other neurons or other settings.
        """
        if differences := configuration_differences(checkpoint["configuration"], self.configuration):
            raise InvalidValueError(
                f"The checkpoint is of another run:\n{differences}\nResume with the settings of the first run, or "
                "start a new one."
            )


@takes_settings()
class MEIModule(ProblemModule):
    """Maximally exciting inputs of neurons of a retina model.

    Each neuron, or group of neurons, has as many rows as restarts, each from noise of its own. A device computes a
    bounded number of rows at a time; once all rows of a neuron are done, its result goes to the ``ResultsWriter``,
    and the next neuron takes its place. With a trainer of several devices and ``strategy="sharded"`` each neuron
    is computed on one of them.

    ``Trainer().fit(module)`` does what ``find_meis`` does: rows converge by ``RowConvergence()`` unless the trainer has
    another one, and ``module.meis()`` is the dataset. Lightning's limit of 1,000 epochs, which are a few steps here, is
    none; give ``max_steps`` for one.

    Args:
        retina: a model or its name: "digital_twin", "simulated", "openretina:NAME", a path to an openretina
            checkpoint, or an ``nn.Module`` of your own (see ``RetinaModel``).
        neurons: the neurons, each ``[session, index]`` (or ``index`` for a model without sessions); a list of
            neurons in place of one is a group that shares one stimulus, scored by their mean response. Or a
            ``NeuronSelection``: sessions, indices, values in the model's neuron table, or a random sample. Or "all".
        members: find MEIs on the mean of these members of an ensemble, so that others can test them; by default on all.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        check_interval: steps from one time that results are written and neurons begin to the next (an epoch). Rows that
            are done leave the computation in between.
        settings: as for ``MEISettings``.

    Attributes:
        problem: what is to be found for which neurons.
        neuron_in_slot: the slots for neurons on this device, ``[slots]``: the number of the neuron in each, -1 for
            none. A slot has a row for each restart and for each stimulus moved in time.

    Raises:
        ValueError: if a neuron, session, window, norm or range does not fit the model.
        IndexError: if a session has no such neuron.
        TypeError: if an argument is of a wrong type.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> module = ml.MEIModule("simulated", [("session_1", 0)], norm=10.0, max_steps=4)
        >>> writer = ml.ResultsWriter("results", report=False)
        >>> Trainer(callbacks=[writer], logger=False, enable_progress_bar=False).fit(module)
        >>> meis = module.meis()
        >>> print(meis.neuron.values, f"{(meis.stimulus**2).sum().item() ** 0.5:.1f}")  # the norm
        ['session_1/0'] 10.0
    """

    @in_usual_modes
    def __init__(
        self,
        retina: nn.Module | str = "digital_twin",
        neurons: Neurons = (),
        *,
        members: Sequence[int] | None = None,
        allow_unpickling: bool = False,
        check_interval: int = 4,
        **settings: Any,
    ) -> None:
        problem = MEIProblem(
            retina, neurons, settings_named(settings), members=members, allow_unpickling=allow_unpickling
        )
        super().__init__(problem, check_interval)

    @property
    def retina(self) -> RetinaModel:
        """The frozen model."""
        return self.problem.model
