"""A head whose products of a few rows run in the kernel."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rdvla.head.adapter import Adapter
from rdvla.head.skinny.library import build, pack, register

if TYPE_CHECKING:
    from rdvla.head.recurrent import RecurrentDepthHead

OF_THE_CONTEXT = ("latents_kv", "vision_kv")  # these have a row for each of its tokens


class SkinnyLinear(nn.Module):
    """A linear layer for inputs of a few rows. Inputs, sums and outputs are float32.

    Args:
        weight: (O, I); later changes of it do not arrive here.
        dtype: float32 or bfloat16: as which the weights are kept.
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
        out: Tensor = torch.ops.rdvla.skinny_linear(x.float(), self.packed)[..., : self.out_features]
        return out if self.bias is None else out + self.bias


class SkinnyAdapter(nn.Module):
    """The same for an `Adapter`."""

    def __init__(self, adapter: Adapter, dtype: torch.dtype) -> None:
        super().__init__()
        self.of_state = SkinnyLinear(adapter.state_weight, dtype)
        self.of_prelude = SkinnyLinear(adapter.prelude_weight, dtype)


def skinny_copy(head: RecurrentDepthHead, dtype: torch.dtype) -> RecurrentDepthHead:
    """A head that acts as `head` does, fastest with up to `MOST_ROWS` rows of states at once.

    It shares all weights but those that are packed.

    Args:
        head: in float32, on the processor.
        dtype: float32 or bfloat16, as which the packed weights are kept.

    Raises what torch's compiler raises where there is no C++ compiler.
    """
    register(build())
    shared = {id(tensor): tensor for tensor in (*head.parameters(), *head.buffers())}
    twin = copy.deepcopy(head, memo=shared)
    for module in list(twin.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.Linear) and name not in OF_THE_CONTEXT:
                setattr(module, name, _skinny(layer, dtype))
    return twin


def _skinny(layer: nn.Linear, dtype: torch.dtype) -> nn.Module:
    if isinstance(layer, Adapter):
        return SkinnyAdapter(layer, dtype)
    return SkinnyLinear(layer.weight, dtype, bias=layer.bias)
