"""rdvla's policies in LeRobot; LeRobot imports this package when it starts.

Importing it registers the policy's configuration, its learning rate schedule and its processing steps.
"""

from __future__ import annotations

try:
    import lerobot  # noqa: F401
except ImportError as error:
    raise ImportError(
        "lerobot_policy_rdvla is a part of LeRobot: install it with pip install 'lerobot>=0.6' (Python 3.12)"
    ) from error

from lerobot_policy_rdvla.configuration_rdvla import RDVLAConfig
from lerobot_policy_rdvla.processor_rdvla import make_rdvla_pre_post_processors

__all__ = ["RDVLAConfig", "make_rdvla_pre_post_processors"]
