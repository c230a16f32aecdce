"""MetaWorld's own scripted experts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import missing_extra
from rdvla.simulation.metaworld import MetaWorldEnv
from rdvla.simulation.rendering import choose_gl_backend


class MetaWorldExpert:
    """The benchmark's policy for one task. Raises `MissingExtraError` without the metaworld package."""

    def __init__(self, task: str, *, seed: int = 0) -> None:  # noqa: ARG002 (it leaves nothing to chance)
        choose_gl_backend()
        try:
            from metaworld.policies import ENV_POLICY_MAP
        except ImportError as error:
            raise missing_extra("metaworld", "metaworld") from error
        # The experts ask for more than the action range far from their target and say so at every step.
        warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
        policy: Any = ENV_POLICY_MAP[task]
        self._policy = policy()

    def action(self, env: MetaWorldEnv) -> NDArray[np.float32]:
        """Return the expert's action (4,) in [-1, 1]."""
        action = np.asarray(self._policy.get_action(env.full_observation()), dtype=np.float32)
        return np.clip(action, -1.0, 1.0)
