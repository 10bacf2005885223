"""The figure of an ensemble and its members: what it shows of MEIs that are known."""

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from example_meis import meis as separable_meis
from matplotlib.backends.backend_agg import FigureCanvasAgg

import mei_lightning as ml


def with_members(count=2, members=3, **options):
    """MEIs of neurons, with those of members that are noise, and matrices of known numbers."""
    meis = separable_meis(count, **options)
    random = np.random.default_rng(2)
    stimulus = meis["stimulus"].transpose("neuron", "channel", "time", "y", "x")
    labels = ["ensemble", *(f"member {number}" for number in range(members))]
    matrix = np.linspace(-1, 1, (members + 1) ** 2).reshape(members + 1, members + 1)
    shape = (count, members, *stimulus.shape[1:])
    return meis.assign(
        member_stimulus=(("neuron", "member", *stimulus.dims[1:]), random.standard_normal(shape).astype(np.float32)),
        member_similarity=(("neuron", "mei", "other_mei"), np.stack([matrix] * count)),
        relative_score=(("neuron", "model", "mei"), np.stack([matrix.T] * count)),
        agreement=(("neuron", "channel", "y", "x"), random.random((count, shape[2], *shape[4:]))),
    ).assign_coords(member=range(members), model=labels, mei=labels, other_mei=labels)


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in (*ax.texts, ax.title)]


def matrices(figure):
    return [ax for ax in figure.axes if ax.get_ylabel() in ("MEI of", "on model")]


@pytest.mark.parametrize(("still", "channels"), [(False, ("green", "UV")), (True, ("grey",))])
def test_each_neuron_has_a_row_with_all_that_is_compared(still, channels, tmp_path):
    meis = with_members(still=still, channel_names=channels)
    figure = ml.plot_members(meis)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["ensemble", "member 0", "member 1", "member 2", "agreement", "similarity", "relative score"]
    assert set(meis["neuron"].values) <= set(texts(figure))
    similarity, shares, *_ = matrices(figure)
    np.testing.assert_allclose(similarity.images[0].get_array(), meis["member_similarity"][0])
    # A row is a model, a column whose MEI it is shown.
    np.testing.assert_allclose(shares.images[0].get_array(), meis["relative_score"][0])
    assert [label.get_text() for label in shares.get_yticklabels()] == ["E", "0", "1", "2"]
    assert shares.texts[1].get_text() == f"{meis['relative_score'].values[0, 0, 1]:.2f}".replace("-", "−")
    assert ml.save_figure(figure, tmp_path / "members.png").stat().st_size > 5000


def test_agreement_is_paler_where_the_members_are_weaker():
    meis = with_members(1, still=True, channel_names=("grey",))
    meis["agreement"][:] = 1.0
    meis["member_stimulus"][..., :5] = 0.0
    figure = ml.plot_members(meis)
    (ax,) = (ax for ax in figure.axes if ax.get_title() == "agreement")
    shown = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(shown[:, :5], 1)
    strength = np.sqrt(np.square(meis["member_stimulus"].values[0, :, 0, 0]).sum(axis=0))
    row, column = np.unravel_index(strength.argmax(), strength.shape)
    np.testing.assert_allclose(shown[row, column], mpl.colormaps["cividis_r"](1.0)[:3], atol=1e-6)


def test_an_mei_that_is_not_there_is_named():
    meis = with_members()
    meis["member_stimulus"][1, 2] = np.nan
    for name in ("member_similarity", "relative_score"):
        meis[name][1, 3] = np.nan
    figure = ml.plot_members(meis)
    assert texts(figure).count("no MEI") == 1
    assert texts(figure).count("–") == 8


def test_numbers_are_left_out_where_there_is_no_space_for_them():
    numbers = [len(ax.texts) for count in (7, 8) for ax in matrices(ml.plot_members(with_members(1, count)))]
    assert numbers == [64, 64, 0, 0]


@pytest.mark.parametrize("still", [True, False])
def test_nothing_reaches_beyond_the_figure(still):
    figure = ml.plot_members(with_members(1, 2, still=still))
    FigureCanvasAgg(figure).draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > -0.02


def test_only_some_neurons_are_drawn():
    assert len(matrices(ml.plot_members(with_members(3), max_neurons=2))) == 4


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="MEIs are of one model: find those of each member with per_member=True"):
        ml.plot_members(separable_meis())
    for none in (with_members().isel(neuron=[]), with_members()):
        with pytest.raises(ValueError, match="nothing to draw"):
            ml.plot_members(none, max_neurons=0)


def test_the_dataset_may_have_its_dimensions_in_any_order():
    meis = with_members(1, 1)
    turned = xr.Dataset({name: values.transpose(*reversed(values.dims)) for name, values in meis.data_vars.items()})
    one, other = (matrices(ml.plot_members(it)) for it in (meis, turned.assign_attrs(meis.attrs)))
    np.testing.assert_array_equal(one[1].images[0].get_array(), other[1].images[0].get_array())
