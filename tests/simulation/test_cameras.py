"""Projected points against the pixels that MuJoCo draws there."""

import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco")

from rdvla.simulation.cameras import (  # noqa: E402
    OUTSIDE,
    FreeCamera,
    project,
)
from rdvla.simulation.rendering import CameraRenderer, choose_gl_backend  # noqa: E402

BALL = np.array([0.12, -0.05, 0.3])
SCENE = f"""
<mujoco>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="fixed" pos="1 0.3 0.8" xyaxes="-0.3 1 0 -0.5 -0.15 1" fovy="60"/>
    <geom type="sphere" size="0.02" pos="{BALL[0]} {BALL[1]} {BALL[2]}" rgba="0 1 0 1"/>
  </worldbody>
</mujoco>
"""
CAMERAS = {
    "free": FreeCamera(lookat=(0.0, 0.1, 0.2), distance=1.1, azimuth=-125.0, elevation=-30.0),
    "above": FreeCamera(lookat=(0.0, 0.0, 0.2), distance=0.9, azimuth=20.0, elevation=-75.0),
    "fixed": "fixed",
}


@pytest.fixture(scope="module")
def scene():
    choose_gl_backend()
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.parametrize("name", CAMERAS)
def test_a_ball_is_drawn_where_it_is_projected(scene, name):
    model, data = scene
    size = 200
    renderer = CameraRenderer(model=model, cameras={name: CAMERAS[name]}, image_size=size)
    image = renderer.render(data)[name].astype(int)
    renderer.close()
    rows, columns = np.nonzero(image[..., 1] > image[..., 0] + 40)
    assert len(rows) > 10
    seen = np.array([columns.mean(), rows.mean()])
    expected = (project(BALL[None], CAMERAS[name], model=model, data=data)[0] + 1) / 2 * size - 0.5
    assert np.abs(seen - expected).max() < 1.0  # pixels


def test_what_is_behind_the_camera_is_outside(scene):
    model, data = scene
    behind = np.array([[100.0, 100.0, 100.0]])
    seen = project(behind, FreeCamera((0, 0, 0), 1.0, 45.0, 0.0), model=model, data=data)
    assert np.array_equal(seen, [[OUTSIDE, OUTSIDE]]) or np.abs(seen).max() > 1
