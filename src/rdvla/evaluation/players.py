"""Who answers the queries of an evaluation's episodes: a policy in this process, or a server."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from rdvla.evaluation.timing import Sample, time_queries
from rdvla.rollout import (
    AnswersCalls,
    Attendance,
    Batching,
    Environment,
    EpisodeJob,
    MakeEnvironment,
    Outcome,
    Policy,
    RemotePolicy,
    Spectator,
    roll_out,
    roll_out_remote,
)
from rdvla.workers import Transport


@dataclass(frozen=True)
class Staging:
    """Where episodes are played, and who is there."""

    make: MakeEnvironment[Environment]  # builds a simulator in a worker; has to pickle
    workers: int
    transport: Transport  # starts them
    spectator: Spectator | None = None  # sees every query
    attendance: Attendance | None = None  # lets a person step in


class Player(Protocol):
    """Plays episodes."""

    def play(self, jobs: Sequence[EpisodeJob], staging: Staging) -> Generator[Outcome, None, None]:
        """Run all jobs in workers, and yield each outcome as it comes."""
        ...

    def time(self, stops: Sequence[str], *, seconds: float) -> dict[str, Any] | None:
        """Measure milliseconds per query after the episodes, by stop rule; None if not at all."""
        ...

    def placed(self) -> AbstractContextManager[None]:
        """Be where queries are answered, from the first `play` to the last `time`."""
        ...


class PolicyPlayer:
    """A policy answers the workers, and is timed with some of their queries.

    Args:
        policy: in this process.
        batching: whether queries are computed alone or together.
        elsewhere: brings the policy to another machine while it is needed; None: it stays here.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        batching: Batching = "single",
        elsewhere: Callable[[Policy], AbstractContextManager[Policy]] | None = None,
    ) -> None:
        self._policy, self._sample = policy, Sample()
        self._batching: Batching = batching
        self._elsewhere = elsewhere

    @contextmanager
    def placed(self) -> Iterator[None]:
        """See `Player.placed`."""
        if self._elsewhere is None:
            yield
            return
        here = self._policy
        with self._elsewhere(here) as self._policy:
            try:
                yield
            finally:
                self._policy = here

    def play(self, jobs: Sequence[EpisodeJob], staging: Staging) -> Generator[Outcome, None, None]:
        """See `Player.play`."""
        return roll_out(
            self._policy,
            jobs,
            make=staging.make,
            workers=staging.workers,
            transport=staging.transport,
            watch=self._sample,
            spectator=staging.spectator,
            attendance=staging.attendance,
            batching=self._batching,
        )

    def time(self, stops: Sequence[str], *, seconds: float) -> dict[str, Any] | None:
        """See `Player.time`."""
        timing = time_queries(self._policy, self._sample, stops=stops, seconds=seconds)
        # Then the hardware that the results name is not the policy's, and a query travels there and back.
        return timing and {**timing, "elsewhere": isinstance(self._policy, AnswersCalls)}


class ServerPlayer:
    """A server answers, shows its queries itself, and lets people step in there.

    Every episode notes its own times, so nothing is measured afterwards.
    """

    def __init__(self, server: RemotePolicy) -> None:
        self._server = server

    def play(self, jobs: Sequence[EpisodeJob], staging: Staging) -> Generator[Outcome, None, None]:
        """See `Player.play`."""
        return roll_out_remote(
            self._server,
            jobs,
            make=staging.make,
            workers=staging.workers,
            transport=staging.transport,
        )

    def placed(self) -> AbstractContextManager[None]:
        """See `Player.placed`."""
        return nullcontext()

    def time(self, stops: Sequence[str], *, seconds: float) -> dict[str, Any] | None:  # noqa: ARG002
        """See `Player.time`."""
        return None
