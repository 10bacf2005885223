"""Eigenpairs found from products with vectors, against those of dense matrices."""

import pytest
import torch

from mei_lightning.analysis.lanczos import extreme_eigenpairs


def symmetric(values, seed):
    """A matrix of these eigenvalues, with random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
    return vectors * torch.as_tensor(values, dtype=torch.float64) @ vectors.T


def found(matrices, pairs, dimensions=None):
    rows, size = matrices.shape[:2]

    def noise(number):
        generator = torch.Generator().manual_seed(number)
        return torch.randn(rows, size, generator=generator, dtype=matrices.dtype)

    dimensions = torch.full((rows,), size) if dimensions is None else torch.tensor(dimensions)
    return extreme_eigenpairs(lambda vectors: (matrices @ vectors[:, :, None])[:, :, 0], noise, pairs, dimensions)


def test_a_few_different_eigenvalues_are_found_exactly():
    spectra = [[-2.0, 5.0, *[1.0] * 38], [0.0] * 40, [0.5, 0.5, 3.0, *[0.0] * 37]]
    matrices = torch.stack([symmetric(values, seed) for seed, values in enumerate(spectra)])
    pairs = found(matrices, 4)
    assert pairs.values[0, [0, -1]].tolist() == pytest.approx([-2, 5])
    assert pairs.values[0, 1:3].tolist() == pytest.approx([1, 1])
    assert pairs.values[1].tolist() == pytest.approx([0] * 4, abs=1e-12)
    assert pairs.values[2, -1].item() == pytest.approx(3)
    outermost = pairs.vectors[:, [0, -1]].mT
    torch.testing.assert_close(matrices @ outermost, outermost * pairs.values[:, None, [0, -1]], atol=1e-8, rtol=0)
    assert pairs.errors[:, [0, -1]].max() < 1e-8
    torch.testing.assert_close(pairs.vectors @ pairs.vectors.mT, torch.eye(4).double().expand(3, 4, 4))


def test_what_is_said_of_all_eigenvalues_is_true():
    generator = torch.Generator().manual_seed(3)
    spectra = torch.randn(20, 60, generator=generator, dtype=torch.float64).sort(dim=1).values
    pairs = found(torch.stack([symmetric(values, seed) for seed, values in enumerate(spectra)]), 9)
    for threshold in (-1.5, 0.0, 1.0):
        assert ((pairs.values < threshold).sum(1) <= (spectra < threshold).sum(1)).all()
        assert ((pairs.values > threshold).sum(1) <= (spectra > threshold).sum(1)).all()
    distance = (pairs.values[:, :, None] - spectra[:, None]).abs().amin(dim=2)
    assert (distance <= pairs.errors + 1e-9).all()
    torch.testing.assert_close(pairs.weights.sum(dim=1), torch.ones(20).double())
    # The share of eigenvalues below 0, of 20 matrices together.
    estimate = (pairs.weights * (pairs.values < 0)).sum(dim=1).mean().item()
    assert estimate == pytest.approx((spectra < 0).double().mean().item(), abs=0.1)


def test_a_space_of_fewer_dimensions_has_as_many_eigenvalues():
    matrix = torch.diag(torch.tensor([4.0, 2.0, 0.0, 0.0]))[None].double()
    inside = torch.tensor([1.0, 1.0, 0.0, 0.0]).double()

    def noise(number):
        return torch.randn(1, 4, generator=torch.Generator().manual_seed(number), dtype=torch.float64) * inside

    pairs = extreme_eigenpairs(lambda vectors: vectors @ matrix[0], noise, 4, torch.tensor([2]))
    assert pairs.values[0, :2].tolist() == pytest.approx([2, 4])
    assert pairs.values[0, 2:].isnan().all()
    assert pairs.errors[0, 2:].isnan().all()


def test_a_row_that_is_not_finite_leaves_the_others_alone():
    matrices = torch.stack([symmetric([1.0, 2.0, 3.0], 0), torch.full((3, 3), torch.nan).double()])
    pairs = found(matrices, 3)
    assert pairs.values[0].tolist() == pytest.approx([1, 2, 3])
    assert pairs.values[1].isnan().all()
