import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mei_lightning.acceleration.row_arithmetic import cosines, inner_products, put_rows, row_norms

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 1e-2}


def stimuli(seed, rows=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, 7, 5, 3, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def exact(stimulus):
    return stimulus.detach().double().flatten(1).numpy()


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(-34, 34), min_size=5, max_size=5))
def test_norms_of_rows_of_any_size_are_right_and_do_not_know_of_each_other(seed, powers):
    scales = torch.tensor([10.0**power for power in powers]).view(-1, 1, 1, 1, 1)
    stimulus = stimuli(seed).detach() * scales
    norms = row_norms(stimulus)
    np.testing.assert_allclose(norms.double().numpy(), np.linalg.norm(exact(stimulus), axis=1), rtol=1e-6)
    for row in range(5):
        assert torch.equal(row_norms(stimulus[row : row + 1]), norms[row : row + 1])


def test_no_rows_have_no_norms():
    assert row_norms(torch.zeros(0, 1, 2, 2, 2)).shape == (0,)
    assert inner_products(torch.zeros(0, 1, 2, 2, 2), torch.zeros(0, 1, 2, 2, 2)).shape == (0,)


def test_norms_of_zeros_and_of_what_is_not_finite():
    stimulus = torch.zeros(3, 1, 2, 2, 2)
    stimulus[1, 0, 1, 1, 1], stimulus[2, 0, 0, 1, 1] = torch.inf, torch.nan
    norms = row_norms(stimulus)
    assert norms[0] == 0
    assert norms[1] == torch.inf
    assert norms[2].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_and_cosines_agree_with_double_precision(dtype):
    one, other = stimuli(1, dtype=dtype), stimuli(2, dtype=dtype)
    products = (exact(one) * exact(other)).sum(axis=1)
    sizes = np.linalg.norm(exact(one), axis=1) * np.linalg.norm(exact(other), axis=1)
    for found, expected in ((inner_products(one, other), products), (cosines(one, other), products / sizes)):
        assert not found.requires_grad
        np.testing.assert_allclose(found.double().numpy(), expected, atol=TOLERANCES[dtype] * np.abs(expected).max())
    assert inner_products(one, other).dtype == dtype
    assert torch.equal(inner_products(one[2:3], other[2:3]), inner_products(one, other)[2:3])
    # As a step has them: rows of a larger tensor, and of another order in memory.
    swapped = one.transpose(1, 2).contiguous().transpose(1, 2)
    np.testing.assert_allclose(
        inner_products(swapped[1:4], other[1:4]).double(), products[1:4], atol=TOLERANCES[dtype] * sizes.max()
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_put_where_they_belong(dtype):
    whole, rows = stimuli(3, rows=6, dtype=dtype), torch.tensor([4, 0, 5])
    values = stimuli(4, rows=3, dtype=dtype).detach()
    before = whole.detach().clone()
    with torch.no_grad():
        put_rows(whole, rows, values)
    for place, row in enumerate(rows.tolist()):
        assert torch.equal(whole[row], values[place])
    assert torch.equal(whole[1:4], before[1:4])
