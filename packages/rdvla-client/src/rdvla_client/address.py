"""Where a policy server is: what people write, as the address of a WebSocket."""

from __future__ import annotations

from urllib.parse import urlsplit

DEFAULT_PORT = 8000  # of openpi's server and of rdvla's
_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


def websocket_address(address: str, port: int | None = None) -> str:
    """Return the address of a server's WebSocket.

    Args:
        address: ``ws://host:port/policy``, ``wss://...``, or ``host``, ``host:port``, ``host:port/policy``.
            The path chooses one of several policies. A host alone is asked at port 8000.
        port: the port, if `address` has none.

    Raises:
        ValueError: it is no such address, or the port is given twice.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "ws", address
    if scheme not in _SCHEMES:
        raise ValueError(f"the address {address!r} begins with {scheme}://; write ws://, wss:// or host:port")
    try:
        parsed = urlsplit(f"//{rest}")
        written = parsed.port
    except ValueError:
        raise ValueError(f"the address {address!r} has no valid port; write host:port") from None
    if not parsed.hostname or parsed.username is not None or parsed.query or parsed.fragment:
        raise ValueError(f"the address {address!r} is not understood; write ws://host:port or host:port")
    if port is not None and written is not None:
        raise ValueError(f"the address {address!r} has a port already, and port {port} is given too")
    host = f"[{parsed.hostname}]" if ":" in parsed.hostname else parsed.hostname
    chosen = port if written is None else written
    if chosen is None and not separator:
        chosen = DEFAULT_PORT
    return f"{_SCHEMES[scheme]}://{host}{'' if chosen is None else f':{chosen}'}{parsed.path}"
