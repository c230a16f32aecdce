"""One port: WebSockets for robots, and over HTTP /healthz, /metrics and the live page."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from logging import ERROR
from socket import gethostname
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rdvla.control import Desk
from rdvla.errors import RDVLAError, optional
from rdvla.live import Hub, LivePage
from rdvla.live.rerun import RerunLog
from rdvla.serving.admission import Admission, take_port
from rdvla.serving.config import ServeConfig
from rdvla.serving.connection import Connection, Rules
from rdvla.serving.endpoint import Endpoint
from rdvla.serving.greeting import greet
from rdvla.serving.log import log_event
from rdvla.serving.lost import host_of
from rdvla.serving.metrics import Metrics
from rdvla.serving.opening import open_endpoints
from rdvla.serving.security import read_api_key, tls_context
from rdvla.serving.watching import Watching

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

WAITING_MESSAGES = 2  # of a client that does not wait for its replies
OPEN_SECONDS = 10.0  # for TLS and the opening handshake
CLOSE_SECONDS = 5.0
_LOCAL_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # all addresses -> one of them


class PolicyServer:
    """Serves policies to robots that speak openpi's protocol.

    `run` serves in the present event loop. `start` and `stop`, or a ``with`` block, serve from a thread:

        >>> with PolicyServer(ServeConfig(policy="metaworld", port=0)) as server:
        ...     print(server.address)

    The port is taken first, so nobody loads a policy for a port that is in use. It opens only once every
    policy is loaded and has answered a query.

    Args:
        config: what to serve, and how.
        endpoints: policies that are loaded already; by default those that the configuration names. The first
            is at the path /.
        hub: where every query is told, also for others than the live page; one of its own if not given and
            the configuration asks for the page.
        desk: where a person steps in.

    Raises:
        RDVLAError: the port cannot be taken, a file of the configuration cannot be read, or a policy cannot
            be loaded or does not fit the layout.
    """

    def __init__(
        self,
        config: ServeConfig,
        *,
        endpoints: Sequence[Endpoint] | None = None,
        hub: Hub | None = None,
        desk: Desk | None = None,
    ) -> None:
        with optional("serve"):
            # Both are needed later; if one is missing, that is said now.
            import websockets.asyncio.server  # noqa: F401

            import rdvla_client.wire  # noqa: F401
        self.config = config
        self.metrics = Metrics()
        self._key = read_api_key(config)
        self._tls = tls_context(config)
        desk = desk or Desk()
        hub = hub or (Hub() if config.live or config.rerun else None)
        self.page: LivePage | None = None
        if config.live and hub is not None:
            self.page = LivePage(hub, desk, self._key, title=", ".join(config.sources))
        self._rerun = RerunLog(hub, config.rerun) if config.rerun and hub is not None else nullcontext()
        self._watching = Watching(hub, desk)
        self._socket = take_port(config.host, config.port)
        try:
            opened = open_endpoints(config) if endpoints is None else endpoints
        except BaseException:
            self._socket.close()
            raise
        self.endpoints: Mapping[str, Endpoint] = {endpoint.facts.name: endpoint for endpoint in opened}
        self._admission = Admission(
            config, self._key, endpoints=self.endpoints, metrics=self.metrics, page=self.page
        )
        self._metadata = {
            name: endpoint.metadata(self.endpoints) for name, endpoint in self.endpoints.items()
        }
        self._connections = 0  # at present
        self._came = 0  # so far
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def address(self) -> str:
        """What clients of this machine connect to, such as ws://127.0.0.1:8000."""
        return self._address(_LOCAL_HOSTS.get(self._bound_host, self._bound_host))

    @property
    def port(self) -> int:
        """The port, also if the configuration leaves it open."""
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def _bound_host(self) -> str:
        host: str = self._socket.getsockname()[0]
        return host

    def _address(self, host: str) -> str:
        shown = f"[{host}]" if ":" in host else host
        return f"{'ws' if self._tls is None else 'wss'}://{shown}:{self.port}"

    def greeting(self) -> list[str]:
        """Say in a few lines what is served and how a robot connects."""
        is_everywhere = self._bound_host in _LOCAL_HOSTS
        return greet(
            self._address(gethostname()) if is_everywhere else self.address,
            self.endpoints,
            has_key=self._key is not None,
            has_page=self.page is not None,
            is_local=self.config.is_local,
        )

    # --- running ---

    async def run(self, opened: asyncio.Event | threading.Event | None = None) -> None:
        """Serve until `stop` is called.

        Args:
            opened: set once clients can connect.

        Raises:
            RDVLAError: a policy cannot answer a query, or not all of them could be logged to Rerun.
        """
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            with self._rerun:
                await self._run(opened, self._stopping)
        finally:
            self._socket.close()
            await self._close_policies()

    async def _run(self, opened: asyncio.Event | threading.Event | None, stopping: asyncio.Event) -> None:
        from websockets.asyncio.server import serve

        await self._warm_up()
        server = await serve(
            self._handle,
            sock=self._socket,
            ssl=self._tls,
            process_request=self._admit,
            compression=None,  # as openpi; nothing can unpack to more than was sent
            max_size=max(endpoint.message_bytes for endpoint in self.endpoints.values()),
            max_queue=WAITING_MESSAGES,
            open_timeout=OPEN_SECONDS,
            close_timeout=CLOSE_SECONDS,
            server_header=None,
        )
        log_event("open", address=self.address, policies=list(self.endpoints))
        if opened is not None:
            opened.set()
        await stopping.wait()
        await self._drain(server)

    async def _close_policies(self) -> None:
        """Close every policy, whatever becomes of the others."""
        closing = (endpoint.asked.close() for endpoint in self.endpoints.values())
        results = await asyncio.gather(*closing, return_exceptions=True)
        for name, result in zip(self.endpoints, results, strict=True):
            if isinstance(result, BaseException):
                log_event("policy not closed", level=ERROR, error=result, policy=name)

    def stop(self) -> None:
        """Stop once running queries are answered, and close every connection; any thread may call it."""
        if self._loop is not None and self._stopping is not None:
            with suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self.config.grace_seconds + 2 * CLOSE_SECONDS)
        if self._loop is None:  # it never ran
            self._socket.close()
            closing = threading.Thread(target=lambda: asyncio.run(self._close_policies()))
            closing.start()  # the caller's thread may have a loop that runs
            closing.join()

    def start(self) -> Self:
        """Serve from a thread; return once clients can connect.

        Raises:
            RDVLAError: a policy cannot answer a query.
        """
        opened = threading.Event()

        def serve() -> None:
            try:
                asyncio.run(self.run(opened))
            except BaseException as error:  # noqa: BLE001  # raised below, in the thread that waits
                self._failure = error
            finally:
                opened.set()

        self._thread = threading.Thread(target=serve, name="rdvla serve", daemon=True)
        self._thread.start()
        opened.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _warm_up(self) -> None:
        """Ask every policy once: the first query compiles and fills caches."""
        for name, endpoint in self.endpoints.items():
            began = time.monotonic()
            try:
                await endpoint.asked.warm_up(endpoint.example())
            except RDVLAError as error:
                raise RDVLAError(f"policy {name!r} does not answer: {error}") from error
            log_event("ready", policy=name, seconds=round(time.monotonic() - began, 3))

    async def _drain(self, server: Server) -> None:
        """Close connections once their running query is answered, or the time for it is up."""
        log_event("stopping", connections=self._connections)
        server.close(close_connections=False)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.config.grace_seconds):
                while self._connections:
                    await asyncio.sleep(0.01)
        await asyncio.gather(
            *(connection.close(1001, "the server stops") for connection in set(server.connections)),
            return_exceptions=True,
        )
        await server.wait_closed()
        log_event("stopped", connections=self._came)

    # --- connections ---

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        return self._admission.answer(connection, request, self._connections)

    async def _handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None and self._stopping is not None
        if self.page is not None and self.page.owns(socket.request.path):
            await self.page.watch(socket)
            return
        endpoint = self._admission.endpoint(socket.request)
        assert endpoint is not None
        await self._watching.settle(endpoint.facts.name, socket)
        if self._connections >= self.config.connections:  # several handshakes at the same time
            await socket.close(1013, "too many clients")
            return
        connection = Connection(
            f"robot-{self._came}",
            self._came,
            endpoint=endpoint,
            metadata=self._metadata[endpoint.facts.name],
            rules=Rules(
                depth_limit=self.config.depth_limit,
                idle_seconds=self.config.idle_seconds,
                seed=self.config.seed,
                log_queries=self.config.log_queries,
                log_instructions=self.config.log_instructions,
            ),
            metrics=self.metrics,
            watching=self._watching,
            stopping=self._stopping,
        )
        self._came += 1
        self._connections += 1
        await self._serve(connection, endpoint, socket)

    async def _serve(self, connection: Connection, endpoint: Endpoint, socket: ServerConnection) -> None:
        name, policy, began = connection.name, connection.policy, time.monotonic()
        self.metrics.connected(policy, 1)
        log_event("connected", connection=name, policy=policy, peer=host_of(socket))
        self._watching.came(name, endpoint, socket)
        try:
            await connection.run(socket)
        finally:
            self._connections -= 1
            self.metrics.connected(policy, -1)
            self._watching.went(name, policy)
            log_event(
                "disconnected",
                connection=name,
                queries=connection.queries,
                seconds=round(time.monotonic() - began, 1),
                code=socket.close_code,
            )
