"""The settings of a run as data, and what version 0.1 kept of them."""

import copy
import inspect
import json
import math
import pickle
from functools import cache, partial

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import assert_same_meis, find, video_model
from hypothesis import given, settings
from hypothesis import strategies as st

import mei_lightning as ml
from mei_lightning.openretina_api import (
    ChangeNormJointlyClipRangeSeparately,
    RangeRegularizationLoss,
    TemporalGaussianLowPassFilterProcessor,
)
from mei_lightning.results.configuration import (
    Configuration,
    Setting,
    as_call,
    as_data,
    configuration_differences,
    in_words,
    ranges_in,
    read_configuration,
)
from mei_lightning.results.dataset import ranges_of
from mei_lightning.results.schema import VARIABLES

NEURONS = [("monday", 0), ("monday", 2)]


def strict(data):
    """What is read again from strict JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(json.dumps(data, allow_nan=False), parse_constant=refuse)


# The two faults of configurations that were text.


@pytest.mark.parametrize("number", [float, np.float64, np.float32, torch.tensor], ids=lambda it: it.__name__)
def test_ranges_are_known_whatever_type_their_numbers_have(number):
    ranges = [(number(-0.25), number(0.25)), (number(-0.5), None)]
    meis = find(video_model(), NEURONS, time_steps=8, max_steps=2, norm=4.0, ranges=ranges)
    assert ranges_of(meis) == ((-0.25, 0.25), (-0.5, None))
    at_limit = (meis["stimulus"][:, 0].values.__abs__() > 0.25 - 1e-6).mean(axis=(1, 2, 3))
    clipped = ml.measure_meis(meis)["clipped_share"]
    assert np.isfinite(clipped).all()
    assert (clipped >= at_limit / 2 - 1e-6).all()
    assert at_limit.any()


@pytest.mark.slow
def test_equal_numbers_of_another_type_are_the_same_settings(tmp_path):
    def run(number, **others):
        options = {
            "norm": number(4),
            "ranges": [(number(-1), number(2)), None],
            "regularizer": ml.SpatialSmoothness(number(1)),
            "optimizer": partial(ml.AdaptivePowerMethod, start=number(1)),
            **others,
        }
        return find(video_model(), NEURONS, time_steps=8, max_steps=2, directory=tmp_path, **options)

    first = run(float)
    for number in (int, np.int64, np.float32, np.float64):
        xr.testing.assert_equal(run(number), first)
    with pytest.raises(ValueError, match=r"constraint\.norm: it was 4\.0, now it is 4\.5\n"):
        run(float, norm=4.5)
    with pytest.raises(ValueError, match=r"constraint\.ranges: it was \[\[-1\.0, 2\.0\], null\], now it is \[\["):
        run(float, ranges=[(-1.0, 3.0), None])


# Parts as data.


def test_a_part_without_a_constructor_has_no_arguments():
    class Symmetric(ml.Constraint):
        """Any constraint without settings."""

    assert as_data(Symmetric()) == {"class": "Symmetric", "arguments": {}}
    holding = Symmetric()
    holding.inner = torch.nn.ReLU()
    assert as_data(holding) == {"class": "Symmetric", "repr": repr(holding)}


PUBLIC_PARTS = {
    ml.NormAndRange: {
        "norm": (4.0, 4.000001, None),
        "ranges": ([(-1.0, 2.0), None], [(-1.0, None), None], [(-1.0, math.inf), None]),
        "norm_is": ("fixed", "maximal"),
        "mask": (torch.ones(2, 5, 6, 5), torch.eye(5).expand(2, 5, 5, 5).bool(), torch.tensor([1, 0])),
        "frozen": (0.0, 0.5, torch.arange(2.0)),
    },
    ml.FixedNorm: {"norm": (4.0, 5.0), "mask": ([1, 1], [1, 0]), "frozen": (0.0, 0.5)},
    ml.MaximalNorm: {"norm": (4.0, 5.0), "mask": ([1, 1], [1, 0]), "frozen": (0.0, 0.5)},
    ml.ChannelRange: {
        "ranges": ([(-1.0, 2.0)], [(-1.0, 3.0)], [(None, 3.0)]),
        "mask": ([1, 1], [1, 0]),
        "frozen": (0.0, 0.5),
    },
    ml.RescaleThenClip: {"norm": (4.0, 5.0), "ranges": ([(-1.0, 2.0)], [(-1.0, 3.0)])},
    ml.SpatialLowPass: {"sigma": (1.0, 1.0000001)},
    ml.TemporalLowPass: {"sigma": (1.0, 2.0)},
    ml.Compose: {
        "constraints": (
            [ml.SpatialLowPass(1.0), ml.FixedNorm(4.0)],
            [ml.SpatialLowPass(1.0), ml.FixedNorm(5.0)],
            [ml.TemporalLowPass(1.0), ml.FixedNorm(4.0)],
            [ml.FixedNorm(4.0)],
        )
    },
    ml.MeanReducer: {"axis": (0, 1)},
    ml.MaxReducer: {"axis": (0, 1)},
    ml.SliceMeanReducer: {"axis": (0, 1), "start": (1, 2), "length": (3, 4)},
    ml.WindowContrastReducer: {
        "axis": (0, 1),
        "start": (1, 2),
        "length": (3, 4),
        "against_start": (5, 6),
        "against_length": (7, 8),
    },
    **{
        kind: {"factor": (1.0, 1.0000001, 2)}
        for kind in (
            ml.TemporalTotalVariation,
            ml.SpatialTotalVariation,
            ml.TemporalSmoothness,
            ml.SpatialSmoothness,
        )
    },
    ml.RangePenalty: {"ranges": ([(-1.0, 2.0)], [None]), "factor": (1.0, 2.0)},
    ChangeNormJointlyClipRangeSeparately: {
        "min_max_values": ([(-1.0, 2.0)], [(-1.0, 3.0)]),
        "norm": (4.0, 5.0),
    },
    RangeRegularizationLoss: {
        "min_max_values": ([(-1.0, 2.0)], [(-1.0, 3.0)]),
        "max_norm": (4.0, 5.0, None),
        "factor": (1.0, 2.0),
    },
    ml.Fourier: {
        "temporal": (None, (None, 8.0), (1.0, 8.0)),
        "spatial": (None, (0.0, 8.0)),
        "decay": (0.5, 1.0),
        "micrometres_per_degree": (None, 31.0),
    },
    ml.LowRank: {"rank": (1, 2)},
    ml.Pyramid: {"levels": (2, 3)},
    ml.ImplicitNetwork: {"hidden": (32, 16), "frequency": (10.0, 10.000001)},
    ml.WhiteNoise: {"amplitude": (1.0, 1.0000001)},
    ml.PinkNoise: {"amplitude": (1.0, 2.0)},
    ml.LinearReceptiveField: {},
    ml.BestNaturalClip: {"clips": (100, 20)},
    ml.Jitter: {"space": (1, 2), "time": (1, 2)},
    ml.Noise: {"standard_deviation": (0.1, 0.10000001)},
    ml.RandomMember: {},
    ml.GradientBlur: {"space": (0.0, 1.0), "time": (0.0, 1.0)},
    ml.RowConvergence: {"relative_gain": (1e-3, 1.0000001e-3), "patience": (5, 6)},
    ml.NeuronObjective: {},
    ml.OneHotObjective: {"neighbours": (None, 2), "temperature": (1.0, 2.0)},
    ml.ContrastObjective: {
        "others": ([[("session_1", 1)]] * 2, [[("session_1", 1)], [("session_1", 1), ("session_1", 3)]]),
        "temperature": (1.6, 2.0),
    },
    ml.DiscriminativeObjective: {"temperature": (1.6, 2.0)},
    ml.TargetLevelObjective: {"level": (0.5, [0.5, 0.6])},
    ml.TargetTraceObjective: {"trace": ([0.5] * 6, [0.5] * 5 + [0.6], np.full((2, 6), 0.25))},
    ml.DirectionObjective: {"direction": ([1.0], [[1.0], [-1.0]])},
}


simulated = cache(ml.SimulatedRetina)


def made(kind, arguments):
    if issubclass(kind, ml.NeuronObjective):
        return kind(simulated(), [("session_1", 0), ("session_1", 2)], ml.MeanReducer(), **arguments)
    return kind(**arguments)


def test_no_public_part_has_been_forgotten():
    bases = ml.Constraint, ml.Reducer, ml.Regularizer, ml.Parameterization, ml.InitialStimuli, ml.Perturbation
    bases = (*bases, ml.GradientFilter)
    public = {
        kind
        for kind in (getattr(ml, name) for name in ml.__all__)
        if inspect.isclass(kind) and issubclass(kind, (*bases, ml.NeuronObjective)) and kind not in bases
    }
    # Given stimuli have a test of their own; of the filter, arguments without effect are not kept.
    assert public - {ml.GivenStimuli, TemporalGaussianLowPassFilterProcessor} <= set(PUBLIC_PARTS)
    for kind, arguments in PUBLIC_PARTS.items():
        names = list(inspect.signature(kind).parameters)
        assert set(arguments) == set(names[3:] if issubclass(kind, ml.NeuronObjective) else names)


@pytest.mark.parametrize("kind", PUBLIC_PARTS, ids=lambda kind: kind.__name__)
def test_every_argument_tells_parts_apart(kind):
    choices = PUBLIC_PARTS[kind]
    first = {name: values[0] for name, values in choices.items()}
    data = as_data(made(kind, first))
    assert data["class"] == kind.__name__
    assert set(data["arguments"]) == set(choices)
    assert as_data(made(kind, first)) == strict(data) == data
    stored = {"part": data}
    for name, values in choices.items():
        for other in values[1:]:
            given = {"part": as_data(made(kind, {**first, name: other}))}
            lines = configuration_differences(stored, given).splitlines()
            assert lines
            assert all(line.startswith(f"  part.{name}") for line in lines), lines


def test_nested_parts_are_told_apart_by_their_arguments():
    data = [
        as_data(factor * (ml.TemporalSmoothness(of_part) + ml.RangePenalty([(-1.0, high)])))
        for factor, of_part, high in ((1.0, 1.0, 2.0), (2.0, 1.0, 2.0), (1.0, 2.0, 2.0), (1.0, 1.0, 3.0))
    ]
    (inner,) = data[0]["arguments"]["regularizers"]
    assert [part["class"] for part in inner["arguments"]["regularizers"]] == ["TemporalSmoothness", "RangePenalty"]
    assert len({json.dumps(part) for part in data}) == len(data)
    inside = "cost.regularizers[0].regularizers[0].factor"
    assert configuration_differences({"cost": data[0]}, {"cost": data[2]}) == f"  {inside}: it was 1.0, now it is 2.0"


def test_given_stimuli_are_known_by_those_of_the_run():
    stimuli = np.random.default_rng(0).normal(size=(3, 2, 4, 3, 3)).astype(np.float32)
    data = ml.GivenStimuli(stimuli).configuration(["monday/0", "monday/1"])
    assert data == ml.GivenStimuli(stimuli[:2]).configuration(["monday/0", "monday/1"]) == strict(data)
    assert data["class"] == "GivenStimuli"
    assert data["arguments"]["noise"] == 0.5
    others = stimuli[::-1], stimuli + np.float32(1e-3)
    assert all(ml.GivenStimuli(other).configuration(["monday/0", "monday/1"]) != data for other in others)
    assert ml.GivenStimuli(stimuli, noise=0.6).configuration(["monday/0", "monday/1"]) != data


def test_equal_arrays_are_equal_whatever_they_are_kept_in():
    values = np.arange(1000).reshape(10, 10, 10)
    kinds = values.astype(np.float32), torch.tensor(values), torch.tensor(values, dtype=torch.bfloat16).float()
    assert as_data(kinds[0]) == as_data(kinds[1]) == as_data(values) == as_data(xr.DataArray(values))
    assert as_data(values) != as_data(values[::-1])
    assert as_data(values) != as_data(values.reshape(10, 100))
    assert as_data(values)["arguments"]["shape"] == [10, 10, 10]
    assert as_data(np.array(["a", "b"] * 100)) != as_data(np.array(["a", "c"] * 100))


class WithOwnNames(ml.Regularizer):
    """Keeps an argument under another name, and says so in its own words."""

    def __init__(self, amount):
        super().__init__()
        self.strength = amount

    def extra_repr(self):
        return f"strength={self.strength}"


class AnyArguments(ml.Regularizer):
    def __init__(self, *arguments):
        super().__init__()
        self.arguments = arguments


class NamedAsAMethod(ml.Regularizer):
    def __init__(self, type):
        super().__init__()


class Unsaid(ml.Perturbation):
    """Settings that are no arguments."""

    strength = 0.1

    def __repr__(self):
        return f"Unsaid({self.strength})"


class Learned(ml.Regularizer):
    def __init__(self, network, factor=1.0):
        super().__init__(factor)
        self.network = network


class ByFunction(ml.Perturbation):
    def __init__(self, function, me=None):
        self.function = function
        self.me = self


def test_a_part_of_ones_own_is_known_by_its_arguments_or_its_words():
    assert as_data(WithOwnNames(3)) == {"class": "WithOwnNames", "repr": "WithOwnNames(strength=3)"}
    assert as_data(AnyArguments(3)) == {"class": "AnyArguments", "repr": "AnyArguments(factor=1)"}
    assert "repr" in as_data(NamedAsAMethod("a"))
    unsaid = Unsaid()
    unsaid.strength = 0.2
    assert as_data(unsaid) != as_data(Unsaid())
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert as_data(Learned(one)) == as_data(Learned(copy.deepcopy(one))) != as_data(Learned(other))
    of_function = as_data(ByFunction(test_equal_arrays_are_equal_whatever_they_are_kept_in))
    assert of_function["arguments"]["function"].endswith("whatever_they_are_kept_in")
    assert of_function["arguments"]["me"] == {"class": "ByFunction"}
    assert in_words(object(), repr(object())) == {"class": "object", "repr": "<object object>"}


class OwnStart(ml.InitialStimuli):
    """Says in its own way what it is for some neurons, as in version 0.1."""

    def describe(self, labels):
        return f"OwnStart of {', '.join(labels)}"


def test_a_start_of_ones_own_may_describe_itself():
    assert OwnStart().configuration(["a", "b"]) == {"class": "OwnStart", "repr": "OwnStart of a, b"}


NUMBERS = st.floats() | st.integers() | st.floats(width=32).map(np.float32) | st.integers(0, 9).map(np.int64)
VALUES = st.recursive(
    st.none() | st.booleans() | st.text() | NUMBERS | st.floats().map(torch.tensor),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
POSITIVE = st.floats(1e-3, 1e3)
BOUNDS = st.tuples(st.none() | st.floats(max_value=-0.1), st.none() | st.floats(min_value=0.1))
CONSTRAINTS = st.builds(
    lambda filters, last: ml.Compose([*map(ml.SpatialLowPass, filters), last]),
    st.lists(POSITIVE, max_size=3),
    st.builds(ml.NormAndRange, POSITIVE, st.none() | st.lists(BOUNDS, min_size=1, max_size=3)),
)


@pytest.mark.slow
@settings(max_examples=200)
@given(VALUES)
def test_any_value_is_strict_json_and_the_same_when_it_is_read_again(value):
    data = as_data(value)
    assert strict(data) == data == as_data(data)
    assert configuration_differences({"value": data}, {"value": value}) == ""


@settings(max_examples=50)
@given(CONSTRAINTS, CONSTRAINTS)
def test_constraints_are_the_same_if_their_data_are(one, other):
    data = strict(as_data(one))
    assert data == as_data(one)
    differences = configuration_differences({"constraint": data}, Configuration({"constraint": Setting.of(other)}))
    same = [repr(vars(part)) for part in one.constraints] == [repr(vars(part)) for part in other.constraints]
    assert (differences == "") == same
    last = one.constraints[-1]
    expected = None if last.ranges is None else tuple(tuple(pair) for pair in last.ranges)
    assert ranges_in(data) == ranges_in(repr(one)) == expected


def test_configurations_are_sent_to_other_processes_with_their_words():
    configuration = Configuration({"constraint": Setting.of(ml.FixedNorm(4.0)), "seed": np.int64(3)})
    for sent in (pickle.loads(pickle.dumps(configuration)), copy.deepcopy(configuration)):
        assert sent == configuration == {"constraint": as_data(ml.FixedNorm(4.0)), "seed": 3}
        assert sent.words == {"constraint": repr(ml.FixedNorm(4.0))}


def test_other_classes_are_shown_as_calls():
    stored = {"constraint": as_data(ml.FixedNorm(4.0)), "regularizer": None}
    now = {"constraint": as_data(ml.MaximalNorm(4.0)), "regularizer": as_data(ml.SpatialSmoothness(2.0))}
    assert configuration_differences(stored, now).splitlines() == [
        "  constraint: it was FixedNorm(norm=4.0), now it is MaximalNorm(norm=4.0)",
        "  regularizer: it was null, now it is SpatialSmoothness(factor=2.0)",
    ]
    assert as_call(as_data(WithOwnNames(3))) == "WithOwnNames(strength=3)"


# Stores of version 0.1.

RANGES = [(-0.2, 0.2), (None, 1)]
OPTIONS = {
    "time_steps": 8,
    "max_steps": 3,
    "restarts": 2,
    "constraint": ml.Compose([ml.SpatialLowPass(1.0), ml.NormAndRange(4.0, RANGES)]),
    "regularizer": 0.5 * ml.SpatialSmoothness(0.1),
    "reducer": ml.SliceMeanReducer(0, 1, 2),
    "robustness": [ml.Jitter(1)],
    "initial": ml.PinkNoise(2.0),
    "parameterization": ml.LowRank(2),
}
# As it wrote them.
WORDS_OF_0_1 = {
    "constraint": "Compose(\n  (0): SpatialLowPass(sigma=1)\n  (1): NormAndRange(norm=4, norm_is='fixed', "
    "ranges=((-0.2, 0.2), (None, 1)))\n)",
    "reducer": "SliceMeanReducer(axis=0, start=1, length=2)",
    "regularizer": "SumOfRegularizers(\n  factor=0.5\n  (regularizers): ModuleList(\n    (0): "
    "SpatialSmoothness(factor=0.1)\n  )\n)",
    "parameterization": "LowRank(rank=2)",
    "optimizer": {"name": "AdaptivePowerMethod", "start": 1.0, "smallest": 0.02},
    "initial": "PinkNoise(amplitude=2)",
    "robustness": ["Jitter(space=1, time=0)"],
    "convergence": "RowConvergence(relative_gain=0.001, patience=5)",
}


def make_old(path):
    """Turn a store into one of version 0.1, of which the second neuron has not been found."""
    configuration = json.loads(json.loads((path / ".zattrs").read_text())["configuration"])
    assert set(WORDS_OF_0_1) <= set(configuration)
    text = json.dumps({**configuration, **WORDS_OF_0_1, "mei_lightning": "0.1.0"})
    metadata = json.loads((path / ".zmetadata").read_text())
    for name in (it.name for it in VARIABLES):
        attributes = metadata["metadata"][f"{name}/.zattrs"]
        del attributes["long_name"]
        attributes.pop("units", None)
        (path / name / ".zattrs").write_text(json.dumps(attributes))
    metadata["metadata"][".zattrs"]["configuration"] = text
    (path / ".zmetadata").write_text(json.dumps(metadata))
    (path / ".zattrs").write_text(json.dumps(metadata["metadata"][".zattrs"]))
    (journal,) = (path / "records").iterdir()
    kept = [line for line in journal.read_text().splitlines() if line and json.loads(line)["number"] == 0]
    journal.write_text("\n".join(kept) + "\n")
    (path / "stimulus" / "1.0.0.0.0").unlink()


@pytest.fixture
def expected(tmp_path):
    """What is found, beside a store of version 0.1 in which half of it is."""
    meis = find(video_model(), NEURONS, directory=tmp_path, **OPTIONS).load()
    make_old(tmp_path / "meis.zarr")
    return meis


def test_a_store_of_version_0_1_is_continued_to_the_same_result(expected, tmp_path):
    store = ml.MEIStore(tmp_path / "meis.zarr")
    assert store.finished() == {0}
    assert store.configuration["constraint"] == WORDS_OF_0_1["constraint"]
    meis = find(video_model(), NEURONS, directory=tmp_path, **OPTIONS)
    assert ml.MEIStore(tmp_path / "meis.zarr").finished() == {0, 1}
    assert_same_meis(expected, meis)
    np.testing.assert_allclose(
        ml.measure_meis(meis)["clipped_share"], ml.measure_meis(expected)["clipped_share"], atol=1e-2
    )


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("constraint", ml.Compose([ml.SpatialLowPass(1.0), ml.NormAndRange(4.5, RANGES)])),
        ("regularizer", ml.SpatialSmoothness(0.1)),
        ("reducer", ml.SliceMeanReducer(0, 1, 3)),
        ("robustness", [ml.Jitter(2)]),
        ("initial", ml.PinkNoise(3.0)),
        ("parameterization", ml.LowRank(1)),
        ("optimizer", partial(ml.AdaptivePowerMethod, start=0.5)),
    ],
)
def test_a_store_of_version_0_1_is_not_continued_with_other_settings(name, other):
    settings = {name: setting for name, setting in OPTIONS.items() if name != "directory"}
    stored = ml.MEIModule(video_model(), NEURONS, **settings).configuration
    words = {**stored, **{key: words for key, words in WORDS_OF_0_1.items() if key != "convergence"}}
    given = ml.MEIModule(video_model(), NEURONS, **{**settings, name: other}).configuration
    assert configuration_differences(words, stored) == ""
    (line,) = configuration_differences(words, given).splitlines()
    assert line.startswith(f"  {name}")


@pytest.mark.slow
def test_a_store_of_version_0_1_is_analysed_and_reported(expected, tmp_path):
    find(video_model(), NEURONS, directory=tmp_path, **OPTIONS)
    analysis = ml.analyze_meis(tmp_path / "meis.zarr", video_model(), accelerator="cpu", progress_bar=False)
    np.testing.assert_allclose(analysis["clipped_share"], ml.measure_meis(expected)["clipped_share"], atol=1e-2)
    assert np.isfinite(analysis["clipped_share"]).all()
    page = ml.write_report(tmp_path / "meis.zarr").read_text()
    assert "NormAndRange(norm=4, norm_is=" in page
    assert "AdaptivePowerMethod(start=1.0, smallest=0.02)" in page


def test_numpy_ranges_in_words_are_read_and_are_no_other_settings():
    words = "NormAndRange(norm=4, norm_is='fixed', ranges=((np.float64(-0.5), np.float64(inf)), None))"
    assert ranges_in(words) == ((-0.5, math.inf), None)
    given = Configuration({"constraint": Setting.of(ml.NormAndRange(4.0, [(-0.5, math.inf), None]))})
    assert configuration_differences({"constraint": words}, given) == ""


def test_whole_numbers_in_words_are_no_other_settings_for_being_floats_now():
    words = "NormAndRange(norm=4, norm_is='fixed', ranges=((-2, 3), (-2.0, 3.5)))"
    same, other = (
        Configuration({"constraint": Setting.of(ml.NormAndRange(4.0, [(-2.0, 3.0), (-2.0, high)]))})
        for high in (3.5, 13.5)
    )
    assert configuration_differences({"constraint": words}, same) == ""
    assert configuration_differences({"constraint": words}, other) != ""


def test_the_same_command_has_the_name_that_version_0_1_gave_it():
    """Its logs and results are in a folder of that name."""
    assert Setting.of(torch.optim.SGD([torch.zeros(1)], lr=0.1)).words["name"] == "SGD"
    module = ml.MEIModule(video_model(), NEURONS, **OPTIONS)
    expected = {name: words for name, words in WORDS_OF_0_1.items() if name != "convergence"}
    assert module.configuration.words == expected
    assert read_configuration(json.dumps(expected))["optimizer"] == module.configuration["optimizer"]
