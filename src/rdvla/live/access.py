"""Who may open the live page: checks of the Origin and Host headers, and of the key."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit


def origin_problem(
    origin: str | None, host: str | None, *, keyed: bool, origins: Collection[str] = ()
) -> str | None:
    """Return why a browser's request is refused; None if it is fine.

    A page of another site must not reach the socket through the browser of someone who may. Its Origin gives
    it away. If no key is asked for, the Host must also be an address or this machine's own name: a stranger
    can point a name of theirs at this machine, and Origin and Host then agree.

    Args:
        origin: the request's Origin header; programs send none.
        host: its Host header.
        keyed: whether watchers need a key.
        origins: further origins to accept, such as ``https://robots.example.org`` of a proxy.
    """
    if origin is not None and origin in origins:
        return None
    if not host:
        return "the request has no Host header"
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return f"pages of {origin} may not read this server: open the page from its own address"
    if not keyed and not _is_own(host):
        return (
            f"this server has no key, so it answers only under its address or its own name, not as {host}: "
            "open it by its IP address, or set a key"
        )
    return None


def same_key(given: object, key: str) -> bool:
    """Return whether a key is right, in a time that does not tell how much of it is."""
    if not isinstance(given, str):
        return False
    # JSON can hold half of a surrogate pair, which is no text to encode otherwise.
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), key.encode("utf-8", "surrogatepass"))


def _is_own(host: str) -> bool:
    name = (urlsplit(f"//{host}").hostname or "").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        own = socket.gethostname().lower()
        return name in {"localhost", own, f"{own}.local", own.partition(".")[0]} or name.endswith(
            ".localhost"
        )
    return True
