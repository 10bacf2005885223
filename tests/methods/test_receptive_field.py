"""The gradient of the response as a receptive field."""

import numpy as np
import pytest
import torch
from conftest import linear_model, still_model, video_model

import mei_lightning as ml


def test_the_receptive_field_of_every_linear_cell_is_its_filter(simulated):
    table = simulated.neurons
    linear = table[table["type"].isin(["on_sustained", "on_transient", "off_sustained", "off_transient"])]
    neurons = list(zip(linear["session"], linear["index"].tolist(), strict=True))
    fields = ml.find_receptive_fields(simulated, neurons)
    for number, (session, index) in enumerate(neurons):
        expected = simulated.linear_filter(session, index).numpy()
        found = fields["stimulus"].values[number]
        assert (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected) > 0.9999
        # The slope of gain * softplus(drive + bias) at a drive of 0, by a small difference.
        up, down = (simulated.linear_response(session, index, torch.tensor(step)) for step in (0.01, -0.01))
        slope = ((up - down) / 0.02).item()
        assert np.linalg.norm(found) == pytest.approx(slope * np.linalg.norm(expected), rel=1e-3)


@pytest.mark.parametrize("each", [False, True])
def test_the_gradient_against_small_differences(each):
    model = video_model().double()
    neurons = [("monday", 1), ("tuesday", 2)]
    generator = torch.Generator().manual_seed(0)
    at = torch.randn(2, *model.stimulus_shape(8)[1:], generator=generator, dtype=torch.float64)
    window = ml.SliceMeanReducer(axis=0, start=2, length=3)
    fields = ml.find_receptive_fields(model, neurons, at if each else at[0], reducer=window)
    for number, (session, index) in enumerate(neurons):
        x = at[number if each else 0]

        def response(stimulus, session=session, index=index):
            return model(stimulus[None], session)[0, 2:5, index].mean().item()

        assert fields["response"].values[number] == pytest.approx(response(x), rel=1e-6)
        step = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        difference = (response(x + 1e-5 * step) - response(x - 1e-5 * step)) / 2e-5
        assert (fields["stimulus"].values[number] * step.numpy()).sum() == pytest.approx(difference, rel=1e-4)


def test_the_field_is_the_mei_of_a_linear_neuron():
    model = linear_model()
    fields = ml.find_receptive_fields(model, "all")
    np.testing.assert_allclose(fields["stimulus"], model.network.kernels.detach(), rtol=1e-5)
    meis = ml.find_meis(model, "all", time_steps=4, norm=1.0, progress_bar=False)
    unit = fields["stimulus"].values / np.linalg.norm(fields["stimulus"].values.reshape(3, -1), axis=1).reshape(
        3, 1, 1, 1, 1
    )
    np.testing.assert_allclose(meis["stimulus"], unit, atol=5e-3)
    assert set(fields["stimulus"].coords) == {"neuron", "session", "index", "channel", "time", "y", "x"}


def test_still_images_and_unchanged_models():
    model = still_model()
    model.train().requires_grad_(True)
    fields = ml.find_receptive_fields(model, [4, 0])
    assert fields["stimulus"].shape == (2, 1, 1, 7, 6)
    assert all(part.training for part in model.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_a_stimulus_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"at of shape \(2, 4, 6, 4\) should be \(2, 4, 6, 5\)"):
        ml.find_receptive_fields(linear_model(), [0], torch.zeros(2, 4, 6, 4))
