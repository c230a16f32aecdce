"""`rdvla serve`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rdvla.errors import optional
from rdvla.serving.config import ServeConfig

if TYPE_CHECKING:
    from rdvla.serving import PolicyServer


def run(config: ServeConfig) -> None:
    """Serve a policy to robots: `rdvla serve POLICY`. openpi's clients work unchanged.

    Listens on this machine only, unless --host says otherwise. Ends with Ctrl-C or SIGTERM, once running
    queries are answered.
    """
    with optional("serve"):
        from rdvla.serving.log import log_to_stderr
        from rdvla.serving.memory import share_one_heap
        from rdvla.serving.server import PolicyServer

        log_to_stderr(config.log_format)
        share_one_heap()  # before torch starts threads
        server = PolicyServer(config)
    asyncio.run(_serve(server))


def in_full(argv: Sequence[str]) -> list[str]:
    """Write the policy in front as the option that it is."""
    words = list(argv)
    return ["--policy", *words] if words and not words[0].startswith("-") else words


async def _serve(server: PolicyServer) -> None:
    loop, opened = asyncio.get_running_loop(), asyncio.Event()
    serving = asyncio.create_task(server.run(opened))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    await asyncio.wait({serving, asyncio.create_task(opened.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        for line in server.greeting():
            print(line, flush=True)
    await serving
