"""A small policy server for the client's tests: openpi's protocol, with answers and faults from a test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from rdvla_client.wire import pack, unpack

OPTIONS = ["max_depth", "deadline_ms", "stop", "execution", "seed", "executed", "reset"]


class Close(Exception):
    """What an answer raises to close the connection: a text before it, and the code."""

    def __init__(self, text: str = "", code: int = 1011, reason: str = "") -> None:
        self.text, self.code, self.reason = text, code, reason


class Vanish(Exception):
    """What an answer raises to break the connection without a word."""


@dataclass
class Served:
    """A running server: where it is, and what it was sent."""

    address: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)  # one for each connection
    headers: list[Mapping[str, str]] = field(default_factory=list)

    @property
    def options(self) -> list[dict[str, Any]]:
        """The options of every message."""
        return [message.get("rdvla", {}) for message in self.messages]


Answer = Callable[[dict[str, Any]], Any]


def zeros(message: Mapping[str, Any], *, chunk_size: int = 4, action_dim: int = 2) -> dict[str, Any]:
    """A chunk that stands still."""
    return {"actions": np.zeros((chunk_size, action_dim), np.float32), "execute_steps": chunk_size}


@contextmanager
def policy_server(
    answer: Answer = zeros,
    *,
    metadata: Any = None,
    port: int = 0,
    refuse: Callable[[str | None], tuple[HTTPStatus, str] | None] = lambda key: None,
    greet: Callable[[ServerConnection], None] | None = None,
    ssl: Any = None,
) -> Iterator[Served]:
    """Serve on the loopback interface until the block ends.

    Args:
        answer: message -> reply: a dict, or raw bytes or text; may raise `Close` or `Vanish`.
        metadata: first frame; by default that of a server of rdvla.
        port: 0 for a free one.
        refuse: authorization header -> status and text with which to refuse a connection.
        greet: replaces the first frame.
        ssl: a server's TLS context.
    """
    first = (
        {"protocol": "openpi", "server": "rdvla test", "options": OPTIONS} if metadata is None else metadata
    )
    served = Served("")
    opened: list[ServerConnection] = []

    def check(connection: ServerConnection, request: Any) -> Any:
        served.headers.append(dict(request.headers.raw_items()))
        refusal = refuse(request.headers.get("Authorization"))
        return None if refusal is None else connection.respond(*refusal)

    def handle(connection: ServerConnection) -> None:
        opened.append(connection)
        assert connection.request is not None
        served.paths.append(connection.request.path)
        try:
            greet(connection) if greet else connection.send(pack(first))
            for frame in connection:
                message = unpack(frame)
                served.messages.append(message)
                reply = answer(message)
                connection.send(reply if isinstance(reply, bytes | str) else pack(reply))
        except Close as close:
            if close.text:
                connection.send(close.text)
            connection.close(close.code, close.reason)
        except Vanish:
            connection.socket.shutdown(socket.SHUT_RDWR)
        except ConnectionClosed:
            pass

    with serve(
        handle,
        "127.0.0.1",
        port,
        compression=None,
        max_size=None,
        process_request=check,
        ssl=ssl,
        close_timeout=1,
    ) as server:
        served.address = f"127.0.0.1:{server.socket.getsockname()[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            for connection in opened:  # older versions of websockets leave them open
                connection.close(1001)
            thread.join(timeout=10)


def eventually(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    """Wait until a condition holds; fail if it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "this never happened"
        time.sleep(0.005)
