"""How the state of the iteration before and the prelude's reading come together: W_adapt [S ; S_pre]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdvla.head.block import truncated_normal_
from rdvla.head.config import HeadConfig


class Adapter(nn.Linear):
    """A product of the concatenation [S ; S_pre], (B, K, 2 D) -> (B, K, D), in two halves.

    That of S_pre stays the same over iterations, so that it is computed once a query.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(2 * config.hidden_dim, config.hidden_dim, bias=False)

    @torch.no_grad()
    def initialise(self, config: HeadConfig) -> None:
        """Draw the weights as the configuration says."""
        truncated_normal_(self.weight, config.weight_std)
        if config.adapter_init == "near_identity":
            self.weight.mul_(0.3)
            self.state_weight.add_(0.9 * torch.eye(config.hidden_dim))
            self.prelude_weight.add_(0.3 * torch.eye(config.hidden_dim))

    @property
    def state_weight(self) -> Tensor:
        """The half that S is multiplied with, (D, D)."""
        return self.weight[:, : self.out_features]

    @property
    def prelude_weight(self) -> Tensor:
        """The half that S_pre is multiplied with, (D, D)."""
        return self.weight[:, self.out_features :]

    def of_state(self, state: Tensor) -> Tensor:
        """The part of S, (B, K, D) -> (B, K, D)."""
        return functional.linear(state, self.state_weight)

    def of_prelude(self, state: Tensor) -> Tensor:
        """The part of S_pre, (B, K, D) -> (B, K, D)."""
        return functional.linear(state, self.prelude_weight)
