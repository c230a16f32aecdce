"""A robot of LeRobot without hardware: writes down what happens to it, and ends as by a service manager.

The tests install it as the distribution `lerobot_robot_fake`.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.robots import Robot, RobotConfig

JOINTS = ("x.pos", "y.pos", "z.pos", "grip.pos")
POSITION = (0.1, 0.2, 0.3, 0.4)


@RobotConfig.register_subclass("fake")
@dataclass
class FakeConfig(RobotConfig):
    """Where to write, and after how many actions to end."""

    log: str = ""
    actions: int = 8


class Fake(Robot):
    """Shows the same at every step."""

    config_class = FakeConfig
    name = "fake"

    def __init__(self, config: FakeConfig) -> None:
        super().__init__(config)
        self._log, self._left = Path(config.log), config.actions
        self._connected = False

    @property
    def observation_features(self) -> dict[str, Any]:
        return {**dict.fromkeys(JOINTS, float), "front": (32, 32, 3), "hand": (32, 32, 3)}

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(JOINTS, float)

    @property
    def is_connected(self) -> bool:
        return self._connected

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True
        self._write("connected")

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    def get_observation(self) -> dict[str, Any]:
        image = np.arange(32 * 32 * 3, dtype=np.int64).reshape(32, 32, 3).astype(np.uint8)
        return {**dict(zip(JOINTS, POSITION, strict=True)), "front": image, "hand": image[::-1].copy()}

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        self._write(action)
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGTERM)
        return action

    def disconnect(self) -> None:
        self._connected = False
        self._write("disconnected")

    def _write(self, event: Any) -> None:
        with self._log.open("a") as file:
            file.write(json.dumps(event) + "\n")
