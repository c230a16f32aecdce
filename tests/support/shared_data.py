"""Real datasets that some machines have next to the repository; tests that want one skip without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_data(name: str) -> Path:
    """Return the folder of a real dataset; skip the test where it is absent."""
    given = os.environ.get("RDVLA_SHARED_DATA")
    root = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    if not (root / name).is_dir():
        pytest.skip(f"{root / name} is not there (RDVLA_SHARED_DATA names another folder)")
    return root / name
