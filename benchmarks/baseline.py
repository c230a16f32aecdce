"""The loop of public code for the method, to compare with: it keeps nothing between iterations.

Every block of every iteration projects the whole context to keys and values again, and the adapter multiplies
the prelude's output again. Under the adaptive rule the coda runs and the host waits in every iteration, and
the coda runs once more at the end. Weights and attention kernels are the given head's own, so only the work
that the engine leaves out makes a difference in time.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdvla.heads import Context, Level, RecurrentDepthHead


@torch.no_grad()
def plain_loop(head: RecurrentDepthHead, context: Context, *, depth: int, initial_state: Tensor) -> Tensor:
    """Return the actions (B, K, A) after `depth` iterations from `initial_state` (B, K, D)."""
    prelude, state = _prelude(head, context), initial_state
    for _ in range(depth):
        state = _iterate(head, context, prelude, state)
    return _decode(head, context, state)


@torch.no_grad()
def plain_adaptive_loop(
    head: RecurrentDepthHead, context: Context, *, threshold: float, max_depth: int, initial_state: Tensor
) -> tuple[Tensor, int]:
    """Run one sample until the paper's rule stops it; return its actions (1, K, A) and its depth."""
    prelude, state = _prelude(head, context), initial_state
    depth, change = 0, float("inf")
    previous: Tensor | None = None
    while depth < max_depth and not change < threshold:
        state = _iterate(head, context, prelude, state)
        depth += 1
        actions = _decode(head, context, state)
        if previous is not None:
            change = (actions - previous).square().mean().item()
        previous = actions
    return _decode(head, context, state), depth


def _prelude(head: RecurrentDepthHead, context: Context) -> Tensor:
    queries = head.action_queries.expand(context.batch_size, -1, -1)
    return _run(head.prelude, head.config.prelude, queries, context)


def _iterate(head: RecurrentDepthHead, context: Context, prelude: Tensor, state: Tensor) -> Tensor:
    adapted = functional.linear(torch.cat([state, prelude], dim=-1), head.adapter.weight)
    x = head.adapter_norm(head.gamma_adapt * adapted)
    out: Tensor = head.core_norm(_run(head.core, head.config.core, x, context))
    return out


def _decode(head: RecurrentDepthHead, context: Context, state: Tensor) -> Tensor:
    actions: Tensor = head.output(head.output_norm(_run(head.coda, head.config.coda, state, context)))
    return actions


def _run(blocks: Iterable[nn.Module], levels: tuple[Level, ...], x: Tensor, context: Context) -> Tensor:
    for block, level in zip(blocks, levels, strict=True):
        x = block(x, block.cross_attention.project(context, level))
    return x
