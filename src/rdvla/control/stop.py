"""When a sample has iterated enough: one table of stop rules for torch, numpy, exported graphs and help.

A rule is a set of upper limits on changes from one iteration to the next. A sample stops at the first depth
k >= min_depth at which every change that its rule asks for is below its limit, and at max_depth in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rdvla.errors import ConfigError, nearest
from rdvla.inputs import Array, whole_number

FIXED = "fixed"
NO_LIMIT = float("inf")  # the rule does not ask for this change
LARGEST_DEPTH = 10_000  # more is a slip of the pen, and would run for hours
MIN_DEPTH, MAX_DEPTH = 2, 32  # defaults of rules that ask for a change, which needs two iterations


@dataclass(frozen=True)
class Change:
    """How far two successive iterations are apart."""

    of: Literal["actions", "state"]
    measure: Callable[[Array, Array], Array]  # previous, current (B, K, A) or (B, K, D) -> (B,)


def _mean_square(previous: Array, current: Array) -> Array:
    difference = current - previous
    return (difference * difference).mean((1, 2))


def _norm(x: Array) -> Array:
    return (x * x).sum((1, 2)) ** 0.5


def _relative(previous: Array, current: Array) -> Array:
    return _norm(current - previous) / _norm(current)


def _one_minus_cosine(previous: Array, current: Array) -> Array:
    return 1 - (previous * current).sum((1, 2)) / (_norm(previous) * _norm(current))


CHANGES: dict[str, Change] = {
    "action_change": Change("actions", _mean_square),  # mean((a_k - a_{k-1})^2), normalised units
    "latent_change": Change("state", _relative),  # |S_k - S_{k-1}| / |S_k|
    "cosine_change": Change("state", _one_minus_cosine),  # 1 - cos(S_k, S_{k-1}), blind to the length
}


@dataclass(frozen=True)
class Limit:
    """One threshold of a stop rule: its name, the change that it bounds, its default."""

    parameter: str  # its name
    change: str  # what must be below it, a name in `CHANGES`
    default: float


@dataclass(frozen=True)
class StopRule:
    """One kind of stop rule."""

    limits: tuple[Limit, ...]  # in the order that its text gives them
    help: str


STOP_RULES: dict[str, StopRule] = {
    FIXED: StopRule((), "the same depth for every sample"),
    "action_change": StopRule(
        (Limit("threshold", "action_change", 1e-3),),
        "mean((a_k - a_{k-1})^2) < threshold, in normalised units: the paper's rule",
    ),
    "deferred_action_change": StopRule(
        (Limit("threshold", "action_change", 1e-3), Limit("coda_below", "latent_change", 0.1)),
        "the same, asked only after the latent state changes by less than coda_below (relative), so the coda "
        "rarely runs. `rdvla calibrate` finds coda_below from demonstrations",
    ),
    "latent_change": StopRule(
        (Limit("threshold", "latent_change", 0.05),),
        "|S_k - S_{k-1}| / |S_k| < threshold: the coda runs once, at the end",
    ),
    "cosine": StopRule(
        (Limit("threshold", "cosine_change", 1e-3),),
        "1 - cos(S_k, S_{k-1}) < threshold: like latent_change, but blind to the state's length",
    ),
}
"""Name -> rule. To add a rule, add an entry: engines, exports and help texts all read this table."""


@dataclass(frozen=True, init=False)
class Stop:
    """A stop rule with its numbers.

    Example:
        >>> Stop("action_change", threshold=1e-4, max_depth=16)
        >>> Stop.fixed(8)

    Args:
        rule: a name in `STOP_RULES`.
        min_depth: no sample stops before it; a change needs two iterations.
        max_depth: every sample stops there, converged or not.
        limits: the rule's parameters by name; its defaults if not given.

    Raises:
        ConfigError: the rule or a parameter is unknown, or a number is out of range.
    """

    rule: str
    limits: tuple[float, ...]  # in the rule's order
    min_depth: int
    max_depth: int

    def __init__(
        self, rule: str, *, min_depth: int = MIN_DEPTH, max_depth: int = MAX_DEPTH, **limits: float
    ) -> None:
        if rule not in STOP_RULES:
            raise ConfigError(f"unknown stop rule {rule!r}; {_how_to_write()}{nearest(rule, STOP_RULES)}")
        known = {limit.parameter: limit.default for limit in STOP_RULES[rule].limits}
        strays = sorted(limits.keys() - known)
        if strays:
            raise ConfigError(f"{rule} has no {strays[0]!r}, only {', '.join(known) or 'a depth'}")
        values = tuple((known | limits).values())
        min_depth, max_depth = _whole(min_depth, "min_depth"), _whole(max_depth, "max_depth")
        for name, value in zip(known, values, strict=True):
            if not 0 < value < NO_LIMIT:
                raise ConfigError(f"{rule}: {name} must be positive and finite, got {value}")
        first = MIN_DEPTH if known else 1
        if not first <= min_depth <= max_depth:
            raise ConfigError(
                f"{rule}: need {first} <= min_depth <= max_depth, got {min_depth} and {max_depth}"
                + ("; a change needs two iterations" if known else "")
            )
        if max_depth > LARGEST_DEPTH:
            raise ConfigError(f"{rule}: the depth must be at most {LARGEST_DEPTH}, got {max_depth}")
        if not known and min_depth != max_depth:
            raise ConfigError("a fixed depth has min_depth = max_depth: write Stop.fixed(n)")
        for name, found in (
            ("rule", rule), ("limits", values), ("min_depth", min_depth), ("max_depth", max_depth)
        ):  # fmt: skip
            object.__setattr__(self, name, found)

    @staticmethod
    def fixed(depth: int) -> Stop:
        """Return the rule of one depth for all; a sample that reaches it counts as converged."""
        depth = _whole(depth, "depth")
        if depth < 1:
            raise ConfigError(f"depth must be at least 1, got {depth}")
        return Stop(FIXED, min_depth=depth, max_depth=depth)

    @staticmethod
    def parameter_names(rule: str) -> tuple[str, ...]:
        """Return the names of a rule's limits in the order of its text; empty if there is no such rule."""
        return tuple(limit.parameter for limit in STOP_RULES[rule].limits) if rule in STOP_RULES else ()

    @property
    def is_fixed(self) -> bool:
        """Whether the rule asks for no change."""
        return not self.limits

    @property
    def below(self) -> dict[str, float]:
        """Change -> its limit, for the changes that the rule asks for."""
        asked = STOP_RULES[self.rule].limits
        return {limit.change: value for limit, value in zip(asked, self.limits, strict=True)}

    @property
    def parameters(self) -> dict[str, float]:
        """Parameter -> its value."""
        asked = STOP_RULES[self.rule].limits
        return {limit.parameter: value for limit, value in zip(asked, self.limits, strict=True)}

    def describe(self) -> str:
        """Write the rule as `parse_stop` reads it, such as ``fixed:8`` or ``action_change:0.001``."""
        if self.is_fixed:
            return f"{FIXED}:{self.max_depth}"
        written = [self.rule, *map(repr, self.limits)]
        if (self.min_depth, self.max_depth) != (MIN_DEPTH, MAX_DEPTH):
            written += [str(self.min_depth), str(self.max_depth)]
        return ":".join(written)


def as_stop(stop: int | str | Stop) -> Stop:
    """Return a rule: a whole number, also a numpy or torch scalar, is a fixed depth, a text what it says.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(stop, Stop):
        return stop
    if isinstance(stop, str):
        return parse_stop(stop)
    depth = whole_number(stop)
    if depth is None:
        raise ConfigError(f"stop must be a number of iterations, a Stop, or its text, got {stop!r}")
    return Stop.fixed(depth)


def stop_text(stop: int | str | Stop) -> str:
    """Return a rule as text; a text stays as it is."""
    return stop if isinstance(stop, str) else as_stop(stop).describe()


def parse_stop(text: str) -> Stop:
    """Read ``8``, ``fixed:8`` or ``RULE[:LIMIT...[:min_depth:max_depth]]``.

    For instance ``action_change:1e-3``, ``latent_change:0.05:2:16``, ``deferred_action_change:1e-3:0.2``.

    Raises:
        ConfigError: the text is no stop rule.
    """
    name, *values = text.strip().split(":")
    if name.isdigit() and not values:
        name, values = FIXED, [name]
    names = Stop.parameter_names(name)
    try:
        if name == FIXED and len(values) == 1:
            return Stop.fixed(int(values[0]))
        if names and len(values) in (0, len(names), len(names) + 2):
            numbers = {key: float(value) for key, value in zip(names, values, strict=False)}
            first, last = map(int, values[len(names) :] or (MIN_DEPTH, MAX_DEPTH))
            return Stop(name, min_depth=first, max_depth=last, **numbers)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"cannot read the stop rule {text!r}: {error}") from error
    if names:
        form = ":".join([name, *names])
        raise ConfigError(
            f"cannot read the stop rule {text!r}; write {name}, {form} or {form}:min_depth:max_depth"
        )
    raise ConfigError(f"unknown stop rule {text!r}; {_how_to_write()}{nearest(name, STOP_RULES)}")


def _whole(value: int, name: str) -> int:
    number = whole_number(value)
    if number is None:
        raise ConfigError(f"{name} must be a whole number, got {value!r}")
    return number


def _how_to_write() -> str:
    return (
        "write a depth such as '8', or RULE[:limit[:min_depth:max_depth]] with RULE one of "
        f"{', '.join(STOP_RULES)}."
    )


def stop_help() -> str:
    """Explain how every rule is written, for help texts."""
    forms = [f"N or {FIXED}:N: {STOP_RULES[FIXED].help}"]
    for name, rule in STOP_RULES.items():
        if rule.limits:
            form = ":".join([name, *(limit.parameter.upper() for limit in rule.limits)])
            defaults = ", ".join(f"{limit.default:g}" for limit in rule.limits)
            forms.append(f"{form} ({defaults}): {rule.help}")
    return "; ".join(forms)
