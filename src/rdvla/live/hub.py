"""Keeps what the live page shows of every robot, and hands events on to whoever watches.

Whoever publishes never waits: the hub keeps references, encodes nothing, and drops what slow watchers miss.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from rdvla.live.events import Event, QueryEvent, RobotEvent, RobotFacts, StepEvent

HISTORY = 240  # queries of each robot that a new watcher is shown
GONE = 12  # robots that are remembered after they went


@dataclass(frozen=True)
class Row:
    """What stays of a query after the next one: everything but its images, state and actions."""

    serial: int  # queries that the hub had of this robot before it; unlike `number` never reset
    number: int
    time: float  # seconds since the epoch
    depth: int
    max_depth: int
    ended_by: str
    uncertainty: float
    band: float | None
    help_requested: bool
    waiting_ms: float | None
    inference_ms: float | None
    total_ms: float | None
    batch_size: int


@dataclass(frozen=True)
class RobotView:
    """A robot as the hub knows it."""

    state: RobotEvent  # the latest that was said of it
    facts: RobotFacts
    since: float  # seconds since the epoch, when it came
    rows: tuple[Row, ...]  # the newest queries, oldest first
    last: QueryEvent | None  # the newest query, with the images and the state of the steps since
    before: QueryEvent | None  # the one before, of the same episode
    steps: int  # of a person, so far

    @property
    def queries(self) -> int:
        """Queries so far."""
        return self.rows[-1].serial + 1 if self.rows else 0


@dataclass
class _Robot:
    state: RobotEvent
    facts: RobotFacts
    since: float
    rows: deque[Row]
    serial: int = 0
    last: QueryEvent | None = None
    before: QueryEvent | None = None
    steps: int = 0

    def show(self, event: StepEvent) -> None:
        if self.last is not None:
            self.last = replace(self.last, images=event.images, state=event.state)
            self.steps += 1

    def take(self, event: QueryEvent) -> None:
        self.before = self.last if self.last is not None and self.last.number < event.number else None
        self.last = event
        self.rows.append(_row(event, self.serial))
        self.serial += 1


class Watcher:
    """Receives every event in order; the oldest are dropped when it falls behind. A context manager."""

    def __init__(self, hub: Hub, capacity: int) -> None:
        self._hub = hub
        self._events: deque[Event] = deque(maxlen=capacity)
        self._ready = threading.Condition()
        self._closed = False
        self.dropped = 0  # events so far

    def next(self, timeout: float | None = None) -> Event | None:
        """Return the next event; None after `timeout` seconds, or if the watcher was closed."""
        with self._ready:
            self._ready.wait_for(lambda: self._events or self._closed, timeout)
            return self._events.popleft() if self._events else None

    def put(self, event: Event) -> None:
        """Add an event; drop the oldest if there are too many."""
        with self._ready:
            self.dropped += len(self._events) == self._events.maxlen
            self._events.append(event)
            self._ready.notify()

    def close(self) -> None:
        """Watch no longer; `next` returns what is left, then None."""
        self._hub.forget(self)
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Hub:
    """What is known of all robots, for any number of threads.

    Args:
        history: queries of each robot that are kept.
        gone: robots that are kept after they went.
    """

    def __init__(self, *, history: int = HISTORY, gone: int = GONE) -> None:
        self._history, self._gone = history, gone
        self._robots: dict[str, _Robot] = {}  # in the order in which they came
        self._version = 0
        self._watchers: tuple[Watcher, ...] = ()
        self._lock = threading.Lock()

    def publish(self, event: Event) -> None:
        """Tell everyone. Never waits for a watcher."""
        with self._lock:
            self._keep(event)
            self._version += 1
            for watcher in self._watchers:  # under the lock, so all see one order
                watcher.put(event)

    @property
    def version(self) -> int:
        """A number that grows with every event: whoever polls sees whether there is news."""
        return self._version

    def robots(self) -> dict[str, RobotView]:
        """Return all robots, in the order in which they came."""
        with self._lock:
            return {
                name: RobotView(
                    state=robot.state,
                    facts=robot.facts,
                    since=robot.since,
                    rows=tuple(robot.rows),
                    last=robot.last,
                    before=robot.before,
                    steps=robot.steps,
                )
                for name, robot in self._robots.items()
            }

    def watch(self, capacity: int = 256) -> Watcher:
        """Return a watcher that receives every event from now on, and at first which robots are there."""
        watcher = Watcher(self, capacity)
        with self._lock:
            for robot in self._robots.values():
                watcher.put(robot.state)
            self._watchers = (*self._watchers, watcher)
        return watcher

    def forget(self, watcher: Watcher) -> None:
        """Send a watcher nothing more."""
        with self._lock:
            self._watchers = tuple(other for other in self._watchers if other is not watcher)

    def _keep(self, event: Event) -> None:
        robots = self._robots
        robot = robots.get(event.robot)
        if isinstance(event, StepEvent):
            if robot is not None:
                robot.show(event)
            return
        if isinstance(event, QueryEvent):
            if robot is None:  # nobody announced it
                state = RobotEvent(event.robot, event.policy, event.time, connected=True, phase=event.phase)
                robot = robots[event.robot] = self._new(state)
            robot.take(event)
            return
        if robot is None or (event.connected and not robot.state.connected):
            robots.pop(event.robot, None)  # it comes again: as the newest, and afresh
            robot = robots[event.robot] = self._new(event)
        robot.state = event
        robot.facts = event.facts or robot.facts
        if not event.connected:
            self._drop_oldest_gone()

    def _new(self, state: RobotEvent) -> _Robot:
        return _Robot(state, state.facts or RobotFacts(), state.time, deque(maxlen=self._history))

    def _drop_oldest_gone(self) -> None:
        robots = self._robots
        gone = sorted(
            (name for name, robot in robots.items() if not robot.state.connected),
            key=lambda name: robots[name].state.time,
        )
        for name in gone[: max(0, len(gone) - self._gone)]:
            del robots[name]


def _row(event: QueryEvent, serial: int) -> Row:
    times = event.milliseconds
    return Row(
        serial=serial,
        number=event.number,
        time=event.time,
        depth=event.depth,
        max_depth=event.max_depth,
        ended_by=event.ended_by,
        uncertainty=event.uncertainty,
        band=event.band,
        help_requested=event.help_requested,
        waiting_ms=times.get("waiting"),
        inference_ms=times.get("inference"),
        total_ms=times.get("total"),
        batch_size=event.batch_size,
    )
