"""Connects a robot to a policy server: numpy, websockets and msgpack, no torch. Imports nothing of rdvla."""

from rdvla_client.backoff import Backoff
from rdvla_client.client import PolicyClient
from rdvla_client.errors import (
    BusyError,
    ClientError,
    ConnectionLostError,
    RefusedError,
    ReplyTimeoutError,
    ServerError,
    UnsupportedError,
    WireError,
)
from rdvla_client.transport import Patience
from rdvla_client.wire import Limits

__all__ = [
    "Backoff",
    "BusyError",
    "ClientError",
    "ConnectionLostError",
    "Limits",
    "Patience",
    "PolicyClient",
    "RefusedError",
    "ReplyTimeoutError",
    "ServerError",
    "UnsupportedError",
    "WireError",
]
