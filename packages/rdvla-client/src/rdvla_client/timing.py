"""How long replies take, in control steps, so the next chunk is asked for in time."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

_REMEMBERED = 20  # replies and steps
_MARGIN = 0.2  # control steps; both clocks jitter


class Timing:
    """Measures replies and control steps.

    Args:
        control_hz: control steps per second; None: measured from the calls.
        clock: seconds.
    """

    def __init__(self, control_hz: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._period_s = None if control_hz is None else 1 / control_hz
        self._clock = clock
        self._last_step: float | None = None
        self._periods: deque[float] = deque(maxlen=_REMEMBERED)
        self._replies: deque[float] = deque(maxlen=_REMEMBERED)
        self._first = True  # the only reply so far is the first: servers compile during it

    def step(self) -> None:
        """Note that a control step begins."""
        now = self._clock()
        if self._last_step is not None:
            self._periods.append(now - self._last_step)
        self._last_step = now

    def pause(self) -> None:
        """Note that time passes between two steps, as between episodes."""
        self._last_step = None

    def reply(self, seconds: float) -> None:
        """Note how long a reply took."""
        if self._first and self._replies:
            self._replies.clear()
            self._first = False
        self._replies.append(seconds)

    @property
    def latency_s(self) -> float | None:
        """Seconds that all but the slowest of the last replies took; None before the first."""
        if not self._replies:
            return None
        return sorted(self._replies)[math.ceil(0.9 * len(self._replies)) - 1]

    @property
    def period_s(self) -> float | None:
        """Seconds of a control step; None if nobody has said it and no two steps were seen."""
        if self._period_s is not None:
            return self._period_s
        return statistics.median(self._periods) if self._periods else None

    @property
    def lead(self) -> int:
        """Control steps before its end at which a chunk's successor must be asked for, at least 1."""
        latency, period = self.latency_s, self.period_s
        if not latency or not period:
            return 1
        return max(1, math.ceil(latency / period + _MARGIN))
