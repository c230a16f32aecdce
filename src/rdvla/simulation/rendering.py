"""Off-screen MuJoCo rendering: which OpenGL to use, and the few settings that make it fast."""

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
from rdvla.simulation.cameras import FreeCamera
from rdvla.simulation.culling import out_of_view
from rdvla.simulation.level_of_detail import simplify_meshes

# "full" renders as the simulator itself does; "fast" leaves out what small images hardly show.
Rendering = Literal["fast", "full"]

_HIDDEN_GROUP = 5  # of MuJoCo's six groups of geometry, the last, which no model here uses and nothing shows

_INSTALL = "on Debian or Ubuntu: apt-get install libegl1 libopengl0 libgl1-mesa-dri (or libosmesa6)"


def choose_gl_backend() -> None:
    """Set MUJOCO_GL to a backend that needs no display, where the user has not set it.

    MuJoCo reads the variable once, when it is first imported: call this before, or that part of it is read
    again. On Linux EGL is taken when its library can be loaded (a GPU's, else Mesa's software renderer),
    otherwise OSMesa; both render the same pixels in software. Elsewhere MuJoCo's default needs no window.
    Raises `RDVLAError` naming the system packages when neither library is there.
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

    With "fast", shadows, reflections and multisampling are off, which in software take ten times the time of
    the rest, and meshes lose details below `lost_detail`. The two differ to the eye: a policy must see in
    evaluations what it was trained on.

    Args:
        model: MjModel; its visual settings, and with "fast" its meshes, are changed in place.
        cameras: name -> a free camera, or the name of one of the model's.
        image_size: height and width in pixels.
        rendering: see `Rendering`.
        geom_group: render only geometry of this group; None renders what MuJoCo does by default.
        lost_detail: metres, for "fast"; 0 leaves the meshes as they are.

    Raises `ConfigError` for an unknown `rendering`.
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
        self._fast = rendering == "fast"
        self._options = _scene_options(geom_group)
        self._cameras = dict(cameras)
        self._renderer: Any = None
        if self._fast:
            model.vis.quality.offsamples = 0
            if lost_detail > 0:
                simplify_meshes(model, lost_detail)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, image_size)
        model.vis.global_.offheight = max(model.vis.global_.offheight, image_size)

    def render(self, data: Any) -> dict[str, NDArray[np.uint8]]:
        """Render every camera of `data` (an MjData): name -> (H, W, 3) uint8."""
        from mujoco import mjtRndFlag

        if self._renderer is None:
            self._renderer = self._open()
        images = {}
        for name, camera in self._cameras.items():
            self._update_scene(data, camera)
            if self._fast:
                self._renderer.scene.flags[mjtRndFlag.mjRND_SHADOW] = 0
                self._renderer.scene.flags[mjtRndFlag.mjRND_REFLECTION] = 0
            images[name] = self._renderer.render().copy()
        return images

    def _update_scene(self, data: Any, camera: FreeCamera | str) -> None:
        """Collect what is to be drawn; without shadows, that leaves out what the camera does not see."""
        view = camera if isinstance(camera, str) else _mujoco_camera(camera)
        groups = self._model.geom_group.copy()
        if self._fast:
            self._model.geom_group[out_of_view(camera, model=self._model, data=data)] = _HIDDEN_GROUP
        try:
            self._renderer.update_scene(data, camera=view, scene_option=self._options)
        finally:
            self._model.geom_group[:] = groups

    def close(self) -> None:
        """Free the OpenGL context. Rendering again opens a new one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _open(self) -> Any:
        import mujoco

        try:
            renderer = mujoco.Renderer(self._model, self._image_size, self._image_size)
        except Exception as error:  # each OpenGL backend raises a type of its own
            backend = os.environ.get("MUJOCO_GL", "unset")
            raise RDVLAError(
                f"MuJoCo cannot render with MUJOCO_GL={backend}: {error}. "
                f"Try MUJOCO_GL=egl or MUJOCO_GL=osmesa; {_INSTALL}"
            ) from error
        # A renderer that is still open when the interpreter takes OpenGL down prints tracebacks. What is
        # registered last runs first, so this comes before OpenGL's own exit.
        atexit.register(_close_if_alive, weakref.ref(self))
        return renderer


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


def _mujoco_camera(camera: FreeCamera) -> Any:
    import mujoco

    view = mujoco.MjvCamera()
    view.type = mujoco.mjtCamera.mjCAMERA_FREE
    view.lookat[:] = camera.lookat
    view.distance = camera.distance
    view.azimuth = camera.azimuth
    view.elevation = camera.elevation
    return view
