"""How a block reads the context: one softmax over [latents ; proprio ; vision].

Shapes: B batch, K chunk length, D hidden width, h heads, C context width, M vision tokens, L latent tokens,
T = L + 1 + M.

The context is constant over iterations. A block that reads it often projects it once to keys and values. A
block that reads it once or twice had better leave it as it is and project its few queries instead:

    logits = (W_q x) . (W_k c) = (W_k^T W_q x) . c          values: sum_t p_t W_v c_t = W_v (sum_t p_t c_t)

which is the same sum in another order. At the paper's size one such reading is a tenth of the projection.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdvla.head.config import HeadConfig
from rdvla.head.heads import merge_heads, split_heads


class KeysValues(NamedTuple):
    """Keys and values of the context for one block, computed once per query.

    Both are (B, h, T, D / h), ordered [latents ; proprio ; vision].
    """

    keys: Tensor
    values: Tensor

    def select(self, rows: Tensor) -> KeysValues:
        """The same for some samples of the batch; `rows` is an index tensor."""
        return KeysValues(self.keys[rows], self.values[rows])


class Unprojected(NamedTuple):
    """The context as it came, for a block that projects its queries instead."""

    near: Tensor  # (B, L + 1, C), [latents ; proprio]
    far: Tensor  # (B, M, C), vision

    def select(self, rows: Tensor) -> Unprojected:
        """The same for some samples of the batch; `rows` is an index tensor."""
        return Unprojected(self.near[rows], self.far[rows])


BlockContext = KeysValues | Unprojected
"""What a block keeps of a query's context."""


class CrossAttention(nn.Module):
    """One softmax over [latents ; proprio ; vision], with the vision logits multiplied by tanh(g)."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.chunk_size = config.chunk_size
        self.query = nn.Linear(config.hidden_dim, config.hidden_dim, bias=False)
        self.latents_kv = nn.Linear(config.context_width, 2 * config.hidden_dim, bias=False)
        self.vision_kv = nn.Linear(config.context_width, 2 * config.hidden_dim, bias=False)
        self.output = nn.Linear(config.hidden_dim, config.hidden_dim, bias=False)
        self.vision_gate = nn.Parameter(torch.tensor([config.vision_gate_init]))  # g

    def context_for(
        self, *, vision: Tensor, latents: Tensor, proprio: Tensor, reads: int | None
    ) -> BlockContext:
        """The context in the form that costs least for a number of readings; None: many.

        Args:
            vision: (B, M, C). latents: (B, L, C). proprio: (B, 1, C).
            reads: how often `forward` will be called with it, at most.
        """
        if self.form_for(vision.shape[1] + latents.shape[1] + 1, reads) is Unprojected:
            return Unprojected(near=torch.cat([latents, proprio], dim=1), far=vision)
        return self.keys_values(vision=vision, latents=latents, proprio=proprio)

    def form_for(self, tokens: int, reads: int | None) -> type[BlockContext]:
        """The form that `context_for` chooses for T tokens."""
        pays = reads is not None and self._projecting_queries_pays(tokens, reads)
        return Unprojected if pays else KeysValues

    def _projecting_queries_pays(self, tokens: int, reads: int) -> bool:
        chunk, width, context = self.chunk_size, self.query.in_features, self.latents_kv.in_features
        once = 2 * tokens * width * context  # multiplications of the projection to keys and values
        with_keys = 2 * chunk * tokens * width
        without = 4 * chunk * width * context + 2 * self.num_heads * chunk * tokens * context
        # Twice: at B = 1 fetching the projections' weights for each such reading costs as much again.
        return 2 * reads * without < once + reads * with_keys

    def keys_values(self, *, vision: Tensor, latents: Tensor, proprio: Tensor) -> KeysValues:
        """Keys and values of the context; constant over iterations, hence computed once.

        Multiplying the vision keys by tanh(g) multiplies the vision logits by it.

        Args:
            vision: (B, M, C). latents: (B, L, C). proprio: (B, 1, C).
        """
        near_keys, near_values = self.latents_kv(torch.cat([latents, proprio], dim=1)).chunk(2, dim=-1)
        far_keys, far_values = self.vision_kv(vision).chunk(2, dim=-1)
        gated = far_keys * torch.tanh(self.vision_gate).to(far_keys.dtype)
        return KeysValues(
            keys=split_heads(torch.cat([near_keys, gated], dim=1), self.num_heads).contiguous(),
            values=split_heads(torch.cat([near_values, far_values], dim=1), self.num_heads).contiguous(),
        )

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """(B, K, D) -> (B, K, D)."""
        queries = split_heads(self.query(x), self.num_heads)  # (B, h, K, D / h)
        if isinstance(context, KeysValues):
            mixed = functional.scaled_dot_product_attention(queries, context.keys, context.values)
        else:
            mixed = self._attend_unprojected(queries, context)
        out: Tensor = self.output(merge_heads(mixed))
        return out

    def _attend_unprojected(self, queries: Tensor, context: Unprojected) -> Tensor:
        """(B, h, K, D / h) -> (B, h, K, D / h)."""
        near_keys, near_values = self._per_head(self.latents_kv)
        far_keys, far_values = self._per_head(self.vision_kv)
        scaled = queries * queries.shape[-1] ** -0.5
        gated = scaled * torch.tanh(self.vision_gate).to(scaled.dtype)
        logits = torch.cat(
            [
                _every_head(scaled, near_keys) @ context.near.transpose(1, 2),
                _every_head(gated, far_keys) @ context.far.transpose(1, 2),
            ],
            dim=-1,
        )  # (B, h K, T)
        weights = logits.softmax(dim=-1)
        near, far = weights.tensor_split([context.near.shape[1]], dim=-1)
        batch, num_heads, chunk, _ = queries.shape
        shape = (batch, num_heads, chunk, context.near.shape[2])
        from_near = _each_head((near @ context.near).view(shape), near_values.transpose(1, 2))
        from_far = _each_head((far @ context.far).view(shape), far_values.transpose(1, 2))
        return from_near + from_far

    def _per_head(self, projection: nn.Linear) -> tuple[Tensor, Tensor]:
        """A projection's weights for keys and for values, each (h, D / h, C)."""
        weight = projection.weight
        keys, values = weight.view(2, self.num_heads, -1, weight.shape[1]).unbind(0)
        return keys, values


def _each_head(x: Tensor, weights: Tensor) -> Tensor:
    """(B, h, K, i) by (h, i, o) -> (B, h, K, o); one product a head, whatever the batch."""
    batch, _, chunk, _ = x.shape
    out = torch.bmm(x.transpose(0, 1).flatten(1, 2), weights)
    return out.view(len(out), batch, chunk, out.shape[2]).transpose(0, 1)


def _every_head(queries: Tensor, keys: Tensor) -> Tensor:
    """Queries (B, h, K, D / h) against the context itself, (B, h K, C)."""
    return _each_head(queries, keys).flatten(1, 2)
