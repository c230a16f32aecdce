"""Python in a process of its own, on a machine that lacks something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def without_a_compiler(code: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` where no C++ compiler is found and nothing has been compiled before."""
    changes = {
        "CXX": "no-such-compiler", "PATH": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | changes, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
