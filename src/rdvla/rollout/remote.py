"""Episodes whose policy runs in a server: every episode is a connection of its own, made by its worker.

Workers ask at the same time, as robots do. A server of rdvla is told stop rule, execution rule, deadline and
the seed of S_0, so its episodes pair with those of the same policy in this process.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rdvla.control import parse_execution
from rdvla.errors import RDVLAError, optional
from rdvla.rollout.episode import Environment, MakeEnvironment, OpenEnvironment
from rdvla.rollout.jobs import SERVERS_OWN, EpisodeJob, Schedule, ServedQueries, starting_seed
from rdvla.rollout.pool import Failed, Finished, run_jobs
from rdvla.rollout.processes import LocalProcesses
from rdvla.rollout.transport import Ask, Transport
from rdvla.rollout.worker import EpisodeResult, Outcome, Reply, run_episode_job
from rdvla.types import Observation

if TYPE_CHECKING:
    from rdvla_client import PolicyClient


class PolicyServerError(RDVLAError):
    """The policy server cannot be reached, or does not answer a query; the evaluation can go on later."""


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


@dataclass
class _Conversation:
    """The queries of an episode over its connection."""

    server: RemotePolicy
    job: EpisodeJob
    client: PolicyClient
    depths: list[int] = field(default_factory=list)
    queries: ServedQueries = field(default_factory=ServedQueries)
    number: int = 0

    def ask(self, observation: Observation) -> Reply:
        """Return the actions to execute next."""
        message, options = self.server.write(observation), self._options()
        start = time.perf_counter()
        reply = self.client.infer(message, **options)
        self.queries.milliseconds.append(round(1000 * (time.perf_counter() - start), 2))
        self.number += 1
        depth = int(reply.get("depth", 0))
        if "depth" in reply:
            self.depths.append(depth)
        if "ended_by" in reply:
            self.queries.ended_by.append(str(reply["ended_by"]))
        actions = np.asarray(reply.get("actions"), dtype=np.float32)
        if actions.ndim != 2 or not np.isfinite(actions).all():
            raise PolicyServerError(
                f"{self.server.address} sent no chunk of actions, (K, A) finite numbers: {actions.shape}"
            )
        return Reply(actions[: self._executed(reply, len(actions))], depth)

    def _options(self) -> dict[str, Any]:
        setting, job = self.job.setting, self.job
        own = setting.rule == SERVERS_OWN
        options = {
            "stop": None if own else f"{setting.rule}@{setting.start.kind}",
            "execution": setting.execution,
            "deadline_ms": setting.deadline_ms,
            "seed": starting_seed(job.task, job.seed, self.number),
        }
        return {name: value for name, value in options.items() if name in self.server.understands}

    def _executed(self, reply: dict[str, Any], chunk: int) -> int:
        """How many actions of a chunk to execute; a server of rdvla says so by the rule that it was given."""
        steps = int(reply.get("execute_steps", parse_execution(self.job.setting.execution).longest))
        if not 1 <= steps <= chunk:
            raise PolicyServerError(
                f"{self.server.address} sends chunks of {chunk} actions, and {steps} are to be executed: "
                "give another --execution"
            )
        return steps


@dataclass(frozen=True)
class _Ended:
    """An episode in its worker, with what its server said."""

    result: EpisodeResult
    depths: list[int]
    queries: ServedQueries


class RemoteEpisodeRunner:
    """Runs a worker's episodes with a policy server, and keeps the last simulator open."""

    def __init__(self, make: MakeEnvironment[Environment], server: RemotePolicy) -> None:
        self._simulator = OpenEnvironment(make)
        self._server = server

    def run(self, job: EpisodeJob, ask: Ask) -> _Ended:  # noqa: ARG002 (a runner's signature)
        """Run an episode over a connection of its own.

        Raises:
            PolicyServerError: the server does not answer.
        """
        from rdvla_client.errors import ClientError

        environment = self._simulator.open(job.task_key)
        with self._server.connect() as client:
            conversation = _Conversation(self._server, job, client)
            try:
                result = run_episode_job(job, environment, conversation.ask)
            except ClientError as error:
                raise PolicyServerError(str(error)) from error
        return _Ended(result, conversation.depths, conversation.queries)

    def close(self) -> None:
        """Close the simulator."""
        self._simulator.close()


def roll_out_remote(
    server: RemotePolicy,
    jobs: Sequence[EpisodeJob],
    *,
    make: MakeEnvironment[Environment],
    workers: int,
    transport: Transport | None = None,
) -> Generator[Outcome, None, None]:
    """Run all jobs with a policy server, task by task (see `Schedule`); yield each outcome as it comes.

    An exception of a simulator is its episode's outcome.

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
