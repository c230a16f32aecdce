"""The inputs of the head's benchmark: random weights and features of the paper's sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from rdvla.control import Stop
from rdvla.engine import Engine
from rdvla.heads import Context, RecurrentConfig, RecurrentDepthHead

PAPER = RecurrentConfig()
VISION_TOKENS, LATENT_TOKENS = 512, 64  # M, L


def build(
    config: RecurrentConfig, *, vision_tokens: int, latent_tokens: int
) -> tuple[RecurrentDepthHead, Context, Tensor]:
    """Return a head with random weights, a random context of one observation, and an initial state."""
    torch.manual_seed(0)
    head = RecurrentDepthHead(config).eval().requires_grad_(False)
    for block in (*head.prelude, *head.core, *head.coda):
        block.cross_attention.vision_gate.fill_(0.5)  # as if trained; 0 would hide the vision tokens
    return head, *random_query(head, vision_tokens=vision_tokens, latent_tokens=latent_tokens, seed=1)


def random_query(
    head: RecurrentDepthHead, *, vision_tokens: int, latent_tokens: int, seed: int
) -> tuple[Context, Tensor]:
    """Return a random context of one observation, and an initial state."""
    generator = torch.Generator().manual_seed(seed)
    levels, width = head.config.levels, head.config.context_width
    context = head.context(
        vision={level: torch.randn(1, vision_tokens, width, generator=generator) for level in levels},
        latents={level: torch.randn(1, latent_tokens, width, generator=generator) for level in levels},
        proprio=torch.randn(1, 1, width, generator=generator),
    )
    return context, head.initial_state(1, generator)


def adaptive_stops(
    head: RecurrentDepthHead, context: Context, state: Tensor, *, depth: int
) -> tuple[Stop, Stop]:
    """Return the paper's rule, and the same with the coda deferred, such that this query stops at `depth`.

    Raises:
        RuntimeError: no threshold does, because the action change is not smallest at that depth.
    """
    trace = Engine(head).predict(context, stop=depth, initial_state=state, trace=True).trace
    assert trace is not None
    actions, latents = trace.action_change[1:, 0], trace.latent_change[1:, 0]
    smallest_before, last = float(actions[:-1].min()), float(actions[-1])
    if not last < smallest_before:
        raise RuntimeError(f"the action change at depth {depth}, {last}, is not the smallest so far")
    threshold = (last * smallest_before) ** 0.5
    coda_below = (float(latents[-1]) * float(latents[-2])) ** 0.5  # between the last two iterations
    return Stop("action_change", threshold=threshold), Stop(
        "deferred_action_change", threshold=threshold, coda_below=coda_below
    )
