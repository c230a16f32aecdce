"""What a rollout needs of a simulated task, and how a worker builds one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rdvla import simulation


class Environment(Protocol):
    """What a rollout needs of a simulated task."""

    instruction: str

    def reset(self, *, seed: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; the observation holds "state" (S,)."""
        ...

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Run one action; info holds "success"."""
        ...

    def render_cameras(self) -> dict[str, NDArray[np.uint8]]:
        """Camera images (H, W, 3) of the present moment."""
        ...


MakeEnvironment = Callable[[str], Environment]  # task -> environment; has to pickle


def make_environment(env: str, task: str, *, cameras: tuple[str, ...], image_size: int) -> Environment:
    """Build a simulated task, in the worker that plays it."""
    built: Environment = simulation.make(env, task, cameras=cameras, image_size=image_size)
    return built
