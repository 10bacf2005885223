"""A pretended CUDA or MPS device for tests on a CPU build of PyTorch.

    with EmulatedDevice("cuda") as device:
        meis = find_meis("digital_twin", neurons, accelerator="cuda")
    assert not device.refused
    print(device.counts.report())

All values are computed on the CPU. A tensor is "on the device" if the memory that it is a view of is marked as the
device's, so views, ``parameter.data = ...`` and in-place operations need no care. Three things make up the pretence:

- every operation of PyTorch, also of a backward pass, goes through ``EmulatedDevice.__torch_dispatch__``, which refuses
  what the device would refuse, counts, rounds to TF32, and marks the memory of what comes out;
- what PyTorch answers without an operation (``tensor.device``, ``tensor.to("cpu")``, ``tensor.numpy()``) is replaced on
  ``torch.Tensor`` (``tensors.py``);
- ``torch.cuda`` and ``torch.backends.mps`` say that there is one device (``runtime.py``).

What it cannot show: the device's own rounding, its order of summation and its speed; what only C++ code sees, such as
which convolution cuDNN chooses; CUDA graphs, streams and several devices; operations that MPS lacks; and operations in
threads other than the one that entered it.
"""

from emulation.device import EmulatedDevice

__all__ = ["EmulatedDevice"]
