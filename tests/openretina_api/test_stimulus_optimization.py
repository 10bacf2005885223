"""openretina's published example, and stimuli equal to those of openretina's own function."""

import copy
from functools import partial

import av
import matplotlib.pyplot as plt
import pytest
import torch

from mei_lightning import (
    ChangeNormJointlyClipRangeSeparately,
    EarlyStopper,
    IncreaseObjective,
    MaximalNorm,
    MeanReducer,
    OptimizationStopper,
    RangeRegularizationLoss,
    SliceMeanReducer,
    TemporalGaussianLowPassFilterProcessor,
    load_model,
    openretina_api,
    optimize_stimulus,
)

IMPORTS = """
from functools import partial

import matplotlib.pyplot as plt
import torch

from mei_lightning import (
    IncreaseObjective,
    OptimizationStopper,
    SliceMeanReducer,
    load_core_readout_from_remote,
    optimize_stimulus,
    plot_stimulus_composition,
    save_stimulus_to_mp4_video,
)
"""

LISTING = """
model = load_core_readout_from_remote("hoefling_2024_base_low_res", "cpu")
objective = IncreaseObjective(model, neuron_indices=[10], data_key="session_2_ventral2_20201016",
                              response_reducer=SliceMeanReducer(axis=0, start=10, length=10))
stimulus = torch.randn(model.stimulus_shape(time_steps=40), requires_grad=True)
stimulus.data = stimulus.data * 0.1
optimize_stimulus(stimulus=stimulus, optimizer_init_fn=partial(torch.optim.SGD, lr=100.0),
                  objective_object=objective, optimization_stopper=OptimizationStopper(max_iterations=10))
save_stimulus_to_mp4_video(stimulus[0], "mei.mp4")
fig, axes = plt.subplots(2, 2, figsize=(7 * 3, 12))
plot_stimulus_composition(stimulus[0], axes[0,0], axes[0,1], axes[1,0])
"""

SESSION = "session_2_ventral2_20201016"
RANGES = [(-0.654, 6.269), (-0.913, 6.269)]
WINDOW = {"axis": 0, "start": 10, "length": 10}


@pytest.fixture
def network():
    """A model of openretina as openretina's users have it: not frozen."""
    from openretina_checkpoints import example_core_readout

    return example_core_readout()


@pytest.fixture
def ensemble():
    from openretina.modules.layers.ensemble import EnsembleModel
    from openretina_checkpoints import example_core_readout

    return EnsembleModel(*[example_core_readout(seed=seed) for seed in range(3)]).eval()


@pytest.fixture
def openretina():
    """openretina's names, as attributes."""
    pytest.importorskip("openretina.models.core_readout", reason="openretina is not installed")
    from types import SimpleNamespace

    from openretina.insilico.stimulus_optimization import objective, optimization_stopper, optimizer, regularizer

    return SimpleNamespace(**{**vars(objective), **vars(optimization_stopper), **vars(optimizer), **vars(regularizer)})


@pytest.fixture(params=["digital_twin", "openretina checkpoint"])
def listing(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    if request.param == "digital_twin":
        return LISTING.replace("hoefling_2024_base_low_res", "digital_twin").replace(SESSION, "session_1")
    from openretina_checkpoints import write_example_checkpoint

    monkeypatch.setenv("MEI_LIGHTNING_ALLOW_UNPICKLING", "1")
    return LISTING.replace("hoefling_2024_base_low_res", str(write_example_checkpoint(tmp_path / "model.ckpt")))


def test_published_example(listing, tmp_path):
    torch.manual_seed(0)
    names = {}
    exec(IMPORTS + listing, names)
    torch.manual_seed(0)
    start = 0.1 * torch.randn(1, 2, 40, 18, 16)
    stimulus, objective = names["stimulus"], names["objective"]
    assert not stimulus.requires_grad
    assert stimulus.is_leaf
    assert stimulus.isfinite().all()
    with torch.no_grad():
        assert objective(stimulus) > 1.1 * objective(start)
    with av.open(str(tmp_path / "mei.mp4")) as container:
        assert len(list(container.decode(video=0))) == 40
    drawn = names["axes"].flatten()[:3]
    assert all(axes.lines or axes.images or axes.collections for axes in drawn)
    plt.close(names["fig"])


class CountingSGD(torch.optim.SGD):
    """SGD that counts its steps on movies; before a run it is tried on two small stimuli."""

    taken = 0

    def step(self, closure=None):
        CountingSGD.taken += self.param_groups[0]["params"][0].shape[-2:] == (18, 16)
        return super().step(closure)


def noise(rows=1, seed=0):
    return 0.1 * torch.randn(rows, 2, 40, 18, 16, generator=torch.Generator().manual_seed(seed))


def optimized(function, start, objective, stopper, lr=100.0, **extras):
    """The stimulus that a function makes of a start, and the number of its steps."""
    stimulus = start.clone().requires_grad_()
    CountingSGD.taken = 0
    function(
        stimulus=stimulus,
        optimizer_init_fn=partial(CountingSGD, lr=lr),
        objective_object=objective,
        optimization_stopper=stopper,
        **extras,
    )
    return stimulus.detach(), CountingSGD.taken


EXTRAS = {
    "nothing": lambda names: {},
    "norm and range": lambda names: {
        "stimulus_postprocessor": names.ChangeNormJointlyClipRangeSeparately(RANGES, norm=10.0)
    },
    "half of a range": lambda names: {
        "stimulus_postprocessor": names.ChangeNormJointlyClipRangeSeparately([(None, 0.2), (None, None)], norm=None)
    },
    "low-pass": lambda names: {"stimulus_postprocessor": names.TemporalGaussianLowPassFilterProcessor(1.5, 9)},
    "range penalty": lambda names: {
        "stimulus_regularization_loss": names.RangeRegularizationLoss([(-0.1, 0.1), (None, 0.2)], 3.0, factor=0.01)
    },
    "lists of everything": lambda names: {
        "stimulus_postprocessor": [
            names.TemporalGaussianLowPassFilterProcessor(1.5, 9),
            names.ChangeNormJointlyClipRangeSeparately(RANGES, norm=10.0),
        ],
        "stimulus_regularization_loss": [
            names.RangeRegularizationLoss([(-0.1, 0.1), (None, 0.2)], None, factor=0.01),
            names.StimulusRegularizationLoss(),
            names.RangeRegularizationLoss([(None, None), (None, None)], 3.0),
        ],
    },
}


@pytest.mark.parametrize(
    ("which", "extras"),
    [*(("network", extras) for extras in EXTRAS), ("ensemble", "nothing"), ("ensemble", "lists of everything")],
)
def test_stimulus_is_that_of_openretinas_function(which, extras, openretina, request):
    theirs = request.getfixturevalue(which)
    extras = EXTRAS[extras](openretina)
    start = noise()
    expected, steps = optimized(
        openretina.optimize_stimulus,
        start,
        openretina.IncreaseObjective(copy.deepcopy(theirs), [10], SESSION, openretina.SliceMeanReducer(**WINDOW)),
        openretina.OptimizationStopper(max_iterations=5),
        **extras,
    )
    assert steps == 5
    assert (expected - start).abs().max() > 0.1

    objectives = [
        openretina.IncreaseObjective(theirs, [10], SESSION, openretina.SliceMeanReducer(**WINDOW)),
        IncreaseObjective(load_model(theirs), [10], SESSION, SliceMeanReducer(**WINDOW)),
        IncreaseObjective(theirs, 10, SESSION, openretina.SliceMeanReducer(**WINDOW)),
    ]
    for objective, stopper in zip(
        objectives,
        [openretina.OptimizationStopper(5), OptimizationStopper(5), EarlyStopper(5, patience=5)],
        strict=True,
    ):
        stimulus, steps = optimized(optimize_stimulus, start, objective, stopper, **extras)
        assert steps == 5
        torch.testing.assert_close(stimulus, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", [None, 3.0])
def test_own_range_penalty_is_that_of_openretina(norm, network, openretina):
    objective = IncreaseObjective(load_model(network), [3, 10], SESSION, MeanReducer())
    results = [
        optimized(
            function,
            noise(),
            objective,
            OptimizationStopper(6),
            stimulus_regularization_loss=[penalty([(-0.1, 0.1), (None, 0.2)], norm, 0.05)],
        )[0]
        for function, penalty in (
            (openretina.optimize_stimulus, openretina.RangeRegularizationLoss),
            (optimize_stimulus, RangeRegularizationLoss),
            (optimize_stimulus, openretina.RangeRegularizationLoss),
        )
    ]
    unpenalised, _ = optimized(optimize_stimulus, noise(), objective, OptimizationStopper(6))
    assert (results[0] - unpenalised).abs().max() > 1e-2
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-5, rtol=1e-5)


def test_own_low_pass_is_that_of_openretina_away_from_the_borders(openretina):
    """openretina's filter darkens the first and last frames, where it takes the world to be 0."""
    stimulus = torch.randn(2, 2, 40, 3, 4)
    sigma = 1.5
    radius = int(4 * sigma + 0.5)
    theirs = openretina.TemporalGaussianLowPassFilterProcessor(sigma, 2 * radius + 1).process(stimulus)
    ours = TemporalGaussianLowPassFilterProcessor(sigma, 2 * radius + 1)(stimulus)
    inside = slice(radius, 40 - radius)
    torch.testing.assert_close(ours[:, :, inside], theirs[:, :, inside], atol=1e-5, rtol=1e-5)
    constant = torch.ones(1, 2, 40, 3, 4)
    torch.testing.assert_close(TemporalGaussianLowPassFilterProcessor(sigma, 13)(constant), constant)


def test_own_norm_and_range_hold_together(network, openretina):
    """openretina clips after it has set the norm, and so loses some of it."""
    norm, ranges = 10.0, [(-0.2, 0.3), (-0.1, 0.4)]
    model = load_model(network)
    objective = IncreaseObjective(model, [10], SESSION, SliceMeanReducer(**WINDOW))
    stimuli = {}
    for source in (openretina.ChangeNormJointlyClipRangeSeparately, ChangeNormJointlyClipRangeSeparately):
        stimulus, _ = optimized(
            optimize_stimulus, noise(), objective, OptimizationStopper(5), stimulus_postprocessor=source(ranges, norm)
        )
        for channel, (low, high) in enumerate(ranges):
            assert low - 1e-5 <= stimulus[:, channel].min()
            assert stimulus[:, channel].max() <= high + 1e-5
        stimuli[source] = stimulus
    theirs, ours = stimuli.values()
    assert ours.norm().item() == pytest.approx(norm, rel=1e-5)
    assert theirs.norm() < 0.99 * norm
    assert objective(ours) > objective(theirs)


class Parabola:
    """An objective of openretina's kind whose course under gradient ascent is known: -c |x|^2."""

    def __init__(self, curvature):
        self.curvature = curvature

    def forward(self, stimulus):
        return -self.curvature * stimulus.square().sum()


@pytest.mark.parametrize("patience", [1, 4])
def test_openretinas_early_stopper_stops_when_the_score_falls(openretina, patience):
    """With lr 1 and c = 1.5 the stimulus doubles and changes sign at each step, so every loss exceeds the last."""
    results = [
        optimized(function, noise(), Parabola(1.5), openretina.EarlyStopper(20, patience, min_delta=0.0), lr=1.0)
        for function in (openretina.optimize_stimulus, optimize_stimulus)
    ]
    for stimulus, steps in results:
        assert steps == patience + 1
        torch.testing.assert_close(stimulus, noise() * (-2.0) ** (patience + 1))


@pytest.mark.parametrize("patience", [1, 3, 15])
def test_own_early_stopper_stops_at_a_plateau(patience):
    """With lr 1 and c = 1 each step changes the sign of the stimulus and leaves the loss as it is."""
    stopper = EarlyStopper(max_iterations=50, patience=patience, min_delta=1e-3)
    stimulus, steps = optimized(optimize_stimulus, noise(), Parabola(1.0), stopper, lr=1.0)
    assert steps == 1 + patience
    torch.testing.assert_close(stimulus, noise() * (-1.0) ** (1 + patience))


def test_openretinas_early_stopper_goes_on_at_a_plateau(openretina):
    stopper = openretina.EarlyStopper(max_iterations=50, patience=3, min_delta=1e-3)
    for function in (openretina.optimize_stimulus, optimize_stimulus):
        assert optimized(function, noise(), Parabola(1.0), stopper, lr=1.0)[1] == 50


def test_early_stopper_without_a_limit_waits_for_slow_progress_and_counts_it():
    """A loss that falls by less than min_delta a step still makes progress once it has fallen by more in all."""
    stopper = EarlyStopper(patience=3, min_delta=1.0)
    losses = [10.0, 9.5, 9.0, 8.9, 8.8, 8.7, 8.6]
    assert [stopper.early_stop(loss) for loss in losses] == [False, False, False, False, False, False, True]


def test_rows_of_a_batch_are_problems_of_their_own(network, openretina):
    """openretina takes the rows of a batch for frames and the neurons' indices for frames."""
    start = torch.cat([noise(seed=seed) for seed in range(3)])
    ours = IncreaseObjective(load_model(network), [10], SESSION, SliceMeanReducer(**WINDOW))
    theirs = openretina.IncreaseObjective(network, [10], SESSION, openretina.SliceMeanReducer(**WINDOW))
    extras = {
        "stimulus_postprocessor": ChangeNormJointlyClipRangeSeparately(RANGES, 10.0),
        "stimulus_regularization_loss": openretina.RangeRegularizationLoss([(-0.1, 0.1), (None, 0.2)], 3.0, 0.01),
    }
    alone = torch.cat(
        [optimized(optimize_stimulus, row, ours, OptimizationStopper(5), **extras)[0] for row in start.split(1)]
    )
    for objective in (ours, theirs):
        together, steps = optimized(optimize_stimulus, start, objective, OptimizationStopper(5), **extras)
        assert steps == 5
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    wrong, _ = optimized(openretina.optimize_stimulus, start, theirs, openretina.OptimizationStopper(5))
    right, _ = optimized(optimize_stimulus, start, ours, OptimizationStopper(5))
    assert (wrong - right).abs().max() > 0.1


def extras_of_ones_own(names):
    """A postprocessor and a cost derived from the classes that are there to derive from."""

    class Mirror(names.StimulusPostprocessor):
        def process(self, x):
            return 0.5 * (x + x.flip(-1))

    class Brightness(names.StimulusRegularizationLoss):
        def forward(self, stimulus):
            return 0.1 * stimulus.square().sum()

    return {
        "stimulus_postprocessor": [Mirror(), names.StimulusPostprocessor()],
        "stimulus_regularization_loss": [Brightness(), names.StimulusRegularizationLoss()],
    }


def test_extras_of_ones_own_work_in_both_functions(openretina):
    stimuli = [
        optimized(function, noise(), Parabola(1.0), OptimizationStopper(3), lr=0.1, **extras_of_ones_own(names))[0]
        for function in (openretina.optimize_stimulus, optimize_stimulus)
        for names in (openretina, openretina_api)
    ]
    # Each step multiplies by 1 - 2 lr (1 + 0.1).
    expected = 0.5 * (noise() + noise().flip(-1)) * (1 - 0.22) ** 3
    for stimulus in stimuli:
        torch.testing.assert_close(stimulus, expected)


EVERY_EXTRA = {
    "stimulus_postprocessor": [
        TemporalGaussianLowPassFilterProcessor(1.5, 9),
        ChangeNormJointlyClipRangeSeparately(RANGES, norm=10.0),
        MaximalNorm(9.0),
    ],
    "stimulus_regularization_loss": RangeRegularizationLoss([(-0.1, 0.1), (None, 0.2)], 3.0, factor=0.01),
}


def test_own_postprocessors_and_costs_work_in_openretinas_function(openretina):
    ours, theirs = (
        optimized(function, noise(), Parabola(-0.1), OptimizationStopper(4), lr=1.0, **EVERY_EXTRA)[0]
        for function in (optimize_stimulus, openretina.optimize_stimulus)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert ours.norm().item() == pytest.approx(9.0, rel=1e-5)


@pytest.mark.parametrize("kind", ["leaf", "view", "computed"])
def test_the_stimulus_comes_out_without_a_gradient(kind):
    stimulus = noise()
    whole = noise(2)
    stimulus = {
        "leaf": lambda: stimulus.requires_grad_(),
        "view": lambda: whole[:1].requires_grad_(),
        "computed": lambda: 1.0 * stimulus.requires_grad_(),
    }[kind]()
    optimize_stimulus(stimulus, partial(torch.optim.SGD, lr=0.1), Parabola(1.0), OptimizationStopper(1))
    torch.testing.assert_close(
        torch.from_numpy(stimulus.numpy()), 0.8 * noise(2)[:1] if kind == "view" else 0.8 * noise()
    )


def test_own_objective_in_openretinas_function(network, openretina):
    stimuli = []
    for objective in (
        IncreaseObjective(load_model(network), [10], SESSION, SliceMeanReducer(**WINDOW)),
        openretina.IncreaseObjective(network, [10], SESSION, openretina.SliceMeanReducer(**WINDOW)),
    ):
        stimulus, _ = optimized(openretina.optimize_stimulus, noise(), objective, OptimizationStopper(5))
        stimuli.append(stimulus)
    torch.testing.assert_close(*stimuli, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["ours", "theirs", "function"])
def test_the_model_comes_out_as_it_went_in(kind, network, openretina):
    network.train()
    network.core.eval()
    network(noise(), data_key=SESSION)  # openretina's readouts clip their own weights when they are first used
    weights = copy.deepcopy(network.state_dict())
    flags = [module.training for module in network.modules()]
    objective = {
        "ours": lambda: IncreaseObjective(network, [10], SESSION, MeanReducer()),
        "theirs": lambda: openretina.IncreaseObjective(network, [10], SESSION, openretina.MeanReducer()),
        "function": lambda: lambda stimulus: network(stimulus, data_key=SESSION)[:, :, 10].mean(1),
    }[kind]()
    stimulus, _ = optimized(optimize_stimulus, noise(), objective, OptimizationStopper(3))
    assert not torch.equal(stimulus, noise())
    assert all(weight.grad is None for weight in network.parameters())
    assert all(weight.requires_grad for weight in network.parameters())
    assert [module.training for module in network.modules()] == flags
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name])


def test_a_stimulus_can_be_optimised_again(network):
    """Two calls of 4 steps are one of 8; after openretina's function a second call changes nothing."""
    objective = IncreaseObjective(load_model(network), [10], SESSION, MeanReducer())
    arguments = {"optimizer_init_fn": partial(torch.optim.SGD, lr=50.0), "objective_object": objective}
    once, twice = noise().requires_grad_(), noise().requires_grad_()
    place = twice.data_ptr()
    optimize_stimulus(once, optimization_stopper=OptimizationStopper(8), **arguments)
    for _ in range(2):
        optimize_stimulus(twice, optimization_stopper=OptimizationStopper(4), **arguments)
        assert not twice.requires_grad
        assert twice.is_leaf
        assert twice.data_ptr() == place
    torch.testing.assert_close(twice, once, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "extras", "error", "message"),
    [
        (
            {},
            {"stimulus_postprocessor": ChangeNormJointlyClipRangeSeparately([(-1.0, 1.0)], 1.0)},
            ValueError,
            r"1 channel range\(s\) for a stimulus of 2 channel",
        ),
        (
            {},
            {"stimulus_regularization_loss": RangeRegularizationLoss([(-1.0, 1.0)] * 3, 1.0)},
            ValueError,
            r"3 channel range\(s\) for a stimulus of 2 channel",
        ),
        (
            {},
            {"stimulus_postprocessor": ChangeNormJointlyClipRangeSeparately([(-0.01, 0.01)] * 2, 100.0)},
            ValueError,
            "norm=100 cannot be reached",
        ),
        ({"response_reducer": SliceMeanReducer(axis=0, start=15, length=10)}, {}, ValueError, "response has 20 frames"),
        ({"neuron_indices": [36]}, {}, IndexError, "has no neuron 36"),
        ({"data_key": "monday"}, {}, ValueError, "no session 'monday'"),
    ],
)
def test_what_does_not_fit_is_an_error_that_leaves_the_stimulus_alone(target, extras, error, message):
    target = {"neuron_indices": [10], "data_key": "session_1", "response_reducer": MeanReducer()} | target
    stimulus = noise().requires_grad_()
    with pytest.raises(error, match=message):
        optimize_stimulus(
            stimulus,
            partial(torch.optim.SGD, lr=1.0),
            IncreaseObjective(load_model("simulated"), **target),
            OptimizationStopper(3),
            **extras,
        )
    assert torch.equal(stimulus, noise())


def test_prints_nothing_as_openretinas_function(capfd, caplog):
    objective = IncreaseObjective(load_model("simulated"), 0, "session_1", MeanReducer())
    stimulus = torch.randn(1, 2, 40, 18, 16)
    optimize_stimulus(stimulus, partial(torch.optim.SGD, lr=1.0), objective, OptimizationStopper(2))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
