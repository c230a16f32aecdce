"""64 robots for minutes: does every robot get its own answers, and does the server's memory stay flat?

    python -m benchmarks.serving_soak --policy policies/libero_goal --minutes 10 --output runs/bench/soak.json

Every robot asks questions whose answers are computed before, in this process, and checks each reply against
its own. Now and then a robot vanishes: in the middle of a message, before its answer comes, or in the middle
of the opening handshake. It comes back with a new connection. Robots run in a process of their own; this one
watches the memory of `rdvla serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from benchmarks.harness import hardware
from benchmarks.serving_process import ROOT, ServerProcess, rdvla_server
from benchmarks.serving_robots import robot_message, robot_observation, robot_seed
from rdvla.files import write_json
from rdvla_client.wire import pack, unpack

QUESTIONS = 3  # of each robot, in turn
STOP = "fixed:4"  # the same depth for all, so rounding cannot change it
VANISHING = 0.02  # chance per question
TOLERANCE = 1e-3  # rounding differs between batches; answers of two robots differ by far more
WAIT_SECONDS = 120.0
MEMORY_SECONDS = 5.0  # between two looks
KINDS = ("in mid-message", "before the answer", "in the handshake")


@dataclass
class Seen:
    """What the robots saw."""

    answers: int = 0
    wrong: int = 0  # that differ from the robot's own by more than `TOLERANCE`
    largest_difference: float = 0.0  # of a right answer
    vanished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    connections: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # the server's sentence -> how often


async def robots(address: str, expected: NDArray[np.float32], *, seconds: float, vanishing: float) -> Seen:
    """Let robots ask until the time is over.

    Args:
        address: of the server.
        expected: answers, (robots, questions, K, A).
        seconds: to ask.
        vanishing: chance per question that a robot vanishes.
    """
    seen, end = Seen(), time.monotonic() + seconds
    await asyncio.gather(
        *(
            _robot(address, number, answers, end=end, vanishing=vanishing, seen=seen)
            for number, answers in enumerate(expected)
        )
    )
    return seen


async def _robot(
    address: str,
    number: int,
    expected: NDArray[np.float32],
    *,
    end: float,
    vanishing: float,
    seen: Seen,
) -> None:
    chance = random.Random(number)
    while time.monotonic() < end:
        try:
            async with connect(
                address, compression=None, max_size=None, open_timeout=WAIT_SECONDS, close_timeout=5
            ) as socket:
                seen.connections += 1
                await _converse(
                    socket, number, expected, end=end, vanishing=vanishing, chance=chance, seen=seen
                )
        except (ConnectionClosed, InvalidHandshake, OSError) as error:
            _count(seen.refused, f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.5)
        if chance.random() < vanishing:
            await _vanish_in_handshake(address)
            seen.vanished[KINDS[2]] += 1


async def _converse(
    socket: ClientConnection,
    number: int,
    expected: NDArray[np.float32],
    *,
    end: float,
    vanishing: float,
    chance: random.Random,
    seen: Seen,
) -> None:
    """Ask over one connection until the robot vanishes, is refused, or the time is over."""
    told = unpack(bytes(await socket.recv(decode=False)))
    messages = [_message(told, number, each) for each in range(len(expected))]
    turn = chance.randrange(len(expected))
    while time.monotonic() < end:
        turn = (turn + 1) % len(expected)
        fate = chance.random()
        if fate < vanishing / 2:
            socket.transport.write(half_a_frame(messages[turn]))
            socket.transport.abort()
            seen.vanished[KINDS[0]] += 1
            return
        await socket.send(messages[turn])
        if fate < vanishing:
            await asyncio.sleep(0.01 * chance.random())
            socket.transport.abort()
            seen.vanished[KINDS[1]] += 1
            return
        reply = await asyncio.wait_for(socket.recv(), WAIT_SECONDS)
        if isinstance(reply, str):
            _count(seen.refused, reply)
            return
        difference = float(np.abs(unpack(reply)["actions"] - expected[turn]).max())
        seen.answers += 1
        if difference > TOLERANCE:
            seen.wrong += 1
        else:
            seen.largest_difference = max(seen.largest_difference, difference)


def _message(told: Mapping[str, Any], robot: int, number: int) -> bytes:
    options = {"stop": f"{STOP}@noise", "seed": robot_seed(robot, number)}
    return pack(robot_message(told, robot, number, options=options))


def half_a_frame(payload: bytes) -> bytes:
    """Return the first half of a client's WebSocket frame."""
    header = struct.pack(">BBQ4s", 0x82, 0x80 | 127, len(payload), b"\0\0\0\0")  # a mask of zeros
    return header + payload[: len(payload) // 2]


async def _vanish_in_handshake(address: str) -> None:
    where = urlsplit(address)
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: robot\r\nUpgrade: webso")
    await writer.drain()
    writer.transport.abort()


def _count(counts: dict[str, int], what: str) -> None:
    counts[what] = counts.get(what, 0) + 1


def expected_answers(policy: str, address: str, *, clients: int) -> NDArray[np.float32]:
    """Compute what every robot should be answered, one query at a time: (robots, questions, K, A)."""
    from rdvla.serving import Query
    from rdvla.serving.loading import load_policy
    from rdvla_client import PolicyClient

    with PolicyClient(address) as client:
        told = client.metadata
    loaded = load_policy(policy, name="expected", threads=1)

    def answer(robot: int, number: int) -> NDArray[np.float32]:
        query = Query(
            observation=robot_observation(told, robot, number),
            initial_state=loaded.initial_state(robot_seed(robot, number)),
            stop=STOP,
        )
        actions: NDArray[np.float32] = loaded.predict([query])[0].prediction.actions
        return actions

    asked = [[answer(robot, each) for each in range(QUESTIONS)] for robot in range(clients)]
    return np.array(asked, dtype=np.float32)


def smallest_difference(expected: NDArray[np.float32]) -> float:
    """Return how much the answers of any two questions differ at least: a crossed answer shows as much."""
    flat = expected.reshape(expected.shape[0] * expected.shape[1], -1)
    apart = [np.abs(flat[number + 1 :] - one).max(axis=1).min() for number, one in enumerate(flat[:-1])]
    return float(min(apart))


def soak(
    server: ServerProcess, expected: NDArray[np.float32], *, seconds: float, vanishing: float = VANISHING
) -> dict[str, Any]:
    """Let robots ask from a process of their own; return what they saw, and the server's memory by time."""
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "expected.npy"
        np.save(answers, expected)
        command = [sys.executable, "-m", "benchmarks.serving_soak", "--robots", str(answers)]
        command += ["--address", server.address, "--minutes", str(seconds / 60)]
        command += ["--vanishing", str(vanishing)]
        asking = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        begin, memory, printed = time.monotonic(), [], None
        try:
            while printed is None and server.alive:
                memory.append((round(time.monotonic() - begin, 1), server.memory_mib()))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    printed, _ = asking.communicate(timeout=min(MEMORY_SECONDS, max(0.2, seconds / 20)))
        finally:
            asking.kill()
    if printed is None:
        raise RuntimeError("the server died")
    if asking.returncode != 0:
        raise RuntimeError(f"the robots ended with exit code {asking.returncode}")
    return {**json.loads(printed), "alive": server.alive, "memory_mib": memory}


def memory_growth(memory: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return means of the second tenth and of the last tenth, and the slope after the first fifth, MiB."""
    times, values = np.array(memory).T
    tenth, later = max(1, len(values) // 10), times >= times[-1] / 5
    slope = float(np.polyfit(times[later] / 60, values[later], 1)[0]) if later.sum() > 1 else 0.0
    return {
        "early_mib": float(values[tenth : 2 * tenth].mean()),
        "late_mib": float(values[-tenth:].mean()),
        "highest_mib": float(values.max()),
        "slope_mib_per_minute": slope,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run it, print what was seen, write the JSON file; or be the robots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_soak", description=__doc__)
    parser.add_argument("--policy", default="metaworld")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--vanishing", type=float, default=VANISHING, help="chance per question")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/soak.json"))
    parser.add_argument("--robots", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    seconds = 60 * options.minutes
    if options.robots is not None:
        expected = np.load(options.robots)
        seen = asyncio.run(robots(options.address, expected, seconds=seconds, vanishing=options.vanishing))
        print(json.dumps(asdict(seen)))
        return
    limits = ["--connections", str(4 * options.clients), "--max_waiting", str(4 * options.clients)]
    with rdvla_server(options.policy, *limits) as server:
        expected = expected_answers(options.policy, server.address, clients=options.clients)
        seen = soak(server, expected, seconds=seconds, vanishing=options.vanishing)
    result = {
        "schema": 1,
        "hardware": hardware(),
        "policy": options.policy,
        "clients": options.clients,
        "minutes": options.minutes,
        "tolerance": TOLERANCE,
        "smallest_difference_of_two_answers": smallest_difference(expected),
        **seen,
        "memory": memory_growth(seen["memory_mib"]),
    }
    write_json(options.output, result)
    shown = {name: value for name, value in result.items() if name not in ("memory_mib", "hardware")}
    print(json.dumps(shown, indent=2))
    print(f"written: {options.output}")
    if seen["wrong"] or not seen["alive"]:
        sys.exit("answers were wrong, or the server died")


if __name__ == "__main__":
    main()
