"""Asks in the background, so a robot's control loop never waits for the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rdvla_client.backoff import Backoff
from rdvla_client.errors import (
    BusyError,
    ClientError,
    ConnectionLostError,
    RefusedError,
    ReplyTimeoutError,
)

TRANSIENT = (ConnectionLostError, ReplyTimeoutError, BusyError, RefusedError)
"""Failures that may pass without anybody changing the robot's program."""


class Policy(Protocol):
    """What a robot asks; `PolicyClient` is one."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the server says about itself."""
        ...

    @property
    def options(self) -> frozenset[str]:
        """Names of the options that `infer` may be given."""
        ...

    @property
    def connected(self) -> bool:
        """Whether a connection is open."""
        ...

    @property
    def connections(self) -> int:
        """How many connections were opened so far."""
        ...

    def connect(self) -> None:
        """Connect if necessary, or raise `ClientError`."""
        ...

    @property
    def infer(self) -> Callable[..., dict[str, Any]]:
        """A method: `infer(observation, **options)` returns the reply, or raises `ClientError`."""
        ...

    def reset(self) -> None:
        """Begin an episode."""
        ...

    def close(self) -> None:
        """End for good; a query under way fails."""
        ...


@dataclass(frozen=True)
class Question:
    """What is asked."""

    observation: Mapping[str, Any]
    options: Mapping[str, Any]
    position: int  # of the plan when the observation was taken


@dataclass(frozen=True)
class Outcome:
    """The outcome of a question: a reply or an error."""

    question: Question
    seconds: float  # from the question to the reply
    connection: int  # that it came over
    reply: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None


class Asker:
    """A thread that asks one question at a time, and reconnects when the connection is lost."""

    def __init__(self, policy: Policy, *, backoff: Backoff | None = None) -> None:
        self.problem: Exception | None = None  # why there are no replies at present
        self._policy = policy
        self._backoff = backoff or Backoff()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._question: Question | None = None  # waits for the thread, or is under way
        self._taken = False  # the thread has taken it
        self._forgotten = False  # nobody wants what comes of it
        self._new_episode = False  # the policy is to be told before the next question
        self._outcome: Outcome | None = None  # not taken yet
        self._lost = False
        self._thread = threading.Thread(target=self._run, name="rdvla-client", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether a question can be asked now."""
        with self._changed:
            return self._is_ready()

    def ask(self, question: Question) -> None:
        """Ask; only while `ready`."""
        with self._changed:
            assert self._is_ready()
            self._question = question
            self._changed.notify_all()

    def take(self, wait_s: float) -> Outcome | None:
        """Return the question's outcome; None if there is none yet, or no question."""
        with self._changed:
            self._changed.wait_for(lambda: self._outcome is not None or self._is_ready(), wait_s)
            outcome, self._outcome = self._outcome, None
            return outcome

    def begin(self) -> None:
        """Begin an episode: drop the question or its reply; the policy is told before the next one."""
        with self._changed:
            self._outcome = None
            if self._taken:
                self._forgotten = True
            else:
                self._question = None
            # If it were told now, a question just taken could begin it, with the last episode's observation.
            self._new_episode = True

    def close(self) -> None:
        """End the thread; the policy must be closed first if it waits."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def _is_ready(self) -> bool:
        return (
            self._question is None and self._outcome is None and not self._lost and not self._closing.is_set()
        )

    def _run(self) -> None:
        delays = self._backoff.delays()
        while not self._closing.is_set():
            if self._lost:
                self._reconnect(next(delays))
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._question is not None or self._closing.is_set())
                question = self._question
                if question is None:
                    return
                self._taken = True
                begins, self._new_episode = self._new_episode, False
            outcome = self._answer(question, begins=begins)
            if outcome.error is None:
                delays = self._backoff.delays()
            with self._changed:
                self.problem = outcome.error
                self._lost = isinstance(outcome.error, TRANSIENT)
                self._question, self._outcome = None, None if self._forgotten else outcome
                self._taken = self._forgotten = False
                self._changed.notify_all()

    def _answer(self, question: Question, *, begins: bool) -> Outcome:
        begun = time.monotonic()
        reply: dict[str, Any] = {}
        failure: Exception | None = None
        try:
            if begins:
                self._policy.reset()
            if not self._policy.connected:  # connecting may take long, and the robot sees something else then
                raise ConnectionLostError("the server closed the connection")
            reply = self._policy.infer(question.observation, **question.options)
        except Exception as error:  # noqa: BLE001 - `RobotClient.act` raises it in the robot's own thread
            failure = error
        return Outcome(question, time.monotonic() - begun, self._policy.connections, reply, failure)

    def _reconnect(self, delay_s: float) -> None:
        if self._closing.wait(delay_s):
            return
        try:
            self._policy.connect()
        except ClientError as error:
            self.problem = error
            return
        with self._changed:
            self._lost = False
            self._changed.notify_all()
