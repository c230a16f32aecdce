"""A six-joint arm with two cameras of different sizes, as a stranger records it with `DatasetWriter`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rdvla.data import DatasetWriter, Episode

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
UNITS = (*["deg"] * 5, "%")
SIZES = {"top": (480, 640), "wrist": (239, 321)}


def arm_writer(root: Path, **changes: object) -> DatasetWriter:
    joints = {"dtype": "float32", "shape": (6,), "names": list(JOINTS), "units": list(UNITS)}
    settings = {
        "fps": 10,
        "features": {"observation.state": joints, "action": joints},
        "cameras": tuple(SIZES),
        "image_size": SIZES,
        "robot_type": "six_joint_arm",
    }
    return DatasetWriter.create(root, **(settings | changes))


def arm_episode(number: int, *, length: int = 12) -> Episode:
    rng = np.random.default_rng(number)
    state = np.cumsum(rng.normal(size=(length, 6)), axis=0) * 10  # float64, as a driver gives it
    images = {}
    for camera, (height, width) in SIZES.items():
        y, x = np.mgrid[:height, :width]
        shades = [np.stack([(x + 4 * t) % 256, y % 256, x * 0 + 80], axis=-1) for t in range(length)]
        images[camera] = np.stack(shades).astype(np.uint8)
    return Episode(
        {"observation.state": state, "action": state + 1.0}, images, task="put the cube in the box"
    )


def write_arm_dataset(root: Path, *, episodes: int = 2) -> Path:
    writer = arm_writer(root)
    for number in range(episodes):
        writer.add_episode(arm_episode(number))
    return writer.finalize()
