"""What a run is asked for, whichever model and neurons it is about: every setting, described once and checked once."""

import difflib
import inspect
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

from mei_lightning.acceleration.prepare import FastPath
from mei_lightning.arguments import check_instance, in_short, pairs, plain, positive_number, whole_number
from mei_lightning.constraints import Constraint, Mask, as_constraint, read_mask
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.objectives import NeuronObjective, ObjectiveLike, Reducer
from mei_lightning.objectives.front_door import check_objective
from mei_lightning.objectives.reducers import check_reducer
from mei_lightning.optimization.gradient_filters import GradientFilter
from mei_lightning.optimization.optimizers import (
    OptimizerFactory,
    check_optimizer,
    forgives_rounding,
)
from mei_lightning.optimization.power_method import AdaptivePowerMethod
from mei_lightning.optimization.search import SEARCHES, Search, SearchName
from mei_lightning.parameterizations import Parameterization
from mei_lightning.perturbations import Robustness, check_robustness
from mei_lightning.regularizers import Regularizer, as_regularizer
from mei_lightning.sizes import NAMES, check_one_size, norm_of_rms
from mei_lightning.starting_points import InitialStimuli
from mei_lightning.starting_points.seeded_noise import default_norm

Function = TypeVar("Function", bound=Callable[..., Any])

_IN_DOCSTRINGS = "settings: as for ``MEISettings``."


@dataclass(frozen=True, kw_only=True)
class MEISettings:
    """The settings of a run; they check themselves.

    Args:
        time_steps: frames of the stimulus; by default 20 more than the receptive field loses, or 1 for still images.
        norm: L2 norm of each stimulus in the model's units; by default the paper's root mean square, which is 30 for
            2 x 50 x 18 x 16 values. With a mask, that of the pixels that are free. For ``find_meis``, and on the
            command line, also a list of several, e.g. ``[5, 10, 20]``.
        rms: another way to say the norm, or norms: the root mean square of a stimulus' entries, all channels, frames
            and pixels, or with a mask those that are free; ``norm = rms * sqrt(number of entries)``.
        ranges: one ``(low, high)`` for each channel in the model's units, or a single one for all channels; None for no
            limits.
        mask: which pixels may vary (1 or True); all others stay at 0, the mean level (grey), and norm and ranges are
            those of the free pixels. An array or nested lists of zeros and ones, ``[height, width]``,
            ``[time, height, width]`` or ``[channels, time, height, width]``, or the path of an array (``.npy``). It is
            short for ``constraint=NormAndRange(norm, ranges, mask=...)``.
        reducer: how the response over time becomes a score; by default its mean over all response frames.
        objective: another score than the reduced response itself: a subclass of ``NeuronObjective``, of which model,
            neurons and reducer are filled in (settings of its own go in with ``functools.partial``); an objective of
            these neurons, or a sum of such ones, e.g.
            ``NeuronObjective(model, neurons, reducer) - 0.5 * OneHotObjective(model, neurons, reducer)``; any other
            ``Objective``, which keeps the model that it has; or a function of responses ``[rows, time']`` to scores
            ``[rows]``, e.g. ``lambda traces: traces.amax(dim=1)`` (on resuming, functions are told apart by their names
            only). Rows must not depend on each other.
        constraint: a constraint in place of norm, rms, ranges and mask; or a ``StimulusPostprocessor`` of openretina's,
            which is applied to each row alone; or a list of them, applied in turn, of which the last one holds exactly.
        regularizer: a cost to subtract from the score; or a ``StimulusRegularizationLoss`` of openretina's; or a list
            of them.
        optimizer: makes another torch optimizer than the adaptive power method, e.g.
            ``functools.partial(torch.optim.SGD, lr=10.0)``.
        gradient_filter: what becomes of the gradient of each step before the optimizer sees it, e.g.
            ``GradientBlur(space=1.0, time=1.0)``.
        parameterization: what stimuli are made from in place of pixels: ``LowRank``, ``Fourier``, ``Pyramid``,
            ``ImplicitNetwork``, or one of your own.
        initial: what each neuron's stimuli start from: ``WhiteNoise`` (the default), ``PinkNoise``, ``GivenStimuli``,
            e.g. MEIs of an earlier run, ``LinearReceptiveField``, ``BestNaturalClip``.
        robustness: what stimuli have to withstand while they are optimised: ``Jitter``, ``Noise``, ``RandomMember`` of
            an ensemble, in this order. The gradient of a step is that of the perturbed stimulus; scores, the best
            iterate and convergence are those of the stimulus itself. With the seed, the neuron, the restart and the
            step, all that is random is determined.
        search: "quick", "normal" or "thorough": of 2, 3 or 16 initial stimuli of each neuron, the 1, 1 or 8 that have
            got farthest after 8 steps are optimised for at most 50, 100 or 300 steps, together with the best one
            shifted in time by 0, 2 or 4 different amounts, and in the end, with shifts, by a single frame; the best of
            all is kept. Still images have 2, 6 or 16 initial stimuli, a trial of 12 steps, and averages of their best
            stimuli in place of shifts; other optimizers, implicit networks and ``restarts`` have neither, with 2, 4 or
            16 initial stimuli. Or a ``MultiStart`` with numbers of your own, or another ``Search``.
        restarts: the number of initial stimuli, in place of the search's starts and shifts.
        seed: with the neuron and the restart, it determines the initial stimulus.
        max_steps: the most steps, in place of the search's; a stimulus that has converged takes fewer.
        rows_per_device: the most rows (a neuron has one for each restart) that a device computes at a time; by default
            as many as fit into half of its free memory, at most 64 for each thread of a CPU, 128 for a single one
            (16 and 32 if the model is not understood), and 256 on a GPU.
        fast_path: compute steps on a copy of the model that is prepared to be faster, unless the optimizer is one, such
            as Adam, that enlarges rounding; scores and responses of results are computed by the model itself always.
            "bfloat16": let the copy compute in this precision, which can be faster still, and log its errors.
        effort: what ``search`` was called in version 0.1; understood for one more version.

    Raises:
        ValueError: if a value is none that a run could have with any model.
        TypeError: if an argument is of a wrong type.
        FileNotFoundError: if there is no mask at the path given.

    Example:
        >>> settings = ml.MEISettings(time_steps=25, rms=0.5)
        >>> problem = ml.MEIProblem("simulated", [("session_1", 0)], settings)
        >>> problem.shape, problem.norm  # 0.5 times the root of 2 * 25 * 18 * 16
        ((2, 25, 18, 16), 60.0)
        >>> ml.MEISettings(time_steps=0)
        Traceback (most recent call last):
        ...
        mei_lightning.exceptions.InvalidValueError: time_steps=0 must be at least 1.
    """

    time_steps: int | None = None
    norm: float | Sequence[float] | None = None
    rms: float | Sequence[float] | None = None
    ranges: Sequence[tuple[float | None, float | None] | None] | tuple[float | None, float | None] | None = None
    mask: Mask | None = None
    reducer: Reducer | None = None
    objective: ObjectiveLike = NeuronObjective
    constraint: Constraint | None = None
    regularizer: Regularizer | None = None
    optimizer: OptimizerFactory = AdaptivePowerMethod
    gradient_filter: GradientFilter | None = None
    parameterization: Parameterization | None = None
    initial: InitialStimuli | None = None
    robustness: Sequence[Robustness] = ()
    search: SearchName | Search = "normal"
    restarts: int | None = None
    seed: int = 0
    max_steps: int | None = None
    rows_per_device: int | None = None
    fast_path: FastPath = True
    effort: SearchName | None = None

    def __post_init__(self) -> None:
        self._make_numbers_plain()
        if self.mask is not None:
            object.__setattr__(self, "mask", read_mask(self.mask))
        check_robustness(self.robustness)
        object.__setattr__(self, "robustness", tuple(self.robustness))
        check_optimizer(self.optimizer)
        if self.constraint is not None:
            object.__setattr__(self, "constraint", as_constraint(self.constraint))
        if self.gradient_filter is not None:
            check_instance("gradient_filter", self.gradient_filter, GradientFilter, "GradientBlur(space=1.0)")
        if self.parameterization is not None:
            check_instance("parameterization", self.parameterization, Parameterization, "LowRank(rank=1)")
        if self.initial is not None:
            check_instance("initial", self.initial, InitialStimuli, "GivenStimuli(...)")
        if self.reducer is not None:
            check_reducer("reducer", self.reducer)
        if self.regularizer is not None:
            object.__setattr__(self, "regularizer", as_regularizer(self.regularizer))
        check_objective(self.objective)
        if self.effort is not None:
            warnings.warn(
                f"effort={self.effort!r} is called search={self.effort!r} now.", DeprecationWarning, stacklevel=4
            )
            object.__setattr__(self, "search", self.effort)
        self._check_search()
        if self.max_steps is not None and self.max_steps < 1:
            raise InvalidValueError(
                f"max_steps={self.max_steps} leaves nothing to do; give the number of steps, at least 1."
            )
        self._check_constraint()
        self._check_fast_path()

    def _make_numbers_plain(self) -> None:
        """Take numbers of any library for what they are, since results keep settings as JSON."""
        for name in ("time_steps", "restarts", "max_steps", "rows_per_device"):
            if getattr(self, name) is not None:
                # What is too small has messages of its own.
                least = 1 if name in ("time_steps", "rows_per_device") else None
                object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        object.__setattr__(self, "seed", whole_number("seed", self.seed))
        way_out = ", or left out; a list of them for find_meis or on the command line"
        for name in NAMES:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, positive_number(name, getattr(self, name), way_out))
        if self.ranges is not None:
            object.__setattr__(self, "ranges", pairs("ranges", self.ranges))
        object.__setattr__(self, "fast_path", plain(self.fast_path))

    def _check_search(self) -> None:
        if isinstance(self.search, type) and issubclass(self.search, Search):
            check_instance("search", self.search, Search, "MultiStart()")
        if not isinstance(self.search, Search) and not (isinstance(self.search, str) and self.search in SEARCHES):
            raise InvalidValueError(
                f"search={in_short(self.search)}: choose one of {', '.join(SEARCHES)}, or give a MultiStart(...)."
            )
        if self.restarts is None:
            return
        if self.restarts < 1:
            raise InvalidValueError(f"restarts={self.restarts} must be at least 1.")
        if isinstance(self.search, Search):
            raise InvalidValueError(f"restarts={self.restarts} and search={self.search!r} both say how many: give one.")

    def _check_constraint(self) -> None:
        check_one_size(self.norm, self.rms)
        others = (self.norm, self.rms, self.ranges, self.mask)
        if self.constraint is not None and any(value is not None for value in others):
            raise InvalidValueError(
                "Give either constraint, or norm (or rms), ranges and mask: NormAndRange(norm, ranges, mask=...) holds "
                "all of them."
            )

    def _check_fast_path(self) -> None:
        if not isinstance(self.fast_path, bool) and self.fast_path != "bfloat16":
            raise InvalidValueError(f"fast_path={in_short(self.fast_path)}: choose True, False or 'bfloat16'.")
        optimizer = self.example_of_optimizer()
        if self.fast_path == "bfloat16" and not forgives_rounding(optimizer):
            raise InvalidValueError(
                f"fast_path='bfloat16' with {type(optimizer).__name__}, which makes rounding as large as the "
                "rest: use the default optimizer or SGD."
            )

    def norm_of(self, entries: int) -> float:
        """The L2 norm of a stimulus of so many entries that may vary."""
        assert not isinstance(self.norm, Sequence)
        assert not isinstance(self.rms, Sequence)
        if self.rms is not None:
            return norm_of_rms(self.rms, entries)
        return default_norm((1, entries)) if self.norm is None else self.norm

    def example_of_optimizer(self) -> Optimizer:
        """The optimizer, for a parameter that nobody wants optimised."""
        return self.optimizer([torch.zeros(1, requires_grad=True)])


def settings_named(given: Mapping[str, Any]) -> MEISettings:
    """The settings of a call, by their names.

    Raises:
        TypeError: if there is no such setting, or a value is of a wrong type.
        ValueError: as ``MEISettings``.
    """
    for name in given:
        if name not in _ALL:
            near = difflib.get_close_matches(name, _ALL)
            hint = f"Do you mean {' or '.join(near)}?" if near else f"There are {', '.join(sorted(_ALL - {'effort'}))}."
            raise InvalidTypeError(f"There is no setting {name}. {hint}")
    return MEISettings(**given)


_ALL = frozenset(one.name for one in fields(MEISettings))


def takes_settings(names: Collection[str] = _ALL) -> Callable[[Function], Function]:
    """Let the ``**settings`` of a function or class be those of ``MEISettings``, by name, default and description.

    For ``help``, completion in notebooks, and the command line. Where the docstring says that settings are as for
    ``MEISettings``, their descriptions stand.

    Args:
        names: which of them; by default all.
    """

    def decorate(made: Function) -> Function:
        called: Any = made.__init__ if isinstance(made, type) else made  # type: ignore[misc]
        signature = inspect.signature(called)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        keyword = inspect.Parameter.KEYWORD_ONLY
        of_settings = [
            inspect.Parameter(one.name, keyword, default=one.default, annotation=one.type)
            for one in fields(MEISettings)
            if one.name in names
        ]
        called.__signature__ = signature.replace(parameters=[*own, *of_settings])
        described = inspect.getdoc(MEISettings) or ""
        arguments = described.split("Args:\n")[1].split("\n\nRaises:")[0]
        made.__doc__ = (inspect.getdoc(made) or "").replace(f"    {_IN_DOCSTRINGS}", arguments)
        return made

    return decorate
