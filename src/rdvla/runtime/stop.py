"""When the exported loop stops: the stop rules of `rdvla.head`, as numbers that a graph takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import ConfigError, nearest
from rdvla.rule_text import FIXED, read_rule

PARAMETERS: dict[str, tuple[str, ...]] = {  # of each rule, in the order in which its text gives them
    FIXED: (),
    "action_change": ("threshold",),
    "deferred_action_change": ("threshold", "coda_below"),
    "latent_change": ("threshold",),
    "cosine": ("threshold",),
}
KINDS = tuple(PARAMETERS)
"""Names of the rules; a rule's place in it is what the graph calls it by."""

READING = ("action_change", "deferred_action_change")
"""The rules that read actions within the loop."""

DEFAULTS = {"latent_change": {"threshold": 0.05}}  # where they are not those of `Stop`


@dataclass(frozen=True)
class Stop:
    """A rule of `rdvla.head.stopping`: where to stop between two depths.

    Example:
        >>> Stop.fixed(8)
        >>> Stop("action_change", threshold=1e-3)
    """

    kind: str  # one of KINDS
    threshold: float = 1e-3  # a sample stops at the first change below it; unused where fixed
    coda_below: float = 0.1  # actions are read where the state changes by less; of the deferred rule alone
    min_depth: int = 2  # no sample stops before; a change needs two iterations
    max_depth: int = 32  # every sample stops here

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"unknown kind of stop rule {self.kind!r}; it must be one of {', '.join(KINDS)}."
                f"{nearest(self.kind, KINDS)}"
            )
        first = 1 if self.kind == FIXED else 2
        if not first <= self.min_depth <= self.max_depth:
            raise ConfigError(
                f"{self.kind}: need {first} <= min_depth <= max_depth, got {self.min_depth} and "
                f"{self.max_depth}"
            )
        if self.kind == FIXED and self.min_depth != self.max_depth:
            raise ConfigError("a fixed depth has min_depth = max_depth: write Stop.fixed(n)")
        for name in ("threshold", "coda_below"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{self.kind}: {name} must be positive, got {getattr(self, name)}")

    @staticmethod
    def fixed(depth: int) -> Stop:
        """The same depth for every sample."""
        return Stop(FIXED, min_depth=depth, max_depth=depth)

    @staticmethod
    def of(depth: int | str | Stop) -> Stop:
        """A number becomes a fixed depth, and text such as ``action_change:1e-3:2:16`` what it says.

        Raises:
            ConfigError: it is nothing of the kind.
        """
        if isinstance(depth, Stop):
            return depth
        if isinstance(depth, bool) or not isinstance(depth, int | str):
            raise ConfigError(
                f"depth must be a number of iterations, a rule as text, or a Stop, got {depth!r}"
            )
        adaptive = {kind: names for kind, names in PARAMETERS.items() if kind != FIXED}
        kind, numbers = read_rule(str(depth), adaptive)
        if kind == FIXED:
            return Stop.fixed(int(numbers["depth"]))
        return Stop(kind, **DEFAULTS.get(kind, {}) | numbers)  # type: ignore[arg-type]  # depths are whole

    def feeds(self) -> dict[str, NDArray[np.generic]]:
        """As inputs of a graph."""
        return {
            "rule": np.array(KINDS.index(self.kind), dtype=np.int64),
            "threshold": np.array(self.threshold, dtype=np.float32),
            "coda_below": np.array(self.coda_below, dtype=np.float32),
            "min_depth": np.array(self.min_depth, dtype=np.int64),
            "max_depth": np.array(self.max_depth, dtype=np.int64),
        }
