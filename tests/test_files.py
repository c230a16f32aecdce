"""Files and folders that no two processes spoil for each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rdvla.errors import RDVLAError
from rdvla.files import sole_user

HOLD = """
import sys
from pathlib import Path
from rdvla.files import sole_user
with sole_user(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_has_one_user_at_a_time(tmp_path: Path) -> None:
    """And a process that is killed lets go of it."""
    folder = tmp_path / "not yet" / "run"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"held"
        with (
            pytest.raises(RDVLAError, match=r"another process is writing to .*run"),
            sole_user(folder),
        ):
            pass
        with sole_user(folder.with_name("another")):
            pass
        other.kill()
        other.wait()
    for _ in range(2):
        with sole_user(folder):
            assert not folder.parent.exists()
