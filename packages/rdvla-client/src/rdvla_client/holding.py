"""What a robot does while there is no action of the policy: what is safe, only its user knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Action = NDArray[np.float32]
Hold = ArrayLike | Literal["last"] | Callable[[Mapping[str, Any]], ArrayLike]


def as_action(value: ArrayLike, *, size: int | None, name: str) -> Action:
    """Return a vector (A,), checked.

    Args:
        value: the numbers.
        size: A; None: not known yet.
        name: of the argument, for the message.

    Raises:
        ValueError: it has another shape, or numbers that are not finite.
    """
    vector = np.array(value, np.float32)
    if vector.ndim != 1 or size not in (None, len(vector)) or not np.isfinite(vector).all():
        raise ValueError(f"{name} must be ({'A' if size is None else size},) finite numbers, got {value!r}")
    return vector


class Holding:
    """The action of a robot that has none: a vector, the last one again, or what a function says."""

    def __init__(self, hold: Hold) -> None:
        if isinstance(hold, str) and hold != "last":
            raise ValueError(f'hold is a vector, a function or "last", got {hold!r}')
        self._size: int | None = None
        self._hold = (
            hold if callable(hold) or isinstance(hold, str) else as_action(hold, size=None, name="hold")
        )

    def set_size(self, size: int) -> None:
        """Learn how many numbers an action has; raise ValueError if a given vector has others."""
        self._size = size
        if isinstance(self._hold, np.ndarray):
            as_action(self._hold, size=size, name="hold")

    def action(self, observation: Mapping[str, Any], last: Action | None) -> Action | None:
        """Return the action, (A,); None if it would be the last one and there was none.

        Raises:
            ValueError: the function returned something else than an action.
        """
        if callable(self._hold):
            return as_action(self._hold(observation), size=self._size, name="what hold returns")
        return self._hold if isinstance(self._hold, np.ndarray) else last
