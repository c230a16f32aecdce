"""Reflections that are drawn only where a mirror is seen equal those of the whole scene."""

import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco")

from rdvla.simulation.cameras import FreeCamera  # noqa: E402
from rdvla.simulation.rendering import CameraRenderer, choose_gl_backend  # noqa: E402

WALLS = """
    <geom type="box" size="2 .05 1" pos="0 1.5 1" rgba=".9 .3 .2 1"/>
    <geom type="box" size=".05 2 1" pos="-1.5 0 1" rgba=".2 .8 .3 1" euler="0 0 20"/>"""
STANDING = '<geom type="sphere" size=".08" pos="{} {} .2" rgba=".1 .2 .9 1"/>'


def scene(*standing, reflectance=0.5, walls=WALLS):
    """A tilted mirror on a table, walls around it, and balls on it."""
    table = '<geom type="box" size="1 1 .05" pos="0 0 0"/>'
    mirror = '<geom type="box" size=".4 .3 .04" pos=".1 0 .1" material="metal" euler="0 4 30"/>'
    light = '<light pos="0 0 4" dir="0 0 -1" castshadow="false"/>'
    material = f'<asset><material name="metal" rgba=".3 .3 .3 1" reflectance="{reflectance}"/></asset>'
    balls = "".join(STANDING.format(x, y) for x, y in standing)
    world = f"<worldbody>{light}{table}{mirror}{walls}{balls}</worldbody>"
    model = mujoco.MjModel.from_xml_string(f"<mujoco>{material}{world}</mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def images(camera, *, rendering, size=96, **options):
    """The renderer's image, and MuJoCo's own without shadows and multisampling."""
    choose_gl_backend()
    model, data = scene(**options) if "standing" not in options else scene(*options["standing"])
    renderer = CameraRenderer(model=model, cameras={"view": camera}, image_size=size, rendering=rendering)
    found = renderer.render(data)["view"].astype(int)
    renderer.close()
    with mujoco.Renderer(model, size, size) as whole:
        view = mujoco.MjvCamera()
        view.lookat[:], view.distance = camera.lookat, camera.distance
        view.azimuth, view.elevation = camera.azimuth, camera.elevation
        whole.update_scene(data, view)
        whole.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        whole.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 1
        return found, whole.render().astype(int)


@pytest.mark.parametrize("azimuth", [60, 110, 150])
@pytest.mark.parametrize("distance", [1.5, 0.5])  # 0.5: the mirror goes beyond the image
def test_walls_are_mirrored_as_in_the_whole_scene(azimuth, distance):
    camera = FreeCamera((0.1, 0.0, 0.1), distance, azimuth, -35.0)
    found, whole = images(camera, rendering="mirrors")
    without, _ = images(camera, rendering="fast")
    assert (np.abs(whole - without).max(axis=2) > 20).mean() > 0.01  # there is something to see
    # The rectangle is drawn with a view of its own, so an edge may round to the pixel next to it.
    assert (np.abs(found - whole).max(axis=2) > 2).mean() < 0.003


def test_what_stands_before_the_mirror_stays_in_front():
    camera = FreeCamera((0.1, 0.0, 0.1), 1.5, 110.0, -35.0)
    found, _ = images(camera, rendering="mirrors", standing=[(0.1, 0.0), (0.3, 0.1)])
    without, _ = images(camera, rendering="fast", standing=[(0.1, 0.0), (0.3, 0.1)])
    blue = (without[..., 2] > 2 * without[..., 0]) & (without[..., 2] > 40)
    assert blue.sum() > 50
    np.testing.assert_array_equal(found[blue], without[blue])


@pytest.mark.parametrize(
    ("elevation", "options"),
    [
        (-35.0, {"reflectance": 0.0}),
        (-35.0, {"walls": ""}),  # nothing to mirror
        (35.0, {}),  # the camera looks at the mirror from below
    ],
)
def test_without_anything_mirrored_the_image_is_as_without_reflections(elevation, options):
    camera = FreeCamera((0.1, 0.0, 0.1), 1.5, 110.0, elevation)
    found, _ = images(camera, rendering="mirrors", **options)
    without, _ = images(camera, rendering="fast", **options)
    np.testing.assert_array_equal(found, without)
