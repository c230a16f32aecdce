"""A client's messages, in and out. Whoever waits for the client also sees it go, and the server stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rdvla.errors import InputError

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

T = TypeVar("T")

INTERNAL_ERROR, TRY_LATER, GOING_AWAY = 1011, 1013, 1001  # codes of RFC 6455
_DEPTH_OF_MESSAGES = 8  # maps and lists in each other
_ITEMS = 4096  # values in a message


class Gone(Exception):  # noqa: N818  # no error: clients come and go
    """The client has gone, or the server stops."""


class Channel:
    """One client's messages; an async context manager.

    Args:
        socket: after its handshake.
        message_bytes: of the largest message that is taken.
        idle_seconds: after so long without a message the connection is closed.
        stopping: set when the server stops.
    """

    def __init__(
        self, socket: ServerConnection, *, message_bytes: int, idle_seconds: float, stopping: asyncio.Event
    ) -> None:
        from rdvla_client.wire import Limits

        self._socket, self._idle_seconds, self._stopping = socket, idle_seconds, stopping
        self._limits = Limits(
            max_bytes=message_bytes,
            max_array_bytes=message_bytes,
            max_items=_ITEMS,
            max_depth=_DEPTH_OF_MESSAGES,
        )
        self._gone: asyncio.Task[Any]
        self._stop: asyncio.Task[Any]

    async def __aenter__(self) -> Self:
        self._gone = asyncio.create_task(self._socket.wait_closed())
        self._stop = asyncio.create_task(self._stopping.wait())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _cancel(self._gone)
        await _cancel(self._stop)

    async def receive(self) -> Mapping[str, Any]:
        """Return the next message.

        Raises:
            Gone: there is none.
            WireError: the bytes are no message, or exceed a limit.
            InputError: it is no map.
        """
        from websockets.exceptions import ConnectionClosed

        from rdvla_client import wire

        receiving = asyncio.create_task(self._socket.recv())
        try:
            await asyncio.wait(
                {receiving, self._stop}, timeout=self._idle_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if not receiving.done():
                why = "the server stops" if self._stop.done() else "no message came for too long"
                await self._socket.close(GOING_AWAY, why)
                raise Gone
            data = receiving.result()
        except ConnectionClosed:
            raise Gone from None
        finally:
            await _cancel(receiving)
        if isinstance(data, str):
            raise InputError("a message is a binary frame of msgpack, as openpi's client sends; got a text")
        message = wire.unpack(data, limits=self._limits)
        if not isinstance(message, Mapping):
            raise InputError(f"a message is a map with an observation, got {type(message).__name__}")
        return message

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a message.

        Raises:
            Gone: the client has gone.
        """
        from websockets.exceptions import ConnectionClosed

        from rdvla_client import wire

        try:
            await self._socket.send(wire.pack(message))
        except ConnectionClosed:
            raise Gone from None

    async def unless_gone(self, work: Awaitable[T]) -> T:
        """Return what the work gives; give it up if the client goes meanwhile.

        Raises:
            Gone: it did.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Gone
            return task.result()
        finally:
            await _cancel(task)

    async def refuse(self, told: str, code: int) -> None:
        """Send a sentence, as openpi's servers send what went wrong, and close the connection."""
        from websockets.exceptions import ConnectionClosed

        with suppress(ConnectionClosed):
            await self._socket.send(told)
            await self._socket.close(code, "busy" if code == TRY_LATER else "the text before says why")


async def _cancel(task: asyncio.Future[Any]) -> None:
    """End a task whose result nobody needs any more."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # or asyncio would complain that nobody has seen it
