"""Real LeRobot in a Python of its own: it needs Python 3.12 and other versions of our packages.

`RDVLA_LEROBOT_PYTHON` names that Python; otherwise `python3.12` is taken if it can import lerobot.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

VARIABLE = "RDVLA_LEROBOT_PYTHON"
ROOT = Path(__file__).parents[2]
# The plugin and what it needs, as they are here: LeRobot finds it by its installation, Python by this path.
SOURCES = [
    ROOT,
    *(ROOT / name for name in ("src", "packages/rdvla-client/src", "packages/lerobot_policy_rdvla/src")),
]


@cache
def _python() -> str | None:
    chosen = os.environ.get(VARIABLE)
    python = str(Path(chosen).absolute()) if chosen else shutil.which("python3.12")
    if python is None:
        return None
    found = subprocess.run(
        [python, "-c", "import lerobot"], capture_output=True, text=True, env=_environment()
    )
    if found.returncode and chosen:
        raise RuntimeError(f"{VARIABLE}={chosen} cannot import lerobot: {found.stderr[-500:]}")
    return None if found.returncode else python


def needs_lerobot(*modules: str) -> None:
    """Skip the test where there is no LeRobot, or where it lacks an optional package."""
    python = _python()
    if python is None:
        pytest.skip(f"no LeRobot: {VARIABLE} names a Python that has it")
    for module in modules:
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
            pytest.skip(f"this LeRobot lacks {module}")


def run_lerobot(*arguments: str, home: Path, paths: Sequence[Path] = (), code: int = 0) -> str:
    """Run LeRobot's Python offline and return what it printed; an error shows its last lines.

    Args:
        arguments: of Python.
        home: folder of its caches, and its working directory.
        paths: where it finds modules next to its own, such as `SOURCES`.
        code: that it ends with.
    """
    python = _python()
    assert python is not None
    environment = _environment() | {"HF_HOME": str(home), "HF_LEROBOT_HOME": str(home)}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths))} if paths else {}
    done = subprocess.run(
        [python, *arguments], capture_output=True, text=True, env=environment, cwd=home, timeout=900
    )
    assert done.returncode == code, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
