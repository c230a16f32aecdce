"""The live page in a thread of its own, for evaluations."""

from __future__ import annotations

import asyncio
import threading
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rdvla.errors import ConfigError, optional
from rdvla.live.page import PATH, LivePage

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

HOST = "127.0.0.1"  # this machine alone, unless someone says otherwise
PORT = 8700
READY_TIMEOUT = 30.0  # seconds


class LiveServer:
    """Serves a live page until the end of the `with` block.

    Args:
        page: the page.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        farewell: what watchers are told at the end.

    Raises:
        ConfigError: nobody can listen there; raised by `with`.
    """

    def __init__(self, page: LivePage, *, host: str = HOST, port: int = PORT, farewell: str = "") -> None:
        self._page, self._host, self._port, self._farewell = page, host, port, farewell
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="live page", daemon=True)

    @property
    def address(self) -> str:
        """Where a browser on this machine finds the page."""
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)  # noqa: S104
        return f"http://{host}:{self._port}{PATH}"

    def __enter__(self) -> Self:
        with optional("serve"):
            import websockets.asyncio.server  # noqa: F401  (a missing package is told here, not in the thread)

        self._thread.start()
        self._ready.wait(READY_TIMEOUT)
        if self._problem is not None:
            raise ConfigError(
                f"the live page cannot listen on {self._host} port {self._port}: {self._problem}. "
                "Name another port, or 0 for a free one"
            ) from self._problem
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(READY_TIMEOUT)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        from websockets.asyncio.server import serve

        self._loop = asyncio.get_running_loop()
        try:
            server = await serve(
                self._page.watch,
                self._host,
                self._port,
                process_request=self._respond,
                max_size=2**16,
                server_header=None,
            )
        except OSError as error:
            self._problem = error
            self._ready.set()
            return
        self._port = next(iter(server.sockets)).getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close(code=1001, reason=self._farewell)
        await server.wait_closed()

    async def _respond(self, connection: ServerConnection, request: Request) -> Response | None:
        if self._page.owns(request.path):
            return self._page.respond(request)
        path = request.path.partition("?")[0]
        if path == "/":
            response = connection.respond(HTTPStatus.TEMPORARY_REDIRECT, "")
            response.headers["Location"] = PATH
            return response
        return connection.respond(HTTPStatus.NOT_FOUND, f"the live page is at {PATH}\n")
