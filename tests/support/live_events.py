"""Events as a policy would cause them, for the live page."""

from __future__ import annotations

import numpy as np

from rdvla.live import QueryEvent, RobotEvent, RobotFacts

NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
FACTS = RobotFacts(
    action_names=NAMES,
    action_low=(-1.0,) * 7,
    action_high=(1.0,) * 7,
    action_held=(*[False] * 6, True),
    control_hz=20.0,
    drivable=True,
)


def picture(number, *, size=128):
    """A scene of gradients with a block that moves."""
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.stack([0.35 + 0.4 * y, 0.4 + 0.3 * x, 0.55 - 0.2 * y], axis=-1)
    left = int((0.1 + 0.6 * (number % 40) / 40) * size)
    image[size // 2 : size // 2 + size // 6, left : left + size // 6] = (0.85, 0.35, 0.2)
    return (255 * image).astype(np.uint8)


def came(robot="arm", *, policy="kitchen", time=1e9, facts=FACTS, **changes):
    return RobotEvent(
        robot, policy, time, **{"connected": True, "phase": "autonomous", "facts": facts, **changes}
    )


def went(robot="arm", *, note="success after 120 steps", time=1e9, policy="kitchen"):
    return RobotEvent(robot, policy, time, connected=False, phase="autonomous", note=note)


def query(number=0, robot="arm", *, chunk=8, **changes):
    """A query whose depth, uncertainty and times vary with its number."""
    draw = np.random.default_rng(number)
    steps = np.arange(chunk)[:, None] + number * 4
    actions = 0.7 * np.sin(steps / np.array([5, 7, 9, 11, 13, 15, 17]) + np.arange(7)).astype(np.float32)
    actions[:, 6] = np.sign(actions[:, 6])
    depth = int(np.clip(4 + 4 * np.sin(number / 6) + draw.integers(0, 4), 1, 12))
    inference = 9.0 + 2.5 * depth + draw.normal()
    waiting = float(draw.exponential(3.0))
    event = {
        "robot": robot,
        "policy": "kitchen",
        "time": 1e9 + number,
        "number": number,
        "instruction": "put the red block into the drawer",
        "images": {"front": picture(number), "wrist": np.ascontiguousarray(picture(number)[::-1])},
        "state": np.zeros(8, dtype=np.float32),
        "actions": actions.astype(np.float32),
        "execute_steps": 4,
        "depth": depth,
        "max_depth": 12,
        "ended_by": "deadline" if number % 17 == 11 else "max_depth" if depth == 12 else "converged",
        "uncertainty": float(depth / 12 * 0.8 + 0.05 * draw.normal()),
        "band": 0.72,
        "help_requested": bool(depth / 12 * 0.8 > 0.72),
        "phase": "autonomous",
        "milliseconds": {"waiting": waiting, "inference": inference, "total": waiting + inference + 1.2},
        "batch_size": int(draw.integers(1, 4)),
    }
    return QueryEvent(**{**event, **changes})
