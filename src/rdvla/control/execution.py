"""How many actions of a chunk to execute before the next query (paper, inference section)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

from rdvla.errors import ConfigError, nearest
from rdvla.inputs import Array, whole_number


class ExecutionRule(Protocol):
    """Decides from the depth of a prediction how many of its actions to execute."""

    name: ClassVar[str]

    @property
    def longest(self) -> int:
        """The largest number of actions that it ever executes; a chunk must have as many."""
        ...

    def horizon(self, depth: Array) -> Array:
        """Return the number of actions to execute, (B,) int64, for (B,) iterations used."""
        ...

    def describe(self) -> str:
        """Write name and parameters as `parse_execution` reads them."""
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

    def horizon(self, depth: Array) -> Array:
        """H for every sample."""
        return depth * 0 + self.actions

    def describe(self) -> str:
        """E.g. ``fixed:5``."""
        return f"fixed:{self.actions}"


@dataclass(frozen=True)
class BinaryHorizon:
    """H_long actions if k* <= tau, else H_short: fewer when the policy needed many iterations."""

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

    def horizon(self, depth: Array) -> Array:
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

    def horizon(self, depth: Array) -> Array:
        """Between H_min and H_max."""
        beyond = (depth - self.depth_limit).clip(min=0)
        return (self.longest - beyond).clip(min=self.shortest)

    def describe(self) -> str:
        """E.g. ``linear:8,2,6``."""
        return f"linear:{self.longest},{self.shortest},{self.depth_limit}"


EXECUTION_RULES: dict[str, type[ExecutionRule]] = {
    rule.name: rule for rule in (FixedHorizon, BinaryHorizon, LinearDecay)
}
"""Name -> rule, a frozen dataclass whose fields are its numbers. Another rule is another entry."""


def execution_help() -> str:
    """Explain how every rule is written, for help texts."""
    return "; ".join(
        f"{'N or ' if name == FixedHorizon.name else ''}{name}:"
        f"{','.join(number.name.upper() for number in fields(rule))}: {_summary(rule)}"  # type: ignore[arg-type]
        for name, rule in EXECUTION_RULES.items()
    )


def _summary(rule: type[ExecutionRule]) -> str:
    return (rule.__doc__ or "").split("\n")[0].rstrip(".")


def parse_execution(text: str) -> ExecutionRule:
    """Read a rule from text: ``5`` or ``fixed:5``, ``binary:long,short,tau``, ``linear:max,min,tau``.

    Raises:
        ConfigError: the text is no such rule.
    """
    name, _, values = text.strip().partition(":")
    if name.isdecimal() and not values:
        name, values = FixedHorizon.name, name
    rule = EXECUTION_RULES.get(name)
    if rule is None:
        raise ConfigError(
            f"unknown execution rule {text!r}; write a number of actions, 'binary:long,short,tau' or "
            f"'linear:max,min,tau'.{nearest(name, EXECUTION_RULES)}"
        )
    count = len(fields(rule))  # type: ignore[arg-type]  # every rule is a dataclass
    numbers = values.split(",")
    if len(numbers) != count or not all(number.strip().isdecimal() for number in numbers):
        raise ConfigError(f"the execution rule {name!r} takes {count} whole numbers, got {text!r}")
    return rule(*(int(number) for number in numbers))


def as_execution(rule: int | str | ExecutionRule) -> ExecutionRule:
    """Return a rule: a whole number of actions, also a numpy or torch scalar, a rule's text, or a rule.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(rule, str):
        return parse_execution(rule)
    actions = whole_number(rule)
    if actions is not None:
        return FixedHorizon(actions)
    if not hasattr(rule, "horizon"):
        raise ConfigError(f"execution must be a number of actions, a rule, or its text, got {rule!r}")
    return rule  # type: ignore[return-value]  # no number, as it has a horizon


def execution_text(rule: int | str | ExecutionRule) -> str:
    """Return a rule as text; a text stays as it is."""
    return rule if isinstance(rule, str) else as_execution(rule).describe()


def check_fits(rule: ExecutionRule, *, chunk_size: int) -> None:
    """Raise `ConfigError` if a rule wants to execute more actions than a chunk has."""
    if rule.longest > chunk_size:
        raise ConfigError(
            f"the execution rule {rule.describe()!r} runs up to {rule.longest} actions, "
            f"but a chunk has {chunk_size}"
        )


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
