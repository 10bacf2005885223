"""The module for MEIs of named neurons: rows, restarts, constraint and reducer from a few plain arguments."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from lightning.pytorch import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from mei_lightning.acceleration.prepare import FastPath
from mei_lightning.arguments import check_instance
from mei_lightning.callbacks.convergence import RowConvergence
from mei_lightning.callbacks.results_writer import ResultsWriter
from mei_lightning.constraints import Constraint, NormAndRange
from mei_lightning.devices import made_on_cpu
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel, StimulusFormat, weights_digest
from mei_lightning.models.ensemble import select_members
from mei_lightning.models.loading import load_model
from mei_lightning.models.read_out import session_responses
from mei_lightning.neurons import NeuronOrGroup, check_neuron_indices, group_label, group_of
from mei_lightning.objectives import MeanReducer, NeuronObjective, ObjectiveFactory, Reducer
from mei_lightning.optimization.effort import EFFORTS, EFFORTS_OF_MOVIES, EffortName
from mei_lightning.optimization.optimizers import AdaptivePowerMethod, check_optimizer, forgives_rounding
from mei_lightning.optimization.population import PopulationModule
from mei_lightning.optimization.stimulus_module import OptimizerFactory
from mei_lightning.optimization.stuck_at_start import never_left
from mei_lightning.parameterizations import Parameterization
from mei_lightning.perturbations import Robustness, check_robustness
from mei_lightning.regularizers import Regularizer
from mei_lightning.results.configuration import Configuration, Setting, as_data, configuration_differences
from mei_lightning.results.dataset import describe_results
from mei_lightning.selection import NeuronSelection
from mei_lightning.starting_points import InitialStimuli, PinkNoise, WhiteNoise
from mei_lightning.starting_points.of_neurons import StartsOfNeurons
from mei_lightning.starting_points.seeded_noise import default_norm, default_time_steps
from mei_lightning.wording import first_few


class MEIModule(PopulationModule):
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
        time_steps: frames of the stimulus; by default 20 more than the receptive field loses, or 1 for still images.
        norm: L2 norm of each stimulus in the model's units; by default the paper's root mean square, which is 30 for
            2 x 50 x 18 x 16 values.
        ranges: lowest and highest value of each channel in the model's units; none by default.
        reducer: how the response over time becomes a score; by default its mean over all response frames.
        objective: another score of the neurons' responses than the reduced response itself: a subclass of
            ``NeuronObjective``, of which model, neurons and reducer are filled in.
        constraint: a constraint in place of norm and ranges.
        regularizer: a cost to subtract from the score.
        optimizer: a torch optimizer in place of the adaptive power method.
        parameterization: what stimuli are made from in place of pixels, e.g. ``LowRank(rank=1)``.
        initial: what each neuron's stimuli start from: ``WhiteNoise`` (the default), ``PinkNoise``, ``GivenStimuli``,
            ``LinearReceptiveField``, ``BestNaturalClip``.
        robustness: what stimuli have to withstand: ``Jitter``, ``Noise``, ``RandomMember``, in this order. The gradient
            of a step is that of the perturbed stimulus; scores, the best iterate and convergence are those of the
            stimulus itself. With the seed, the neuron, the restart and the step, all that is random is determined.
        effort: "quick", "normal" or "thorough": of 2, 3 or 16 initial stimuli of each neuron, the 1, 1 or 8 that have
            got farthest after 8 steps are optimised for at most 50, 100 or 300 steps, together with the best one
            shifted in time by 0, 2 or 4 different amounts, and in the end, with shifts, by a single frame; the best of
            all is kept. Still images, other optimizers, and implicit networks have 2, 4 or 16 initial stimuli and no
            shifts.
        restarts: the number of initial stimuli, in place of the effort's starts and shifts.
        seed: with the neuron and the restart, it determines the initial stimulus.
        max_steps: the most steps that a row takes, in place of the effort's.
        rows_per_device: the most rows that a device computes at a time; by default as many as fit into half of its
            free memory, at most 64 for each thread of a CPU, 128 for a single one (16 and 32 if the model is not
            understood), and 256 on a GPU.
        fast_path: compute steps on a copy of the model that is prepared to be faster, unless the optimizer is one, such
            as Adam, that enlarges rounding; scores and responses of results are computed by the model itself always.
            "bfloat16": let the copy compute in this precision, which can be faster still, and log its errors.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        check_interval: steps from one time that results are written and neurons begin to the next (an epoch). Rows that
            are done leave the computation in between.

    Attributes:
        neuron_in_place: the places for neurons on this device, ``[places]``: the number of the neuron in each, -1 for
            none. A place has a row for each restart and for each stimulus moved in time.

    Raises:
        ValueError: if a neuron, session, window, norm or range does not fit the model.
        IndexError: if a session has no such neuron.
        TypeError: if an argument is of a wrong type.
    """

    neuron_in_place: Tensor

    @made_on_cpu
    def __init__(
        self,
        retina: nn.Module | str = "digital_twin",
        neurons: Literal["all"] | NeuronSelection | Sequence[NeuronOrGroup] = (),
        *,
        members: Sequence[int] | None = None,
        time_steps: int | None = None,
        norm: float | None = None,
        ranges: Sequence[tuple[float | None, float | None] | None] | None = None,
        reducer: Reducer | None = None,
        objective: ObjectiveFactory = NeuronObjective,
        constraint: Constraint | None = None,
        regularizer: Regularizer | None = None,
        optimizer: OptimizerFactory = AdaptivePowerMethod,
        parameterization: Parameterization | None = None,
        initial: InitialStimuli | None = None,
        robustness: Sequence[Robustness] = (),
        effort: EffortName = "normal",
        restarts: int | None = None,
        seed: int = 0,
        max_steps: int | None = None,
        rows_per_device: int | None = None,
        fast_path: FastPath = True,
        allow_unpickling: bool = False,
        check_interval: int = 4,
    ) -> None:
        check_robustness(robustness)
        check_optimizer(optimizer)
        if parameterization is not None:
            check_instance("parameterization", parameterization, Parameterization, "LowRank(rank=1)")
        if initial is not None:
            check_instance("initial", initial, InitialStimuli, "GivenStimuli(...)")
        model = load_model(retina, allow_unpickling=allow_unpickling)
        if members is not None:
            model = select_members(model, members)
        if neurons == "all":
            neurons = NeuronSelection()
        chosen = neurons.of(model) if isinstance(neurons, NeuronSelection) else neurons
        groups = [group_of(target) for target in chosen]
        _check_neurons(model, groups)
        if effort not in EFFORTS:
            raise InvalidValueError(f"effort={effort!r}: choose one of {', '.join(EFFORTS)}.")
        plain_optimizer = optimizer([torch.zeros(1, requires_grad=True)])
        adaptive = isinstance(plain_optimizer, AdaptivePowerMethod)
        if fast_path == "bfloat16" and not forgives_rounding(plain_optimizer):
            raise InvalidValueError(
                f"fast_path='bfloat16' with {type(plain_optimizer).__name__}, which makes rounding as large as the "
                "rest: use the default optimizer or SGD."
            )
        # Who says how many starts there shall be gets these and no others.
        shifts_in_time = restarts is None and adaptive and not model.stimulus_format.is_still
        shifts_in_time &= parameterization is None or parameterization.finds_parameters
        chosen_effort = (EFFORTS_OF_MOVIES if shifts_in_time else EFFORTS)[effort]
        restarts = chosen_effort.starts if restarts is None else restarts
        max_steps = chosen_effort.max_steps if max_steps is None else max_steps
        if restarts < 1:
            raise InvalidValueError(f"restarts={restarts} must be at least 1.")
        finalists = min(restarts, chosen_effort.finalists)
        time_steps = default_time_steps(model.stimulus_format) if time_steps is None else time_steps
        if model.stimulus_format.is_still and time_steps != 1:
            raise InvalidValueError(f"time_steps={time_steps}: model '{model.name}' sees still images, of 1 frame.")
        if time_steps <= model.stimulus_format.frames_lost:
            raise InvalidValueError(
                f"time_steps={time_steps} leaves no response: model '{model.name}' needs more than "
                f"{model.stimulus_format.frames_lost} frames."
            )
        shifts = [frames for share in chosen_effort.shifts if (frames := round(share * time_steps))]
        if isinstance(ranges, np.ndarray):
            ranges = ranges.tolist()
        shape = model.stimulus_shape(time_steps)
        if constraint is not None and (norm is not None or ranges is not None):
            raise InvalidValueError(
                "Give either constraint, or norm and ranges: NormAndRange(norm, ranges) holds both."
            )
        if constraint is None:
            constraint = NormAndRange(default_norm(shape) if norm is None else norm, ranges)
        if parameterization is not None:
            parameterization = parameterization.for_stimuli(shape, model.stimulus_format)
        reducer = reducer or MeanReducer()
        score = objective(model, groups, reducer)
        weight_type = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), None)

        initial = initial or WhiteNoise()
        labels = [group_label(group) for group in groups]
        initial.check(labels, shape[1:])
        digest = weights_digest(model)
        initial.check_model(model.name, digest)
        if parameterization is not None and not parameterization.finds_parameters and type(initial) is not WhiteNoise:
            raise InvalidValueError(
                f"initial={initial!r}: {parameterization!r} has no parameters for given stimuli. Leave initial out."
            )

        start = StartsOfNeurons(initial, groups, score, shape[1:], constraint, weight_type, restarts, seed)
        super().__init__(
            score,
            labels,
            start,
            start.seed_of,
            restarts=restarts,
            finalists=finalists,
            shifts=shifts,
            max_steps=max_steps,
            rows_per_device=rows_per_device,
            fast_path=fast_path,
            constraint=constraint,
            regularizer=regularizer,
            optimizer=optimizer,
            parameterization=parameterization,
            robustness=robustness,
            check_interval=check_interval,
        )
        self.groups = groups
        self.reducer = reducer
        self.initial = initial
        for session in dict.fromkeys(neuron.session for group in groups for neuron in group):
            _check_responses(model, self.best_stimulus[:1], session)
        reduced = reducer.forward(torch.zeros(time_steps - model.stimulus_format.frames_lost, 2))
        if reduced.shape != (2,):
            raise InvalidValueError(
                f"{reducer!r} turned responses of shape (time', 2) into {tuple(reduced.shape)}, not (2,): a reducer "
                "reduces the time axis, which is axis 0."
            )
        beginning = initial.configuration(labels)
        self.configuration: Configuration = Configuration(
            {
                "model": model.name,
                "weights_digest": digest,
                "members": None if members is None else list(members),
                "neurons": self.labels,
                "time_steps": time_steps,
                "constraint": Setting.of(constraint),
                "reducer": Setting.of(reducer),
                **({} if type(score) is NeuronObjective else {"objective": Setting.of(score)}),
                **({} if isinstance(fast_path, bool) else {"fast_path": fast_path}),
                "regularizer": Setting.of(regularizer),
                **({} if parameterization is None else {"parameterization": Setting.of(parameterization)}),
                "optimizer": Setting.of(plain_optimizer),
                **(
                    {}
                    if beginning == as_data(WhiteNoise())
                    else {"initial": Setting(beginning, initial.describe(labels))}
                ),
                **({"robustness": Setting.of(robustness)} if robustness else {}),
                "restarts": restarts,
                "finalists": finalists,
                "shifts": shifts,
                "seed": seed,
                "max_steps": max_steps,
                "mei_lightning": version("mei-lightning"),
            }
        )
        self.description = describe_results(model, groups, time_steps, restarts, score, self.configuration)
        self.save_hyperparameters({**self.configuration, "neurons": first_few(self.labels)})

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
        if not self.trainer.is_global_zero or not isinstance(self.initial, WhiteNoise | PinkNoise) or not writers:
            return
        if labels := never_left(self, xr.open_zarr(writers[0].store.path, chunks=None)):
            optimizer = self.configuration["optimizer"]["class"]
            steps = "longer steps" if optimizer == AdaptivePowerMethod.__name__ else "a larger learning rate"
            less = f"less of {', '.join(map(repr, self.robustness))}, or " if self.robustness else ""
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

    @property
    def retina(self) -> RetinaModel:
        """The frozen model."""
        model = self.objective.model
        assert isinstance(model, RetinaModel)
        return model

    @property
    def stimulus_format(self) -> StimulusFormat:
        """The physical facts of the model's stimulus."""
        return self.retina.stimulus_format


def _check_neurons(model: RetinaModel, groups: Sequence[Sequence[Any]]) -> None:
    if not groups:
        raise InvalidValueError(
            "neurons is empty: name at least one, as (session, index). Model "
            f"'{model.name}' has {model.neurons_per_session}."
        )
    for group in groups:
        for neuron in group:
            model.check_session(neuron.session)
            check_neuron_indices([neuron.index], model.neurons_per_session[neuron.session or ""], neuron.session)
    labels = pd.Series([group_label(group) for group in groups])
    if labels.duplicated().any():
        raise InvalidValueError(
            f"Neuron {labels[labels.duplicated()].iloc[0]} is named twice; use restarts for several stimuli."
        )


@torch.no_grad()
def _check_responses(model: RetinaModel, stimulus: Tensor, session: str | None) -> None:
    shape = tuple(session_responses(model, stimulus, session).shape)
    frames = stimulus.shape[2] - model.stimulus_format.frames_lost
    neurons = model.neurons_per_session[session or ""]
    if shape != (1, frames, neurons):
        raise InvalidValueError(
            f"Model '{model.name}' answered a stimulus of {stimulus.shape[2]} frames with responses of shape {shape}, "
            f"but [batch, time', neurons] should be (1, {frames}, {neurons}). Check frames_lost="
            f"{model.stimulus_format.frames_lost}, neurons_per_session, and the order of the network's output."
        )
