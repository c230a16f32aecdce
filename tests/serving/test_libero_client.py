"""What openpi's LIBERO client sends is what our LIBERO policies were trained on."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("libero")

from rdvla.serving import Layout
from rdvla.serving.loading import load_policy
from rdvla.simulation import make
from rdvla.simulation.registry import FIRST_EVALUATION_SEED
from tests.simulation.test_libero import REST, stock_environment

TASK = "open_the_top_drawer_and_put_the_bowl_inside"
SETTLING_STEPS = 10  # of openpi's client too


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """Of (x, y, z, w), as openpi's client computes it."""
    w = min(max(quaternion[3], -1.0), 1.0)
    length = math.sqrt(1.0 - w * w)
    return quaternion[:3] * 2.0 * math.acos(w) / length if length else np.zeros(3)


@pytest.mark.slow
def test_the_libero_layout_gives_the_observation_of_our_own_environment():
    ours = make("libero_goal", TASK, image_size=128, rendering="full")
    seen, _ = ours.reset(seed=FIRST_EVALUATION_SEED + 1)
    images = {"camera_heights": 128, "camera_widths": 128}
    stock, states = stock_environment("libero_goal", TASK, use_camera_obs=False, **images)
    stock.reset()
    # Fixtures are not part of an initial state.
    stock.sim.model.body_pos[:] = ours.simulation_model.body_pos
    stock.sim.model.body_quat[:] = ours.simulation_model.body_quat
    stock.set_init_state(states[1])
    for _ in range(SETTLING_STEPS):
        told = stock.step(REST.tolist())[0]
    turned = {
        key: np.ascontiguousarray(
            stock.sim.render(width=128, height=128, camera_name=camera)[::-1, ::-1]
        )
        for key, camera in (
            ("observation/image", "agentview"), ("observation/wrist_image", "robot0_eye_in_hand")
        )
    }  # fmt: skip
    numbers = (
        told["robot0_eef_pos"], axis_angle(told["robot0_eef_quat"]), told["robot0_gripper_qpos"]
    )  # fmt: skip
    message = {**turned, "observation/state": np.concatenate(numbers), "prompt": ours.instruction}

    layout = Layout.of(load_policy("policies/libero_goal", name="goal").facts, "auto")
    found = layout.read(message)

    np.testing.assert_allclose(found.state, seen["state"], atol=1e-4)
    shown = ours.render_cameras()
    for camera, image in found.images.items():
        apart = np.abs(image.astype(int) - shown[camera]).mean()
        assert apart < 1.0  # grey levels; two renderers differ at edges
        assert apart < np.abs(image[::-1, ::-1].astype(int) - shown[camera]).mean()
    stock.close()
    ours.close()
