"""A connection that comes back after it was lost: messages in, messages out, errors told apart."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from rdvla_client.backoff import Backoff
from rdvla_client.errors import (
    BusyError,
    ClientError,
    ConnectionLostError,
    RefusedError,
    ReplyTimeoutError,
    ServerError,
    WireError,
)
from rdvla_client.wire import Limits, unpack

_CLOSE_S = 1.0  # for the closing handshake
_TOO_LARGE, _BUSY = 1009, 1013  # WebSocket close codes
_FULL = 503  # HTTP status of a server that has as many connections as it takes; it may have fewer soon
_ADVICE = {
    401: "give the api_key of the server",
    404: "the path after the port names a policy; check it",
    _FULL: "too many robots are connected",
}


@dataclass(frozen=True)
class Patience:
    """How long a client waits for a server."""

    open_s: float = 10.0  # longest for one attempt to connect
    reply_s: float = 60.0  # longest for one reply; the first of many servers takes longest, as they compile
    reconnect_s: float = 10.0  # for how long to try to connect before `ConnectionLostError`; 0: one attempt
    backoff: Backoff = field(default_factory=Backoff)  # delays between these attempts

    def __post_init__(self) -> None:
        if not (self.open_s > 0 and self.reply_s > 0 and self.reconnect_s >= 0):
            raise ValueError(f"times to wait are positive numbers of seconds, got {self}")


class Transport:
    """One WebSocket at a time to one address; used by one thread at a time, `close` apart.

    After any failure the connection is given up, so a late reply is never taken for another query's.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None,
        tls: ssl.SSLContext | None,
        patience: Patience,
        limits: Limits,
    ) -> None:
        self.address = address
        self.metadata: dict[str, Any] = {}  # the server's first frame
        self.connections = 0  # opened so far
        self._headers = None if api_key is None else {"Authorization": f"Api-Key {api_key}"}
        self._tls = tls
        self._patience = patience
        self._limits = limits
        self._closed = threading.Event()
        self._stack = ExitStack()
        self._connection: ClientConnection | None = None

    @property
    def connected(self) -> bool:
        """Whether a connection is open, as far as is known here."""
        connection = self._connection
        return connection is not None and connection.protocol.state is State.OPEN

    def connect(self) -> ClientConnection:
        """Return the connection; open one if there is none, with growing delays between attempts."""
        deadline = time.monotonic() + self._patience.reconnect_s
        delays = self._patience.backoff.delays()
        while True:
            connection = self._connection
            if connection is not None and self.connected:
                return connection
            self._drop()
            try:
                self._open()
            except (ConnectionLostError, RefusedError) as error:
                delay = next(delays)
                final = isinstance(error, RefusedError) and error.status != _FULL
                if final or time.monotonic() + delay > deadline or self._closed.wait(delay):
                    raise

    def exchange(self, message: bytes) -> dict[str, Any]:
        """Send a message and return the reply to it."""
        connection = self.connect()
        try:
            connection.send(message)
        except ConnectionClosed:  # the server closed while we sent; it may have said why
            return self._receive(connection, _CLOSE_S)
        return self._receive(connection, self._patience.reply_s)

    def ping_ms(self) -> float:
        """Return the milliseconds to the server and back."""
        connection = self.connect()
        begun = time.monotonic()
        try:
            answered = connection.ping().wait(self._patience.reply_s)
        except ConnectionClosed as error:
            raise self._lost(error) from error
        if not answered:
            raise ReplyTimeoutError(f"{self.address} answered no ping in {self._patience.reply_s:g} s")
        return 1000 * (time.monotonic() - begun)

    def close(self) -> None:
        """Close for good; whoever waits for a reply gets an error."""
        self._closed.set()
        self._drop()

    def _open(self) -> None:
        try:
            connection = self._stack.enter_context(
                connect(
                    self.address,
                    ssl=self._tls,
                    additional_headers=self._headers,
                    compression=None,  # images are better sent as they are than late
                    open_timeout=self._patience.open_s,
                    close_timeout=_CLOSE_S,
                    ping_timeout=None,  # a server that compiles answers no ping; replies have a timeout
                    max_size=self._limits.max_bytes,
                )
            )
        except InvalidStatus as error:
            raise self._refused(error) from error
        except ssl.SSLCertVerificationError as error:
            raise RefusedError(
                f"{self.address}: its certificate is not trusted ({error.verify_message}); give tls=", 0
            ) from error
        except (OSError, EOFError, InvalidHandshake) as error:
            raise ConnectionLostError(f"{self.address} does not answer: {error}") from error
        except WebSocketException as error:
            raise WireError(f"{self.address} is no policy server: {error}") from error
        self._connection = connection
        if self._closed.is_set():  # perhaps while we connected
            self._drop()
            raise ClientError("this client is closed; make another")
        _limit_sending(connection.socket, self._patience.reply_s)
        try:
            self.metadata = self._receive(connection, self._patience.open_s)
        except ReplyTimeoutError:
            raise WireError(f"{self.address} sends no metadata, so it is no openpi server") from None
        self.connections += 1

    def _refused(self, error: InvalidStatus) -> RefusedError:
        status = error.response.status_code
        said = bytes(error.response.body or b"").decode("utf-8", "replace").strip()[:300]
        reasons = [text for text in (said, _ADVICE.get(status, "")) if text]
        return RefusedError(
            ": ".join([f"{self.address} refuses the connection with HTTP {status}", *reasons]), status
        )

    def _receive(self, connection: ClientConnection, timeout_s: float) -> dict[str, Any]:
        try:
            frame = connection.recv(timeout=timeout_s)
            if isinstance(frame, str):
                raise _said(frame, connection)
            reply = unpack(frame, limits=self._limits)
            if not isinstance(reply, dict):
                raise WireError(f"{self.address} sent a {type(reply).__name__} instead of a map")
        except TimeoutError:
            self._drop()
            raise ReplyTimeoutError(f"{self.address} did not reply in {timeout_s:g} s") from None
        except ConnectionClosed as error:
            self._drop()
            raise self._lost(error) from error
        except ClientError:
            self._drop()
            raise
        return reply

    def _lost(self, error: ConnectionClosed) -> ClientError:
        code, reason = (None, "") if error.rcvd is None else (error.rcvd.code, error.rcvd.reason)
        if code == _BUSY:
            return BusyError(reason or f"{self.address} has too many queries; ask again later")
        if code == _TOO_LARGE or (error.sent is not None and error.sent.code == _TOO_LARGE):
            return WireError(f"a message is too large for one side of {self.address}: {reason or error}")
        return ConnectionLostError(
            f"the connection to {self.address} is lost ({reason or error}); the query may have been answered"
        )

    def _drop(self) -> None:
        self._connection = None
        self._stack.pop_all().close()


def _said(text: str, connection: ClientConnection) -> ServerError:
    """Return the error that a server's text is; the close code that follows says of which kind."""
    with suppress(ConnectionClosed, TimeoutError):
        connection.recv(timeout=_CLOSE_S)
    return BusyError(text) if connection.close_code == _BUSY else ServerError(text)


def _limit_sending(connection: socket.socket, timeout_s: float) -> None:
    """Give up a connection whose other end takes no data, where the system can; sending has no timeout."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(1000 * timeout_s)))
