"""A policy at a path of the address: its facts, its layout, and whom to ask."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rdvla import __version__
from rdvla.control import (
    DepthJudge,
    ExecutionRule,
    Judge,
    WarmStart,
    as_start,
    check_fits,
    parse_execution,
    parse_stop,
    split_start,
)
from rdvla.errors import ConfigError
from rdvla.live.events import RobotFacts
from rdvla.serving.config import Drive, ServeConfig
from rdvla.serving.layouts import Layout
from rdvla.serving.queries import Answer, PolicyFacts, PolicyFront, Query
from rdvla.serving.requests import OPTION_NAMES, OPTIONS_KEY
from rdvla.types import Observation

MIB = 2**20


class Asked(Protocol):
    """What answers queries, such as `rdvla.serving.inference.Inference`."""

    @property
    def is_alive(self) -> bool:
        """Whether it can answer queries, now or once it is less busy."""
        ...

    async def warm_up(self, query: Query) -> None:
        """Prepare for queries like this one."""
        ...

    async def ask(self, query: Query) -> Answer:
        """Answer a query.

        Raises:
            BusyError: too many wait already.
        """
        ...

    def replied(self, seconds: float) -> None:
        """Learn how long a reply took to be packed and sent, once it was complete."""
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...


@dataclass(frozen=True)
class Endpoint:
    """One policy as robots reach it."""

    front: PolicyFront
    asked: Asked
    layout: Layout
    stop: str  # rule of queries that name none
    start: WarmStart
    execution: ExecutionRule
    message_bytes: int  # of the largest message that is taken
    robot: RobotFacts  # for the live page
    make_judge: Callable[[], Judge] = DepthJudge

    @classmethod
    def of(cls, front: PolicyFront, asked: Asked, config: ServeConfig) -> Endpoint:
        """Return a policy's endpoint under a server's configuration.

        Raises:
            ConfigError: layout, stop rule or execution rule do not fit the policy.
        """
        facts = front.facts
        layout = Layout.of(facts, config.layout, config.mapping)
        stop, start = split_start(config.stop or facts.stop)
        deepest = parse_stop(stop).max_depth
        if deepest > config.depth_limit:
            raise ConfigError(
                f"{facts.name}: its stop rule {stop} runs up to {deepest} iterations, depth_limit is "
                f"{config.depth_limit}: raise it, or set another --stop"
            )
        execution = parse_execution(config.execution or facts.execution)
        check_fits(execution, chunk_size=facts.chunk_size)
        message_bytes = round(config.message_mb * MIB) if config.message_mb else layout.message_bytes
        needed = _example_bytes(facts, layout)
        if message_bytes < needed:
            raise ConfigError(
                f"{facts.name}: message_mb {config.message_mb:g} is too small for any observation, which has "
                f"{needed} bytes. Set at least {math.ceil(100 * needed / MIB) / 100}, or leave it out"
            )
        return cls(
            front=front,
            asked=asked,
            layout=layout,
            stop=stop,
            start=start if "@" in config.stop else as_start(facts.start),
            execution=execution,
            message_bytes=message_bytes,
            robot=_robot_facts(facts, config.drive),
        )

    @property
    def facts(self) -> PolicyFacts:
        """What the policy says of itself."""
        return self.front.facts

    def initial_state(self, seed: int | None) -> NDArray[np.float32]:
        """Draw S_0 of one query, (K, D)."""
        return self.front.initial_state(seed)

    def example(self) -> Query:
        """Return a query with blank images, to warm the policy up."""
        facts = self.facts
        images = {camera: np.zeros((*size, 3), dtype=np.uint8) for camera, size in facts.image_sizes.items()}
        instruction = facts.instructions[0] if facts.instructions else "warm up"
        observation = Observation(images, np.zeros(facts.state_dim, dtype=np.float32), instruction)
        return Query(observation, self.initial_state(0), stop=self.stop)

    def metadata(self, policies: Mapping[str, Endpoint]) -> dict[str, Any]:
        """Return what the first frame of a connection tells the client."""
        facts = self.facts
        told = {
            "protocol": "openpi",
            "server": f"rdvla {__version__}",
            "policy": facts.name,
            "policies": list(policies),
            "layout": self.layout.name,
            "keys": {
                "images": dict(self.layout.images),
                "state": list(self.layout.state),
                "instruction": self.layout.instruction,
                "options": OPTIONS_KEY,
            },
            "cameras": list(facts.cameras),
            "image_sizes": {camera: list(size) for camera, size in facts.image_sizes.items()},
            "state_dim": facts.state_dim,
            "action_dim": facts.action_dim,
            "chunk_size": facts.chunk_size,
            "control_hz": facts.robot.fps,
            "action_names": list(facts.robot.action_names),
            "state_names": list(facts.robot.state_names),
            "instructions": list(facts.instructions),
            "stop": self.stop,
            "execution": self.execution.describe(),
            "start": self.start.kind,
            "fingerprint": facts.fingerprint,
            "form": facts.form,
            "options": list(OPTION_NAMES),
        }
        return {name: value for name, value in told.items() if value is not None}


def _example_bytes(facts: PolicyFacts, layout: Layout) -> int:
    """Return the size of an observation with images as in training, as a client packs it."""
    from rdvla_client import wire

    message: dict[str, Any] = {
        layout.images[camera]: np.zeros((*size, 3), dtype=np.uint8)
        for camera, size in facts.image_sizes.items()
    }
    message["state"] = np.zeros(facts.state_dim, dtype=np.float32)
    return len(wire.pack(message))


def _robot_facts(facts: PolicyFacts, drive: Drive) -> RobotFacts:
    """Return what the live page has to know of the policy's robots.

    Raises:
        ConfigError: people are to drive them, and the range of their actions is not known.
    """
    if drive != "no" and facts.action_range is None:
        raise ConfigError(
            f"{facts.name}: drive needs the range of the actions, which the form {facts.form} does not hold: "
            "serve the policy that it was made from, or leave --drive out"
        )
    low, high = facts.action_range or ((), ())
    held = [drive == "position" or number in facts.grippers for number in range(facts.action_dim)]
    return RobotFacts(
        action_names=facts.robot.action_names,
        action_low=low,
        action_high=high,
        action_held=tuple(held),
        control_hz=facts.robot.fps,
        drivable=drive != "no",
    )
