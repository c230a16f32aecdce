"""Loads the policies that a configuration names, for the server."""

from __future__ import annotations

import asyncio

from rdvla.serving.config import ServeConfig
from rdvla.serving.endpoint import Endpoint
from rdvla.serving.loading import load_policy
from rdvla.serving.queries import Answer, Query, ServedPolicy


def open_endpoints(config: ServeConfig) -> list[Endpoint]:
    """Load every policy, the one at the path / first.

    Raises:
        RDVLAError: a policy cannot be loaded, or does not fit the layout.
    """
    opened = []
    for name, source in config.sources.items():
        policy = load_policy(
            source, name=name, compiled=config.compiled, threads=config.threads, device=config.device
        )
        opened.append(Endpoint.of(policy.front(), _OneByOne(policy), config))
    return opened


class _OneByOne:
    """Answers queries one after another, in a thread."""

    def __init__(self, policy: ServedPolicy) -> None:
        self._policy = policy
        self._free = asyncio.Lock()

    async def ask(self, query: Query) -> Answer:
        async with self._free:
            return (await asyncio.to_thread(self._policy.predict, [query]))[0]

    async def close(self) -> None:
        pass
