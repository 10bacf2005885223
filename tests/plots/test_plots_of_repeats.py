"""The figure of MEIs beside their repeats."""

import numpy as np
import pytest
from example_meis import meis as separable_meis

import mei_lightning as ml


def with_repeats(count=2, repeats=3, **options):
    """MEIs of neurons, with repeats that are noise, and known numbers."""
    meis = separable_meis(count, **options)
    stimulus = meis["stimulus"].transpose("neuron", "channel", "time", "y", "x")
    shape = (count, repeats, *stimulus.shape[1:])
    noise = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    of_repeats = ("neuron", "repeat")
    shares = np.linspace(0.9, 1.1, repeats)
    return meis.assign(
        repeat_stimulus=((*of_repeats, *stimulus.dims[1:]), noise),
        repeat_score=(of_repeats, meis["score"].values[:, None] * shares),
        aligned_similarity=(of_repeats, np.full((count, repeats), 0.97)),
        optimum=(of_repeats, np.tile(np.arange(repeats) % 2, (count, 1))),
    ).assign_coords(repeat=range(1, repeats + 1))


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


@pytest.mark.parametrize(("still", "channels"), [(False, ("green", "UV")), (True, ("grey",))])
def test_each_neuron_has_a_row_with_its_repeats(still, channels, tmp_path):
    meis = with_repeats(still=still, channel_names=channels)
    figure = ml.plot_repeats(meis)
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == ["MEI", "repeat 1", "repeat 2", "repeat 3"]
    shown = texts(figure)
    assert set(meis["neuron"].values) <= set(shown)
    for numbers in ("0.900, alike 0.97", "1.000, another optimum", "1.100, alike 0.97"):
        assert shown.count(numbers) == 2
    assert ml.save_figure(figure, tmp_path / "repeats.png").stat().st_size > 5000


def test_a_repeat_that_is_missing_is_said_to_be():
    meis = with_repeats(1)
    meis["repeat_stimulus"][:, 1] = np.nan
    meis["repeat_score"][:, 1] = np.nan
    shown = texts(ml.plot_repeats(meis))
    assert shown.count("no MEI") == 1
    assert not any("another optimum" in text for text in shown)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="repeats=3"):
        ml.plot_repeats(separable_meis(1))
    with pytest.raises(ValueError, match="no neurons"):
        ml.plot_repeats(with_repeats(), max_neurons=0)
