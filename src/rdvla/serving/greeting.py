"""What a server says once it is open: what it takes, where, and how a robot connects."""

from __future__ import annotations

from collections.abc import Mapping

from rdvla.serving.config import KEY_VARIABLE
from rdvla.serving.endpoint import Endpoint


def greet(
    address: str, endpoints: Mapping[str, Endpoint], *, has_key: bool, has_page: bool, is_local: bool
) -> list[str]:
    """Return a few lines for whoever started a server.

    Args:
        address: as robots reach it.
        endpoints: name -> policy, the one at the path / first.
        has_key: clients need a key.
        has_page: there is a live page.
        is_local: only this machine reaches the port.
    """
    lines: list[str] = []
    for name, endpoint in endpoints.items():
        path = f"/{name}" if lines else ""
        lines.append(
            f"serving {name} ({endpoint.facts.form}) at {address}{path}, layout {endpoint.layout.name}: "
            f"{', '.join(endpoint.layout.keys)}"
        )
    if has_page:
        lines.append(f"live page: http{address.removeprefix('ws')}/live")
    arguments = f'"{address}"' + (', api_key="..."' if has_key else "")
    lines.append(
        f"on the robot: rdvla_client.PolicyClient({arguments}), or openpi_client.websocket_client_policy."
        f"WebsocketClientPolicy({arguments})"
    )
    if not is_local and not has_key:
        lines.append(
            f"warning: whoever reaches this port can use the policy; set {KEY_VARIABLE} or --api_key_file"
        )
    elif not is_local and address.startswith("ws:"):
        lines.append(
            "warning: the key crosses the network unencrypted; set --tls_certificate and --tls_key, or put "
            "the port behind a proxy or a tunnel"
        )
    return lines
