"""When to stop iterating: rules as small objects, decided for every sample on its own.

A rule looks at two successive iterations. Between `min_depth` and `max_depth` a sample stops at the first
iteration whose change is below the threshold; at `max_depth` it stops unconverged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from rdvla.errors import ConfigError
from rdvla.rule_text import FIXED, read_rule


@dataclass(frozen=True)
class Iteration:
    """State after one iteration and, where a rule reads actions, the coda's reading of it."""

    state: Tensor  # (B, K, D)
    actions: Tensor | None = None  # (B, K, A)

    def select(self, rows: Tensor) -> Iteration:
        """The same for some samples of the batch; `rows` is an index tensor."""
        return Iteration(self.state[rows], None if self.actions is None else self.actions[rows])


@runtime_checkable
class StopRule(Protocol):
    """What the solver asks of a rule."""

    name: ClassVar[str]
    reads_actions: ClassVar[bool]  # whether the coda has to run within the loop

    @property
    def coda_reads(self) -> int | None:
        """How often the coda will read a state, about; None: in every iteration."""
        ...

    @property
    def min_depth(self) -> int:
        """No sample stops before this depth."""
        ...

    @property
    def max_depth(self) -> int:
        """Every sample stops at this depth."""
        ...

    def satisfied(self, previous: Iteration, current: Iteration) -> Tensor:
        """(B,) bool: which samples may stop now."""
        ...

    def describe(self) -> str:
        """Name and parameters, as `parse_rule` reads them."""
        ...


@dataclass(frozen=True)
class FixedDepth:
    """The same depth for every sample; it counts as converged on arrival."""

    name: ClassVar[str] = FIXED
    reads_actions: ClassVar[bool] = False
    coda_reads: ClassVar[int | None] = 1
    depth: int = 8

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ConfigError(f"depth must be at least 1, got {self.depth}")

    @property
    def min_depth(self) -> int:
        """The fixed depth."""
        return self.depth

    @property
    def max_depth(self) -> int:
        """The fixed depth."""
        return self.depth

    def satisfied(self, previous: Iteration, current: Iteration) -> Tensor:
        """Always: the solver asks from `min_depth` on."""
        del previous  # no change is measured
        return torch.ones(len(current.state), dtype=torch.bool, device=current.state.device)

    def describe(self) -> str:
        """E.g. ``fixed:8``."""
        return f"fixed:{self.depth}"


@dataclass(frozen=True)
class _Threshold:
    """Shared part of the rules that compare a change with a threshold."""

    name: ClassVar[str]
    reads_actions: ClassVar[bool] = False
    coda_reads: ClassVar[int | None] = 1
    parameters: ClassVar[tuple[str, ...]] = ("threshold",)  # as they are written after the name
    threshold: float = 1e-3
    min_depth: int = 2  # a change needs two iterations
    max_depth: int = 32

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ConfigError(f"{self.name}: threshold must be positive, got {self.threshold}")
        if not 2 <= self.min_depth <= self.max_depth:
            raise ConfigError(
                f"{self.name}: need 2 <= min_depth <= max_depth, got {self.min_depth} and {self.max_depth}; "
                "a change needs two iterations"
            )

    def change(self, previous: Iteration, current: Iteration) -> Tensor:
        """(B,) the change from one iteration to the next."""
        raise NotImplementedError

    def satisfied(self, previous: Iteration, current: Iteration) -> Tensor:
        """(B,) bool: the change is below the threshold."""
        return self.change(previous, current) < self.threshold

    def describe(self) -> str:
        """E.g. ``action_change:0.001``, with ``:min:max`` where they are not the defaults."""
        written = [self.name, *(repr(getattr(self, name)) for name in self.parameters)]
        if (self.min_depth, self.max_depth) != (2, 32):
            written += [str(self.min_depth), str(self.max_depth)]
        return ":".join(written)


@dataclass(frozen=True)
class ActionChange(_Threshold):
    """mean((a_k - a_{k-1})^2) < delta, in normalised units: the paper's rule."""

    name: ClassVar[str] = "action_change"
    reads_actions: ClassVar[bool] = True
    coda_reads: ClassVar[int | None] = None

    def change(self, previous: Iteration, current: Iteration) -> Tensor:
        """(B,) mean squared difference of successive action chunks."""
        assert previous.actions is not None and current.actions is not None
        return action_change(previous.actions, current.actions)


@dataclass(frozen=True)
class DeferredActionChange(ActionChange):
    """`ActionChange`, but asked only while the latent state changes by less than `coda_below` (relative).

    Before that the coda need not run. `rdvla calibrate` finds the value from demonstrations; above it no
    action change there was below the threshold.
    """

    name: ClassVar[str] = "deferred_action_change"
    coda_reads: ClassVar[int | None] = 4
    parameters: ClassVar[tuple[str, ...]] = ("threshold", "coda_below")
    coda_below: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.coda_below > 0:
            raise ConfigError(f"{self.name}: coda_below must be positive, got {self.coda_below}")

    def may_stop(self, previous: Iteration, current: Iteration) -> Tensor:
        """(B,) bool: the latent change is small enough for the actions to matter."""
        return latent_change(previous.state, current.state) < self.coda_below

    def satisfied(self, previous: Iteration, current: Iteration) -> Tensor:
        """(B,) bool: both changes are small; the actions of what may not stop are not looked at."""
        may_stop = self.may_stop(previous, current)
        if previous.actions is None or current.actions is None:
            return torch.zeros_like(may_stop)
        return may_stop & super().satisfied(previous, current)


@dataclass(frozen=True)
class LatentChange(_Threshold):
    """|S_k - S_{k-1}| / |S_k| < threshold: no coda inside the loop."""

    name: ClassVar[str] = "latent_change"
    threshold: float = 0.05

    def change(self, previous: Iteration, current: Iteration) -> Tensor:
        """(B,) relative change of the latent state."""
        return latent_change(previous.state, current.state)


@dataclass(frozen=True)
class CosineChange(_Threshold):
    """1 - cos(S_k, S_{k-1}) < threshold: like the latent change, blind to the state's length."""

    name: ClassVar[str] = "cosine"

    def change(self, previous: Iteration, current: Iteration) -> Tensor:
        """(B,) one minus the cosine between successive latent states."""
        return cosine_change(previous.state, current.state)


def action_change(previous: Tensor, current: Tensor) -> Tensor:
    """Mean squared difference of two action chunks, (B, K, A) -> (B,)."""
    return (current - previous).square().mean(dim=(1, 2))


def latent_change(previous: Tensor, current: Tensor) -> Tensor:
    """Relative difference of two states, (B, K, D) -> (B,)."""
    relative: Tensor = (current - previous).flatten(1).norm(dim=1) / current.flatten(1).norm(dim=1)
    return relative


def cosine_change(previous: Tensor, current: Tensor) -> Tensor:
    """One minus the cosine between two states, (B, K, D) -> (B,)."""
    return 1 - torch.cosine_similarity(previous.flatten(1), current.flatten(1), dim=1)


_THRESHOLD_RULES: dict[str, type[_Threshold]] = {
    rule.name: rule for rule in (ActionChange, DeferredActionChange, LatentChange, CosineChange)
}


def as_rule(depth: int | StopRule) -> StopRule:
    """A number becomes a `FixedDepth`."""
    if isinstance(depth, bool) or not isinstance(depth, int | StopRule):
        raise TypeError(f"depth must be a number of iterations or a stop rule, got {depth!r}")
    return FixedDepth(depth) if isinstance(depth, int) else depth


def parse_rule(text: str) -> StopRule:
    """Read a rule from text.

    ``8`` or ``fixed:8``; ``NAME[:threshold[:min_depth:max_depth]]`` with NAME one of ``action_change``,
    ``latent_change``, ``cosine``, for instance ``action_change:1e-3`` or ``latent_change:0.05:2:16``;
    ``deferred_action_change:threshold:coda_below[:min_depth:max_depth]``.

    Raises:
        ConfigError: the text is no such rule.
    """
    name, numbers = read_rule(text, {rule.name: rule.parameters for rule in _THRESHOLD_RULES.values()})
    rule = FixedDepth if name == FixedDepth.name else _THRESHOLD_RULES[name]
    return rule(**numbers)  # type: ignore[arg-type]  # by name, each of its own type
