"""A head with just enough around it to read a problem, and what a query of it costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.planning.tasks import Problems, Task
from rdvla.heads import RecurrentConfig
from rdvla.heads.base import Context
from rdvla.heads.recurrent.model import EncodedContext

LEVEL = "late"


@dataclass(frozen=True)
class Shape:
    """Blocks and width of a head; see `RecurrentConfig`."""

    prelude: int = 0
    core: int = 1
    coda: int = 0
    width: int = 48  # D
    attention_heads: int = 2
    scratch: int = 0  # action tokens whose output nobody asks for, next to the one that answers
    adapter_init: str = "truncated_normal"
    mean_depth: int = 1  # output projections are divided by sqrt(mean_depth * core blocks)
    vision_gate: float = 1.0  # g at the start; 0 in the paper, where all tokens then look the same

    def config(self, task: Task, *, context_width: int) -> RecurrentConfig:
        """Return the head's configuration: an action's numbers are the classes' logits."""
        return RecurrentConfig(
            chunk_size=1 + self.scratch,
            action_dim=task.answers,
            hidden_dim=self.width,
            num_heads=self.attention_heads,
            context_dim=context_width,
            prelude=(LEVEL,) * self.prelude,
            core=(LEVEL,) * self.core,
            coda=(LEVEL,) * self.coda,
            vision_gate_init=self.vision_gate,
            adapter_init=self.adapter_init,  # type: ignore[arg-type]  # checked by the configuration
            mean_depth=self.mean_depth,
        )


class Planner(nn.Module):
    """Embeds a problem's tokens as a head's vision tokens. Latents and proprioception say nothing."""

    def __init__(self, task: Task, shape: Shape, *, context_width: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(task.width, context_width, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.5**0.5)  # two names make a token of unit size
        self.latent = nn.Parameter(torch.randn(1, 1, context_width))
        self.proprio = nn.Parameter(torch.randn(1, 1, context_width))
        self.head = shape.config(task, context_width=context_width).make()

    def context(self, tokens: Tensor) -> Context:
        """Read tokens (B, N, width)."""
        B = len(tokens)
        return self.head.context(
            vision={LEVEL: self.embedding(tokens)},
            latents={LEVEL: self.latent.expand(B, -1, -1)},
            proprio=self.proprio.expand(B, -1, -1),
        )

    def logits(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """Decode a state (B, K, D); return the logits of the classes, (B, answers)."""
        return self.head.decode(state, encoded)[:, 0]

    @torch.no_grad()
    def correct(
        self, problems: Problems, *, depths: list[int], generator: torch.Generator
    ) -> dict[int, Tensor]:
        """Return which problems are solved after each depth, (B,) bool."""
        encoded = self.head.encode(self.context(problems.tokens))
        state = self.head.initial_state(len(problems.tokens), generator)
        found = {}
        for depth in range(1, max(depths) + 1):
            state = self.head.iterate(state, encoded)
            if depth in depths:
                found[depth] = self.logits(state, encoded).argmax(-1) == problems.answer
        return found

    @property
    def parameters_of_head(self) -> int:
        """Weights of the head, without the embedding."""
        return sum(weight.numel() for weight in self.head.parameters())

    @torch.no_grad()
    def operations(self, tokens: int, *, depth: int) -> int:
        """Count multiply-accumulates of the head per query: all matrix products, attention's too.

        Normalisation, activations, softmax and the embedding are left out.
        """
        width = self.proprio.shape[-1]
        context = self.head.context(
            vision={LEVEL: torch.zeros(1, tokens, width)},
            latents={LEVEL: self.latent},
            proprio=self.proprio,
        )
        # Attention as plain products, which the counter knows on every processor.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.head(context, depth=depth)
        return counter.get_total_flops() // 2
