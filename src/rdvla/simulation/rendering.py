"""Render MuJoCo scenes off screen: choose an OpenGL backend, and draw what a policy needs, fast."""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import sys
import weakref
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import ConfigError, RDVLAError
from rdvla.simulation.cameras import FreeCamera, camera_pose
from rdvla.simulation.culling import out_of_view
from rdvla.simulation.level_of_detail import simplify_meshes
from rdvla.simulation.reflection import Mirror, Rectangle, crop_view, find_mirror

# "full" renders as the simulator itself does. "fast" leaves out what costs most: shadows, reflections,
# multisampling and small details. "mirrors" is "fast" with the walls reflected in the first reflective box,
# such as a stove's plate. Files name these: each keeps its meaning, and its images.
Rendering = Literal["fast", "mirrors", "full"]

_HIDDEN_GROUP = 5  # the last of MuJoCo's six groups of geometry: no model here uses it, and nothing shows it

_SAME_DEPTH = 2e-6  # of OpenGL's 0 to 1: a fraction of a millimetre at a metre from the camera
_MAX_GEOMS = 10_000  # of a scene: what MuJoCo's own renderer allows

_INSTALL = "on Debian or Ubuntu: apt-get install libegl1 libopengl0 libgl1-mesa-dri (or libosmesa6)"


def choose_gl_backend() -> None:
    """Set MUJOCO_GL to a backend that needs no display, unless the user has set it.

    MuJoCo reads the variable once, at its first import; after that, this reloads the module that reads it.
    On Linux this takes EGL if its library can be loaded (a GPU's, else Mesa's software renderer), otherwise
    OSMesa. Both render the same pixels in software. On other systems MuJoCo's default needs no window.

    Raises:
        RDVLAError: neither library is there; the message names the system packages.
    """
    if os.environ.get("MUJOCO_GL") or not sys.platform.startswith("linux"):
        return
    for backend, libraries in (
        ("egl", ("libEGL.so.1", "libOpenGL.so.0")),
        ("osmesa", ("libOSMesa.so.8", "libOSMesa.so.6")),
    ):
        loaded = [_can_load(library) for library in libraries]
        if all(loaded) if backend == "egl" else any(loaded):
            os.environ["MUJOCO_GL"] = backend
            if "mujoco.gl_context" in sys.modules:
                importlib.reload(sys.modules["mujoco.gl_context"])
            return
    raise RDVLAError(f"no OpenGL library for rendering without a display was found; {_INSTALL}")


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


class CameraRenderer:
    """Renders a MuJoCo model's cameras through one OpenGL context, created at the first image.

    "fast" and "mirrors" omit shadows and multisampling, which in software take ten times the time of the
    rest, and simplify meshes below `lost_detail`. Policies notice the difference: they must see in
    evaluations the rendering that they were trained on.

    Args:
        model: MjModel; its visual settings, and with "fast" its meshes, are changed in place.
        cameras: name -> a free camera, or the name of a camera of the model.
        image_size: height and width in pixels.
        rendering: see `Rendering`.
        geom_group: render only geometry of this group; None renders what MuJoCo does by default.
        lost_detail: metres, unless "full"; 0 leaves the meshes as they are.

    Raises:
        ConfigError: for an unknown `rendering`.
    """

    def __init__(
        self,
        *,
        model: Any,
        cameras: Mapping[str, FreeCamera | str],
        image_size: int,
        rendering: Rendering = "fast",
        geom_group: int | None = None,
        lost_detail: float = 0.0,
    ) -> None:
        if rendering not in get_args(Rendering):
            raise ConfigError(f"rendering must be one of {', '.join(get_args(Rendering))}, got {rendering!r}")
        self._model = model
        self._image_size = image_size
        self._fast = rendering != "full"
        self._options, self._no_sites = _scene_options(geom_group), _scene_options(geom_group)
        self._no_sites.sitegroup[:] = 0
        self._cameras = dict(cameras)
        self._mirror = self._find_mirror() if rendering == "mirrors" else None
        self._context: _Context | None = None
        if self._fast:
            model.vis.quality.offsamples = 0
            if lost_detail > 0:
                simplify_meshes(model, lost_detail)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, image_size)
        model.vis.global_.offheight = max(model.vis.global_.offheight, image_size)

    def render(self, data: Any) -> dict[str, NDArray[np.uint8]]:
        """Render every camera of `data` (an MjData): name -> (H, W, 3) uint8."""
        if self._context is None:
            self._context = self._open()
        return {name: self._render(self._context, data, camera) for name, camera in self._cameras.items()}

    def _render(self, context: _Context, data: Any, camera: FreeCamera | str) -> NDArray[np.uint8]:
        whole = Rectangle(0, 0, self._image_size, self._image_size)
        if not self._fast:
            self._update_scene(context.scene, data, camera)
            context.draw(whole)
            return context.colours(whole)
        # Without shadows, what the camera does not see can be left out.
        hidden = out_of_view(camera, model=self._model, data=data)
        self._update_scene(context.scene, data, camera, hidden=hidden)
        context.draw(whole, shadows=False, reflections=False)
        image = context.colours(whole)
        if self._mirror is not None and not hidden[self._mirror.geom]:
            self._add_reflections(image, context, data, camera, self._mirror)
        return image

    def _add_reflections(
        self,
        image: NDArray[np.uint8],
        context: _Context,
        data: Any,
        camera: FreeCamera | str,
        mirror: Mirror,
    ) -> None:
        """Draw the mirror once more, with reflections, over the pixels of the image that show it."""
        seen = mirror.seen_by(camera_pose(camera, model=self._model, data=data), data)
        if seen is None:
            return
        rectangle, hidden = seen
        depths = context.depths(rectangle)
        self._update_scene(context.scene, data, camera, hidden=hidden, sites=False)
        crop_view(context.scene, rectangle, self._image_size)
        context.draw(rectangle, shadows=False)
        shows_mirror = np.abs(context.depths(rectangle) - depths) < _SAME_DEPTH
        left, top = rectangle.left, self._image_size - rectangle.bottom - rectangle.height
        pixels = image[top : top + rectangle.height, left : left + rectangle.width]
        pixels[shows_mirror] = context.colours(rectangle)[shows_mirror]

    def _update_scene(
        self,
        scene: Any,
        data: Any,
        camera: FreeCamera | str,
        *,
        hidden: NDArray[np.bool_] | None = None,
        sites: bool = True,
    ) -> None:
        """Collect what is to be drawn."""
        import mujoco

        groups = self._model.geom_group.copy()
        if hidden is not None:
            self._model.geom_group[hidden] = _HIDDEN_GROUP
        try:
            view, everything = _mujoco_camera(camera, self._model), mujoco.mjtCatBit.mjCAT_ALL.value
            options = self._options if sites else self._no_sites
            mujoco.mjv_updateScene(self._model, data, options, None, view, everything, scene)
        finally:
            self._model.geom_group[:] = groups

    def _find_mirror(self) -> Mirror | None:
        drawn = self._options.geomgroup[self._model.geom_group] == 1
        geom = find_mirror(self._model, drawn)
        if geom is None:
            return None
        return Mirror(model=self._model, geom=geom, drawn=drawn, image_size=self._image_size)

    def close(self) -> None:
        """Free the OpenGL context. Rendering again opens a new one."""
        if self._context is not None:
            self._context.close()
            self._context = None

    def _open(self) -> _Context:
        try:
            context = _Context(self._model, self._image_size)
        except Exception as error:  # each OpenGL backend raises a type of its own
            backend = os.environ.get("MUJOCO_GL", "unset")
            raise RDVLAError(
                f"MuJoCo cannot render with MUJOCO_GL={backend}: {error}. "
                f"Try MUJOCO_GL=egl or MUJOCO_GL=osmesa; {_INSTALL}"
            ) from error
        # A context that is still open when the interpreter shuts OpenGL down prints tracebacks. Exit
        # functions run in reverse order, so this runs before OpenGL's own.
        atexit.register(_close_if_alive, weakref.ref(self))
        return context


class _Context:
    """An OpenGL context that draws a scene into a square image, or into a rectangle of it."""

    def __init__(self, model: Any, image_size: int) -> None:
        import mujoco
        from mujoco import gl_context

        self.scene = mujoco.MjvScene(model=model, maxgeom=_MAX_GEOMS)
        self._gl = gl_context.GLContext(image_size, image_size) if gl_context.GLContext else None
        if self._gl is not None:
            self._gl.make_current()
        self._resources = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._resources)

    def draw(self, rectangle: Rectangle, *, shadows: bool = True, reflections: bool = True) -> None:
        """Draw the scene into a rectangle."""
        import mujoco

        if self._gl is not None:
            self._gl.make_current()
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = reflections
        mujoco.mjr_render(_area(rectangle), self.scene, self._resources)

    def colours(self, rectangle: Rectangle) -> NDArray[np.uint8]:
        """Return the pixels of a rectangle, (height, width, 3) uint8, upper row first."""
        import mujoco

        pixels = np.empty((rectangle.height, rectangle.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, _area(rectangle), self._resources)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL starts at the bottom

    def depths(self, rectangle: Rectangle) -> NDArray[np.float32]:
        """Return OpenGL's depths in a rectangle, (height, width), upper row first."""
        import mujoco

        depths = np.empty((rectangle.height, rectangle.width), dtype=np.float32)
        mujoco.mjr_readPixels(None, depths, _area(rectangle), self._resources)
        return depths[::-1]

    def close(self) -> None:
        if self._gl is not None:
            self._gl.free()
        self._resources.free()


def _close_if_alive(renderer: weakref.ref[CameraRenderer]) -> None:
    alive = renderer()
    if alive is not None:
        alive.close()


def _scene_options(geom_group: int | None) -> Any:
    import mujoco

    options = mujoco.MjvOption()
    if geom_group is not None:
        options.geomgroup[:] = 0
        options.geomgroup[geom_group] = 1
    return options


def _mujoco_camera(camera: FreeCamera | str, model: Any) -> Any:
    import mujoco

    view = mujoco.MjvCamera()
    if isinstance(camera, str):
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = model.camera(camera).id
        return view
    view.type = mujoco.mjtCamera.mjCAMERA_FREE
    view.lookat[:] = camera.lookat
    view.distance = camera.distance
    view.azimuth = camera.azimuth
    view.elevation = camera.elevation
    return view


def _area(rectangle: Rectangle) -> Any:
    import mujoco

    return mujoco.MjrRect(rectangle.left, rectangle.bottom, rectangle.width, rectangle.height)
