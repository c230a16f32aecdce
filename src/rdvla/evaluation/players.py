"""Who answers the queries of an evaluation's episodes: a policy in this process, or a server."""

from __future__ import annotations

from collections.abc import Generator, Sequence
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


class Player(Protocol):
    """Plays episodes."""

    def play(
        self,
        jobs: Sequence[EpisodeJob],
        *,
        make: MakeEnvironment[Environment],
        workers: int,
        spectator: Spectator | None,
        attendance: Attendance | None,
    ) -> Generator[Outcome, None, None]:
        """Run all jobs in workers, and yield each outcome as it comes; a spectator sees every query,
        and whoever attends may step in.
        """
        ...

    def time(self, stops: Sequence[str], *, seconds: float) -> dict[str, Any] | None:
        """Measure milliseconds per query after the episodes, by stop rule; None if not at all."""
        ...


class PolicyPlayer:
    """A policy in this process answers the workers, and is timed with some of their queries."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._sample = policy, Sample()

    def play(
        self,
        jobs: Sequence[EpisodeJob],
        *,
        make: MakeEnvironment[Environment],
        workers: int,
        spectator: Spectator | None,
        attendance: Attendance | None,
    ) -> Generator[Outcome, None, None]:
        """See `Player.play`."""
        return roll_out(
            self._policy,
            jobs,
            make=make,
            workers=workers,
            watch=self._sample,
            spectator=spectator,
            attendance=attendance,
        )

    def time(self, stops: Sequence[str], *, seconds: float) -> dict[str, Any] | None:
        """See `Player.time`."""
        return time_queries(self._policy, self._sample, stops=stops, seconds=seconds)


class ServerPlayer:
    """A server answers; every episode notes its own times, so nothing is measured afterwards."""

    def __init__(self, server: RemotePolicy) -> None:
        self._server = server

    def play(
        self,
        jobs: Sequence[EpisodeJob],
        *,
        make: MakeEnvironment[Environment],
        workers: int,
        spectator: Spectator | None,  # noqa: ARG002  # the server shows its queries itself
        attendance: Attendance | None,  # noqa: ARG002  # and lets a person step in
    ) -> Generator[Outcome, None, None]:
        """See `Player.play`."""
        return roll_out_remote(self._server, jobs, make=make, workers=workers)

    def time(self, stops: Sequence[str], *, seconds: float) -> dict[str, Any] | None:  # noqa: ARG002
        """See `Player.time`."""
        return None
