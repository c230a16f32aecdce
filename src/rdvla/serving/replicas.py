"""Copies of a policy that answer at the same time: in a thread of this process, or as processes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from rdvla.serving.queries import Answer, Query, ServedPolicy


class ThreadReplica:
    """Runs a policy in a thread of this process; a `Replica`."""

    def __init__(self, policy: ServedPolicy) -> None:
        self._policy = policy
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"policy {policy.facts.name}")

    async def predict(self, queries: list[Query]) -> list[Answer]:
        """See `Replica.predict`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._policy.predict, queries)

    async def restart(self) -> None:
        """See `Replica.restart`; a thread does not die alone."""

    async def close(self) -> None:
        """See `Replica.close`."""
        await asyncio.to_thread(self._thread.shutdown)
