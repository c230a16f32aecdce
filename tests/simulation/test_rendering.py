"""The choice of an OpenGL backend, without opening one."""

import pytest

from rdvla.errors import RDVLAError
from rdvla.simulation import rendering


@pytest.fixture
def headless_linux(monkeypatch):
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delitem(rendering.sys.modules, "mujoco.gl_context", raising=False)
    return monkeypatch


def install(monkeypatch, libraries):
    """Let these shared libraries load, and no other."""

    def load(name):
        if name not in libraries:
            raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(rendering.ctypes, "CDLL", load)


@pytest.mark.parametrize(
    ("libraries", "backend"),
    [
        ({"libEGL.so.1", "libOpenGL.so.0", "libOSMesa.so.8"}, "egl"),
        ({"libEGL.so.1", "libOSMesa.so.8"}, "osmesa"),
        ({"libOSMesa.so.6"}, "osmesa"),
    ],
)
def test_egl_comes_before_osmesa(headless_linux, libraries, backend):
    install(headless_linux, libraries)
    rendering.choose_gl_backend()
    assert rendering.os.environ["MUJOCO_GL"] == backend


def test_what_the_user_set_stays(headless_linux):
    headless_linux.setenv("MUJOCO_GL", "glfw")
    rendering.choose_gl_backend()
    assert rendering.os.environ["MUJOCO_GL"] == "glfw"


def test_without_any_library_the_packages_to_install_are_named(headless_linux):
    install(headless_linux, set())
    with pytest.raises(RDVLAError, match="apt-get install libegl1"):
        rendering.choose_gl_backend()
