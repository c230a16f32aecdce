"""What is left out of an image was not in it."""

import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco")

from rdvla.simulation import rendering  # noqa: E402
from rdvla.simulation.cameras import FreeCamera  # noqa: E402
from rdvla.simulation.culling import out_of_view  # noqa: E402


def scene(count=200):
    """Balls all over the place, a floor, and a camera in their middle."""
    generator = np.random.default_rng(0)
    balls = ""
    for _ in range(count):
        size, place, colour = generator.uniform(0.05, 0.4), generator.uniform(-3, 3, 3), generator.random(3)
        text = 'pos="{:.3f} {:.3f} {:.3f}" rgba="{:.2f} {:.2f} {:.2f} 1"'.format(*place, *colour)
        balls += f'<geom type="sphere" size="{size:.3f}" {text}/>'
    camera = '<camera name="inside" pos="0 0 0" xyaxes="0 -1 0 0 0 1"/>'
    floor = '<geom type="plane" size="5 5 .1" pos="0 0 -3"/>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{floor}{camera}{balls}</worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.parametrize("camera", ["inside", FreeCamera((0.5, 0.0, 0.0), 1.5, 30.0, -20.0)])
def test_images_are_the_same_without_it(camera, monkeypatch):
    rendering.choose_gl_backend()
    model, data = scene()
    hidden = out_of_view(camera, model=model, data=data)
    assert 0.5 < hidden.mean() < 1 and not hidden[model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE].any()
    images = []
    for find in (rendering.out_of_view, lambda *_, **__: np.zeros(model.ngeom, dtype=bool)):
        monkeypatch.setattr(rendering, "out_of_view", find)
        renderer = rendering.CameraRenderer(model=model, cameras={"view": camera}, image_size=48)
        images.append(renderer.render(data)["view"])
        renderer.close()
    assert images[0].std() > 10
    np.testing.assert_array_equal(*images)
