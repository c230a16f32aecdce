"""How many actions of a chunk to run before the next query (paper, inference section). Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from rdvla.errors import ConfigError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Depths = TypeVar("Depths", "Tensor", "NDArray[np.int64]")  # the rules use what both have


class ExecutionRule(Protocol):
    """From the depth that a prediction took to the number of its actions to execute."""

    name: ClassVar[str]

    @property
    def longest(self) -> int:
        """The largest number of actions it ever executes; a chunk must have as many."""
        ...

    def horizon(self, depth: Depths) -> Depths:
        """(B,) iterations used -> (B,) int64 actions to execute."""
        ...

    def describe(self) -> str:
        """Name and parameters, as `parse_execution` reads them."""
        ...


@dataclass(frozen=True)
class FixedHorizon:
    """Always the same number of actions."""

    name: ClassVar[str] = "fixed"
    actions: int = 5  # H

    def __post_init__(self) -> None:
        _at_least_one(actions=self.actions)

    @property
    def longest(self) -> int:
        """H."""
        return self.actions

    def horizon(self, depth: Depths) -> Depths:
        """H for every sample."""
        return depth * 0 + self.actions

    def describe(self) -> str:
        """E.g. ``fixed:5``."""
        return f"fixed:{self.actions}"


@dataclass(frozen=True)
class BinaryHorizon:
    """H_long actions where k* <= tau, else H_short: fewer after a long thought."""

    name: ClassVar[str] = "binary"
    long: int = 8  # H_long
    short: int = 4  # H_short
    depth_limit: int = 8  # tau

    def __post_init__(self) -> None:
        _at_least_one(long=self.long, short=self.short, depth_limit=self.depth_limit)
        if self.short > self.long:
            raise ConfigError(f"binary: short ({self.short}) must not exceed long ({self.long})")

    @property
    def longest(self) -> int:
        """H_long."""
        return self.long

    def horizon(self, depth: Depths) -> Depths:
        """H_long or H_short."""
        return self.short + (self.long - self.short) * (depth <= self.depth_limit)

    def describe(self) -> str:
        """E.g. ``binary:8,4,8``."""
        return f"binary:{self.long},{self.short},{self.depth_limit}"


@dataclass(frozen=True)
class LinearDecay:
    """H = max(H_min, H_max - max(0, k* - tau)): one action less for each iteration beyond tau."""

    name: ClassVar[str] = "linear"
    longest: int = 8  # H_max
    shortest: int = 2  # H_min
    depth_limit: int = 6  # tau

    def __post_init__(self) -> None:
        _at_least_one(longest=self.longest, shortest=self.shortest, depth_limit=self.depth_limit)
        if self.shortest > self.longest:
            raise ConfigError(f"linear: shortest ({self.shortest}) must not exceed longest ({self.longest})")

    def horizon(self, depth: Depths) -> Depths:
        """Between H_min and H_max."""
        beyond = (depth - self.depth_limit).clip(min=0)
        return (self.longest - beyond).clip(min=self.shortest)

    def describe(self) -> str:
        """E.g. ``linear:8,2,6``."""
        return f"linear:{self.longest},{self.shortest},{self.depth_limit}"


_RULES: dict[str, tuple[Callable[..., ExecutionRule], int]] = {  # name -> rule, how many numbers it takes
    FixedHorizon.name: (FixedHorizon, 1),
    BinaryHorizon.name: (BinaryHorizon, 3),
    LinearDecay.name: (LinearDecay, 3),
}


def parse_execution(text: str) -> ExecutionRule:
    """Read a rule from text: ``5`` or ``fixed:5``, ``binary:long,short,tau``, ``linear:max,min,tau``.

    Raises:
        ConfigError: the text is no such rule.
    """
    name, _, values = text.strip().partition(":")
    if name.isdecimal() and not values:
        name, values = FixedHorizon.name, name
    rule, count = _RULES.get(name, (None, 0))
    if rule is None:
        raise ConfigError(
            f"unknown execution rule {text!r}; write a number of actions, 'binary:long,short,tau' or "
            f"'linear:max,min,tau'.{nearest(name, _RULES)}"
        )
    numbers = values.split(",")
    if len(numbers) != count or not all(number.strip().isdecimal() for number in numbers):
        raise ConfigError(f"the execution rule {name!r} takes {count} whole numbers, got {text!r}")
    return rule(*(int(number) for number in numbers))


def check_fits(rule: ExecutionRule, *, chunk_size: int) -> None:
    """Raise `ConfigError` where a rule wants to execute more actions than a chunk has."""
    if rule.longest > chunk_size:
        raise ConfigError(
            f"the execution rule {rule.describe()!r} runs up to {rule.longest} actions, "
            f"but a chunk has {chunk_size}"
        )


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
