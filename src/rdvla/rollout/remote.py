"""Episodes whose policy runs in a server: every episode is a connection of its own, made by its worker.

Workers ask at the same time, as robots do. A server of rdvla is told stop rule, execution rule, deadline and
the seed of S_0, so its episodes pair with those of the same policy in this process.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from rdvla.control import parse_execution
from rdvla.errors import optional
from rdvla.rollout.episode import Environment, MakeEnvironment, OpenEnvironment
from rdvla.rollout.jobs import SERVERS_OWN, EpisodeJob, Schedule, ServedQueries, starting_seed
from rdvla.rollout.replies import PolicyServerError, read_reply
from rdvla.rollout.worker import (
    RETRIES,
    SILENCE_SECONDS,
    EpisodeResult,
    Outcome,
    Reply,
    WritesVideos,
    run_episode_job,
    with_person,
)
from rdvla.types import Observation
from rdvla.workers.ends import Failed, Finished
from rdvla.workers.pool import run_jobs
from rdvla.workers.processes import LocalProcesses
from rdvla.workers.transport import Ask, Transport

if TYPE_CHECKING:
    from rdvla_client import PolicyClient


class WriteMessage(Protocol):
    """Writes an observation under the names that a server reads; has to pickle."""

    def __call__(self, observation: Observation) -> dict[str, Any]:
        """Return the message for a single observation, numpy."""
        ...


@dataclass(frozen=True)
class RemotePolicy:
    """A policy in a server, and how it is asked."""

    address: str  # ws://HOST:PORT, with /NAME behind it for one of several policies
    write: WriteMessage
    understands: frozenset[str] = frozenset()  # options of rdvla; none: another server
    api_key: str | None = field(default=None, repr=False)
    fingerprint: str | None = None  # that it has to tell, empty for none; None: any policy will do

    def connect(self) -> PolicyClient:
        """Return a client, which connects at its first use.

        Raises:
            PolicyServerError: the address cannot be read.
        """
        with optional("serve"):
            from rdvla_client import PolicyClient
        try:
            return PolicyClient(self.address, api_key=self.api_key)
        except ValueError as error:
            raise PolicyServerError(f"server: {error}") from None


def told_fingerprint(metadata: Mapping[str, Any]) -> str:
    """Return what tells a server's policy from others, as it says itself; empty if it does not."""
    told = metadata.get("fingerprint")
    return told if isinstance(told, str) else ""


@dataclass
class _Conversation:
    """The queries of an episode over its connection."""

    server: RemotePolicy
    job: EpisodeJob
    client: PolicyClient
    action_size: int | None  # numbers of the environment's action; None: not known
    depths: list[int] = field(default_factory=list)
    queries: ServedQueries = field(default_factory=ServedQueries)
    driven: list[bool] = field(default_factory=list)  # whether a person gave each query's action
    connections: int = 0  # of the client, at the first query

    def ask(self, observation: Observation) -> Reply:
        """Return the actions to execute next."""
        if not self.driven:
            self._begin()
        message, options = self.server.write(observation), self._options()
        start = time.perf_counter()
        answer = self.client.infer(message, **options)
        milliseconds = round(1000 * (time.perf_counter() - start), 2)
        if self.client.connections != self.connections:
            raise PolicyServerError(
                f"{self.server.address} lost the connection in the middle of an episode, and forgot the "
                "queries before"
            )
        reply = read_reply(
            answer,
            address=self.server.address,
            execution=parse_execution(self.job.setting.execution),
            is_ours=bool(self.server.understands),
            action_size=self.action_size,
        )
        self.driven.append(reply.driven)
        if not reply.driven:
            self.queries.milliseconds.append(milliseconds)
        if reply.depth is not None:
            self.depths.append(reply.depth)
        if reply.ended_by is not None:
            self.queries.ended_by.append(reply.ended_by)
        return Reply(reply.actions, reply.depth or 0)

    def _begin(self) -> None:
        """Connect, and check that the policy is still the one that the evaluation began with."""
        expected, told = self.server.fingerprint, told_fingerprint(self.client.metadata)
        if expected is not None and told != expected:
            raise PolicyServerError(
                f"{self.server.address} has another policy than when the evaluation began: its fingerprint "
                f"is {told or 'missing'}, not {expected or 'missing'}. Serve the first one again, or choose "
                "another output"
            )
        self.connections = self.client.connections

    def _options(self) -> dict[str, Any]:
        setting, job = self.job.setting, self.job
        own = setting.rule == SERVERS_OWN
        options = {
            "stop": None if own else f"{setting.rule}@{setting.start.kind}",
            "execution": setting.execution,
            "deadline_ms": setting.deadline_ms,
            "seed": starting_seed(job.task, job.seed, len(self.driven)),
        }
        return {name: value for name, value in options.items() if name in self.server.understands}


@dataclass(frozen=True)
class _Ended:
    """An episode in its worker, with what its server said."""

    result: EpisodeResult
    depths: list[int]
    queries: ServedQueries


class RemoteEpisodeRunner(WritesVideos):
    """Runs a worker's episodes with a policy server, and keeps the last simulator open."""

    def __init__(self, make: MakeEnvironment[Environment], server: RemotePolicy) -> None:
        self._simulator = OpenEnvironment(make)
        self._server = server
        super().__init__()

    def run(self, job: EpisodeJob, ask: Ask) -> _Ended:
        """Run an episode over a connection of its own; `ask` at every query shows that it goes on.

        Raises:
            PolicyServerError: the server does not answer, or does not as it should.
        """
        from rdvla_client.errors import ClientError

        environment = self._simulator.open(job.task_key)
        with self._server.connect() as client:
            space = getattr(environment, "action_space", None)
            conversation = _Conversation(
                self._server, job, client, None if space is None else int(space.shape[0])
            )

            def answer(observation: Observation) -> Reply:
                ask(None)
                return conversation.ask(observation)

            try:
                result = run_episode_job(self._here(job), environment, answer)
            except ClientError as error:
                raise PolicyServerError(str(error)) from error
        return _Ended(with_person(result, conversation.driven), conversation.depths, conversation.queries)

    def close(self) -> None:
        """Close the simulator."""
        self._simulator.close()

    def unwritten(self, ended: _Ended, problem: str) -> _Ended:
        """See `EpisodeRunner.unwritten`."""
        return replace(ended, result=replace(ended.result, video_problem=problem))


def roll_out_remote(
    server: RemotePolicy,
    jobs: Sequence[EpisodeJob],
    *,
    make: MakeEnvironment[Environment],
    workers: int,
    transport: Transport | None = None,
) -> Generator[Outcome, None, None]:
    """Run all jobs with a policy server, task by task (see `Schedule`); yield each outcome as it comes.

    An exception of a simulator is its episode's outcome. Dead workers: see `roll_out`.

    Args:
        server: gives the actions.
        jobs: the episodes.
        make: build a simulator in a worker.
        workers: how many, each with a connection.
        transport: starts them; processes on this machine if not given.

    Raises:
        PolicyServerError: the server does not answer a query.
    """
    ends: Iterator[Finished[EpisodeJob, _Ended] | Failed[EpisodeJob]] = run_jobs(
        RemoteEpisodeRunner(make, server),
        Schedule(jobs).next_job,
        transport=transport or LocalProcesses(),
        workers=max(1, min(workers, len(jobs))),
        answer=lambda questions: [None] * len(questions),
        retries=RETRIES,
        silence_seconds=SILENCE_SECONDS,
    )
    for end in ends:
        if isinstance(end, Finished):
            ended = end.result
            yield Outcome(Finished(end.job, ended.result), ended.depths, ended.queries)
        elif end.type == PolicyServerError.__name__:
            raise PolicyServerError(
                f"{end.message} ({end.job.describe()}). What is finished is kept: the same command goes on"
            )
        else:
            yield Outcome(end, [])
