"""What is measured of the simulated retina's MEIs against what is known of its cells."""

import numpy as np
import pytest
from conftest import find

import mei_lightning as ml

LINEAR = ("on_sustained", "on_transient", "off_sustained", "off_transient")
POLARITY = {
    "on_sustained": "ON",
    "on_transient": "ON",
    "off_sustained": "OFF",
    "off_transient": "OFF",
    "on_off": "ON-OFF",
}
HOEFLING_RANGES = [(-0.654, 6.269), (-0.913, 6.269)]


@pytest.fixture(scope="module")
def truth(simulated):
    return simulated.neurons.set_index(simulated.neurons["session"] + "/" + simulated.neurons["index"].astype(str))


def measured(simulated, neurons, model, **options):
    # Of this retina the default effort gives the same measures.
    meis = find(simulated, neurons, search="quick", **options)
    return ml.measure_meis(meis, model, accelerator="cpu", progress_bar=False)


@pytest.fixture(scope="module")
def measures(simulated):
    return ml.measures_table(measured(simulated, "all", simulated))


@pytest.fixture(scope="module")
def clipped_measures(simulated):
    linear = ml.NeuronSelection(sessions=["session_1"], where={"type": list(LINEAR)})
    return ml.measures_table(measured(simulated, linear, None, ranges=HOEFLING_RANGES))


def spatial_filter_sd(simulated, session, index):
    """The centre's sd in um, by another way than a fit: where the logarithm of the filter's parts crosses zero.

    A difference of Gaussians has four parameters in the values along a row; the surround's sd is 1.8 times the
    centre's and its volume 0.6 of it (see the simulated retina), so the radius at which it is zero gives the sd.
    """
    spatial = np.abs(simulated.linear_filter(session, index).numpy()).sum(axis=(0, 1))
    signed = simulated.linear_filter(session, index).numpy()
    signed = np.tensordot(signed, signed[:, :, *np.unravel_index(spatial.argmax(), spatial.shape)], ([0, 1], [0, 1]))
    cell = simulated.neurons.query("session == @session and index == @index").iloc[0]
    y, x = np.mgrid[:18, :16]
    squared = (y - cell["y"]) ** 2 + (x - cell["x"]) ** 2
    order = np.argsort(squared, axis=None)
    values, squared = signed.ravel()[order], squared.ravel()[order]
    crossing = np.flatnonzero(values < 0)[0]
    part = values[crossing - 1] / (values[crossing - 1] - values[crossing])
    zero = squared[crossing - 1] + part * (squared[crossing] - squared[crossing - 1])
    # exp(-r2 / 2 c2) = 0.6 / 1.8^2 exp(-r2 / 2 (1.8 c)^2)
    return 50 * np.sqrt(zero * (1 - 1 / 1.8**2) / (2 * np.log(1.8**2 / 0.6)))


@pytest.mark.slow
@pytest.mark.parametrize("limits", ["none", "Höfling's"])
def test_place_and_size_of_the_centre_of_all_linear_types(simulated, truth, measures, clipped_measures, limits):
    # The mean response over any window is to shifts in time of one filter, a product of space and time: the MEI has the
    # filter's shape in space, and clipping is undone by the fit.
    table = measures[measures["type"].isin(LINEAR)] if limits == "none" else clipped_measures
    assert len(table) == (48 if limits == "none" else 16)
    places = truth.loc[table.index]
    np.testing.assert_array_less(
        np.hypot(table["centre_y"] - 50 * places["y"], table["centre_x"] - 50 * places["x"]), 25
    )
    sds = [
        spatial_filter_sd(simulated, session, index)
        for session, index in zip(places["session"], places["index"], strict=True)
    ]
    np.testing.assert_allclose(table["centre_size"], sds, rtol=0.1)
    np.testing.assert_allclose(table["surround_strength"], 0.6, rtol=0.1)
    np.testing.assert_allclose(table["surround_size"], 1.8 * table["centre_size"], rtol=0.1)
    assert (table["fit_r2"] > 0.99).all()
    if limits != "none":
        # Otherwise this would be the test of the other case again.
        assert table["clipped_share"].max() > 0.02


@pytest.mark.slow
def test_only_direction_selective_cells_have_a_direction_and_it_is_theirs(truth, measures):
    selective = measures["type"] == "direction_selective"
    assert selective.sum() == 24
    error = (measures["direction"] - truth["direction"] + 180) % 360 - 180
    assert (error[selective].abs() <= 15).all()
    assert (measures["direction_index"][selective] > 0.8).all()
    assert (measures["direction_index"][~selective] < 0.1).all()
    assert measures["direction"][~selective].isna().all()
    # Their bars stand across.
    across = (measures["orientation"] - truth["direction"])[selective] % 180
    np.testing.assert_allclose(across, 90, atol=15)


@pytest.mark.slow
def test_polarity_of_every_cell_that_has_one(truth, measures):
    expected = truth["type"].map(POLARITY).dropna()
    assert len(expected) == 60
    assert measures["polarity"].loc[expected.index].eq(expected).all()


@pytest.mark.slow
def test_polarity_of_on_and_off_cells_without_the_model(truth, clipped_measures):
    # Found within ranges: bright and dark are not mirror images.
    expected = truth["type"].map(POLARITY).loc[clipped_measures.index]
    assert clipped_measures["polarity"].eq(expected).all()


@pytest.mark.slow
def test_only_the_colour_opponent_type_lies_beyond_the_boundary(truth, measures):
    opponent = truth["type"] == "color_opponent"
    assert opponent.sum() == 12
    assert measures["opponent"].eq(opponent).all()
    assert (measures["opponency_angle"][opponent] > 1.2).all()
    assert (measures["opponency_angle"][~opponent] < 0.5).all()


@pytest.mark.slow
def test_types_come_from_the_model(truth, measures):
    assert measures["type"].eq(truth["type"]).all()
