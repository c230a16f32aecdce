"""Connects a robot to a policy server: numpy, websockets and msgpack, no torch. Imports nothing of rdvla."""

from rdvla_client.backoff import Backoff
from rdvla_client.blending import Blend
from rdvla_client.client import PolicyClient
from rdvla_client.errors import (
    BusyError,
    ClientError,
    ConnectionLostError,
    NonFiniteError,
    RefusedError,
    ReplyTimeoutError,
    ServerError,
    UnsupportedError,
    WireError,
)
from rdvla_client.limits import ActionLimits
from rdvla_client.robot import Counts, RobotClient, Step
from rdvla_client.transport import Patience
from rdvla_client.wire import Limits
from rdvla_client.wiring import Wiring

__all__ = [
    "ActionLimits",
    "Backoff",
    "Blend",
    "BusyError",
    "ClientError",
    "ConnectionLostError",
    "Counts",
    "Limits",
    "NonFiniteError",
    "Patience",
    "PolicyClient",
    "RefusedError",
    "ReplyTimeoutError",
    "RobotClient",
    "ServerError",
    "Step",
    "UnsupportedError",
    "WireError",
    "Wiring",
]
