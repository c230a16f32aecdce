"""Who answers the queries of an evaluation's episodes: a policy in this process, or a server."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rdvla.evaluation.timing import Sample, time_queries
from rdvla.rollout import (
    Attendance,
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
    folder: Path  # videos are written below it
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


class PolicyPlayer:
    """A policy in this process answers the workers, and is timed with some of their queries."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._sample = policy, Sample()

    def play(self, jobs: Sequence[EpisodeJob], staging: Staging) -> Generator[Outcome, None, None]:
        """See `Player.play`."""
        return roll_out(
            self._policy,
            jobs,
            make=staging.make,
            folder=staging.folder,
            workers=staging.workers,
            transport=staging.transport,
            watch=self._sample,
            spectator=staging.spectator,
            attendance=staging.attendance,
        )

    def time(self, stops: Sequence[str], *, seconds: float) -> dict[str, Any] | None:
        """See `Player.time`."""
        return time_queries(self._policy, self._sample, stops=stops, seconds=seconds)


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
            folder=staging.folder,
            workers=staging.workers,
            transport=staging.transport,
        )

    def time(self, stops: Sequence[str], *, seconds: float) -> dict[str, Any] | None:  # noqa: ARG002
        """See `Player.time`."""
        return None
