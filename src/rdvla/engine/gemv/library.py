"""The kernel as an operator of torch, compiled for the processor that it runs on."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

MAX_ROWS = 8  # with 16, torch's own products are faster in bfloat16: `python -m benchmarks.gemv`
COLUMNS = 32  # outputs of a panel; see kernel.cpp
# The first library that registers it serves the whole process: another order of weights needs another name.
OPERATOR = "gemv"
# Heads that were compiled ahead of time before it had this name call it so, and bring functions called so.
FORMER_OPERATOR = "skinny_linear"
FORMER_PREFIX = "skinny"
# Inductor forbids to fuse a product with the sum that it goes into, which is half of the arithmetic here.
FLAGS = ("-ffp-contract=fast",)
_LOCK = threading.Lock()


def available(device: torch.device) -> bool:
    """Return whether the kernel can serve a head on this device: it is for CPUs, and for GCC or Clang."""
    return device.type == "cpu" and sys.platform != "win32" and sys.byteorder == "little"


def pack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring weights into the order that the kernel reads.

    Args:
        weight: (O, I), float32.
        dtype: of the result, float32 or bfloat16.

    Returns:
        Panels of 32 outputs, the last one filled up with zeros: (panels, I, 32), or (panels, I, 16, 2) with
        columns i and i + 16 next to each other.
    """
    outer, inner = weight.shape
    padded = functional.pad(weight.detach(), (0, 0, 0, -outer % COLUMNS)).to(dtype)
    panels = padded.view(-1, COLUMNS, inner).transpose(1, 2)
    if dtype == torch.float32:
        return panels.contiguous()
    halves = panels.reshape(-1, inner, 2, COLUMNS // 2)
    return halves.transpose(2, 3).contiguous()


def build() -> Path:
    """Compile the kernel for this processor, or find it compiled; return a library to `register`.

    Raises the errors of torch's compiler if there is no C++ compiler.
    """
    from torch._inductor.codecache import CppCodeCache  # importing the compiler takes seconds

    source = Path(__file__).with_name("kernel.cpp").read_text(encoding="utf-8")
    path = Path(CppCodeCache.load(source, extra_flags=FLAGS)._name)
    if path.exists():
        return path
    CppCodeCache.cache.clear()  # the files were removed since this process compiled it
    return Path(CppCodeCache.load(source, extra_flags=FLAGS)._name)


def register(library: Path) -> None:
    """Make the kernel known to torch as `rdvla::gemv`, unless it is.

    Raises:
        OSError: the file is no library of this kernel, or cannot be loaded here.
    """
    with _LOCK:
        if not hasattr(torch.ops.rdvla, OPERATOR):
            kernels = kernels_of(library)
            for name in (OPERATOR, FORMER_OPERATOR):
                _register(name, kernels)


def gemv(x: Tensor, packed: Tensor) -> Tensor:
    """Multiply x (..., I) float32 with weights from `pack`, (..., O filled up to a multiple of 32)."""
    out: Tensor = torch.ops.rdvla.gemv(x, packed)
    return out


def _register(operator: str, kernels: Mapping[torch.dtype, Callable[..., None]]) -> None:
    def multiply(x: Tensor, packed: Tensor) -> Tensor:
        x = x.contiguous()
        out = shape_of(x, packed)
        rows, inner, outer = x[..., 0].numel(), x.shape[-1], out.shape[-1]
        addresses = (tensor.data_ptr() for tensor in (x, packed, out))
        kernels[packed.dtype](*addresses, rows, inner, outer, torch.get_num_threads())
        return out

    def shape_of(x: Tensor, packed: Tensor) -> Tensor:
        if x.dtype != torch.float32 or x.shape[-1] != packed.shape[1] or not packed.is_contiguous():
            raise ValueError(
                f"{OPERATOR} takes x in float32 and contiguous weights from `pack` for its width; x is "
                f"{tuple(x.shape)} in {x.dtype}, the weights are {tuple(packed.shape)}"
            )
        return x.new_empty((*x.shape[:-1], packed.shape[0] * COLUMNS))

    name = f"rdvla::{operator}"
    torch.library.define(name, "(Tensor x, Tensor packed) -> Tensor")
    torch.library.impl(name, "CPU", multiply)
    torch.library.register_fake(name, shape_of)


def kernels_of(library: Path) -> Mapping[torch.dtype, Callable[..., None]]:
    """Return the library's functions by dtype of the weights.

    Raises:
        OSError: it is no library of this kernel, or cannot be loaded here.
    """
    loaded = ctypes.CDLL(str(library))
    prefix = OPERATOR if hasattr(loaded, f"{OPERATOR}_float32") else FORMER_PREFIX
    try:
        kernels = {
            torch.float32: getattr(loaded, f"{prefix}_float32"),
            torch.bfloat16: getattr(loaded, f"{prefix}_bfloat16"),
        }
    except AttributeError as error:
        raise OSError(f"{library} is no library of this kernel: {error}") from error
    for kernel in kernels.values():
        kernel.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3 + [ctypes.c_int]
        kernel.restype = None
    return kernels
