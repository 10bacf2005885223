"""The extreme eigenvalues of many symmetric operators at once, each known only by its products with vectors."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_ENDED = 1e-3
"""Where a product adds less than this share of itself to the vectors so far, they are left by themselves."""


class Eigenpairs(NamedTuple):
    """Approximate eigenvalues and eigenvectors of each row's operator.

    Args:
        values: ``[rows, pairs]``, rising; NaN where a row's space has fewer dimensions.
        vectors: ``[rows, pairs, n]``, of length 1 and at right angles to each other.
        errors: ``[rows, pairs]``; within so much of the value there is an eigenvalue.
        weights: ``[rows, pairs]``, with a sum of 1: an estimate of the share of all eigenvalues that each stands for.
    """

    values: Tensor
    vectors: Tensor
    errors: Tensor
    weights: Tensor


def extreme_eigenpairs(
    product: Callable[[Tensor], Tensor], noise: Callable[[int], Tensor], pairs: int, dimensions: Tensor
) -> Eigenpairs:
    """Approximate eigenpairs from as many products, the outermost of which are the best (Lanczos).

    The basis is that of Lanczos' method with full reorthogonalisation, and the eigenpairs are those of the operator
    within its span (Rayleigh and Ritz; Parlett 1998, "The Symmetric Eigenvalue Problem", chapters 11 and 13): an
    eigenvalue lies within ``|A v - value v|`` of each value, and at least as many eigenvalues as values lie below any
    number, and above any. The weights are those of Lanczos' quadrature, with one random vector, of the density of
    eigenvalues (Ubaru, Chen and Saad 2017, SIAM Journal on Matrix Analysis and Applications 38, 1075-1099). Where the
    basis spans a space that the operator does not lead out of, it goes on from a new random vector.

    Args:
        product: the products ``[rows, n]`` of the operators with vectors ``[rows, n]`` in their spaces.
        noise: random vectors ``[rows, n]`` in the spaces, from a number.
        pairs: how many eigenpairs.
        dimensions: of the rows' spaces, ``[rows]``.
    """
    vector = noise(0)
    basis = vector.new_zeros(len(vector), pairs, vector.shape[1])
    images = torch.zeros_like(basis)
    for step in range(pairs):
        vector = _at_right_angles(vector, basis[:, :step])
        basis[:, step] = vector * (step < dimensions)[:, None]
        images[:, step] = product(basis[:, step])
        vector = _without(images[:, step], basis[:, : step + 1])
        ended = vector.norm(dim=1) <= _ENDED * images[:, step].norm(dim=1)
        if step + 1 < pairs and ended.any():
            vector = torch.where(ended[:, None], noise(step + 1), vector)
    return _of_span(basis, images, dimensions)


def _of_span(basis: Tensor, images: Tensor, dimensions: Tensor) -> Eigenpairs:
    """The eigenpairs of operators within a basis ``[rows, pairs, n]``, whose products with it are the images."""
    pairs = basis.shape[1]
    matrix = (basis @ images.mT).cpu().double()
    matrix = (matrix + matrix.mT) / 2
    # What is beyond the dimensions of a space comes last, and is taken out.
    beyond = torch.arange(pairs) >= dimensions.cpu()[:, None]
    largest = matrix.abs().amax((1, 2))[:, None] * 2 * pairs + 1
    finite = matrix.isfinite().all(2).all(1)
    matrix = torch.where(finite[:, None, None], matrix + torch.diag_embed(beyond * largest), torch.eye(pairs).double())
    values, mixture = torch.linalg.eigh(matrix)
    shares = mixture.mT.to(basis)
    vectors = shares @ basis
    errors = (shares @ images - values.to(basis)[:, :, None] * vectors).norm(dim=2)
    missing = (beyond | ~finite[:, None]).to(basis.device)
    values = values.to(basis).masked_fill(missing, torch.nan)
    return Eigenpairs(values, vectors, errors.masked_fill(missing, torch.nan), mixture[:, 0].square().to(basis))


def _at_right_angles(vectors: Tensor, basis: Tensor) -> Tensor:
    """Vectors ``[rows, n]`` of length 1 without what a basis ``[rows, k, n]`` has of them; zero where all is left."""
    # Rounding of what is taken away may be large beside what is left.
    for _ in range(2):
        vectors = _without(vectors, basis)
        vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)
    return vectors


def _without(vectors: Tensor, basis: Tensor) -> Tensor:
    return vectors - ((basis @ vectors[:, :, None]).mT @ basis)[:, 0]
