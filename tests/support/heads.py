"""Small heads and contexts for the tests."""

from __future__ import annotations

import torch
from torch import Tensor

from rdvla.heads import Context, RecurrentConfig, RecurrentDepthHead

SMALL = RecurrentConfig(
    hidden_dim=16, num_heads=2, chunk_size=3, action_dim=2, mean_depth=4, backprop_depth=3,
    prelude=("middle",), core=("late",), coda=("late",),
)  # fmt: skip


def make_head(config: RecurrentConfig = SMALL, *, seed: int = 0) -> RecurrentDepthHead:
    """A head with weights as they come, but an open vision gate and inner scales that are not 1."""
    torch.manual_seed(seed)
    head = RecurrentDepthHead(config)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if "gate" in name or "gamma" in name or "norm" in name:
                parameter.add_(torch.rand_like(parameter) * 0.5 + 0.1)
    return head


def make_context(
    head: RecurrentDepthHead, *, batch: int = 2, vision: int = 5, latents: int = 4, seed: int = 1
) -> Context:
    """Random features at every level that the head reads."""
    generator = torch.Generator().manual_seed(seed)
    width = head.config.context_width

    def random(tokens: int) -> Tensor:
        return torch.randn(batch, tokens, width, generator=generator)

    return head.context(
        vision={level: random(vision) for level in head.config.levels},
        latents={level: random(latents) for level in head.config.levels},
        proprio=random(1),
    )


def take(context: Context, row: int) -> Context:
    """One sample of a batch."""
    rows = slice(row, row + 1)
    return Context(
        vision={level: value[rows] for level, value in context.vision.items()},
        latents={level: value[rows] for level, value in context.latents.items()},
        proprio=context.proprio[rows],
    )


def make_scaled_case(*, vision: int) -> tuple[RecurrentDepthHead, Context, Tensor]:
    """A frozen head, a context of three samples, and S_0 from which they stop at different depths."""
    head = make_head().eval().requires_grad_(False)
    start = head.initial_state(3, torch.Generator().manual_seed(0))
    scale = torch.tensor([0.2, 1, 6])[:, None, None]
    return head, make_context(head, batch=3, vision=vision), start * scale
