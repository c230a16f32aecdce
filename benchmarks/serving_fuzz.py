"""Frames of strangers: does each end in an answer or in a clear error, and does the server live on?

    python -m benchmarks.serving_fuzz --policy metaworld --frames 1000000 --socket_frames 20000

Most frames go through `rdvla_client.wire.unpack` in this process, with the limits that the server sets: each
must be decoded or refused by `WireError`, and nothing else may happen. The others go to a real `rdvla serve`
over WebSockets: each must be answered, or refused by a text and a closed connection. Meanwhile a robot asks
and checks its answers. Frames come from valid messages (flipped bits, cut, mixed, sizes and dtypes that lie,
deep nesting) or are random; some are larger than the server allows, some break the WebSocket's own rules.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from benchmarks.harness import hardware
from benchmarks.serving_process import rdvla_server
from benchmarks.serving_robots import robot_message, robot_seed
from rdvla.files import write_json
from rdvla_client.errors import WireError
from rdvla_client.wire import Limits, pack, unpack

REACTION_SECONDS = 60.0  # that a server may take for one frame on a busy machine
WITNESS = 1000  # number of the robot that asks meanwhile
SHOWN = 5  # examples of what must not happen

HOSTILE_HEADERS = (
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01", b"\xd8\x00", b"\xc1", b"\xdc\xff\xff", b"\xde\xff\xff",
)  # fmt: skip
HOSTILE_DTYPES = (
    "|O", "object", "|V8", "<U999999999", "<c16", "<M8[s]", "f8,i4",
    "<f4,<f4", "", "\0", "<f99", "|S0", "<U0", 7, None,
)  # fmt: skip
HOSTILE_SHAPES: tuple[Any, ...] = (
    [2**62], [-1], [0] * 100, [2**31, 2**31], [1.5], ["3"], [True], None, "3",
    [2**63 - 1, 0], [[3]], [3] * 33,
)  # fmt: skip


def _flip(frame: bytes, chance: random.Random) -> bytes:
    changed = bytearray(frame)
    for _ in range(chance.randint(1, 8)):
        # Most bytes are pixels, which may have any value: the beginning holds most of the structure.
        place = chance.randrange(len(changed) if chance.random() < 0.3 else min(len(changed), 400))
        changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(frame: bytes, chance: random.Random) -> bytes:
    return frame[: chance.randrange(len(frame))]


def _extend(frame: bytes, chance: random.Random) -> bytes:
    return frame + chance.randbytes(chance.randint(1, 64))


def _noise(frame: bytes, chance: random.Random) -> bytes:  # noqa: ARG001 (as the others)
    return chance.randbytes(chance.randint(0, 200))


def _mix(frame: bytes, chance: random.Random) -> bytes:
    place, other = chance.randrange(len(frame)), chance.randrange(len(frame))
    return frame[:place] + frame[other : other + chance.randint(1, 60)] + frame[place:]


def _lie_about_sizes(frame: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(min(len(frame), 400))
    return frame[:place] + chance.choice(HOSTILE_HEADERS) + frame[place + chance.randint(0, 5) :]


def _nest(frame: bytes, chance: random.Random) -> bytes:
    opening = chance.choice([b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\x81\xc4\x01a"])
    return opening * chance.choice([8, 17, 100, 5000]) + frame[:50]


def _lie_about_arrays(frame: bytes, chance: random.Random) -> bytes:  # noqa: ARG001
    array = {
        b"__ndarray__": chance.choice([True, 1, False, b"yes"]),
        b"data": chance.choice([b"", b"\0" * 12, "text", 3]),
        b"dtype": chance.choice([*HOSTILE_DTYPES, "<f4"]),
        b"shape": chance.choice([*HOSTILE_SHAPES, [3]]),
    }
    scalar = {b"__npgeneric__": True, b"data": chance.choice([1e999, 2**63, "x", None]), b"dtype": "<f4"}
    return pack({"observation/state": chance.choice([array, scalar]), "prompt": "push"})


Fuzzer = Callable[[bytes, random.Random], bytes]
FUZZERS: dict[str, Fuzzer] = {
    "flipped bits": _flip,
    "cut": _cut,
    "extended": _extend,
    "noise": _noise,
    "mixed": _mix,
    "lying sizes": _lie_about_sizes,
    "nested": _nest,
    "lying arrays": _lie_about_arrays,
}


def fuzz_unpack(messages: Sequence[bytes], *, frames: int, seed: int, limits: Limits) -> dict[str, Any]:
    """Send fuzzed frames through `unpack`, one in a thousand larger than the limit; count what happens."""
    chance, outcomes, examples = random.Random(seed), Counter[str](), []
    too_large = bytes(limits.max_bytes + 1)
    names, begin, slowest = list(FUZZERS), time.perf_counter(), 0.0
    for number in range(frames):
        if number % 1000 == 999:
            frame = too_large
        else:
            frame = FUZZERS[chance.choice(names)](chance.choice(messages), chance)
        start = time.perf_counter()
        try:
            unpack(frame, limits=limits)
            outcomes["decoded"] += 1
        except WireError:
            outcomes["refused"] += 1
        except Exception as error:  # noqa: BLE001  # what must not happen is counted
            outcomes["failed"] += 1
            if len(examples) < SHOWN:
                examples.append(f"{type(error).__name__}: {error}; frame {frame[:80]!r}")
        slowest = max(slowest, time.perf_counter() - start)
    return {
        "frames": frames,
        **{name: outcomes[name] for name in ("decoded", "refused", "failed")},
        "seconds": time.perf_counter() - begin,
        "slowest_ms": 1000 * slowest,
        "examples": examples,
    }


async def fuzz_sockets(
    address: str, messages: Sequence[bytes], *, frames: int, connections: int, seed: int, largest: int
) -> dict[str, Any]:
    """Send fuzzed frames to a server over several connections at once; count what it does with each.

    Args:
        address: of the server.
        messages: valid ones, to be changed.
        frames: how many.
        connections: at the same time.
        seed: of the frames.
        largest: bytes that a message may have; one frame in 500 has more.
    """
    outcomes, examples = Counter[str](), []
    left = iter(range(frames))

    async def stranger(number: int) -> None:
        chance = random.Random(seed * 1_000_003 + number)
        while (turn := next(left, None)) is not None:
            socket = await connect(address, compression=None, max_size=None, open_timeout=REACTION_SECONDS)
            await socket.recv()
            while turn is not None:
                outcome = await _react(socket, turn, messages, chance=chance, largest=largest)
                outcomes[outcome] += 1
                if outcome == "no reaction" and len(examples) < SHOWN:
                    examples.append(f"frame {turn} of connection {number}")
                if outcome != "answered":
                    break
                turn = next(left, None)
            with contextlib.suppress(AttributeError):  # asyncio of Python 3.11: a transport closed twice
                await socket.close()

    begin = time.perf_counter()
    await asyncio.gather(*map(stranger, range(connections)))
    return {
        "frames": frames,
        **{name: outcomes[name] for name in ("answered", "refused", "closed", "no reaction")},
        "seconds": time.perf_counter() - begin,
        "examples": examples,
    }


async def _react(
    socket: ClientConnection, turn: int, messages: Sequence[bytes], *, chance: random.Random, largest: int
) -> str:
    """Send one frame; return what the server did."""
    try:
        if turn % 500 == 499:
            await socket.send(bytes(largest + 1))
        elif turn % 100 == 50:  # below the level of messages
            socket.transport.write(chance.choice(RAW_FRAMES))
        elif turn % 100 == 51:
            await socket.send("a text instead of bytes")
        else:
            await socket.send(FUZZERS[chance.choice(list(FUZZERS))](chance.choice(messages), chance))
        reply = await asyncio.wait_for(socket.recv(), REACTION_SECONDS)
    except ConnectionClosed:
        return "closed"
    except TimeoutError:
        return "no reaction"
    return "refused" if isinstance(reply, str) else "answered"


RAW_FRAMES = (
    b"\x82\xff" + struct.pack(">Q", 2**62) + b"\0\0\0\0",  # announces 4 EiB
    b"\x82\x05hello",  # not masked
    b"\xf2\x80\0\0\0\0",  # reserved bits
    b"\x80\x80\0\0\0\0",  # continues nothing
    b"\x89\xff" + struct.pack(">Q", 1000) + b"\0\0\0\0",  # a ping that is too long
    b"\x88\x82\0\0\0\0\x00\x01",  # a close code that is not allowed
    b"\x81\x82\0\0\0\0\xff\xfe",  # a text that is no UTF-8
    random.Random(0).randbytes(300),
)


async def _witness(address: str, stop: asyncio.Event) -> dict[str, int]:
    """Ask one question over and over, each answer as the first; count the answers that differ."""
    counts = {"answers": 0, "wrong": 0}
    async with connect(address, compression=None, max_size=None, open_timeout=REACTION_SECONDS) as socket:
        told = unpack(bytes(await socket.recv(decode=False)))
        options = {"stop": "fixed:4@noise", "seed": robot_seed(WITNESS, 0)}
        message = pack(robot_message(told, WITNESS, 0, options=options))
        first = None
        while not stop.is_set():
            await socket.send(message)
            reply = unpack(bytes(await asyncio.wait_for(socket.recv(decode=False), REACTION_SECONDS)))
            first = reply["actions"] if first is None else first
            counts["answers"] += 1
            counts["wrong"] += not np.allclose(reply["actions"], first, atol=1e-3)
    return counts


async def _fuzz_server(address: str, messages: Sequence[bytes], **options: Any) -> dict[str, Any]:
    stop = asyncio.Event()
    witness = asyncio.create_task(_witness(address, stop))
    try:
        found = await fuzz_sockets(address, messages, **options)
    finally:
        stop.set()
    return {**found, "witness": await witness}


def main(argv: Sequence[str] | None = None) -> None:
    """Fuzz both ways, print the counts, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_fuzz", description=__doc__)
    parser.add_argument("--policy", default="metaworld")
    parser.add_argument("--frames", type=int, default=1_000_000, help="through unpack, in this process")
    parser.add_argument("--socket_frames", type=int, default=20_000, help="to a server, over WebSockets")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/fuzz.json"))
    options = parser.parse_args(argv)
    result: dict[str, Any] = {
        "schema": 1, "hardware": hardware(), "policy": options.policy, "seed": options.seed
    }  # fmt: skip
    with rdvla_server(options.policy, "--connections", str(4 * options.connections)) as server:
        told = asyncio.run(_metadata(server.address))
        small = {**told, "image_sizes": dict.fromkeys(told["cameras"], (4, 4))}
        # Small images make most frames short; the server refuses their size once they are decoded.
        messages = [pack(robot_message(one, 0, 0)) for one in (small, small, small, told)]
        largest = 4 * sum(len(message) for message in messages)
        limits = Limits(max_bytes=largest, max_array_bytes=largest, max_items=4096, max_depth=8)
        result["unpack"] = fuzz_unpack(messages, frames=options.frames, seed=options.seed, limits=limits)
        before = server.memory_mib()
        result["server"] = asyncio.run(
            _fuzz_server(
                server.address,
                messages,
                frames=options.socket_frames,
                connections=options.connections,
                seed=options.seed,
                largest=2**26,
            )
        )
        result["server"] |= {"memory_mib": [before, server.memory_mib()], "alive": server.alive}
    write_json(options.output, result)
    print(json.dumps({name: result[name] for name in ("unpack", "server")}, indent=2))
    print(f"written: {options.output}")
    if result["unpack"]["failed"] or result["server"]["no reaction"] or not result["server"]["alive"]:
        sys.exit("a frame did what no frame may do")


async def _metadata(address: str) -> dict[str, Any]:
    async with connect(address, compression=None, max_size=None) as socket:
        told: dict[str, Any] = unpack(bytes(await socket.recv(decode=False)))
        return told


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
