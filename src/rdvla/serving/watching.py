"""The server's side of the live page: tells it of every query, and lets a person step in."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from rdvla.control import Desk, Judgement, Phase
from rdvla.live.events import Event, QueryEvent, RobotEvent
from rdvla.serving.endpoint import Endpoint
from rdvla.serving.log import log_event
from rdvla.serving.lost import Lost, host_of
from rdvla.serving.queries import Answer
from rdvla.types import Observation

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

POLL_SECONDS = 0.03  # a person does not notice
LOST = "its connection was lost while it was held"


class Publishes(Protocol):
    """What events go to, such as `rdvla.live.hub.Hub`."""

    def publish(self, event: Event) -> None:
        """Take an event; never waits."""
        ...


@dataclass(frozen=True)
class SteppedIn:
    """What a person decided about a reply."""

    phase: Phase
    command: NDArray[np.float32] | None = None  # (A,), what the person who drives the robot wants


class Watching:
    """Publishes queries and holds replies back.

    Args:
        hub: where events go; None: nowhere.
        desk: who runs, waits or is driven.
    """

    def __init__(self, hub: Publishes | None, desk: Desk) -> None:
        self._hub = hub
        self._desk = desk
        self._lost = Lost(desk)

    async def settle(self, policy: str, socket: ServerConnection) -> None:
        """Wait, if need be, until it is known whether a newcomer is a robot that was lost."""
        await self._lost.settle(policy, host_of(socket))

    def came(self, robot: str, endpoint: Endpoint, socket: ServerConnection) -> None:
        """A client connected; it is paused if it comes in place of one that was lost while it was held."""
        policy = endpoint.facts.name
        is_held = self._lost.came(robot, policy, socket)
        self._desk.add(robot, action_dim=endpoint.facts.action_dim)
        if is_held:
            self._desk.change(robot, "paused")
            log_event("starts paused", connection=robot, policy=policy, why=LOST)
        if self._hub is not None:
            self._hub.publish(
                RobotEvent(
                    robot,
                    policy,
                    time.time(),
                    connected=True,
                    phase=self._desk.phase(robot),
                    facts=endpoint.robot,
                    note=LOST if is_held else "",
                )
            )

    def went(self, robot: str, policy: str, note: str = "") -> None:
        """It disconnected."""
        phase = self._desk.phase(robot)
        self._lost.went(robot)
        self._desk.remove(robot)
        if self._hub is not None:
            self._hub.publish(RobotEvent(robot, policy, time.time(), connected=False, phase=phase, note=note))

    def answered(
        self,
        robot: str,
        policy: str,
        *,
        number: int,
        observation: Observation,
        answer: Answer,
        execute_steps: int,
        judgement: Judgement,
        seconds: float,
    ) -> None:
        """A query has an answer, which may still be held back."""
        if self._hub is None:
            return
        prediction = answer.prediction
        self._hub.publish(
            QueryEvent(
                robot=robot,
                policy=policy,
                time=time.time(),
                number=number,
                instruction=str(observation.instruction),
                images=observation.images,
                state=observation.state,
                actions=np.asarray(prediction.actions, dtype=np.float32),
                execute_steps=execute_steps,
                depth=int(prediction.depth),
                max_depth=answer.max_depth,
                ended_by=answer.ended_by,
                uncertainty=judgement.uncertainty,
                band=judgement.band,
                help_requested=judgement.help_requested,
                phase=self._desk.phase(robot),
                milliseconds={
                    "waiting": answer.waiting_ms, "inference": answer.inference_ms, "total": 1000 * seconds
                },
                batch_size=answer.batch_size,
            )
        )  # fmt: skip

    async def step_in(self, robot: str) -> SteppedIn:
        """Wait while the robot is paused, or until whoever drives it gives a command; return what holds then.

        A robot without a reply holds still, so no client has to know of this.
        """
        while (place := self._desk.look(robot)).phase != "autonomous" and place.command is None:
            if place.phase == "paused":
                await self._desk.until_going(robot)
            else:  # commands are not announced: whoever drives gives many a second
                await asyncio.sleep(POLL_SECONDS)
        return SteppedIn(place.phase, place.command)
