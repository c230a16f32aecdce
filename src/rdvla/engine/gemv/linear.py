"""Linear layers whose products of a few rows run in the kernel, and a head made of them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rdvla.engine.gemv.library import build, gemv, pack, register
from rdvla.heads.recurrent.model import Adapter, RecurrentDepthHead

CONTEXT_LAYERS = ("latents_kv", "vision_kv")  # their inputs have a row per token of the context


class GEMVLinear(nn.Module):
    """A linear layer for inputs of a few rows. Inputs, sums and outputs are float32.

    Args:
        weight: (O, I); it is copied.
        dtype: of the copy, float32 or bfloat16.
        bias: (O,), or none.
    """

    packed: Tensor

    def __init__(self, weight: Tensor, dtype: torch.dtype, *, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self.register_buffer("packed", pack(weight, dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        out: Tensor = gemv(x.float(), self.packed)[..., : self.out_features]
        return out if self.bias is None else out + self.bias


class GEMVAdapter(nn.Module):
    """The same for an `Adapter`."""

    def __init__(self, adapter: Adapter, dtype: torch.dtype) -> None:
        super().__init__()
        state_weight, prelude_weight = adapter.weight.chunk(2, dim=1)
        self.state = GEMVLinear(state_weight, dtype)
        self.constant_term = GEMVLinear(prelude_weight, dtype)

    def forward(self, state: Tensor, constant: Tensor) -> Tensor:
        """(B, K, D) each -> (B, K, D)."""
        out: Tensor = self.state(state) + constant
        return out


def gemv_copy(head: RecurrentDepthHead, dtype: torch.dtype) -> RecurrentDepthHead:
    """Return a head that acts as `head`, fastest with up to `MAX_ROWS` rows of states at once.

    It shares all weights but the packed ones. Raises the errors of torch's compiler if there is no C++
    compiler.

    Args:
        head: in float32, on the CPU.
        dtype: of the packed weights, float32 or bfloat16.
    """
    register(build())
    shared = {id(tensor): tensor for tensor in (*head.parameters(), *head.buffers())}
    twin = copy.deepcopy(head, memo=shared)
    for module in list(twin.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.Linear) and name not in CONTEXT_LAYERS:
                setattr(module, name, _with_gemv(layer, dtype))
    return twin


def _with_gemv(layer: nn.Linear, dtype: torch.dtype) -> nn.Module:
    if isinstance(layer, Adapter):
        return GEMVAdapter(layer, dtype)
    return GEMVLinear(layer.weight, dtype, bias=layer.bias)
