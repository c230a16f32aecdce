"""The three steps of a query, as the solver runs them: encode once, iterate r times, decode."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, cast

from torch import Tensor, nn

from rdvla.engine.context import Form, bind, context_for
from rdvla.heads import ActionHead, Context, Level
from rdvla.heads.recurrent.model import (
    BlockContext,
    CrossAttention,
    EncodedContext,
    RecurrentDepthHead,
    keys_and_values,
)


class Steps(Protocol):
    """A head's steps: `HeadSteps`, or a faster form of them."""

    def encode(self, context: Context, *, coda_reads: int | None = None) -> EncodedContext:
        """Run the prelude, and bring the context into the form that core and coda blocks read.

        Args:
            context: features of a batch of observations.
            coda_reads: how often `decode` will be called, about; None: in every iteration.
        """
        ...

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """S_{k-1} -> S_k, (B, K, D)."""
        ...

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """S_k -> a_k, (B, K, A), normalised."""
        ...


class HeadSteps:
    """A head's own steps, with every block reading the context in the form that costs least."""

    def __init__(self, head: RecurrentDepthHead) -> None:
        self.head = head

    def encode(self, context: Context, *, coda_reads: int | None = None) -> EncodedContext:
        """See `Steps.encode`."""
        head = self.head
        prelude = self._contexts(head.prelude, head.config.prelude, context, reads=1)
        bound = [bind(attention_of(block), each) for block, each in zip(head.prelude, prelude, strict=True)]
        return EncodedContext(
            injection=head.adapter.constant_term(head.run_prelude(bound, context.batch_size)),
            core=keys_and_values(head.core, head.config.core, context),
            coda=self.coda_contexts(context, coda_reads=coda_reads),
        )

    def coda_contexts(self, context: Context, *, coda_reads: int | None) -> tuple[BlockContext, ...]:
        """Return the coda's part of `encode`, which needs no prelude."""
        forms = self._contexts(self.head.coda, self.head.config.coda, context, reads=coda_reads)
        return cast("tuple[BlockContext, ...]", forms)

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.iterate`."""
        return self.head.iterate(state, encoded)

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.decode`."""
        forms = cast("tuple[Form, ...]", encoded.coda)
        coda = tuple(
            bind(attention_of(block), form) for block, form in zip(self.head.coda, forms, strict=True)
        )
        return self.head.decode(state, replace(encoded, coda=coda))

    def _contexts(
        self, blocks: nn.ModuleList, levels: tuple[Level, ...], context: Context, *, reads: int | None
    ) -> tuple[Form, ...]:
        chunk_size = self.head.config.chunk_size
        return tuple(
            context_for(attention_of(block), context, level, chunk_size=chunk_size, reads=reads)
            for block, level in zip(blocks, levels, strict=True)
        )


def attention_of(block: nn.Module) -> CrossAttention:
    """Return the part of a block that reads the context."""
    return cast("CrossAttention", block.cross_attention)


def kept_per_query(head: ActionHead, context: Context) -> list[Tensor]:
    """Return the keys and values that a query keeps while it iterates; none for heads that do not iterate."""
    if not isinstance(head, RecurrentDepthHead):
        return []
    encoded = head.encode(context)
    return [tensor for each in (*encoded.core, *encoded.coda) for tensor in cast("Form", each)]
