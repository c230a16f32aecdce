"""What a rollout needs of a simulated task, and how a worker builds one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rdvla import simulation
from rdvla.simulation.rendering import Rendering


class Environment(Protocol):
    """What a rollout needs of a simulated task."""

    instruction: str
    control_hz: float

    def reset(self, *, seed: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; the observation holds "state" (S,)."""
        ...

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Run one action; info holds "success"."""
        ...

    def render_cameras(self) -> dict[str, NDArray[np.uint8]]:
        """Camera images (H, W, 3) of the present moment."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


MakeEnvironment = Callable[[str, str], Environment]  # environment's name, task -> environment; has to pickle


def make_environment(
    env: str,
    task: str,
    *,
    cameras: tuple[str, ...],
    image_size: int,
    max_steps: Mapping[str, int],
    rendering: Rendering,
) -> Environment:
    """Build a simulated task, in the worker that plays it; `max_steps` are the limits by environment."""
    built: Environment = simulation.make(
        env,
        task,
        cameras=cameras,
        image_size=image_size,
        max_steps=max_steps[env],
        rendering=rendering,
    )
    return built
