"""Robots that ask a policy server, in a process of their own: `benchmarks.serving` starts it.

    python -m benchmarks.serving_load --address ws://127.0.0.1:8000 --clients 32 --seconds 10

Every robot is a connection. It asks again as soon as it has an answer, or every `--period` seconds, whichever
is later. Prints the latency of every query that began after the warm-up, as JSON. Imports no torch, so it
leaves the processor to the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.serving_robots import robot_message
from rdvla_client.wire import pack, unpack

MESSAGES = 2  # that a robot sends in turn
OPEN_SECONDS = 60.0
ANSWER_SECONDS = 120.0


@dataclass
class Heard:
    """The replies to all robots of a run."""

    seconds: float  # that were measured
    milliseconds: list[float] = field(default_factory=list)  # of every query
    depths: list[int] = field(default_factory=list)
    ended_by: list[str] = field(default_factory=list)  # empty: the server does not say
    server_milliseconds: list[float] = field(default_factory=list)  # from arrival to departure, as it says
    batch_sizes: list[int] = field(default_factory=list)  # empty: the server does not say
    begun_late: int = 0  # queries that began after their time, as the answer before came late
    asked: int = 0  # queries in all, those of the warm-up included


async def ask(
    address: str,
    *,
    clients: int,
    seconds: float,
    warmup: float,
    period: float | None = None,
    deadline_ms: float | None = None,
) -> Heard:
    """Let robots ask a server, and return what they heard.

    Args:
        address: of the server.
        clients: robots.
        seconds: to measure.
        warmup: seconds before.
        period: between the beginnings of a robot's queries; None: it asks again at once.
        deadline_ms: sent with every query.

    Raises:
        RuntimeError: the server answers with an error.
    """
    heard = Heard(seconds)
    async with contextlib.AsyncExitStack() as opened:
        sockets = [
            await opened.enter_async_context(
                connect(address, compression=None, max_size=None, open_timeout=OPEN_SECONDS)
            )
            for _ in range(clients)
        ]
        metadata = [unpack(_frame(await socket.recv())) for socket in sockets]
        options = None if deadline_ms is None else {"deadline_ms": deadline_ms}
        packed = [
            [pack(robot_message(told, robot, each, options=options)) for each in range(MESSAGES)]
            for robot, told in enumerate(metadata)
        ]
        begin = time.perf_counter() + 0.2
        robots = [
            _robot(
                socket,
                messages,
                begin=begin + (0 if period is None else period * random.Random(robot).random()),
                measured=(begin + warmup, begin + warmup + seconds),
                period=period,
                heard=heard,
            )
            for robot, (socket, messages) in enumerate(zip(sockets, packed, strict=True))
        ]
        await asyncio.gather(*robots)
    return heard


async def _robot(
    socket: ClientConnection,
    messages: Sequence[bytes],
    *,
    begin: float,
    measured: tuple[float, float],
    period: float | None,
    heard: Heard,
) -> None:
    due, number = begin, 0
    while True:
        now = time.perf_counter()
        if due > now:
            await asyncio.sleep(due - now)
            now = time.perf_counter()
        if now >= measured[1]:
            return
        await socket.send(messages[number % len(messages)])
        reply = _frame(await asyncio.wait_for(socket.recv(), ANSWER_SECONDS))
        end = time.perf_counter()
        if measured[0] <= now:
            _note(heard, reply, 1000 * (end - now))
            # Some milliseconds late is the load generator's own doing.
            heard.begun_late += period is not None and now > due + 0.01
        number += 1
        heard.asked += 1
        due = max(due + period, end) if period is not None else end


def _note(heard: Heard, reply: bytes, milliseconds: float) -> None:
    answer: Mapping[str, Any] = unpack(reply)
    heard.milliseconds.append(round(milliseconds, 3))
    heard.depths.append(answer["depth"])
    heard.server_milliseconds.append(round(answer["server_timing"]["infer_ms"], 3))
    for name, values in (("ended_by", heard.ended_by), ("batch_size", heard.batch_sizes)):
        if name in answer:
            values.append(answer[name])


def _frame(frame: bytes | str) -> bytes:
    if isinstance(frame, str):
        raise RuntimeError(f"the server answered with an error: {frame}")  # noqa: TRY004
    return frame


def main(argv: Sequence[str] | None = None) -> None:
    """Ask the server, and print the replies' times as a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_load", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--period", type=float)
    parser.add_argument("--deadline_ms", type=float)
    given = vars(parser.parse_args(argv))
    print(json.dumps(asdict(asyncio.run(ask(given.pop("address"), **given)))))


if __name__ == "__main__":
    main()
