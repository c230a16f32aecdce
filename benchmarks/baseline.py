"""The plain reading of the method, to compare with: nothing is kept between iterations.

Every block of every iteration projects the whole context to keys and values again, and the adapter reads the
prelude's output again. Weights and attention kernels are those of the given head, so that the difference in
time is what keeping the constant parts brings, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rdvla.head import Context, Level, RecurrentDepthHead


@torch.no_grad()
def plain_loop(head: RecurrentDepthHead, context: Context, *, depth: int, initial_state: Tensor) -> Tensor:
    """Return the actions (B, K, A) after `depth` iterations from `initial_state` (B, K, D)."""
    config = head.config
    queries = head.action_queries.expand(context.batch_size, -1, -1)
    prelude = _run(head.prelude, config.prelude, queries, context)
    state = initial_state
    for _ in range(depth):
        mixed = head.adapter_norm(head.gamma_adapt * head.adapter(torch.cat([state, prelude], dim=-1)))
        state = head.core_norm(_run(head.core, config.core, mixed, context))
    actions: Tensor = head.output(head.output_norm(_run(head.coda, config.coda, state, context)))
    return actions


def _run(blocks: Iterable[nn.Module], levels: tuple[Level, ...], x: Tensor, context: Context) -> Tensor:
    for block, level in zip(blocks, levels, strict=True):
        keys_values = block.cross_attention.keys_values(
            vision=context.vision[level], latents=context.latents[level], proprio=context.proprio
        )
        x = block(x, keys_values)
    return x
