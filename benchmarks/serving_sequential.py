"""A plain policy server to compare with: openpi's protocol, one query at a time, in the order they arrive.

    python -m benchmarks.serving_sequential --policy metaworld --port 8001

It does what a simple server does: the event loop waits while the policy computes, and every query is a
call of `RDVLAPolicy.predict` of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Sequence
from http import HTTPStatus

import torch
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from rdvla.policy import RDVLAPolicy
from rdvla.serving.layouts import Layout
from rdvla.serving.loading import load_policy
from rdvla_client.wire import pack, unpack


class SequentialServer:
    """Answers one query after the other.

    Args:
        policy: folder, run or hub id.

    Attributes:
        metadata: the first frame of every connection.
    """

    def __init__(self, policy: str) -> None:
        self._policy = RDVLAPolicy.from_pretrained(policy)
        facts = load_policy(policy, name=policy).facts
        self._layout = Layout.of(facts, "auto")
        self.metadata = pack(
            {
                "layout": self._layout.name,
                "keys": {
                    "images": dict(self._layout.images),
                    "state": list(self._layout.state),
                    "instruction": self._layout.instruction,
                },
                "cameras": list(facts.cameras),
                "image_sizes": {camera: list(size) for camera, size in facts.image_sizes.items()},
                "state_dim": facts.state_dim,
                "instructions": list(facts.instructions),
            }
        )

    def answer(self, frame: bytes) -> bytes:
        """Return the reply to a message."""
        start = time.perf_counter()
        observation = self._layout.read(unpack(frame))
        prediction = self._policy.predict(observation.batched().torch())
        milliseconds = 1000 * (time.perf_counter() - start)
        return pack(
            {
                "actions": prediction.actions[0].float().numpy(),
                "depth": int(prediction.depth[0]),
                "server_timing": {"infer_ms": milliseconds},
            }
        )

    async def handle(self, socket: ServerConnection) -> None:
        """Serve a connection."""
        try:
            await socket.send(self.metadata)
            async for frame in socket:
                await socket.send(self.answer(bytes(frame)))  # type: ignore[arg-type]
        except ConnectionClosed:
            pass

    async def run(self, port: int) -> None:
        """Serve for ever."""
        async with serve(
            self.handle, "127.0.0.1", port, compression=None, max_size=None, process_request=_health
        ) as server:
            await server.serve_forever()


def _health(connection: ServerConnection, request: Request) -> Response | None:
    return connection.respond(HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_sequential", description=__doc__)
    parser.add_argument("--policy", default="metaworld")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(SequentialServer(options.policy).run(options.port))


if __name__ == "__main__":
    main()
