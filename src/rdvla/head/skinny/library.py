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

MOST_ROWS = 8  # with 16, torch's own products are faster in bfloat16: `python -m benchmarks.few_rows`
COLUMNS = 32  # outputs of a panel; see kernel.cpp
# Whatever registers it first serves the whole process: another order of the weights needs another name.
OPERATOR = "skinny_linear"
# Inductor forbids to fuse a product with the sum that it goes into, which is half of the arithmetic here.
FLAGS = ("-ffp-contract=fast",)
_LOCK = threading.Lock()


def available(device: torch.device) -> bool:
    """Whether the kernel can serve a head on this device: it is for processors, and for GCC or Clang."""
    return device.type == "cpu" and sys.platform != "win32" and sys.byteorder == "little"


def pack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring weights into the order in which the kernel reads them.

    Args:
        weight: (O, I), float32.
        dtype: float32 or bfloat16, as which they are kept.

    Returns:
        Panels of 32 outputs, the last one filled up with zeros: (panels, I, 32), or (panels, I, 16, 2) with
        columns i and i + 16 side by side.
    """
    outer, inner = weight.shape
    padded = functional.pad(weight.detach(), (0, 0, 0, -outer % COLUMNS)).to(dtype)
    panels = padded.view(-1, COLUMNS, inner).transpose(1, 2)
    if dtype == torch.float32:
        return panels.contiguous()
    halves = panels.reshape(-1, inner, 2, COLUMNS // 2)
    return halves.transpose(2, 3).contiguous()


def build() -> Path:
    """Compile the kernel for this processor, or find it compiled: a library to `register`.

    Raises what torch's compiler raises where there is no C++ compiler.
    """
    from torch._inductor.codecache import CppCodeCache  # importing the compiler takes seconds

    source = Path(__file__).with_name("kernel.cpp").read_text(encoding="utf-8")
    path = Path(CppCodeCache.load(source, extra_flags=FLAGS)._name)
    if path.exists():
        return path
    CppCodeCache.cache.clear()  # the files were removed since this process compiled it
    return Path(CppCodeCache.load(source, extra_flags=FLAGS)._name)


def register(library: Path) -> None:
    """Make the kernel known to torch as `rdvla::skinny_linear`, unless it is.

    Raises:
        OSError: the file is no library that can be loaded here.
    """
    with _LOCK:
        if not hasattr(torch.ops.rdvla, OPERATOR):
            _register(_kernels(library))


def _register(kernels: Mapping[torch.dtype, Callable[..., None]]) -> None:
    def skinny_linear(x: Tensor, packed: Tensor) -> Tensor:
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

    name = f"rdvla::{OPERATOR}"
    torch.library.define(name, "(Tensor x, Tensor packed) -> Tensor")
    torch.library.impl(name, "CPU", skinny_linear)
    torch.library.register_fake(name, shape_of)


def _kernels(library: Path) -> Mapping[torch.dtype, Callable[..., None]]:
    """The library's functions, by what the weights are kept as."""
    loaded = ctypes.CDLL(str(library))
    try:
        kernels = {torch.float32: loaded.skinny_float32, torch.bfloat16: loaded.skinny_bfloat16}
    except AttributeError as error:
        raise OSError(f"{library} is no library of this kernel: {error}") from error
    for kernel in kernels.values():
        kernel.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3 + [ctypes.c_int]
        kernel.restype = None
    return kernels
