"""One client: what it is sent, its session, and its queries one after another.

The protocol is lock-step. A client that sends its next message early is answered in order: messages wait in
the connection, at most a few, then the network holds it back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from logging import ERROR, WARNING
from typing import TYPE_CHECKING, Any

import numpy as np

from rdvla.control import Judge, Judgement, Session
from rdvla.errors import RDVLAError
from rdvla.processing.text import plain, shown
from rdvla.serving.channel import INTERNAL_ERROR, TRY_LATER, Channel, Gone
from rdvla.serving.endpoint import Endpoint
from rdvla.serving.log import log_event
from rdvla.serving.queries import Answer, BusyError, NotFiniteError, Query
from rdvla.serving.requests import Options, only_resets, read_options
from rdvla.serving.watching import Watching
from rdvla.types import Observation, Prediction

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from rdvla.serving.metrics import ErrorKind, Metrics


LONGEST_LOGGED = 500  # characters of why a query was refused


@dataclass(frozen=True)
class Rules:
    """What holds for every connection of a server."""

    depth_limit: int
    idle_seconds: float
    seed: int | None
    log_queries: bool
    log_instructions: bool


class Connection:
    """Serves one client until it goes.

    Args:
        name: tells the connection from all others of this server.
        number: of connections before it; with a seed it decides the noise.
        endpoint: the policy.
        metadata: the first frame.
        rules: of the server.
        metrics: where to count.
        watching: the live page's side.
        stopping: set when the server stops.
    """

    def __init__(
        self,
        name: str,
        number: int,
        *,
        endpoint: Endpoint,
        metadata: Mapping[str, Any],
        rules: Rules,
        metrics: Metrics,
        watching: Watching,
        stopping: asyncio.Event,
    ) -> None:
        self.name, self.number = name, number
        self.queries = 0
        self._endpoint, self._metadata, self._rules = endpoint, metadata, rules
        self._metrics, self._watching, self._stopping = metrics, watching, stopping
        self._session = Session(endpoint.execution, endpoint.start)
        self._judge: Judge = endpoint.make_judge()
        self._instruction: str | None = None
        self._number_in_episode = 0
        self._previous_ms: float | None = None
        self._begin()

    @property
    def policy(self) -> str:
        """The policy's name."""
        return self._endpoint.facts.name

    async def run(self, socket: ServerConnection) -> None:
        """Talk to the client until it goes, fails, or the server stops."""
        from rdvla_client.errors import WireError

        channel = Channel(
            socket,
            message_bytes=self._endpoint.message_bytes,
            idle_seconds=self._rules.idle_seconds,
            stopping=self._stopping,
        )
        async with channel:
            try:
                await self._converse(channel)
            except Gone:
                pass
            except BusyError as error:
                await self._refuse(channel, str(error), kind="busy", code=TRY_LATER)
            except NotFiniteError as error:
                await self._refuse(channel, str(error), kind="not_finite", code=INTERNAL_ERROR)
            except (RDVLAError, WireError) as error:
                await self._refuse(channel, str(error), kind="input", code=INTERNAL_ERROR)
            except Exception as error:  # noqa: BLE001  # a bug: the traceback is for the log alone
                log_event("query failed", level=ERROR, error=error, connection=self.name, policy=self.policy)
                told = f"the server failed at this query; its log says why (connection {self.name})"
                await self._refuse(channel, told, kind="internal", code=INTERNAL_ERROR)

    async def _converse(self, channel: Channel) -> None:
        await channel.send(self._metadata)
        while True:
            message = await channel.receive()
            arrived = time.monotonic()
            reply = await channel.unless_gone(self._reply(message, arrived))
            ready = time.monotonic()
            await channel.send(reply)
            self._endpoint.asked.replied(time.monotonic() - ready)
            self._previous_ms = 1000 * (time.monotonic() - arrived)

    async def _refuse(self, channel: Channel, told: str, *, kind: ErrorKind, code: int) -> None:
        self._metrics.failed(self.policy, kind)
        log_event(
            "query refused", connection=self.name, policy=self.policy, kind=kind, why=self._for_log(told)
        )
        await channel.refuse(told, code)

    async def _reply(self, message: Mapping[str, Any], arrived: float) -> dict[str, Any]:
        facts = self._endpoint.facts
        options = read_options(message, depth_limit=self._rules.depth_limit, chunk_size=facts.chunk_size)
        if options.reset:
            self._begin()
        if options.execution_rule is not None:
            self._session.execution = options.execution_rule
        if only_resets(message, options):
            return {"reset": True}
        layout = self._endpoint.layout
        if layout.resize:  # takes milliseconds, and other robots wait for this thread
            observation = await asyncio.to_thread(layout.read, message)
        else:
            observation = layout.read(message)
        facts.check(observation)
        if observation.instruction != self._instruction:
            self._begin()
            self._instruction = str(observation.instruction)
            self._check_instruction(self._instruction)
        self._count_executed(options)
        self._metrics.opened(self.policy, 1)
        try:
            answer = await self._endpoint.asked.ask(self._query(observation, options, arrived))
        finally:
            self._metrics.opened(self.policy, -1)
        return await self._finish(observation, answer, arrived)

    def _check_instruction(self, instruction: str) -> None:
        """Log that an episode begins with an instruction that the policy was not trained on."""
        trained = self._endpoint.facts.instructions
        if trained and plain(instruction) not in map(plain, trained):
            log_event("untrained instruction", level=WARNING, **self._where(instruction))

    def _begin(self) -> None:
        """Forget the episode."""
        self._session.reset()
        self._session.due(1)
        self._judge.reset()
        self._instruction = None
        self._number_in_episode = 0

    def _count_executed(self, options: Options) -> None:
        """Tell the session how many actions of the last chunk the robot has executed."""
        if self._number_in_episode:
            self._session.report(0, options.executed)

    def _query(self, observation: Observation, options: Options, arrived: float) -> Query:
        seed = options.seed
        if seed is None and self._rules.seed is not None:
            drawn = np.random.SeedSequence([self._rules.seed, self.number, self.queries])
            seed = int(drawn.generate_state(1, np.uint64)[0] >> np.uint64(1))
        noise = self._endpoint.initial_state(seed)
        self._session.start = options.start or self._endpoint.start
        return Query(
            observation=observation,
            initial_state=self._session.initial_state([0], noise[None])[0],
            stop=options.stop_rule or self._endpoint.stop,
            max_depth=options.max_depth,
            deadline=None if options.deadline_ms is None else arrived + options.deadline_ms / 1000,
        )

    async def _finish(self, observation: Observation, answer: Answer, arrived: float) -> dict[str, Any]:
        """Note an answer, let a person step in, and return the reply."""
        prediction = answer.prediction
        if not np.isfinite(prediction.actions).all():
            raise NotFiniteError(
                "the policy's answer has NaN or infinite actions, so no robot gets it: check what the robot "
                "sends against the policy's training data, and the policy itself"
            )
        batch = Prediction(
            prediction.actions[None],
            np.asarray(prediction.depth)[None],
            np.asarray(prediction.converged)[None],
            prediction.state[None],
        )
        execute_steps = self._session.accept([0], batch)[0]
        judgement = self._judge.judge(prediction, max_depth=answer.max_depth)
        seconds = time.monotonic() - arrived
        self._metrics.answered(self.policy, answer, seconds=seconds, help_requested=judgement.help_requested)
        self._log(answer, seconds)
        self._watching.answered(
            self.name,
            self.policy,
            number=self._number_in_episode,
            observation=observation,
            answer=answer,
            execute_steps=execute_steps,
            judgement=judgement,
            seconds=seconds,
        )
        self.queries += 1
        self._number_in_episode += 1
        stepped_in = await self._watching.step_in(self.name)
        if stepped_in.command is not None:
            # The policy's next query continues none of its own chunks.
            self._session.reset()
            self._session.due(1)
        reply = _reply_of(answer, judgement, execute_steps=execute_steps)
        reply["phase"] = stepped_in.phase
        if stepped_in.command is not None:
            reply |= {"actions": stepped_in.command[None].astype(np.float32), "execute_steps": 1}
        timing = {"infer_ms": 1000 * (time.monotonic() - arrived)}
        if self._previous_ms is not None:
            timing["prev_total_ms"] = self._previous_ms
        reply["server_timing"] = timing
        return reply

    def _log(self, answer: Answer, seconds: float) -> None:
        if not self._rules.log_queries:
            return
        log_event(
            "query",
            **self._where(self._instruction),
            number=self._number_in_episode,
            depth=int(answer.prediction.depth),
            ended_by=answer.ended_by,
            batch_size=answer.batch_size,
            ms=round(1000 * seconds, 2),
        )

    def _for_log(self, told: str) -> str:
        """Take the instruction out of a sentence if it must not be logged."""
        if self._instruction and not self._rules.log_instructions:
            for quoted in (shown(self._instruction), self._instruction):
                told = told.replace(quoted, "(its instruction)")
        return told[:LONGEST_LOGGED]

    def _where(self, instruction: str | None) -> dict[str, Any]:
        """Say in the log whose line it is; instructions only if that was asked for."""
        where = {"connection": self.name, "policy": self.policy}
        return where | {"instruction": instruction} if self._rules.log_instructions else where


def _reply_of(answer: Answer, judgement: Judgement, *, execute_steps: int) -> dict[str, Any]:
    """Only the chunk is an array: openpi's broker indexes every array of a reply by the step."""
    prediction = answer.prediction
    reply: dict[str, Any] = {
        "actions": np.ascontiguousarray(prediction.actions, dtype=np.float32),
        "policy_timing": {"infer_ms": answer.inference_ms},
        "depth": int(prediction.depth),
        "max_depth": answer.max_depth,
        "converged": bool(prediction.converged),
        "ended_by": answer.ended_by,
        "execute_steps": execute_steps,
        "uncertainty": float(judgement.uncertainty),
        "help_requested": bool(judgement.help_requested),
        "batch_size": answer.batch_size,
    }
    if judgement.band is not None:
        reply["band"] = float(judgement.band)
    return reply
