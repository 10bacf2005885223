"""The emulated device refuses, counts and rounds as a real one would, and leaves nothing behind."""

import copy
import gc
import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from emulation import EmulatedDevice
from emulation.tensor_float32 import tensor_float32
from lightning.fabric.accelerators.mps import MPSAccelerator
from lightning.pytorch import Trainer
from torch import nn
from torch.utils._device import DeviceContext

HERE = Path(__file__).parent
CUDA, MPS, CPU = torch.device("cuda", 0), torch.device("mps", 0), torch.device("cpu")


@pytest.fixture
def cuda():
    with EmulatedDevice("cuda", source=HERE) as device:
        yield device


@pytest.fixture
def mps():
    with EmulatedDevice("mps") as device:
        yield device


PLACES = {
    "factory": (lambda x: torch.zeros(2, device="cuda"), CUDA),
    "from values": (lambda x: torch.tensor([1.0], device="cuda"), CUDA),
    "from an array": (lambda x: torch.as_tensor(np.ones(2), device=CUDA), CUDA),
    "operation": (lambda x: x * 2 + torch.tensor(1.0), CUDA),
    "view": (lambda x: x.mT[0], CUDA),
    "of the same kind": (lambda x: torch.ones_like(x), CUDA),
    "of the same kind, on the CPU": (lambda x: torch.ones_like(x, device="cpu"), CPU),
    "new": (lambda x: x.new_zeros(3), CUDA),
    "new, on the CPU": (lambda x: x.new_zeros(3, device="cpu"), CPU),
    "new, from values": (lambda x: x.new_tensor([1.0]), CUDA),
    "another type": (lambda x: x.double(), CUDA),
    "like another": (lambda x: torch.zeros(2).to(x), CUDA),
    "moved back": (lambda x: x.to("cpu"), CPU),
    "to host memory": (lambda x: x.cpu(), CPU),
    "there and back": (lambda x: x.cpu().cuda(), CUDA),
    "copied": (lambda x: copy.deepcopy(x), CUDA),
    "copied into": (lambda x: torch.zeros(3, 4).copy_(x), CPU),
    "indexed from the host": (lambda x: x[torch.tensor([0, 2])], CUDA),
    "made without a device": (lambda x: torch.zeros(3), CPU),
}


@pytest.mark.parametrize("case", PLACES)
def test_tensors_are_where_cuda_would_have_them(cuda, case):
    make, place = PLACES[case]

    made = make(torch.randn(3, 4, device="cuda"))

    assert made.device == place
    assert made.is_cuda == (place == CUDA)
    assert made.get_device() == (0 if place == CUDA else -1)


def test_default_device_is_where_tensors_are_made(cuda):
    with torch.device("cuda"):
        made = [torch.zeros(2), torch.tensor([1.0]), nn.Linear(2, 1).weight, torch.tensor([1.0], device="cpu")]
    torch.set_default_device("cuda")
    try:
        made.append(torch.tensor([1.0]))
    finally:
        torch.set_default_device(None)

    assert [tensor.device for tensor in made] == [CUDA, CUDA, CUDA, CPU, CUDA]
    assert torch.tensor([1.0]).device == CPU


def test_modules_move_with_their_parameters_and_get_gradients_there(cuda):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    weight = module[0].weight

    module.to("cuda")
    module(torch.randn(5, 3, device="cuda")).square().sum().backward()

    assert module[0].weight is weight
    assert {value.device for value in module.state_dict().values()} == {CUDA}
    assert weight.grad.device == CUDA
    assert {value.device for value in copy.deepcopy(module).cpu().state_dict().values()} == {CPU}


def test_gradients_come_back_to_where_the_values_were(cuda):
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    # Indexing and a maximum have gradients that PyTorch's own code allocates.
    chosen = values.to("cuda")[torch.tensor([1, 1], device="cuda")].square()

    (chosen.sum() + chosen.max()).backward()

    assert values.grad.device == CPU
    torch.testing.assert_close(values.grad, torch.tensor([0.0, 12.0]))


REFUSED = {
    "two devices": (lambda x: x + torch.ones(4), "Expected all tensors to be on the same device"),
    "two devices in a list": (lambda x: torch.cat([x, torch.ones(1, 4)]), "on the same device"),
    "a number where CUDA takes none": (lambda x: torch.stack([x[0, 0], torch.tensor(1.0)]), "on the same device"),
    "in place in a number on the host": (lambda x: torch.tensor(1.0).add_(x[0, 0]), "on the same device"),
    "NumPy": (lambda x: x.numpy(), "can't convert cuda:0 device type tensor to numpy"),
    "an array": (lambda x: np.asarray(x), "can't convert cuda:0 device type tensor to numpy"),
    "a generator of the CPU": (
        lambda x: torch.randn(3, device="cuda", generator=torch.Generator()),
        "Expected a 'cuda' device type for generator",
    ),
    "a generator of the CPU, in place": (
        lambda x: x.normal_(generator=torch.Generator()),
        "Expected a 'cuda' device type for generator",
    ),
    "an index on the device": (
        lambda x: torch.zeros(3)[torch.tensor([0], device="cuda")],
        "indices should be either on cpu or on the same device",
    ),
    "in a backward pass": (lambda x: _Misplaced.apply(x.requires_grad_()).sum().backward(), "on the same device"),
}


class _Misplaced(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.full((3, 4), 2.0)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cuda_refuses_is_refused_and_noted(cuda, case):
    attempt, message = REFUSED[case]
    on_device = torch.randn(3, 4, device="cuda")

    with pytest.raises((RuntimeError, TypeError), match=message):
        attempt(on_device)
    assert len(cuda.refused) == 1


REFUSED_BY_MPS = {
    "made": lambda: torch.zeros(3, dtype=torch.float64, device="mps"),
    "from values": lambda: torch.tensor(np.zeros(3), device="mps"),
    "converted": lambda: torch.zeros(3, device="mps").double(),
    "moved": lambda: torch.zeros(3, dtype=torch.float64).to("mps"),
    "complex": lambda: torch.zeros(3, dtype=torch.complex128).to("mps"),
}


@pytest.mark.parametrize("case", REFUSED_BY_MPS)
def test_mps_has_no_double_precision(mps, case):
    with pytest.raises(TypeError, match=r"float64|ComplexDouble"):
        REFUSED_BY_MPS[case]()


def test_mps_converts_what_comes_in_a_single_call(mps):
    assert torch.zeros(3, dtype=torch.float64).to("mps", torch.float32).device == MPS


def test_kernels_waits_and_copies_are_counted_by_line(cuda):
    cuda.counts.clear()
    values = torch.ones(3, 4).to("cuda")  # A copy, and the host waits for it.
    line = _line_above()
    values = values.mT[1:].square()  # Views launch nothing.
    values[values > 0] = 1.0  # Two kernels, and no wait to fill with a number.
    several = values[values > 0]  # Two kernels, and a wait for how many there are.
    total = several.sum().item()  # A kernel and a wait.

    assert total == 9.0
    assert cuda.counts.kernels == 6
    assert cuda.counts.waits == 3
    assert cuda.counts.copies == 1
    here = Path(__file__).name
    assert cuda.counts.by_line("copy") == {f"{here}:{line}": 1}
    assert cuda.counts.by_line("wait") == {f"{here}:{line + offset}": 1 for offset in (0, 4, 5)}
    assert cuda.counts.by_line("kernel") == {f"{here}:{line + 2}": 1, **{f"{here}:{line + n}": 2 for n in (3, 4)}} | {
        f"{here}:{line + 5}": 1
    }


def _line_above():
    return inspect.currentframe().f_back.f_lineno - 1


def test_copies_that_do_not_wait_are_not_waits(cuda):
    torch.ones(3).to("cuda", non_blocking=True)

    assert (cuda.counts.copies, cuda.counts.waits) == (1, 0)


def test_kernels_of_the_backward_pass_are_counted(cuda):
    values = torch.ones(3, device="cuda", requires_grad=True)
    loss = values.exp().sum()
    cuda.counts.clear()

    loss.backward()

    # A one for the loss itself, and the product with exp; what sum's gradient is, is a view.
    assert cuda.counts.kernels == 2


class TestTensorFloat32:
    NEXT = 2.0**-10  # The next number after 1.

    @pytest.mark.parametrize("allowed", [False, True])
    def test_of_matrix_products(self, cuda, allowed):
        values = torch.tensor([[1 + 0.25 * self.NEXT], [1 + 0.75 * self.NEXT]], device="cuda")

        with tensor_float32(convolutions=not allowed, products=allowed):
            product = values @ torch.ones(1, 1, device="cuda")

        expected = torch.tensor([[1.0], [1 + self.NEXT]]) if allowed else values.cpu()
        assert torch.equal(product.cpu(), expected)

    def test_by_the_precision_of_matrix_products(self, cuda):
        values = torch.full((1, 1), 1 + self.NEXT / 4, device="cuda")

        torch.set_float32_matmul_precision("high")
        try:
            product = values @ torch.ones(1, 1, device="cuda")
        finally:
            # By the same switch: another would leave the CPU's part as it is, and PyTorch refuses to tell of the two.
            torch.set_float32_matmul_precision("highest")

        assert product.item() == 1.0

    @pytest.mark.parametrize("allowed", [False, True])
    def test_of_convolutions_and_their_gradients(self, cuda, allowed):
        value = 1 + self.NEXT / 4
        signal = torch.full((1, 1, 1), value, device="cuda", requires_grad=True)

        with tensor_float32(convolutions=allowed, products=not allowed):
            convolved = nn.functional.conv1d(signal, torch.full((1, 1, 1), value, device="cuda"))
            (gradient,) = torch.autograd.grad(convolved.sum(), signal)

        assert convolved.item() == pytest.approx(1.0 if allowed else value**2, rel=1e-6)
        assert gradient.item() == (1.0 if allowed else value)

    def test_not_of_double_precision_nor_on_the_cpu(self, cuda):
        value = torch.full((1, 1), 1 + self.NEXT / 4)

        with tensor_float32(convolutions=True, products=True):
            assert torch.equal(value @ torch.ones(1, 1), value)
            assert torch.equal((value.double().cuda() @ torch.ones(1, 1).double().cuda()).cpu(), value.double())

    @pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="PyTorch before 2.9")
    def test_flags_of_either_kind_are_read(self, cuda):
        signal = torch.full((1, 1, 1), 1 + self.NEXT / 4, device="cuda")
        before = torch.backends.cudnn.conv.fp32_precision

        with tensor_float32(convolutions=False, products=False):
            torch.backends.cudnn.conv.fp32_precision = "tf32"
            try:
                convolved = nn.functional.conv1d(signal, torch.ones(1, 1, 1, device="cuda"))
            finally:
                torch.backends.cudnn.conv.fp32_precision = before

        assert convolved.item() == 1.0


def test_memory_is_limited_and_given_back():
    with EmulatedDevice("cuda", memory=1000) as device:
        first = torch.zeros(100, device="cuda")
        second = first.view(10, 10)
        assert torch.cuda.mem_get_info() == (600, 1000)
        with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory\. Tried to allocate"):
            first.repeat(2)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.zeros(200).to("cuda")

        del first
        assert torch.cuda.memory_allocated() == 400
        del second
        gc.collect()

        assert torch.cuda.mem_get_info("cuda") == (1000, 1000)
        assert torch.cuda.max_memory_allocated() == device.memory.most_used == 400
        assert torch.zeros(250, device="cuda").device == CUDA


def test_lightning_finds_the_device():
    options = {"devices": 1, "logger": False, "enable_checkpointing": False}
    with EmulatedDevice("cuda"):
        assert Trainer(accelerator="auto", **options).strategy.root_device == CUDA
        assert Trainer(accelerator="gpu", **options).strategy.root_device == CUDA
    with EmulatedDevice("mps"):
        assert Trainer(accelerator="mps", **options).strategy.root_device == MPS
        assert Trainer(accelerator="auto", **options).strategy.root_device == MPS
    assert Trainer(accelerator="auto", **options).strategy.root_device == CPU


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(kind, fails):
    owners = [torch, torch.Tensor, torch.cuda, torch.mps, torch.backends.mps, MPSAccelerator, DeviceContext]
    before = [dict(vars(owner)) for owner in owners]
    environment = dict(os.environ)
    modes = torch.overrides._get_current_function_mode_stack()

    try:
        with EmulatedDevice(kind):
            left = torch.zeros(3, device=kind)
            os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
            assert fails is False
    except AssertionError:
        assert fails

    assert [dict(vars(owner)) for owner in owners] == before
    assert dict(os.environ) == environment
    assert torch.overrides._get_current_function_mode_stack() == modes
    assert not torch._C._only_lift_cpu_tensors()
    assert left.device == CPU
    assert left.numpy().tolist() == [0.0, 0.0, 0.0]
    with EmulatedDevice(kind):
        assert left.device == CPU
