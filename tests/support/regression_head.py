"""A head that does not iterate: the smallest that the house must be able to train and run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rdvla.control import Stops
from rdvla.heads import ActionHead, Context, HeadConfig, Level, Loss, Score
from rdvla.heads.base import absolute_error
from rdvla.types import Prediction


@HeadConfig.register_subclass("test_regression")
@dataclass(frozen=True)
class RegressionConfig(HeadConfig):  # type: ignore[no-untyped-call]
    """Configuration of `RegressionHead`."""

    context_dim: int = 16  # C

    def make(self) -> RegressionHead:
        return RegressionHead(self)

    @property
    def levels(self) -> tuple[Level, ...]:
        return ("late",)

    @property
    def context_width(self) -> int:
        return self.context_dim


class RegressionHead(ActionHead):
    """One linear layer on the mean of all context tokens."""

    def __init__(self, config: RegressionConfig) -> None:
        super().__init__()
        self.config = config
        self.output = nn.Linear(config.context_dim, config.chunk_size * config.action_dim)

    def forward(self, context: Context) -> Tensor:  # (B, K, A)
        tokens = torch.cat([context.vision["late"], context.latents["late"], context.proprio], dim=1)
        return self.output(tokens.mean(dim=1)).unflatten(-1, (self.config.chunk_size, -1))

    def loss(
        self,
        context: Context,
        actions: Tensor,
        *,
        is_pad: Tensor,
        generator: torch.Generator | None = None,
        depth: int | None = None,
        initial_state: Tensor | None = None,
    ) -> Loss:
        error = absolute_error(self(context).float(), actions, is_pad=is_pad).mean
        return Loss(error, {"loss": error.detach()})

    @torch.no_grad()
    def errors(
        self,
        context: Context,
        actions: Tensor,
        *,
        is_pad: Tensor,
        depths: Sequence[int],
        generator: torch.Generator | None = None,
        initial_state: Tensor | None = None,
    ) -> dict[int, Score]:
        return dict.fromkeys(depths, absolute_error(self(context).float(), actions, is_pad=is_pad))

    @torch.no_grad()
    def predict(
        self,
        context: Context,
        *,
        stop: Stops,
        max_depth: int | Sequence[int] | None = None,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        actions = self(context)
        depth = torch.ones(len(actions), dtype=torch.int64, device=actions.device)
        return Prediction(actions, depth, depth.bool(), self.initial_state(len(actions)).to(actions))

    @property
    def state_shape(self) -> tuple[int, ...]:
        return (self.config.chunk_size, 0)

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.empty(batch_size, *self.state_shape)
