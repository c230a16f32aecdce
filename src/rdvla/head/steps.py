"""The three parts of a query, as the solver runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from rdvla.head.context import Context
from rdvla.head.cross_attention import BlockContext


@dataclass(frozen=True)
class EncodedContext:
    """Everything about a query that stays the same over iterations, computed once."""

    injection: Tensor  # (B, K, D), S_pre's half of W_adapt [S ; S_pre]
    core: tuple[BlockContext, ...]  # one a core block
    coda: tuple[BlockContext, ...]  # one a coda block

    def select(self, rows: Tensor) -> EncodedContext:
        """The same for some samples of the batch; `rows` is an index tensor."""
        return EncodedContext(
            injection=self.injection[rows],
            core=tuple(each.select(rows) for each in self.core),
            coda=tuple(each.select(rows) for each in self.coda),
        )

    def select_coda(self, rows: Tensor) -> EncodedContext:
        """What `decode` needs for some samples of the batch; the core's part is left out."""
        return EncodedContext(
            injection=self.injection[rows], core=(), coda=tuple(each.select(rows) for each in self.coda)
        )


class Steps(Protocol):
    """What a query is made of: a `RecurrentDepthHead`, or a faster form of one."""

    def encode(self, context: Context, *, coda_reads: int | None = None) -> EncodedContext:
        """Run the prelude, and bring the context into the form in which core and coda blocks read it.

        Args:
            context: of a batch of observations.
            coda_reads: how often `decode` will be called, about; None: in every iteration.
        """
        ...

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """One iteration of the core, S_{k-1} -> S_k, (B, K, D)."""
        ...

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """The coda's reading of a state, (B, K, D) -> (B, K, A) normalised actions."""
        ...
