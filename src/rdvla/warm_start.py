"""Where an iteration starts: from noise, as the method has it, or from what the query before ended with.

Successive queries of an episode see almost the same scene, so that the last state may be nearer to the next
answer than noise is. None of these is the method's; docs/performance.md says what they save and cost.
Imports no torch: arrays of numpy serve as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, get_args

from rdvla.errors import ConfigError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Array = TypeVar("Array", "Tensor", "NDArray[np.float32]")

StartKind = Literal["noise", "final", "midpoint", "shifted"]
KINDS: tuple[StartKind, ...] = get_args(StartKind)


@dataclass(frozen=True)
class WarmStart:
    """How S_0 of a query is made.

    - ``noise``: drawn, as in the paper;
    - ``final``: the state that the query before ended with;
    - ``midpoint``: the mean of both;
    - ``shifted``: the final state moved up by the actions executed since, so that each token stands for the
      moment that it did; tokens beyond its end are noise.
    """

    kind: StartKind = "noise"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"unknown start {self.kind!r}; it is one of {', '.join(KINDS)}.{nearest(self.kind, KINDS)}"
            )

    def start(self, noise: Array, previous: Array, executed: Sequence[int]) -> Array:
        """S_0 of a query that is not the first of its episode.

        Args:
            noise: (B, K, D), drawn.
            previous: (B, K, D), the state that the query before ended with.
            executed: B numbers of actions executed since.
        """
        if self.kind == "noise":
            return noise
        if self.kind == "final":
            return previous
        if self.kind == "midpoint":
            between: Array = (noise + previous) / 2  # type: ignore[assignment]  # float32 stays float32
            return between
        moved = noise + 0  # a copy
        for row, count in enumerate(executed):
            left = max(noise.shape[1] - count, 0)
            moved[row, :left] = previous[row, count : count + left]
        return moved


class LastStates(Generic[Array]):
    """What the last query of every sample ended with, for its next one to start from."""

    def __init__(self, warm_start: WarmStart) -> None:
        self._warm_start = warm_start
        self._known: dict[int, tuple[Array, int]] = {}  # sample -> state (K, D), actions executed since

    def initial_state(self, rows: Sequence[int], noise: Array) -> Array:
        """S_0 of some samples' queries; noise where a sample has had none.

        Args:
            rows: n samples.
            noise: (n, K, D), drawn.
        """
        states = noise + 0  # a copy
        for place, row in enumerate(rows):
            if row in self._known:
                last, executed = self._known[row]
                one = slice(place, place + 1)
                states[one] = self._warm_start.start(noise[one], last[None], [executed])
        return states

    def keep(self, rows: Sequence[int], states: Iterable[Array], executed: Sequence[int]) -> None:
        """Remember how these samples' queries ended, and how many actions will be executed before the next.

        Args:
            rows: n samples.
            states: (n, K, D).
            executed: n numbers of actions.
        """
        for row, state, count in zip(rows, states, executed, strict=True):
            self._known[row] = state, count


def split_start(text: str) -> tuple[str, WarmStart]:
    """Read ``RULE@START``, such as ``action_change:1e-3@shifted``: the rule's text, and the start.

    Raises:
        ConfigError: there is no such start.
    """
    rule, at, kind = text.strip().partition("@")
    return rule, WarmStart(kind if at else "noise")  # type: ignore[arg-type]  # checked by the class
