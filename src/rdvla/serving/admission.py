"""The port before a robot is let in: pages over HTTP, and the checks of the opening handshake."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from rdvla.errors import ConfigError, nearest
from rdvla.live import LivePage
from rdvla.serving.config import ServeConfig
from rdvla.serving.endpoint import Endpoint
from rdvla.serving.metrics import Metrics
from rdvla.serving.security import is_authorised

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response


class Admission:
    """Answers HTTP requests, and decides who may connect.

    Args:
        config: limits.
        key: that clients must send; None: none.
        endpoints: name -> policy.
        metrics: its page, and where refusals are counted.
        page: the live page, which asks for the key itself, as browsers send no header; None: there is none.
    """

    def __init__(
        self,
        config: ServeConfig,
        key: str | None,
        *,
        endpoints: Mapping[str, Endpoint],
        metrics: Metrics,
        page: LivePage | None = None,
    ) -> None:
        self._config, self._key, self._page = config, key, page
        self._endpoints, self._metrics = endpoints, metrics

    def answer(self, connection: ServerConnection, request: Request, connected: int) -> Response | None:
        """Return the response to a request; None lets a robot in.

        Args:
            connection: before its handshake.
            request: its first lines.
            connected: robots at present.
        """
        path = _path(request)
        if path == "/healthz":
            return self._show_health(connection)
        if self._page is not None and self._page.owns(request.path):
            return self._page.respond(request)
        if not is_authorised(request.headers.get("Authorization"), self._key):
            self._metrics.refused("key")
            told = "this server needs its key, in the header 'Authorization: Api-Key KEY'\n"
            response = connection.respond(HTTPStatus.UNAUTHORIZED, told)
            response.headers["WWW-Authenticate"] = "Api-Key"
            return response
        if path == "/metrics":
            return self._show_metrics(connection)
        if "Origin" in request.headers:
            # A page of a stranger must not use the browser of somebody who can reach this port.
            self._metrics.refused("origin")
            return connection.respond(HTTPStatus.FORBIDDEN, "robots connect here, not pages in a browser\n")
        if self.endpoint(request) is None:
            self._metrics.refused("path")
            names = ", ".join(self._endpoints)
            told = f"there is no policy at {path[:80]!r}; there are {names}."
            told += nearest(path[1:80], self._endpoints) + "\n"
            return connection.respond(HTTPStatus.NOT_FOUND, told)
        if connected >= self._config.connections:
            self._metrics.refused("full")
            return connection.respond(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{connected} clients are connected, as many as this server takes: try again later, or raise "
                "--connections\n",
            )
        return None

    def endpoint(self, request: Request) -> Endpoint | None:
        """Return the policy at a request's path: the first at /, each at its name."""
        name = _path(request).strip("/")
        return self._endpoints.get(name) if name else next(iter(self._endpoints.values()))

    def _show_health(self, connection: ServerConnection) -> Response:
        if all(endpoint.asked.is_alive for endpoint in self._endpoints.values()):
            return connection.respond(HTTPStatus.OK, "OK\n")
        told = "a policy of this server runs no more; the server's log says why\n"
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, told)

    def _show_metrics(self, connection: ServerConnection) -> Response:
        body, kind = self._metrics.text()
        response = connection.respond(HTTPStatus.OK, "")
        response.body = body
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body)))):
            del response.headers[name]
            response.headers[name] = value
        return response


def _path(request: Request) -> str:
    return request.path.partition("?")[0]


def take_port(host: str, port: int) -> socket.socket:
    """Return a socket that is bound but does not listen yet.

    Raises:
        ConfigError: the host has no such address here, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"host {host!r} is no address of this machine: {error.strerror}") from None
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise ConfigError(
            f"cannot listen at port {port} of {host}: {error.strerror}. Choose another with --port, or end "
            "the program that has it"
        ) from None
    return taken
