"""The context in the form that costs least for the number of times a block reads it.

The context is constant over iterations. A block that reads it often projects it once to keys and values. A
block that reads it once or twice should leave it as it is and project its few queries instead:

    logits = (W_q x) . (W_k c) = (W_k^T W_q x) . c          values: sum_t p_t W_v c_t = W_v (sum_t p_t c_t)

It is the same sum in another order. At the paper's size such a reading costs a tenth of the projection.

Sizes: B batch, K chunk length, D width, h heads, E context width, M vision tokens, L latent tokens,
T = L + 1 + M.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rdvla.heads import Context, Level
from rdvla.heads.recurrent.model import BlockContext, CrossAttention, EncodedContext, KeysValues


class Unprojected(NamedTuple):
    """The context as it came, for a block that projects its queries instead."""

    latents: Tensor  # (B, L + 1, E), [latents ; proprio]
    vision: Tensor  # (B, M, E)


Form = KeysValues | Unprojected
"""What the engine keeps of the context for one block."""


def form_for(attention: CrossAttention, *, chunk_size: int, tokens: int, reads: int | None) -> type[Form]:
    """Return the form that costs least.

    Args:
        attention: of the block that reads.
        chunk_size: K.
        tokens: T.
        reads: how often, at most; None: many times.
    """
    if reads is None:
        return KeysValues
    width, context = attention.query.in_features, attention.latents_kv.in_features
    once = 2 * tokens * width * context  # multiplications of the projection to keys and values
    with_keys = 2 * chunk_size * tokens * width
    without = 4 * chunk_size * width * context + 2 * attention.num_heads * chunk_size * tokens * context
    # Twice: at B = 1 fetching the projections' weights for every such reading costs as much again.
    return Unprojected if 2 * reads * without < once + reads * with_keys else KeysValues


def context_for(
    attention: CrossAttention, context: Context, level: Level, *, chunk_size: int, reads: int | None
) -> Form:
    """Bring one level of the context into the form that costs least; see `form_for`."""
    tokens = context.latents[level].shape[1] + 1 + context.vision[level].shape[1]
    if form_for(attention, chunk_size=chunk_size, tokens=tokens, reads=reads) is KeysValues:
        return attention.project(context, level)
    return Unprojected(torch.cat([context.latents[level], context.proprio], dim=1), context.vision[level])


def bind(attention: CrossAttention, context: Form) -> BlockContext:
    """Return the context as the block of `attention` can read it."""
    return context if isinstance(context, KeysValues) else QueryProjection(attention, context)


def select(encoded: EncodedContext, samples: Tensor) -> EncodedContext:
    """Return some samples of the batch; `samples` is an index tensor."""
    return replace(select_coda(encoded, samples), core=tuple(_select(each, samples) for each in encoded.core))


def select_coda(encoded: EncodedContext, samples: Tensor) -> EncodedContext:
    """Return what `decode` needs of some samples; the core's contexts are left out."""
    coda = tuple(_select(each, samples) for each in encoded.coda)
    return EncodedContext(injection=encoded.injection[samples], core=(), coda=coda)


def _select(context: BlockContext, samples: Tensor) -> BlockContext:
    assert isinstance(context, KeysValues | Unprojected)
    return type(context)(*(tensor[samples] for tensor in context))


class QueryProjection:
    """An unprojected context together with the weights that its queries are projected with."""

    def __init__(self, attention: CrossAttention, context: Unprojected) -> None:
        self.attention = attention
        self.context = context

    def attend(self, queries: Tensor) -> Tensor:
        """Attend from (B, h, K, D/h) queries to all T tokens, (B, h, K, D/h)."""
        latents_k, latents_v = self._per_head(self.attention.latents_kv)
        vision_k, vision_v = self._per_head(self.attention.vision_kv)
        latents, vision = self.context
        scaled = queries * queries.shape[-1] ** -0.5
        gated = scaled * torch.tanh(self.attention.vision_gate).to(scaled.dtype)
        logits = torch.cat(  # (B, h K, T)
            [
                _all_heads(scaled, latents_k) @ latents.transpose(1, 2),
                _all_heads(gated, vision_k) @ vision.transpose(1, 2),
            ],
            dim=-1,
        )
        latents_weights, vision_weights = logits.softmax(dim=-1).tensor_split([latents.shape[1]], dim=-1)
        batch, num_heads, chunk, _ = queries.shape
        shape = (batch, num_heads, chunk, latents.shape[2])
        from_latents = _per_head_product((latents_weights @ latents).view(shape), latents_v.transpose(1, 2))
        from_vision = _per_head_product((vision_weights @ vision).view(shape), vision_v.transpose(1, 2))
        return from_latents + from_vision

    def _per_head(self, projection: nn.Linear) -> tuple[Tensor, Tensor]:
        """Weights for keys and for values, each (h, D/h, C)."""
        weight = projection.weight
        keys, values = weight.view(2, self.attention.num_heads, -1, weight.shape[1]).unbind(0)
        return keys, values


def _per_head_product(x: Tensor, weights: Tensor) -> Tensor:
    """(B, h, K, i) by (h, i, o) -> (B, h, K, o); one product per head, whatever the batch."""
    batch, _, chunk, _ = x.shape
    out = torch.bmm(x.transpose(0, 1).flatten(1, 2), weights)
    return out.view(len(out), batch, chunk, out.shape[2]).transpose(0, 1)


def _all_heads(queries: Tensor, keys: Tensor) -> Tensor:
    """Queries (B, h, K, D/h) projected to the context's width, (B, h K, C)."""
    return _per_head_product(queries, keys).flatten(1, 2)
