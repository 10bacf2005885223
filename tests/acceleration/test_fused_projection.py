"""The projection as one kernel: it is run in Triton's interpreter, and compiled for GPUs without having one."""

import json
import subprocess
import sys
import types

import pytest
import torch

from mei_lightning.acceleration import fused_projection
from mei_lightning.constraints.projection import _project

LARGEST = torch.finfo(torch.float32).max

INTERPRETED = """
import json
import torch
from mei_lightning.acceleration.projection_kernel import project_rows
from mei_lightning.constraints.projection import _project

errors = []
generator = torch.Generator().manual_seed(0)
for channels, pixels in ((1, 1), (1, 3000), (2, 700), (3, 5)):
    sizes = torch.tensor([1e-15, 1e-3, 1.0, 3.0, 1e15])[:, None, None]
    rows = torch.randn(5, channels, pixels, generator=generator) * sizes
    rows = torch.cat([rows, torch.zeros_like(rows[:1])])
    low = -torch.rand(channels, 1, generator=generator)
    high = torch.rand(channels, 1, generator=generator) * torch.tensor([[3.0], [0.0], [1.0]])[:channels]
    for norm in (0.5, 5.0, 20.0, 1000.0):
        for largest in (1.0, torch.finfo(torch.float32).max):
            found = project_rows(rows, norm, (low, high), largest)
            expected = _project(rows.double(), norm, (low.double(), high.double()), largest).float()
            errors.append(float((found - expected).abs().max() / max(1.0, float(expected.abs().max()))))
    broken = rows.clone()
    broken[2] = torch.nan
    found = project_rows(broken, 5.0, (low, high), 1e30)
    assert found[2].isnan().all() and found[[0, 1, 3, 4, 5]].isfinite().all()
assert project_rows(rows[:0], 5.0, (low, high), 1e30).shape == rows[:0].shape
print(json.dumps(max(errors)))
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mei_lightning.acceleration.projection_kernel import project_row

kinds = {name: "*fp32" for name in ("rows", "projected", "low", "high")}
kinds |= {"norm": "fp32", "largest_scale": "fp32", "pixels": "i32", "entries": "i32"}
source = ASTSource(project_row, kinds | {"PASSES": "constexpr", "BLOCK": "constexpr"}, {"PASSES": 40, "BLOCK": 2048})
for generation in (75, 80, 90):
    assert triton.compile(source, target=GPUTarget("cuda", generation, 32), options={"num_warps": 8}).asm["cubin"]
"""


def in_a_process(program, **environment):
    """What a program prints in a process of its own, which has Triton to itself."""
    pytest.importorskip("triton", reason="Triton is not installed")
    import os

    run = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_the_kernel_projects_as_the_plain_function_in_double_precision():
    assert json.loads(in_a_process(INTERPRETED, TRITON_INTERPRET="1")) < 1e-6


@pytest.mark.slow
def test_the_kernel_can_be_compiled_for_gpus(tmp_path):
    in_a_process(COMPILED, TRITON_CACHE_DIR=str(tmp_path))


def kernel_module(monkeypatch, project_rows):
    module = types.ModuleType("mei_lightning.acceleration.projection_kernel")
    module.project_rows = project_rows
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_kernel_that_agrees_is_used(monkeypatch):
    def as_plain(*args):
        return _project(*args)

    kernel_module(monkeypatch, as_plain)
    assert fused_projection._compiled.__wrapped__(torch.device("cpu"), _project) is as_plain


@pytest.mark.parametrize("wrong", [lambda rows, *_: rows, lambda *args: _project(*args) * torch.nan])
def test_a_kernel_that_differs_is_not_used(monkeypatch, caplog, wrong):
    kernel_module(monkeypatch, wrong)
    with caplog.at_level("INFO", "lightning.pytorch"):
        assert fused_projection._compiled.__wrapped__(torch.device("cpu"), _project) is None
    assert "differs" in caplog.text


def test_a_kernel_that_cannot_be_made_is_not_used(monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("there is no C compiler")

    kernel_module(monkeypatch, fails)
    with caplog.at_level("INFO", "lightning.pytorch"):
        assert fused_projection._compiled.__wrapped__(torch.device("cpu"), _project) is None
    assert "there is no C compiler" in caplog.text


def test_the_rows_of_the_trial_need_it_all():
    """Clipped or not at the norms that are tried: the comparison sees each part of the kernel."""
    seen = []

    def watching(rows, norm, bounds, largest):
        projected = _project(rows, norm, bounds, largest)
        clipped = ((projected == bounds[0]) | (projected == bounds[1])).float().mean(dim=(1, 2))
        seen.append(clipped)
        return projected

    with pytest.MonkeyPatch.context() as patch:
        kernel_module(patch, watching)
        fused_projection._compiled.__wrapped__(torch.device("cpu"), _project)
    assert [bool((share > 0).any()) for share in seen] == [False, True, True]
    assert (seen[1] < 1).all()
    assert (seen[2] > 0.9).any()
