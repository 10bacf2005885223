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
from mei_lightning.devices import made_on_cpu
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel
from mei_lightning.optimization.optimizers import AdaptivePowerMethod
from mei_lightning.optimization.population import PopulationModule
from mei_lightning.optimization.stuck_at_start import stuck_at_start
from mei_lightning.problem import MEIProblem, Neurons
from mei_lightning.results.configuration import Setting, configuration_differences
from mei_lightning.settings import settings_named, takes_settings
from mei_lightning.starting_points import PinkNoise, WhiteNoise
from mei_lightning.wording import first_few


class ProblemModule(PopulationModule):
    """The MEIs of a problem: results are written, and only the same run continues them; arguments as for its base."""

    @made_on_cpu
    def __init__(self, problem: MEIProblem, check_interval: int = 4) -> None:
        super().__init__(problem, check_interval)
        self.save_hyperparameters(problem.summary)

    def configure_callbacks(self) -> list[Callback]:
        """As in ``StimulusModule``; results are written also if nobody asked for it."""
        writers = [callback for callback in self.trainer.callbacks if isinstance(callback, ResultsWriter)]  # type: ignore[attr-defined]
        # First, so that the model is still frozen, and on the device, when what there is of a failed run is written.
        return [*([] if writers else [ResultsWriter()]), *super().configure_callbacks()]

    def setup(self, stage: str) -> None:
        """As in ``StimulusModule``; and make it part of the configuration when a row has converged."""
        super().setup(stage)
        rules = [rule for rule in self.trainer.callbacks if isinstance(rule, RowConvergence)]  # type: ignore[attr-defined]
        self.configuration.put("convergence", Setting.of(rules[0] if rules else None))
        self.description.attrs["configuration"] = json.dumps(self.configuration)
        self.hparams.update(convergence=self.configuration["convergence"])

    def on_train_end(self) -> None:
        """Warn of stimuli that are still the noise that they began with."""
        super().on_train_end()
        writers = [callback for callback in self.trainer.callbacks if isinstance(callback, ResultsWriter)]  # type: ignore[attr-defined]
        settings = self.problem.settings
        is_noise = isinstance(self.problem.initial, WhiteNoise | PinkNoise)
        if not self.trainer.is_global_zero or not is_noise or not writers:
            return
        if labels := stuck_at_start(self.problem, self.device, xr.open_zarr(writers[0].store.path, chunks=None)):
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
    """

    @made_on_cpu
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
