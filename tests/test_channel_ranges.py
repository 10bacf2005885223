"""What a constraint says of its ranges is what logs and analyses count by."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import NO_LIMIT, fit, needs_export, read, results, video_model
from torch import nn

import mei_lightning as ml
from mei_lightning.openretina_api.stimulus_optimization import _as_constraint
from mei_lightning.problem import MEIProblem
from mei_lightning.results.dataset import ranges_of
from mei_lightning.settings import settings_named

NEURONS = [("monday", 0), ("monday", 2), ("tuesday", 1)]
INNER, OUTER = [(-0.2, 0.5), (None, 0.4)], [(-0.3, 0.3), (-0.35, math.inf)]


class Box(ml.Constraint):
    """A constraint of the user's own, with ranges of which no argument tells."""

    def __init__(self, size=0.3):
        super().__init__()
        self.size = size

    def forward(self, stimulus):
        green, uv = stimulus.detach().unbind(dim=1)
        return torch.stack([green.clamp(-self.size, self.size), uv.clamp(min=-0.35)], dim=1)

    def channel_ranges(self):
        return [(-self.size, self.size), (-0.35, None)]


class Sign(ml.Constraint):
    """One without ranges."""

    def forward(self, stimulus):
        return -stimulus


class Group(ml.Constraint):
    """A container of the user's own."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, stimulus):
        for part in self.parts:
            stimulus = part(stimulus)
        return stimulus


class Twice(Group):
    """Its values are in other ranges than those of the constraint inside."""

    def forward(self, stimulus):
        return 2 * super().forward(stimulus / 2)

    def channel_ranges(self):
        return torch.tensor(super().channel_ranges()) * 2


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (ml.NormAndRange(3.0, INNER), INNER),
        (ml.ChannelRange(INNER, mask=[1, 0]), INNER),
        (ml.FixedNorm(3.0), None),
        (ml.SpatialLowPass(1.0), None),
        (ml.RescaleThenClip(3.0, INNER), INNER),
        (Box(), [(-0.3, 0.3), (-0.35, None)]),
        (Sign(), None),
        (ml.Compose([Box(), ml.NormAndRange(3.0, INNER)]), INNER),
        (ml.Compose([Box(), ml.NormAndRange(3.0)]), [(-0.3, 0.3), (-0.35, None)]),
        (ml.Compose([Box(1.0), Sign(), Box(2.0), ml.TemporalLowPass(1.0)]), [(-2.0, 2.0), (-0.35, None)]),
        (ml.Compose([ml.RescaleThenClip(3.0, INNER), ml.RescaleThenClip(3.0, OUTER), Sign()]), OUTER),
        (Group(ml.ChannelRange(INNER), nn.Sequential(ml.ChannelRange(OUTER), Sign())), OUTER),
        (Group(Sign()), None),
        (_as_constraint([ml.ChannelRange(OUTER), Box(), Sign()]), [(-0.3, 0.3), (-0.35, None)]),
    ],
    ids=str,
)
def test_the_last_constraint_that_has_ranges_counts(constraint, expected):
    found = constraint.channel_ranges()
    assert (found if found is None else list(found)) == expected


@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("constraint", "ranges"),
    [
        (Box(), [(-0.3, 0.3), (-0.35, None)]),
        (Group(ml.ChannelRange(INNER), Box()), [(-0.3, 0.3), (-0.35, None)]),
        (Twice(ml.ChannelRange([(-0.15, 0.1), (-0.2, 0.15)])), [(-0.3, 0.2), (-0.4, 0.3)]),
        (ml.Compose([Sign(), ml.NormAndRange(4.0, [(-0.33, 0.47), (None, 0.4)])]), [(-0.33, 0.47), (None, 0.4)]),
    ],
    ids=["own", "own container", "own beyond its parts", "composed"],
)
def test_clipped_shares_are_those_of_a_count_by_hand(constraint, ranges, kind):
    options = {"time_steps": 8, "restarts": 1, "max_steps": 20, "check_interval": 10, "constraint": constraint}
    trainer = fit(ml.MEIModule(video_model().to(kind), NEURONS, **options), NO_LIMIT)
    meis, logged = results(trainer), trainer.callback_metrics["stimulus/clipped_share"].item()
    shares = []
    for stimulus in meis["stimulus"].values.astype(np.float64):
        at_limit = 0
        for channel, (low, high) in zip(stimulus, ranges, strict=True):
            limits = [limit for limit in (low, high) if limit is not None]
            at_limit += sum(abs(value - limit) < 1e-6 for value in channel.flat for limit in limits)
        shares.append(at_limit / stimulus.size)
    assert min(shares) > 0.01
    assert max(shares) < 0.99
    np.testing.assert_allclose(ml.measure_meis(meis, progress_bar=False)["clipped_share"], shares, atol=1e-12)
    assert logged == pytest.approx(np.mean(shares), abs=1e-6)


def described(**options):
    """What a store of a run's results says of them."""
    return ml.MEIModule(video_model(), NEURONS, time_steps=8, **options).description


def test_stores_and_exported_files_keep_the_ranges(tmp_path):
    needs_export()
    store = ml.MEIStore.create(tmp_path / "meis.zarr", described(constraint=Box()), {})
    assert ranges_of(read(tmp_path)) == ((-0.3, 0.3), (-0.35, None))
    exported = ml.export_meis(store.path, tmp_path / "meis.nc")
    with xr.open_dataset(exported, engine="h5netcdf") as meis:
        assert ranges_of(meis) == ((-0.3, 0.3), (-0.35, None))


def test_a_store_of_before_has_the_ranges_of_its_configuration():
    description = described(ranges=INNER)
    assert json.loads(description.attrs.pop("channel_ranges")) == [[-0.2, 0.5], [None, 0.4]]
    assert ranges_of(description) == tuple(INNER)


def test_without_ranges_there_are_none():
    assert ranges_of(described(constraint=Sign())) is None


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([(-1.0, 1.0)], r"1 channel range\(s\) for a stimulus of 2 channel\(s\).*Give one \(low, high\)"),
        ([(-1.0, 1.0), (1.0, -1.0)], r"The range \(1.0, -1.0\) of channel 1 is empty"),
        ([(-1.0, 1.0), (1.0,)], r"The range of channel 1 must be \(low, high\) or None"),
    ],
)
def test_ranges_that_are_none_are_refused_before_any_step(ranges, message):
    class Wrong(Sign):
        def channel_ranges(self):
            return ranges

    with pytest.raises(ml.exceptions.InvalidValueError, match=message):
        ml.MEIModule(video_model(), NEURONS, time_steps=8, constraint=Wrong())


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"ranges": (0, 255)}, True),
        ({"ranges": [(-1, 1), (None, 0)]}, True),
        ({"ranges": [None, (0, None)]}, True),
        ({"ranges": (0, 255), "norm": 3.0}, False),
        ({"ranges": (0, 255), "rms": 3.0}, False),
        ({"ranges": [(-0.1, 255), None]}, False),
        ({}, False),
    ],
)
def test_ranges_on_one_side_of_grey_are_warned_of_where_no_norm_is_given(options, warned):
    """With images of 0 to 255, the default norm is next to nothing, and around black."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MEIProblem(video_model(), [("monday", 0)], settings_named({"time_steps": 9, **options}))
    said = [str(warning.message) for warning in caught if "both sides of 0" in str(warning.message)]
    assert len(said) == warned
