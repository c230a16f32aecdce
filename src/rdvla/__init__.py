"""rdvla: vision-language-action policies that iterate a small recurrent core until the action has settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.policy import PolicyConfig, RDVLAPolicy
    from rdvla.types import Observation
else:
    __getattr__, __dir__ = load_lazily(__name__)

__version__ = "0.1.0"
__all__ = ["Observation", "PolicyConfig", "RDVLAPolicy", "__version__"]
