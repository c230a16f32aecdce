"""The policy: backbone, head and the statistics that tie them to one robot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.hashing import fingerprint
    from rdvla.policy.config import PolicyConfig, compact_head
    from rdvla.policy.device import choose_device
    from rdvla.policy.facts import describe
    from rdvla.policy.policy import RDVLAPolicy
    from rdvla.policy.records import RESULTS, TRAINING
else:
    __getattr__, __dir__ = load_lazily(__name__)

__all__ = [
    "RESULTS",
    "TRAINING",
    "PolicyConfig",
    "RDVLAPolicy",
    "choose_device",
    "compact_head",
    "describe",
    "fingerprint",
]
