"""Settings in messages, as they are typed."""

import pytest

from mei_lightning.cli.spelling import as_typed, near

FIT = ["--config", "--trainer.max_steps", "--model.max_steps", "--model.norm", "--model.ranges", "--model.ranges+"]
FIT += ["--model.fast_path", "--results.directory", "-h"]


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("Say overwrite=True to replace it.", "Say --overwrite true to replace it."),
        ("max_steps=0 leaves nothing.", "--model.max_steps 0 leaves nothing."),
        ("norm=-1.5.", "--model.norm -1.5."),
        ("norm=1e-05, max_steps=3", "--model.norm 1e-05, --model.max_steps 3"),
        ("ranges=[(-1.3, 7.5), (0, None)], or", '--model.ranges "[[-1.3, 7.5], [0, null]]", or'),
        ("fast_path='bfloat16' with", "--model.fast_path bfloat16 with"),
        ("norm=None", "--model.norm null"),
        ("NormAndRange(norm=5.0, ranges=((0, 1),)) holds", "NormAndRange(norm=5.0, ranges=((0, 1),)) holds"),
        ("LowRank(rank=0) must be", "LowRank(rank=0) must be"),
        ("the energy=0.5 and x.norm=3", "the energy=0.5 and x.norm=3"),
    ],
)
def test_a_setting_that_is_an_option_is_spelt_as_one(message, typed):
    assert as_typed(message, [*FIT, "--overwrite"]) == typed


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("--nrom", "--model.norm"),
        ("--norm", "--model.norm"),
        ("--model.range", "--model.ranges"),
        ("--confg", "--config"),
    ],
)
def test_the_nearest_option_comes_first(typed, first):
    assert near(typed, FIT)[0] == first


def test_nothing_is_near_to_what_is_far():
    assert near("--elephant", FIT) == []
