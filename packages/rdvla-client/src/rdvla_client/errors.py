"""The errors of the client, each with a message that says what happened and what to do."""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """Base of every error that the client raises for what servers, networks and callers do."""


class WireError(ClientError, ValueError):
    """Bytes are no message of the protocol or exceed a limit, or a value cannot be sent."""


class ConnectionLostError(ClientError, ConnectionError):
    """The server cannot be reached, or the connection broke; it may come back."""


class ReplyTimeoutError(ClientError, TimeoutError):
    """The server did not reply in time; its late reply is thrown away."""


class RefusedError(ClientError):
    """The server refused the connection: a wrong key or address, or too many connections.

    Attributes:
        status: the HTTP status of its answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ServerError(ClientError):
    """The server could not answer a query; the message is the server's own text."""


class BusyError(ServerError):
    """Too many queries wait at the server: ask again later, or ask another one."""


class NonFiniteError(ClientError, ValueError):
    """The server's actions hold a NaN or an infinite number, so no robot may execute them.

    Attributes:
        reply: the server's.
    """

    def __init__(self, message: str, reply: dict[str, Any]) -> None:
        super().__init__(message)
        self.reply = reply


class UnsupportedError(ClientError, ValueError):
    """The server does not understand an option; another protocol or an older version."""
