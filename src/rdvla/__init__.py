"""rdvla: vision-language-action policies that iterate a small recurrent core until the action has settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdvla.policy import PolicyConfig as PolicyConfig
    from rdvla.policy import RDVLAPolicy as RDVLAPolicy
    from rdvla.processing import Observation as Observation

__version__ = "0.1.0"
__all__ = ["Observation", "PolicyConfig", "RDVLAPolicy", "__version__"]

_HOMES = {
    "Observation": "rdvla.processing",
    "PolicyConfig": "rdvla.policy",
    "RDVLAPolicy": "rdvla.policy",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `rdvla --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rdvla' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
