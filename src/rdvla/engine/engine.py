"""Runs a head fast, with its own steps or compiled ones, which are dropped once its weights change."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from rdvla.control import Deadlines, Stops, deadlines_of
from rdvla.engine.compiled import CompiledSteps, check_dtype
from rdvla.engine.deadline import Clock, Timekeeper
from rdvla.engine.solver import solve
from rdvla.engine.steps import HeadSteps, Steps
from rdvla.errors import RDVLAError
from rdvla.heads import ActionHead, Context
from rdvla.heads.recurrent.model import RecurrentDepthHead
from rdvla.heads.recurrent.stopping import limits_on
from rdvla.types import Prediction

NUMBERS_COMPARED = 64  # at least so many of every weight, before compiled code runs


class Predictor(Protocol):
    """Runs a head: an `Engine`, or `Unaided` for heads that have none."""

    @property
    def head(self) -> ActionHead:
        """The head that is run."""
        ...

    def predict(
        self,
        context: Context,
        *,
        stop: Stops,
        max_depth: int | Sequence[int] | None = None,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
        trace: bool = False,
        deadline: Deadlines = None,
    ) -> Prediction:
        """See `ActionHead.predict`; with `trace`, also return every iteration.

        `deadline`: when actions must be ready, in seconds of `time.monotonic()`; one, or one or None per
        sample.
        """
        ...


class Engine:
    """Predicts with a recurrent-depth head: as `RecurrentDepthHead.predict` up to rounding, but faster.

    Samples that have stopped leave the batch. Only states that a rule needs are decoded. Blocks that run once
    store no keys and values. Copies and pickles of an engine hold no compiled code.

    Args:
        head: its current weights are used.
        compiled: faster steps that hold the head's weights as they are now. They are dropped, with a
            warning, once the head has other weights.
        clock: tells the time in seconds, for deadlines.
    """

    def __init__(
        self, head: RecurrentDepthHead, compiled: Steps | None = None, *, clock: Clock = time.monotonic
    ) -> None:
        self.head = head
        self._timekeeper = Timekeeper(clock)
        self._compiled = compiled
        self._weights = None if compiled is None else _Weights(head)

    @property
    def is_compiled(self) -> bool:
        """Whether compiled code will run the next query."""
        return self._current() is not None

    @torch.no_grad()
    def predict(
        self,
        context: Context,
        *,
        stop: Stops,
        max_depth: int | Sequence[int] | None = None,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
        trace: bool = False,
        deadline: Deadlines = None,
    ) -> Prediction:
        """Iterate until every sample's own stop rule is satisfied; memory grows with depth only for a trace.

        Args:
            context: features of B observations.
            stop: a depth, a stop rule, its text, or one of these per sample.
            max_depth: a depth at which samples end whatever their rule says; one, or one per sample.
            initial_state: S_0, (B, K, D); drawn if not given.
            generator: source of S_0.
            trace: also return the actions and changes of every iteration; runs the coda in all of them.
            deadline: when actions must be ready, in seconds of the engine's clock; one, or one or None per
                sample. A sample that another iteration would make late ends as if that was its maximum depth,
                after at least one iteration.
        """
        deadlines = deadlines_of(deadline, batch_size=context.batch_size)
        state = self.head.given_or_drawn(initial_state, context, generator)
        limits = limits_on(state.device, stop, batch_size=len(state), max_depth=max_depth)
        steps = self._current() or HeadSteps(self.head)
        encoded = steps.encode(context, coda_reads=None if trace else limits.coda_reads)
        watch = None if deadlines is None else self._timekeeper.start(deadlines, device=state.device)
        return solve(steps, encoded, limits=limits, initial_state=state, trace=trace, watch=watch)

    def _current(self) -> Steps | None:
        if self._weights is not None and not self._weights.unchanged():
            warnings.warn(
                "the head's weights have changed since it was compiled: its compiled code is dropped and the "
                "head runs as it is; compile it again",
                stacklevel=3,
            )
            self._compiled = self._weights = None
        return self._compiled

    def __reduce__(self) -> tuple[type[Engine], tuple[RecurrentDepthHead]]:
        """Copy and pickle without compiled code: the copy has weights of its own."""
        return type(self), (self.head,)


class Unaided:
    """Predicts with a head as it is."""

    def __init__(self, head: ActionHead) -> None:
        self.head = head

    def predict(
        self,
        context: Context,
        *,
        stop: Stops,
        max_depth: int | Sequence[int] | None = None,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
        trace: bool = False,
        deadline: Deadlines = None,
    ) -> Prediction:
        """See `ActionHead.predict`; what does not iterate cannot end earlier for a deadline.

        Raises:
            RDVLAError: a trace is asked for: only recurrent heads have one.
        """
        deadlines_of(deadline, batch_size=context.batch_size)  # refuses what is none
        if trace:
            recurrent(self.head)
        return self.head.predict(
            context, stop=stop, max_depth=max_depth, initial_state=initial_state, generator=generator
        )


def compile(head: ActionHead, *, dtype: torch.dtype = torch.float32) -> Engine:
    """Return an engine that runs a head as compiled code, its weights packed for this processor.

    Compiling takes up to a minute, at the first prediction with one sample and again with several.

    Args:
        head: a recurrent one, in eval mode.
        dtype: of the matrix products. bfloat16 is faster and moves normalised actions by 5e-3 to 1e-2.

    Raises:
        ConfigError: there is no such dtype.
        RDVLAError: the head is being trained, or is not recurrent.
    """
    check_dtype(dtype)
    head = recurrent(head)
    if head.training:
        raise RDVLAError("compiled code is for weights that do not change any more: call eval() first")
    return Engine(head, CompiledSteps(head, dtype=dtype))


def engine_for(head: ActionHead) -> Predictor:
    """Return an `Engine` for a recurrent head, otherwise a predictor that runs the head as it is."""
    return Engine(head) if isinstance(head, RecurrentDepthHead) else Unaided(head)


def recurrent(head: ActionHead) -> RecurrentDepthHead:
    """Return the head, if it is a recurrent one.

    Raises:
        RDVLAError: it is another; compiled code and exports are for recurrent heads.
    """
    if not isinstance(head, RecurrentDepthHead):
        raise RDVLAError(f"this needs a recurrent-depth head; the policy has a {type(head).__name__}")
    return head


class _Weights:
    """Remembers a module's parameters and buffers, and tells cheaply whether they have changed.

    Identities, addresses and versions detect replaced tensors, moved storage and in-place operations. A
    sample of the numbers detects writes that torch does not count, such as those through `.data` or numpy.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._seen = self._identities()
        self._tensors = [tensor.detach() for tensor in _tensors(module)]
        self._numbers = self._sample()

    def unchanged(self) -> bool:
        """Return whether they are the same tensors with the same content."""
        return self._identities() == self._seen and torch.equal(self._sample(), self._numbers)

    def _identities(self) -> list[tuple[int, int, int]]:
        return [
            # Tensors made in inference mode count no versions.
            (id(tensor), tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
            for tensor in _tensors(self._module)
        ]

    def _sample(self) -> Tensor:
        samples = [
            tensor.flatten()[:: max(1, tensor.numel() // NUMBERS_COMPARED)].float()
            for tensor in self._tensors
        ]
        return torch.cat(samples)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
