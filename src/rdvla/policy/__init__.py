"""The policy: backbone, head and the statistics that tie them to one robot."""

from rdvla.policy.config import PolicyConfig, compact_head
from rdvla.policy.facts import describe
from rdvla.policy.files import policy_folder
from rdvla.policy.policy import RDVLAPolicy

__all__ = ["PolicyConfig", "RDVLAPolicy", "compact_head", "describe", "policy_folder"]
