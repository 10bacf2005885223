"""Contributions of entries, against polynomials and a neuron whose contributions are known."""

import pytest
import torch
from torch.nn import functional as F

from mei_lightning.analysis.contribution import integrated_gradients, radau


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 6])
def test_the_quadrature_is_exact_for_polynomials(nodes):
    places, weights = radau(nodes)
    assert places[-1] == 1
    assert sorted(places) == places
    for degree in range(2 * nodes - 1):
        mean = sum(weight * place**degree for place, weight in zip(places, weights, strict=True))
        assert mean == pytest.approx(1 / (degree + 1), rel=1e-10)


def test_contributions_of_a_linear_nonlinear_neuron():
    generator = torch.Generator().manual_seed(0)
    stimuli, kernel = torch.randn(2, 30, generator=generator).double(), torch.randn(30, generator=generator).double()

    def gradient(shown):
        return torch.sigmoid(shown @ kernel - 1)[:, None] * kernel

    drive = stimuli @ kernel
    rise = F.softplus(drive - 1) - F.softplus(torch.tensor(-1.0).double())
    expected = stimuli * kernel * (rise / drive)[:, None]
    torch.testing.assert_close(
        integrated_gradients(gradient, stimuli, gradient(stimuli)), expected, rtol=0.01, atol=1e-6
    )
