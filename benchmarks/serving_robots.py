"""What robots send in the serving benchmarks: random observations that fit a server, repeatable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rdvla.rollout import starting_seed
from rdvla.serving.sending import MessageNames
from rdvla.types import Observation


def robot_observation(metadata: Mapping[str, Any], robot: int, number: int) -> Observation:
    """Return observation `number` of a robot, which fits the server's policy."""
    random = np.random.default_rng([robot, number])
    images = {
        camera: random.integers(0, 256, (*metadata["image_sizes"][camera], 3), dtype=np.uint8)
        for camera in metadata["cameras"]
    }
    state = random.normal(0, 0.3, metadata["state_dim"]).astype(np.float32)
    sentences = metadata.get("instructions") or ["pick up the cup"]
    return Observation(images, state, sentences[robot % len(sentences)])


def robot_seed(robot: int, number: int) -> int:
    """Return the seed of S_0 of a robot's query."""
    return starting_seed("robot", robot, number)


def robot_message(
    metadata: Mapping[str, Any], robot: int, number: int, *, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a robot's message with observation `number`, and rdvla's options if there are any."""
    message = MessageNames.told(metadata)(robot_observation(metadata, robot, number))
    return message if options is None else {**message, "rdvla": dict(options)}
