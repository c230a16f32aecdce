"""`rdvla-lerobot-robot`: drives a robot of LeRobot with a policy that a server of rdvla runs.

LeRobot's own remote inference unpickles what arrives from the network, and serves no policies of plugins.
"""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
import signal
import ssl
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import draccus
import lerobot.cameras
import lerobot.robots
import numpy as np
from lerobot.robots import Robot, RobotConfig, make_robot_from_config
from lerobot.utils.import_utils import register_third_party_plugins

from rdvla_client import ActionLimits, Blend, ClientError, Counts, PolicyClient, RobotClient, Wiring

PROGRAM = "rdvla-lerobot-robot"
KEY_VARIABLE = "RDVLA_API_KEY"


@dataclass
class DriveConfig:
    """Drive a robot of LeRobot with the policy of a server.

    The server's key is read from the environment variable RDVLA_API_KEY.
    """

    robot: RobotConfig  # as in lerobot-record: --robot.type, --robot.port, --robot.cameras
    server: str  # such as ws://192.168.0.2:8000; the path chooses one of several policies
    task: str = ""  # instruction; empty: the only one that the policy was trained on
    rename: dict[str, str] = field(default_factory=dict)  # the policy's name of anything: the robot's
    state_names: tuple[str, ...] = ()  # in the policy's order, if the server does not know them
    action_names: tuple[str, ...] = ()  # the same for actions
    seconds: float = 0.0  # how long; 0: until Ctrl-C
    control_hz: float | None = None  # control steps a second; null: as in training
    hold: tuple[float, ...] | None = None  # action while there is none; null: stay where it is
    execution: str = "server"  # how much of a chunk is executed: server, fixed:N, until_next, or a rule
    prefetch: bool = True  # ask for the next chunk while one runs
    blend_steps: int = 0  # control steps over which a new chunk takes over from the old one
    stop: str | None = None  # stop rule, such as action_change:1e-3 or 8; null: the server's
    max_depth: int | None = None  # iterations at most
    deadline_ms: float | None = None  # milliseconds after its arrival by which a query stops to iterate
    low: tuple[float, ...] | None = None  # smallest values of an action; one number holds for all
    high: tuple[float, ...] | None = None  # largest values
    largest_change: tuple[float, ...] | None = None  # from one control step to the next
    ca_file: str = ""  # certificates to trust, for wss:// with one of your own


def main() -> None:
    """Run the command; end with 0 if the robot was driven as long as asked for."""
    # LeRobot's imports have set up the log already, without this program's messages.
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", force=True)
    register_third_party_plugins()
    for package in (lerobot.robots, lerobot.cameras):
        _import_all(package)
    config = draccus.parse(DriveConfig, prog=PROGRAM)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        driven = run(config, stopped=stopped)
    except (ClientError, ValueError) as error:
        sys.exit(f"{PROGRAM}: error: {error}")
    counts = driven.counts
    sys.stdout.write(
        f"{counts.steps} control steps, {driven.slow} of them longer than 1 / control_hz; {counts.chunks} "
        f"chunks of actions; held {counts.held} times, {counts.clipped} actions limited\n"
    )
    if not counts.chunks:
        why = driven.problem or "it was stopped before the first one came"
        sys.exit(f"{PROGRAM}: error: the policy sent no actions, so the robot only held still: {why}")
    if driven.seconds < config.seconds:
        sys.exit(
            f"{PROGRAM}: error: stopped by a signal after {driven.seconds:.1f} of {config.seconds:g} seconds"
        )


@dataclass(frozen=True)
class Driven:
    """Counts of a run in which a robot was driven."""

    counts: Counts  # of the client
    slow: int  # control steps that took longer than the robot's rate allows
    seconds: float  # how long
    problem: str  # why there were no replies in the end; empty if all was well


def run(config: DriveConfig, *, stopped: threading.Event) -> Driven:
    """Connect the server and the robot, drive, and disconnect both.

    Args:
        config: what to drive, and how.
        stopped: ends it when it is set.

    Returns:
        What happened.

    Raises:
        ClientError: the server cannot be reached, or cannot answer.
        ValueError: names do not match, or something is not known.
    """
    robot = make_robot_from_config(config.robot)
    tls = ssl.create_default_context(cafile=config.ca_file) if config.ca_file else None
    with closing(PolicyClient(config.server, api_key=os.environ.get(KEY_VARIABLE), tls=tls)) as policy:
        metadata = policy.metadata
        wiring = Wiring.of(
            metadata,
            observed=tuple(robot.observation_features),
            commanded=tuple(robot.action_features),
            rename=config.rename,
            state_names=config.state_names,
            action_names=config.action_names,
        )
        if config.hold is None and not set(wiring.actions) <= set(robot.observation_features):
            raise ValueError(
                "the robot does not show the values that an action sets, so it is not known how it holds "
                "still: give --hold, such as zeros for velocities"
            )
        task, rate = _task(config, metadata), _rate(config, metadata)
        logging.info("%s does %r at %g Hz: %s", metadata.get("policy"), task, rate, _in_words(wiring, robot))
        robot.connect()
        try:
            with _client(config, policy, rate) as client:
                return _drive(
                    robot, client, wiring, seconds=config.seconds, task=task, rate=rate, stopped=stopped
                )
        finally:
            robot.disconnect()


def _drive(
    robot: Robot,
    client: RobotClient,
    wiring: Wiring,
    *,
    seconds: float,
    task: str,
    rate: float,
    stopped: threading.Event,
) -> Driven:
    """Drive until the time is over or `stopped` is set; return what happened."""
    observation = robot.get_observation()
    client.reset(last_action=wiring.position(observation))
    begun = due = time.monotonic()
    problem, slow = "", 0
    while not stopped.is_set() and not (seconds and time.monotonic() - begun >= seconds):
        action = client.act(wiring.message(observation, task))
        robot.send_action(wiring.command(action))
        step = client.last_step
        if step is not None and step.problem != problem:
            problem = step.problem
            logging.warning("no replies: %s", problem or "that is over, the server answers again")
        due += 1 / rate
        if (rest := due - time.monotonic()) > 0:
            stopped.wait(rest)
        else:
            due, slow = due - rest, slow + 1  # not made up for: the next step is as long as any
        observation = robot.get_observation()
    return Driven(client.counts, slow, time.monotonic() - begun, problem)


def _in_words(wiring: Wiring, robot: Robot) -> str:
    cameras = ", ".join(f"{name} as {key}" for key, name in wiring.cameras.items())
    still = [name for name in robot.action_features if name not in wiring.actions]
    rest = f"; not commanded: {', '.join(still)}" if still else ""
    state, actions = ", ".join(wiring.state) or "none", ", ".join(wiring.actions)
    return f"cameras {cameras}; state {state}; actions {actions}{rest}"


def _client(config: DriveConfig, policy: PolicyClient, rate: float) -> RobotClient:
    options = {"stop": config.stop, "max_depth": config.max_depth, "deadline_ms": config.deadline_ms}
    return RobotClient(
        policy,
        hold="last" if config.hold is None else np.array(config.hold, np.float32),
        execution=config.execution,
        prefetch=config.prefetch,
        control_hz=rate,
        blend=Blend(steps=config.blend_steps) if config.blend_steps else None,
        limits=ActionLimits(
            low=_bound(config.low), high=_bound(config.high), largest_change=_bound(config.largest_change)
        ),
        options={name: value for name, value in options.items() if value is not None},
    )


def _bound(values: Sequence[float] | None) -> float | Sequence[float] | None:
    return values[0] if values is not None and len(values) == 1 else values


def _task(config: DriveConfig, metadata: Mapping[str, Any]) -> str:
    known = list(metadata.get("instructions", ()))
    if not config.task and len(known) != 1:
        told = f"it was trained on {', '.join(map(repr, known[:5]))}" if known else "none is known"
        raise ValueError(f"the policy needs an instruction, and {told}: give --task")
    return config.task or str(known[0])


def _rate(config: DriveConfig, metadata: Mapping[str, Any]) -> float:
    rate = config.control_hz or metadata.get("control_hz")
    if not rate or not rate > 0:
        raise ValueError("it is not known how many control steps a second the robot makes: give --control_hz")
    return float(rate)


def _import_all(package: Any) -> None:
    """Import LeRobot's devices, which registers their options; those that lack their driver are left out."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if module.ispkg:
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                logging.debug("%s is not available: %s", module.name, error)
