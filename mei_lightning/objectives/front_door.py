"""What a user may give as ``objective`` to find MEIs, as an objective of the run's neurons."""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import Any, TypeAlias

from torch import Tensor, nn

from mei_lightning.arguments import in_short
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.models.base import weights_digest
from mei_lightning.neurons import Neuron, group_label
from mei_lightning.objectives.base import Objective, in_words
from mei_lightning.objectives.reducers import MeanReducer, Reducer
from mei_lightning.objectives.responses import NeuronObjective, ObjectiveFactory
from mei_lightning.objectives.scored_by import ScoredByFunction, ScoredByObjective
from mei_lightning.wording import first_few

ObjectiveLike: TypeAlias = ObjectiveFactory | Objective | Callable[[Tensor], Tensor]
"""A class of objectives of neurons, an objective, or a function of responses: see ``neuron_objective``."""


def neuron_objective(
    objective: ObjectiveLike, model: nn.Module, groups: Sequence[tuple[Neuron, ...]], reducer: Reducer | None
) -> NeuronObjective:
    """The objective of a run, from any of the forms that a user may give it in.

    Args:
        objective: one of

            - a subclass of ``NeuronObjective``, or a ``functools.partial`` of one that fills in further arguments: it
              is made with the model, the neurons and the reducer. So is what any other callable with these three
              required arguments returns.
            - an objective of neurons, or a sum of such ones: of the run's neurons in their order, one for each row, on
              the run's model or one of the same weights.
            - any other ``Objective``, which scores every row. It keeps the model that it has.
            - a function of responses ``[rows, time']`` to scores ``[rows]``.
        model: the run's model.
        groups: the run's neurons, one or several for each row.
        reducer: how responses become a score; None for that of an objective of neurons, otherwise the mean over time.

    Raises:
        TypeError: if the objective is none of these, or a setting of it has not been filled in.
        ValueError: if an objective of neurons is of others, of a model of other weights, or has another reducer.
    """
    if _is_factory(objective):
        _check_settings_filled_in(objective)
        made: object = objective(model, groups, reducer or MeanReducer())  # type: ignore[operator, arg-type, call-arg]
        if not isinstance(made, NeuronObjective):
            raise _refusal(made)
        return made
    if isinstance(objective, NeuronObjective):
        return _of_this_run(objective, model, groups, reducer)
    if isinstance(objective, Objective):
        return ScoredByObjective(model, groups, reducer or MeanReducer(), objective)
    if _is_function(objective):
        return ScoredByFunction(model, groups, reducer or MeanReducer(), objective)  # type: ignore[arg-type]
    raise _refusal(objective)


def check_objective(objective: Any) -> None:
    """Raise a TypeError unless a value is in one of the forms of ``neuron_objective``."""
    if not isinstance(objective, Objective) and not _is_factory(objective) and not _is_function(objective):
        raise _refusal(objective)


def _check_settings_filled_in(objective: Any) -> None:
    try:
        parameters = signature(objective)
        parameters.bind(None, None, None)
    except ValueError:
        # What does not say what it takes is called as it is.
        return
    except TypeError as error:
        name = in_words(objective)
        raise InvalidTypeError(
            f"objective={name}: {error}. It is called with model, neurons and reducer; fill in the settings of its "
            f"own, e.g. objective=functools.partial({name.partition('(')[0]}, "
            f"{', '.join(f'{one}=...' for one in list(parameters.parameters)[3:]) or '...'})."
        ) from None


def _is_factory(objective: Any) -> bool:
    if isinstance(objective, type):
        return issubclass(objective, NeuronObjective)
    # Partials of the command line call a function with the class.
    if isinstance(objective, partial) and any(isinstance(part, type) for part in (objective.func, *objective.args)):
        return True
    return callable(objective) and _required_arguments(objective) == 3


def _is_function(objective: Any) -> bool:
    return callable(objective) and not isinstance(objective, type) and _required_arguments(objective) <= 1


def _required_arguments(function: Callable[..., Any]) -> int:
    try:
        parameters = signature(function).parameters.values()
    except ValueError:
        # PyTorch's own functions do not say; what cannot be made of responses they refuse themselves.
        return 1
    named = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return sum(one.kind in named and one.default is Parameter.empty for one in parameters)


def _of_this_run(
    objective: NeuronObjective, model: nn.Module, groups: Sequence[tuple[Neuron, ...]], reducer: Reducer | None
) -> NeuronObjective:
    if objective.groups != list(groups):
        raise InvalidValueError(
            f"The objective is of {first_few([group_label(group) for group in objective.groups])}, but the run's "
            f"neurons are {first_few([group_label(group) for group in groups])}: make its first term of neurons of the "
            "same neurons in the same order."
        )
    if reducer is not None and repr(reducer) != repr(objective.response_reducer):
        raise InvalidValueError(
            f"reducer={reducer!r}, but the objective has {objective.response_reducer!r}: leave the reducer out, or "
            "make the objective with it."
        )
    if objective.model is model:
        return objective
    if weights_digest(objective.model) != weights_digest(model):
        raise InvalidValueError(
            "The objective's model has other weights than the run's: make the first term of neurons of the model that "
            "you find MEIs of. Other terms may be of other models."
        )
    return objective.on(model)


def _refusal(objective: object) -> InvalidTypeError:
    hint, given = "", in_words(objective) if callable(objective) else in_short(objective)
    if isinstance(objective, type) and issubclass(objective, Objective):
        hint = f", made before: {objective.__name__}(...)"
    return InvalidTypeError(
        f"objective={given} is none that MEIs can be found for. Give a subclass of NeuronObjective "
        "(functools.partial fills in its further arguments), an Objective or a sum of such ones"
        f"{hint}, or a function of one argument, from responses [rows, time'] to scores [rows]."
    )
