"""Where a query's iterations start: from noise, as in the paper, or from the last query's final state.

Successive queries of an episode see almost the same scene, so the last state may be nearer to the next answer
than noise. Only noise is the paper's; docs/performance.md says what the others save and cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rdvla.errors import ConfigError, nearest
from rdvla.inputs import Array

StartKind = Literal["noise", "final", "midpoint", "shifted"]
KINDS: tuple[StartKind, ...] = get_args(StartKind)


@dataclass(frozen=True)
class WarmStart:
    """How S_0 of a query is made.

    - ``noise``: drawn, as in the paper;
    - ``final``: the state that the last query ended with;
    - ``midpoint``: the mean of both;
    - ``shifted``: the final state shifted by the actions executed since, so each token keeps its time in
      time; tokens past its end are noise.

    Raises:
        ConfigError: there is no such kind.
    """

    kind: StartKind = "noise"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"unknown start {self.kind!r}; it is one of {', '.join(KINDS)}.{nearest(self.kind, KINDS)}"
            )

    def start(self, noise: Array, previous: Array, executed: Sequence[int]) -> Array:
        """Return S_0 of a query that is not the first of its episode, (B, K, D).

        Args:
            noise: (B, K, D), drawn.
            previous: (B, K, D), the states that the last queries ended with.
            executed: B numbers of actions executed since.
        """
        if self.kind == "noise":
            return noise
        if self.kind == "final":
            return previous
        if self.kind == "midpoint":
            return (noise + previous) / 2
        shifted = noise + 0  # a copy
        for sample, count in enumerate(executed):
            left = max(noise.shape[1] - count, 0)
            shifted[sample, :left] = previous[sample, count : count + left]
        return shifted


def as_start(start: str | WarmStart) -> WarmStart:
    """Return a start: its name, or the start itself.

    Raises:
        ConfigError: there is no such start.
    """
    return start if isinstance(start, WarmStart) else WarmStart(start)  # type: ignore[arg-type]  # checked there


def split_start(text: str) -> tuple[str, WarmStart]:
    """Read ``STOP@START``, such as ``action_change:1e-3@shifted``: the stop rule's text, and the start.

    Raises:
        ConfigError: there is no such start.
    """
    stop, at, kind = text.strip().partition("@")
    return stop, WarmStart(kind if at else "noise")  # type: ignore[arg-type]  # checked by the class
