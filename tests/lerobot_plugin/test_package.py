"""The plugin's distribution, without LeRobot."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "packages" / "lerobot_policy_rdvla"
NAME = "lerobot_policy_rdvla"  # LeRobot looks for this start of a name, with underscores


def test_the_installed_name_is_the_one_that_lerobot_imports(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=PACKAGE, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert Parser().parsestr(archive.read(metadata).decode())["Name"] == NAME
        packages = {name.split("/")[0] for name in archive.namelist()}
    assert NAME in packages


def test_the_name_has_underscores_and_lerobot_no_upper_pin() -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    assert project["name"] == NAME
    (lerobot,) = (each for each in project["dependencies"] if each.startswith("lerobot"))
    assert "<" not in lerobot and "==" not in lerobot
    assert project["requires-python"] == ">=3.12"


def test_without_lerobot_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['lerobot'] = None; import lerobot_policy_rdvla"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE / "src", capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "pip install 'lerobot>=0.6'" in done.stderr
