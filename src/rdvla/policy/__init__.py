"""The policy: backbone, head and the statistics that tie them to one robot."""

from rdvla.policy.config import PolicyConfig, compact_head
from rdvla.policy.policy import RDVLAPolicy

__all__ = ["PolicyConfig", "RDVLAPolicy", "compact_head"]
