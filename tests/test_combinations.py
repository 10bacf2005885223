"""Objectives, on parameterisations, under constraints: the invariants that hold for all of them."""

from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
import torch
from conftest import VIDEO_FORMAT, fit, video_model
from lightning.pytorch.callbacks import ModelCheckpoint

import mei_lightning as ml
from mei_lightning.models.base import weights_digest
from mei_lightning.objectives import DiverseObjective, SurroundObjective, as_objective
from mei_lightning.optimization.trainer import silent_lightning

ROWS, STEPS, SAVED = 4, 2, 1
SHAPE = (2, 6, 6, 5)
NEURONS = [("monday", 0), ("tuesday", 1), ("monday", 3), [("monday", 1), ("tuesday", 2)]]
PAIRS = [[("monday", 0), ("tuesday", 1)], [("monday", 2), ("monday", 3)], [("tuesday", 0), ("tuesday", 2)]]
GROUPS = [*PAIRS, [("monday", 1), ("tuesday", 2)]]
MEAN = ml.MeanReducer()
FREE = torch.ones(1, 1, 1, 6, 5, dtype=torch.bool)
FREE[..., 2:4, 1:4] = False


def centred(objective):
    centre = torch.randn(ROWS, *SHAPE, generator=torch.Generator().manual_seed(1)) * ~FREE
    return SurroundObjective(objective, centre, FREE)


OBJECTIVES = {
    "increase": lambda model: ml.IncreaseObjective(model, [0, 2], "monday", MEAN),
    "decrease": lambda model: ml.DecreaseObjective(model, 1, "tuesday", MEAN),
    "neuron": lambda model: ml.NeuronObjective(model, NEURONS, MEAN),
    "maximum": lambda model: ml.NeuronObjective(model, NEURONS, ml.MaxReducer()),
    "transient": lambda model: ml.NeuronObjective(model, NEURONS, ml.WindowContrastReducer(0, 0, 2, 2, 2)),
    "contrastive": lambda model: ml.ContrastiveNeuronObjective(model, [0], [[1, 2], [3]], "monday", MEAN),
    "contrast": lambda model: ml.ContrastObjective(model, NEURONS, MEAN, [[("monday", 2)]] * ROWS),
    "discriminative": lambda model: ml.DiscriminativeObjective(model, GROUPS, MEAN),
    "one-hot": lambda model: ml.OneHotObjective(model, NEURONS, MEAN),
    "target level": lambda model: ml.TargetLevelObjective(model, NEURONS, MEAN, [3.0, 2.0, 4.0, 3.0]),
    "target trace": lambda model: ml.TargetTraceObjective(model, NEURONS, MEAN, [1.0, 2.0, 3.0, 2.0]),
    "direction": lambda model: ml.DirectionObjective(model, GROUPS, MEAN, [1.0, -0.5]),
    "diverse": lambda model: DiverseObjective(
        ml.NeuronObjective(model, NEURONS[:2] + NEURONS[2:3] * 2, MEAN), [0, 1, 2, 2], [2.0] * ROWS
    ),
    "surround": lambda model: centred(ml.NeuronObjective(model, NEURONS, MEAN)),
    "inner units": lambda model: ml.NeuronObjective(ml.InnerUnits(model, "dropout"), [0, 1, 2, 3], MEAN),
    "sum": lambda model: (
        ml.NeuronObjective(model, NEURONS, MEAN) - 0.5 * ml.IncreaseObjective(model, 0, "monday", MEAN)
    ),
    "function": lambda model: lambda stimulus: model(stimulus, "monday").square().mean(dim=(1, 2)),
}
PARAMETERIZATIONS = {
    "pixels": None,
    "Fourier": ml.Fourier(temporal=(None, 10.0), spatial=(None, 8.0)),
    "low rank": ml.LowRank(2),
    "implicit network": ml.ImplicitNetwork(hidden=5),
    "pyramid": ml.Pyramid(levels=2),
}
RANGES = [(-0.9, 1.2), (-0.6, 0.8)]
MASK = torch.ones(6, 5)
MASK[:2] = 0
NORM_AND_RANGE = ml.NormAndRange(5.0, RANGES)
CONSTRAINTS = {
    "none": None,
    "norm": ml.FixedNorm(5.0),
    "maximal norm": ml.MaximalNorm(5.0),
    "range": ml.ChannelRange(RANGES),
    "norm and range": NORM_AND_RANGE,
    "mask": ml.NormAndRange(5.0, RANGES, mask=MASK, frozen=0.25),
    "temporal low-pass": ml.Compose([ml.TemporalLowPass(0.7), ml.FixedNorm(5.0)]),
    "spatial low-pass": ml.Compose([ml.SpatialLowPass(0.7), NORM_AND_RANGE]),
    "rescale then clip": ml.RescaleThenClip(5.0, RANGES),
}
# Every objective meets every constraint, and the parameterisations go round with both, by a Latin square: so each
# objective and each constraint also meets every parameterisation.
COMBINATIONS = [
    (objective, list(PARAMETERIZATIONS)[(row + column) % len(PARAMETERIZATIONS)], constraint)
    for row, objective in enumerate(OBJECTIVES)
    for column, constraint in enumerate(CONSTRAINTS)
]


def facts(model):
    flags = [(part.training, len(part._forward_hooks)) for part in model.modules()]
    return weights_digest(model), flags, [(weight.requires_grad, weight.grad) for weight in model.parameters()]


def assert_feasible(stimulus, constraint):
    """By numpy, from what the constraint says of itself."""
    last = list(constraint.children())[-1] if isinstance(constraint, ml.Compose) else constraint
    values = stimulus.double().numpy()
    assert np.isfinite(values).all()
    free = np.ones(SHAPE, bool)
    if getattr(last, "mask", None) is not None:
        free = np.broadcast_to(last.mask.numpy(), SHAPE)
        assert (values[:, ~free] == 0.25).all()
    norms = np.sqrt(np.square(values * free).sum(axis=(1, 2, 3, 4)))
    if isinstance(last, ml.RescaleThenClip):
        assert (norms <= 5.0 * (1 + 1e-5)).all()
        last = last.clip
    elif last is not None and last.norm is not None:
        assert (norms <= 5.0 * (1 + 1e-5)).all()
        assert (norms >= 5.0 * (1 - 1e-5)).all() or last.norm_is == "maximal"
    if last is not None and last.ranges is not None:
        for channel, (low, high) in enumerate(RANGES):
            assert low - 1e-6 <= values[:, channel].min()
            assert values[:, channel].max() <= high + 1e-6


@cache
def initial():
    return torch.randn(ROWS, *SHAPE, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture(autouse=True)
def _only_what_matters(monkeypatch):
    """Logs, and a search of the environment for plug-ins, would take as long as all the rest."""
    monkeypatch.setattr(ml.StimulusModule, "_log_population", lambda module: None)
    plug_ins = "lightning.pytorch.trainer.connectors.callback_connector._load_external_callbacks"
    monkeypatch.setattr(plug_ins, lambda group: [], raising=False)
    with silent_lightning():
        yield


def test_each_pair_is_among_the_combinations():
    for one, other in combinations(range(3), 2):
        kinds = (OBJECTIVES, PARAMETERIZATIONS, CONSTRAINTS)
        assert {(names[one], names[other]) for names in COMBINATIONS} == set(product(kinds[one], kinds[other]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*stimuli ended with 'no gradient'", "ignore:.*when using `ckpt_path`, callbacks")
@pytest.mark.parametrize(
    ("objective", "parameterization", "constraint"),
    [(OBJECTIVES[one], PARAMETERIZATIONS[other], CONSTRAINTS[third]) for one, other, third in COMBINATIONS],
    ids=["-".join(names) for names in COMBINATIONS],
)
def test_rows_are_independent_feasible_resumable_and_the_model_is_unchanged(
    objective, parameterization, constraint, tmp_path
):
    # In double precision, so that rounding, which varies with the batch, hides no mistake.
    model = video_model().double()
    before = facts(model)
    if parameterization is not None:
        parameterization = parameterization.for_stimuli((ROWS, *SHAPE), VIDEO_FORMAT)

    def module_of(rows):
        whole = as_objective(objective(model)).double()
        return ml.StimulusModule(
            whole if len(rows) == ROWS else whole.for_rows(rows),
            initial()[rows],
            constraint=constraint,
            parameterization=parameterization,
            check_interval=STEPS,
        )

    module = module_of(range(ROWS))
    start = module.stimulus.detach().clone()
    fit(module, STEPS, ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=SAVED))
    assert [name for name, _ in module.named_parameters() if "objective" not in name] == ["stimulus"]
    assert not torch.isclose(module.stimulus, start).flatten(1).all(1).any()
    assert_feasible(module.best_stimulus, constraint)
    for path in tmp_path.glob("*.ckpt"):
        assert_feasible(torch.load(path, weights_only=True)["state_dict"]["best_stimulus"], constraint)

    resumed = module_of(range(ROWS))
    fit(resumed, STEPS, ckpt_path=tmp_path / f"step={SAVED}.ckpt")
    for name, value in module.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, msg=name)

    # The two rows of one neuron of the diverse objective belong together.
    alone = module_of([2, 3])
    fit(alone, STEPS)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(alone.state_dict()[name], value[[2, 3]], rtol=1e-6, atol=1e-6, msg=name)
    assert facts(model) == before
