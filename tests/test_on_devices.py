"""One table of what the package does, on an emulated CUDA device and on MPS, against the same on the CPU.

Every public objective, constraint, parameterisation, ... has a line in ``PARTS`` or ``PARTS_OF_STIMULI``, and every
other thing that a user can do a function in ``RUNS``.
"""

import copy
import warnings
from functools import cache, partial

import numpy as np
import pytest
import torch
from conftest import STILL_FORMAT, StillNetwork, still_model, video_model
from emulation import EmulatedDevice
from emulation.tensor_float32 import tensor_float32
from lightning.pytorch import Callback, Trainer
from torch import nn

import mei_lightning as ml
from mei_lightning.acceleration import fused_projection
from mei_lightning.analysis.standard_stimuli import standard_stimuli
from mei_lightning.optimization.trainer import silent_lightning

pytestmark = pytest.mark.pictures

NEURONS = [("monday", 0), ("tuesday", 1)]
PAIRS = [[("monday", 0), ("tuesday", 1)], [("monday", 1), ("monday", 3)]]
TWIN_NEURONS = [("session_1", 0), ("session_1", 1)]
ONE_SESSION = [("session_1", number) for number in range(6)]
RANGES = [(-0.9, 1.2), (-0.6, 0.8)]
SHAPE = (2, 22, 6, 5)
MASK = torch.ones(6, 5)
MASK[:2] = 0

BASES = (
    ml.Constraint,
    ml.GradientFilter,
    ml.InitialStimuli,
    ml.Objective,
    ml.Parameterization,
    ml.Perturbation,
    ml.Reducer,
    ml.Regularizer,
    ml.Robustness,
)

PARTS = {
    ml.BestNaturalClip: {"clips": 5},
    ml.ChangeNormJointlyClipRangeSeparately: {"min_max_values": RANGES, "norm": 5.0},
    ml.ChannelRange: {"ranges": RANGES},
    ml.Compose: {"constraints": [ml.TemporalLowPass(0.7), ml.SpatialLowPass(0.7), ml.NormAndRange(5.0, RANGES)]},
    ml.ContrastObjective: {"others": [[("monday", 2)], [("tuesday", 0), ("tuesday", 2)]]},
    ml.DirectionObjective: {"direction": [1.0, -0.5]},
    ml.DiscriminativeObjective: {},
    ml.FixedNorm: {"norm": 5.0},
    ml.Fourier: {"temporal": (None, 10.0), "spatial": (None, 8.0)},
    ml.GivenStimuli: {"stimuli": torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))},
    ml.GradientBlur: {"space": 0.7, "time": 1.0},
    ml.ImplicitNetwork: {"hidden": 5},
    ml.Jitter: {"space": 1, "time": 1},
    ml.LinearReceptiveField: {},
    ml.LowRank: {"rank": 2},
    ml.MaximalNorm: {"norm": 5.0},
    ml.MaxReducer: {},
    ml.MeanReducer: {},
    ml.NeuronObjective: {},
    ml.Noise: {"standard_deviation": 0.1},
    ml.NormAndRange: {"norm": 5.0, "ranges": RANGES, "mask": MASK, "frozen": 0.25},
    ml.OneHotObjective: {},
    ml.PinkNoise: {},
    ml.Pyramid: {"levels": 2},
    ml.RandomMember: {},
    ml.RangePenalty: {"ranges": RANGES},
    ml.RangeRegularizationLoss: {"min_max_values": RANGES, "max_norm": 4.0},
    ml.RescaleThenClip: {"norm": 5.0, "ranges": RANGES},
    ml.SliceMeanReducer: {"axis": 0, "start": 5, "length": 10},
    ml.SpatialLowPass: {"sigma": 0.7},
    ml.SpatialSmoothness: {"factor": 0.1},
    ml.SpatialTotalVariation: {"factor": 0.1},
    ml.TargetLevelObjective: {"level": [3.0, 2.0]},
    ml.TargetTraceObjective: {"trace": torch.linspace(1.0, 2.0, 20).tolist()},
    ml.TemporalGaussianLowPassFilterProcessor: {"sigma": 1.0, "kernel_size": 5},
    ml.TemporalLowPass: {"sigma": 0.7},
    ml.TemporalSmoothness: {"factor": 0.1},
    ml.TemporalTotalVariation: {"factor": 0.1},
    ml.WhiteNoise: {"amplitude": 0.5},
    ml.WindowContrastReducer: {"axis": 0, "start": 0, "length": 2, "against_start": 2, "against_length": 2},
}
"""Parts of a run of ``find_meis``, each with the arguments that it is made with."""

PARTS_OF_STIMULI = {
    ml.ContrastiveNeuronObjective: {"on_cluster_idc": [0], "off_cluster_idc_list": [[1, 2], [3]]},
    ml.DecreaseObjective: {"neuron_indices": 1},
    ml.IncreaseObjective: {"neuron_indices": [0, 2]},
}
"""Objectives of stimuli of one's own, for ``optimize_stimulus``."""


@cache
def twin():
    return ml.load_model("digital_twin")


def find(model, neurons, accelerator, **options):
    """MEIs after a few steps, as all cases find them."""
    options = {"norm": 5.0, "search": "quick", "max_steps": 3, "rows_per_device": 8, **options}
    if "constraint" in options:
        options["norm"] = None
    return ml.find_meis(model, neurons, accelerator=accelerator, progress_bar=False, **options)


def found(meis):
    """What is compared of MEIs."""
    return {name: meis[name].values for name in ("score", "response", "status", "steps")}


def find_with(part, accelerator):
    """MEIs of a run with a part that is of a class in ``PARTS``."""
    arguments = copy.deepcopy(PARTS[part])
    model = ml.Ensemble([video_model(0), video_model(1)]) if part is ml.RandomMember else video_model()
    neurons = PAIRS if part in (ml.DirectionObjective, ml.DiscriminativeObjective) else NEURONS
    return found(find(model, neurons, accelerator, **_option_of(part, arguments)))


def _option_of(part, arguments):
    if issubclass(part, ml.Objective):
        return {"objective": partial(part, **arguments)}
    made = part(**arguments)
    if issubclass(part, ml.Robustness):
        return {"robustness": [made]}
    names = {
        ml.Constraint: "constraint",
        ml.GradientFilter: "gradient_filter",
        ml.InitialStimuli: "initial",
        ml.Parameterization: "parameterization",
        ml.Reducer: "reducer",
        ml.Regularizer: "regularizer",
    }
    (name,) = (name for base, name in names.items() if issubclass(part, base))
    return {name: made}


def optimize_with(part, accelerator):
    """A stimulus that is optimised in place, where it is."""
    device = "cpu" if accelerator == "cpu" else accelerator
    model = video_model().to(device)
    objective = part(model, data_key="monday", response_reducer=ml.MeanReducer(), **PARTS_OF_STIMULI[part])
    return in_place(model, objective, device)


def in_place(model, objective, device, **options):
    frames = model.stimulus_format.frames_lost + 10
    values = torch.randn(model.stimulus_shape(frames), generator=torch.Generator().manual_seed(0)).to(device)
    stimulus = values.requires_grad_()
    options = {"optimizer_init_fn": partial(torch.optim.SGD, lr=10.0), **options}
    stopper = options.pop("stopper", ml.OptimizationStopper(max_iterations=3))
    ml.optimize_stimulus(stimulus, objective_object=objective, optimization_stopper=stopper, **options)
    assert stimulus.device.type == device
    assert next(model.parameters()).device.type == device
    return {"stimulus": stimulus.detach().cpu().numpy()}


_BRIEF = {"restarts": 1, "max_steps": 2}
_QUICK = {"search": "quick", "progress_bar": False}

RUNS = {}
"""All else: functions of the accelerator and of a temporary directory."""


def run(function):
    RUNS[function.__name__.replace("_", " ")] = function
    return function


@run
def default(accelerator, directory):
    return found(find(twin(), TWIN_NEURONS, accelerator, search="normal", max_steps=4, rows_per_device=None))


@run
def default_device_of_the_user(accelerator, directory):
    model = video_model()
    torch.set_default_device(accelerator)
    try:
        return found(find(model, NEURONS, accelerator))
    finally:
        torch.set_default_device(None)


@run
def a_sum_of_objectives(accelerator, directory):
    model, neurons = twin(), TWIN_NEURONS
    response, contrast = (of(model, neurons, ml.MeanReducer()) for of in (ml.NeuronObjective, ml.OneHotObjective))
    plain = ml.IncreaseObjective(model, [3], "session_1", ml.MaxReducer())
    return found(find(model, neurons, accelerator, objective=response - 0.5 * contrast + 0.1 * plain))


@run
def an_objective_of_the_stimulus(accelerator, directory):
    objective = ml.IncreaseObjective(video_model(1), [3], "monday", ml.MaxReducer())
    return found(find(video_model(), NEURONS, accelerator, objective=objective))


@run
def a_function_of_responses(accelerator, directory):
    return found(find(video_model(), NEURONS, accelerator, objective=lambda traces: traces.amax(dim=1)))


@run
def still_images(accelerator, directory):
    return found(find(still_model(), [0, 3], accelerator))


@run
def without_a_prepared_copy(accelerator, directory):
    return found(find(video_model(), NEURONS, accelerator, fast_path=False))


@run
def prepared_in_bfloat16(accelerator, directory):
    return found(find(twin(), TWIN_NEURONS[:1], accelerator, fast_path="bfloat16", time_steps=25, **_BRIEF))


@run
def sgd(accelerator, directory):
    return found(find(video_model(), NEURONS, accelerator, optimizer=partial(torch.optim.SGD, lr=10.0)))


@run
def adam(accelerator, directory):
    return found(find(video_model(), NEURONS, accelerator, optimizer=partial(torch.optim.Adam, lr=0.1)))


@run
def ranges(accelerator, directory):
    return found(find(video_model(), NEURONS, accelerator, ranges=RANGES))


@run
def groups(accelerator, directory):
    return found(find(video_model(), [PAIRS[0], ("monday", 1)], accelerator))


@run
def a_mask_for_each_value(accelerator, directory):
    constraint = ml.NormAndRange(5.0, RANGES, mask=MASK.expand(SHAPE), frozen=torch.full(SHAPE, 0.1))
    return found(find(video_model(), NEURONS, accelerator, constraint=constraint))


@run
def several_perturbations(accelerator, directory):
    model = ml.Ensemble([video_model(0), video_model(1)])
    perturbations = [ml.RandomMember(), ml.Jitter(space=1), ml.Noise(0.1)]
    return found(find(model, NEURONS, accelerator, robustness=perturbations))


@run
def ensemble(accelerator, directory):
    other = ml.load_model("digital_twin")
    with torch.no_grad():
        for values in other.parameters():
            values.mul_(0.9)
    model, perturbations = ml.Ensemble([twin(), other]), [ml.RandomMember()]
    return found(find(model, TWIN_NEURONS[:1], accelerator, robustness=perturbations, **_BRIEF))


@run
def thorough(accelerator, directory):
    return found(find(video_model(), NEURONS, accelerator, search="thorough", rows_per_device=32))


@run
def more_neurons_than_rows(accelerator, directory):
    return found(find(video_model(), "all", accelerator, rows_per_device=4))


@run
def openretinas_ensemble(accelerator, directory):
    pytest.importorskip("openretina.models.core_readout", reason="openretina is not installed")
    from openretina.modules.layers.ensemble import EnsembleModel
    from openretina_checkpoints import example_core_readout

    networks = [example_core_readout(seed=seed) for seed in range(2)]
    model, perturbations = ml.OpenRetinaModel.from_module(EnsembleModel(*networks).eval()), [ml.RandomMember()]
    return found(find(model, [("session_1_dorsal1_20200101", 0)], accelerator, robustness=perturbations, **_BRIEF))


class _LinearNonlinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.filters = nn.Conv3d(2, 4, (5, 6, 5))
        generator = torch.Generator().manual_seed(0)
        for values in self.filters.parameters():
            values.data = torch.randn(values.shape, generator=generator) * 0.1

    def forward(self, stimulus):
        return nn.functional.softplus(self.filters(stimulus))[..., 0, 0].mT


@run
def a_model_of_ones_own(accelerator, directory):
    facts = ml.StimulusFormat(("green", "UV"), height=6, width=5, frame_rate=30.0, frames_lost=4)
    return found(find(ml.RetinaModel(_LinearNonlinear(), facts, 4), [0, 3], accelerator))


class _OfNoDevice(_LinearNonlinear):
    """Makes a tensor at each call, where torch makes tensors by default."""

    def forward(self, stimulus):
        return super().forward(stimulus) * torch.linspace(0.5, 1.5, 4)


@run
def a_network_that_names_no_device(accelerator, directory):
    facts = ml.StimulusFormat(("green", "UV"), height=6, width=5, frame_rate=30.0, frames_lost=4)
    model = ml.RetinaModel(_OfNoDevice(), facts, 4)
    torch.set_default_device(accelerator)
    try:
        assert_same(found(find(model, [0, 3], "cpu")), found(find(model, [0, 3], accelerator)))
    finally:
        torch.set_default_device(None)
    return found(find(model, [0, 3], accelerator))


@run
def double_precision(accelerator, directory):
    network = StillNetwork().double()
    return found(find(ml.RetinaModel(network, STILL_FORMAT, 5), [0, 3], accelerator))


@run
def simulated(accelerator, directory):
    model = ml.load_model("simulated")
    session = next(iter(model.neurons_per_session))
    return found(find(model, [(session, 0), (session, 1)], accelerator))


@run
def inner_units(accelerator, directory):
    return found(find(ml.InnerUnits(video_model(), "dropout"), [0, 1], accelerator))


@run
def resumed(accelerator, directory):
    class Interruption(Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.global_step >= 4:
                raise KeyboardInterrupt

    options = {"rows_per_device": 2, "directory": directory}
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        find(video_model(), NEURONS, accelerator, callbacks=[Interruption()], **options)
    return found(find(video_model(), NEURONS, accelerator, **options))


@run
def logged_to_tensorboard(accelerator, directory):
    return found(find(video_model(), NEURONS, accelerator, log_directory=directory))


@run
def invariance_paths(accelerator, directory):
    paths = ml.find_invariance_paths(video_model(), NEURONS, points=3, max_steps=3, norm=5.0, **_QUICK)
    return _values(paths)


@run
def diverse_stimuli(accelerator, directory):
    return _values(ml.find_diverse_stimuli(video_model(), NEURONS, number=2, max_steps=3, norm=5.0, **_QUICK))


@run
def surrounds(accelerator, directory):
    return _values(ml.find_surrounds(video_model(), NEURONS, starts=1, max_steps=3, norm=5.0, **_QUICK))


@run
def clusters(accelerator, directory):
    return _values(ml.cluster_by_stimulus(video_model(), "all", clusters=2, steps=3, norm=5.0))


@run
def receptive_fields(accelerator, directory):
    model = copy.deepcopy(twin()).to(accelerator)
    return _values(ml.find_receptive_fields(model, TWIN_NEURONS))


def _values(dataset):
    return {name: dataset[name].values for name in dataset.data_vars}


@cache
def meis_of_twin():
    """On the CPU, whatever the accelerator, to judge what is computed of them."""
    return find(twin(), TWIN_NEURONS, "cpu", max_steps=2)


@cache
def meis_of_video_model():
    return find(video_model(), NEURONS, "cpu", max_steps=1)


@run
def cross_responses(accelerator, directory):
    responses = ml.cross_responses(twin(), meis_of_twin(), accelerator=accelerator, progress_bar=False)
    return {"responses": responses.values}


@run
def curvature(accelerator, directory):
    meis = meis_of_video_model()
    return _values(ml.mei_curvature(video_model(), meis, directions=3, accelerator=accelerator, progress_bar=False))


@run
def cross_responses_under_a_default_device(accelerator, directory):
    torch.set_default_device(accelerator)
    try:
        return cross_responses(accelerator, directory)
    finally:
        torch.set_default_device(None)


@run
def compared_with_standard_stimuli(accelerator, directory):
    meis = meis_of_twin()
    some = standard_stimuli(twin().stimulus_format, meis.sizes["time"], num_movies=1)[::40]
    options = {"accelerator": accelerator, "progress_bar": False}
    return _values(ml.compare_with_standard_stimuli(twin(), meis, stimuli=some, **options))


@run
def chromatic_gradient_field(accelerator, directory):
    contrasts = (-1.0, 0.0, 1.0)
    name = str(meis_of_twin()["neuron"].values[0])
    field = ml.chromatic_landscape(twin(), meis_of_twin(), name, contrasts=contrasts, accelerator=accelerator)
    return _values(field)


@run
def held_out_scores(accelerator, directory):
    find(video_model(0), NEURONS, "cpu", directory=directory, max_steps=1)
    scores = ml.score_held_out(directory / "meis.zarr", video_model(1), accelerator=accelerator, progress_bar=False)
    return {"scores": scores.values}


@run
def shared_meis(accelerator, directory):
    find(video_model(0), NEURONS, "cpu", directory=directory, max_steps=1)
    options = {"accelerator": accelerator, "progress_bar": False}
    return _values(ml.share_meis(directory / "meis.zarr", video_model(0), **options)[["score", "stimulus"]])


@run
def measures(accelerator, directory):
    return _values(ml.measure_meis(meis_of_twin(), twin(), accelerator=accelerator, progress_bar=False))


@run
def as_in_openretina(accelerator, directory):
    model = ml.load_core_readout_from_remote("digital_twin", accelerator)
    objective = ml.IncreaseObjective(model, [1], "session_1", ml.MeanReducer())
    processor = ml.ChangeNormJointlyClipRangeSeparately(RANGES, 10.0)
    return in_place(model, objective, accelerator, stimulus_postprocessor=processor)


@run
def as_in_openretina_with_early_stopping(accelerator, directory):
    model = ml.load_core_readout_from_remote("digital_twin", accelerator)
    return in_place(
        model,
        ml.IncreaseObjective(model, [1], "session_1", ml.MeanReducer()),
        accelerator,
        stopper=ml.EarlyStopper(5, 3, min_delta=1e-3),
        optimizer_init_fn=partial(torch.optim.Adam, lr=0.1),
        stimulus_postprocessor=[ml.TemporalGaussianLowPassFilterProcessor(1.0, 5, accelerator)],
        stimulus_regularization_loss=[ml.RangeRegularizationLoss(RANGES, 10.0)],
    )


LESS_EXACT = {"prepared in bfloat16": 1e-2, "ImplicitNetwork": 1e-3, "curvature": 1e-3}
"""Where rounding grows: the largest relative difference, 1e-5 everywhere else."""

COMPUTED_ON_THE_HOST = ("receptive fields",)

CASES = {
    **{part.__name__: partial(find_with, part) for part in PARTS},
    **{part.__name__: partial(optimize_with, part) for part in PARTS_OF_STIMULI},
    **RUNS,
}

ON_MPS = [
    "default",
    "without a prepared copy",
    "ranges",
    "groups",
    "ensemble",
    "still images",
    "cross responses",
    "compared with standard stimuli",
    "held out scores",
    "as in openretina",
    "Compose",
    "NormAndRange",
    "RescaleThenClip",
    *(part.__name__ for part in PARTS if issubclass(part, ml.Parameterization | ml.Robustness)),
]
"""Of each kind, what might compute in double precision, which MPS has not."""


def compute(case, accelerator, directory):
    if case in RUNS:
        return RUNS[case](accelerator, directory)
    return CASES[case](accelerator)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    """What a case returns on the CPU, computed once."""
    return cache(lambda case: compute(case, "cpu", tmp_path_factory.mktemp("on_cpu")))


@pytest.fixture(autouse=True)
def _only_what_matters(monkeypatch):
    """A search of the environment for plug-ins would take as long as all the rest; TF32 has a test of its own."""
    plug_ins = "lightning.pytorch.trainer.connectors.callback_connector._load_external_callbacks"
    monkeypatch.setattr(plug_ins, lambda group: [], raising=False)
    with silent_lightning(), tensor_float32(convolutions=False, products=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*stimuli ended with 'no gradient'")
        yield


def assert_same(values, expected, rtol=1e-5):
    assert values.keys() == expected.keys()
    for name, value in values.items():
        # Stimuli that are equally good up to rounding need not be equal, nor traces to them.
        rtol = max(rtol, 2e-3) if name in ("response", "stimulus") else rtol
        if value.dtype.kind == "f":
            scale = np.nanmax(np.abs(expected[name]), initial=0.0)
            np.testing.assert_allclose(value, expected[name], rtol=rtol, atol=rtol * scale, err_msg=name)
        else:
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_every_public_part_has_a_case():
    public = [getattr(ml, name) for name in ml.__all__]
    parts = {part for part in public if isinstance(part, type) and issubclass(part, BASES) and part not in BASES}

    assert parts == {*PARTS, *PARTS_OF_STIMULI}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_on_cuda_as_on_the_cpu(case, on_cpu, tmp_path):
    expected = on_cpu(case)

    with EmulatedDevice("cuda") as device:
        values = compute(case, "cuda", tmp_path)

    assert not device.refused
    assert device.counts.kernels > 0 or case in COMPUTED_ON_THE_HOST
    assert_same(values, expected, LESS_EXACT.get(case, 1e-5))


@pytest.mark.slow
@pytest.mark.parametrize("case", ON_MPS)
def test_on_mps_as_on_the_cpu(case, on_cpu, tmp_path):
    expected = on_cpu(case)

    with EmulatedDevice("mps") as device:
        values = compute(case, "mps", tmp_path)

    assert not device.refused
    assert device.counts.kernels > 0
    assert_same(values, expected, LESS_EXACT.get(case, 1e-5))


@pytest.mark.slow
def test_auto_is_cuda_but_never_mps():
    with EmulatedDevice("cuda") as device:
        find(video_model(), NEURONS, "auto")
    assert device.counts.kernels > 0

    with EmulatedDevice("mps") as device:
        find(video_model(), NEURONS, "auto")
        ml.cross_responses(video_model(), meis_of_video_model(), progress_bar=False)
        ml.find_diverse_stimuli(video_model(), NEURONS, number=2, max_steps=2, norm=5.0, **_QUICK)
    assert device.counts.kernels == 0


class _Failure(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, number):
        raise ArithmeticError("in the midst of a run")


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_given_on_the_device_is_there_afterwards(fails):
    with EmulatedDevice("cuda"):
        model = video_model().to("cuda")
        model.train().requires_grad_(True)
        model.network.kernel.requires_grad_(False)
        model.network.norm.eval()
        flags = [part.training for part in model.modules()], [weight.requires_grad for weight in model.parameters()]
        weights = [weight for weight in model.parameters()]
        try:
            find(model, NEURONS, "cuda", callbacks=[_Failure()] if fails else [])
        except ArithmeticError:
            assert fails

        assert {value.device.type for value in model.state_dict().values()} == {"cuda"}
        assert ([part.training for part in model.modules()], [w.requires_grad for w in model.parameters()]) == flags
        assert all(now is before for now, before in zip(model.parameters(), weights, strict=True))
        model.eval()(torch.randn(model.stimulus_shape(5), device="cuda"), "monday")


@pytest.mark.parametrize("given_on", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "use",
    [
        lambda model: ml.cross_responses(model, meis_of_video_model(), accelerator="cuda", progress_bar=False),
        lambda model: ml.find_receptive_fields(model, NEURONS),
        lambda model: ml.find_diverse_stimuli(model, NEURONS[:1], number=2, max_steps=1, norm=5.0, **_QUICK),
    ],
    ids=["cross responses", "receptive fields", "diverse stimuli"],
)
def test_a_model_stays_where_it_was_given(given_on, use):
    with EmulatedDevice("cuda"):
        model = video_model().to(given_on)

        use(model)

        assert {value.device.type for value in model.state_dict().values()} == {given_on}


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "16-true", "bf16-true"])
def test_other_precisions_of_the_trainer_are_refused_before_any_work(precision, tmp_path):
    module = ml.MEIModule(video_model(), NEURONS, norm=5.0, max_steps=2)
    with EmulatedDevice("cuda") as device:
        trainer = Trainer(
            accelerator="cuda",
            devices=1,
            precision=precision,
            max_epochs=-1,
            logger=False,
            callbacks=[ml.ResultsWriter(str(tmp_path / "results"))],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with pytest.raises(ValueError, match=precision) as refusal:
            trainer.fit(module)

    assert 'fast_path="bfloat16"' in str(refusal.value)
    assert device.counts.kernels == 0
    assert not (tmp_path / "results").exists()


class TestTensorFloat32:
    @pytest.fixture(autouse=True)
    def _allowed_everywhere(self, _only_what_matters):
        with tensor_float32(convolutions=True, products=True):
            yield

    @pytest.mark.slow
    def test_scores_are_those_of_float32_and_the_copy_is_used(self):
        with EmulatedDevice("cuda"), warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*runs as it is")
            meis = find(twin(), TWIN_NEURONS, "cuda")
            assert torch.backends.cudnn.allow_tf32
            assert torch.backends.cuda.matmul.allow_tf32

        stimuli = torch.from_numpy(meis["stimulus"].values)
        with torch.no_grad():
            responses = torch.stack([twin()(stimulus[None], "session_1")[0] for stimulus in stimuli])
        traces = responses[[0, 1], :, [0, 1]]
        np.testing.assert_allclose(meis["response"].values, traces.numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(meis["score"].values, traces.mean(dim=1).numpy(), rtol=1e-5)

    @pytest.mark.slow
    def test_predictions_are_those_of_float32(self, tmp_path):
        expected = cross_responses("cpu", tmp_path)

        with EmulatedDevice("cuda"):
            assert_same(cross_responses("cuda", tmp_path), expected)
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32

    def test_the_emulation_would_show_it(self):
        stimulus = torch.randn(twin().stimulus_shape(40), generator=torch.Generator().manual_seed(0))
        expected = twin()(stimulus, "session_1")

        with EmulatedDevice("cuda"):
            on_device = copy.deepcopy(twin()).to("cuda")(stimulus.to("cuda"), "session_1").cpu()

        assert (on_device - expected).abs().max() > 1e-4 * expected.abs().max()


@pytest.mark.slow
def test_full_memory_halves_the_rows_and_loses_no_neuron():
    model, neurons = ml.Ensemble([twin()] * 3), ONE_SESSION[:3]
    expected = found(find(model, neurons, "cpu"))
    with EmulatedDevice("cuda") as device:
        find(model, neurons, "cuda")

    with (
        EmulatedDevice("cuda", memory=device.memory.most_used * 2 // 5),
        pytest.warns(UserWarning, match="memory of the device is full with 6 rows") as caught,
    ):
        values = found(find(model, neurons, "cuda"))

    # Three rows do not fit either, of which no more is said.
    assert len([warning for warning in caught if "is full" in str(warning.message)]) == 1
    assert_same(values, expected)


class _Counting(Callback):
    """Counts what is done in each step but the first, which moves things to the device, and between steps."""

    def __init__(self, counts):
        self.counts, self.steps, self.waits_between = counts, [], 0

    def on_train_batch_start(self, trainer, module, batch, number):
        if trainer.global_step > 0:
            self.waits_between += self.counts.waits
        self.counts.clear()

    def on_train_batch_end(self, trainer, module, outputs, batch, number):
        if trainer.global_step > 1:
            self.steps.append((self.counts.kernels, self.counts.waits))
        self.counts.clear()

    def on_train_end(self, trainer, module):
        self.waits_between += self.counts.waits


def _as_one_kernel(function, counts):
    def run(*args):
        with counts.paused():
            result = function(*args)
        counts.add("kernel", "fused projection")
        return result

    return run


BUDGETS = {
    "twin": (twin, ONE_SESSION, [], (280, 0, 40)),
    "no Triton": (twin, ONE_SESSION, [], (380, 1, 40)),
    "ensemble": (lambda: ml.Ensemble([twin()] * 3), ONE_SESSION, [], (320, 0, 52)),
    "random members": (lambda: ml.Ensemble([twin()] * 3), ONE_SESSION, [ml.RandomMember()], (440, 36, 52)),
}
"""Model, neurons, perturbations; and the most kernels a step, waits a step, and waits between steps for each neuron."""


@pytest.mark.parametrize("case", BUDGETS)
def test_a_step_keeps_within_its_budget(case, monkeypatch):
    """With the projection as one kernel, as where there is Triton, and without."""
    make, neurons, robustness, budget = BUDGETS[case]
    options = {"robustness": robustness, "ranges": RANGES, "rows_per_device": 16, "max_steps": 4}
    with EmulatedDevice("cuda") as device:
        if case != "no Triton":
            monkeypatch.setattr(fused_projection, "_compiled", lambda _, plain: _as_one_kernel(plain, device.counts))
        counting = _Counting(device.counts)
        find(make(), neurons, "cuda", callbacks=[counting], **options)

    kernels, waits = (max(numbers) for numbers in zip(*counting.steps, strict=True))
    counts = {"kernels a step": kernels, "waits a step": waits, "waits a neuron": counting.waits_between / len(neurons)}
    assert all(count <= most for count, most in zip(counts.values(), budget, strict=True)), counts
