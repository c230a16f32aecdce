"""Robots whose connection was lost while a person held them: whoever comes back must not move by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdvla.control import Desk

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

ALIVE_SECONDS = 2.0  # in which a robot that is held has to answer a ping when another comes from its host
ABORT_SECONDS = 1.0  # until a connection that was ended has gone


@dataclass(frozen=True)
class _Robot:
    policy: str
    host: str
    socket: ServerConnection


class Lost:
    """Remembers who was lost, by policy and host: nothing else of a client stays the same.

    Args:
        desk: says which robots are held.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._here: dict[str, _Robot] = {}
        self._held: Counter[tuple[str, str]] = Counter()

    async def settle(self, policy: str, host: str) -> None:
        """End connections of held robots that do not answer any more, before a newcomer's phase is decided.

        A network that breaks tells the server nothing, so the robot may be back before its old connection
        has gone.
        """
        held = [
            (name, robot.socket)
            for name, robot in self._here.items()
            if (robot.policy, robot.host) == (policy, host) and self._desk.phase(name) != "autonomous"
        ]
        await asyncio.gather(*(self._end_if_dead(name, socket) for name, socket in held))

    def came(self, robot: str, policy: str, socket: ServerConnection) -> bool:
        """A robot connected; return whether it takes the place of one that was lost."""
        host = host_of(socket)
        self._here[robot] = _Robot(policy, host, socket)
        is_held = self._held[policy, host] > 0
        self._held -= Counter({(policy, host): 1})  # keeps what is above 0
        return is_held

    def went(self, robot: str) -> None:
        """A robot disconnected; its place is kept if it was held. The desk must still know it."""
        gone = self._here.pop(robot)
        if self._desk.phase(robot) != "autonomous":
            self._held[gone.policy, gone.host] += 1

    async def _end_if_dead(self, robot: str, socket: ServerConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                await (await socket.ping())
        except ConnectionClosed:
            pass
        except TimeoutError:
            socket.transport.abort()
        else:
            return
        for _ in range(round(ABORT_SECONDS / 0.01)):
            if robot not in self._here:
                return
            await asyncio.sleep(0.01)


def host_of(socket: ServerConnection) -> str:
    """Return the address of the machine at the other end."""
    return str((socket.remote_address or ("",))[0])
