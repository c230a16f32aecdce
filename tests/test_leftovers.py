"""Folders, files and locks outlive kills, and what killed processes leave behind goes away."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rdvla.errors import RDVLAError
from rdvla.files import new_folder, write_atomically, write_json
from rdvla.leftovers import temporary_name
from rdvla.locks import sole_user

ROOT = Path(__file__).parents[1]


def child(code: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(("scenario", "least"), [("make", 10), ("replace", 14), ("write", 8)])
def test_work_that_is_killed_at_any_event_can_be_repeated_and_leaves_nothing(
    tmp_path: Path, scenario: str, least: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_files", scenario, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["killed"]) >= least
    assert found["different"] == found["failed"] == [], done.stderr


def test_a_failed_replacement_leaves_the_older_folder(tmp_path: Path) -> None:
    path = tmp_path / "made"
    with new_folder(path) as folder:
        (folder / "old").touch()
    with pytest.raises(ZeroDivisionError), new_folder(path, replace=True) as folder:
        (folder / "new").touch()
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.rglob("*")] == ["made", "old"]
    with pytest.raises(RDVLAError, match="made exists: name a new folder"), new_folder(path):
        pass


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "made"
    with pytest.raises(RDVLAError, match="made exists"), new_folder(path):
        path.mkdir()
        (path / "somebody's").touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["made", "somebody's"]


MAKE = """
import os, sys
from pathlib import Path
from rdvla.errors import RDVLAError
from rdvla.files import new_folder
try:
    with new_folder(Path(sys.argv[1])) as folder:
        (folder / "second").touch()
except RDVLAError as error:
    print(error)
"""


def test_two_processes_cannot_make_one_folder_whatever_their_temporary_folders_are(tmp_path: Path) -> None:
    path, own = tmp_path / "made", tmp_path / "own"
    own.mkdir()
    with new_folder(path) as folder:
        (folder / "first").touch()
        other = child(MAKE, path, TMPDIR=str(own))
    assert other.stdout.startswith(f"another process is writing to {path}: wait for it to end"), other
    assert [file.name for file in path.iterdir()] == ["first"]


def test_a_folder_in_a_closed_parent_is_locked_within() -> None:
    """Such as a container's volume, whose parent belongs to root."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are closed to other users
        parent = Path(name).resolve() / "closed"
        (parent / "run").mkdir(parents=True)
        Path(name).chmod(0o755)
        if user == 0:
            os.chown(parent / "run", 65534, 65534)
            os.chown(parent, 65534, 65534)
            os.seteuid(65534)
        parent.chmod(0o555)
        try:
            with sole_user(parent / "run"):
                locked = [path.name for path in (parent / "run").iterdir()]
            assert not list((parent / "run").iterdir())
            with pytest.raises(PermissionError) as caught, sole_user(parent / "new"):
                pass
        finally:
            parent.chmod(0o755)
            os.seteuid(user)
    assert len(locked) == 1
    assert caught.value.filename == str(parent / "new")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_every_file_has_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {})
        with write_atomically(tmp_path / "a.safetensors") as temporary:
            save_file({"a": torch.zeros(2)}, temporary)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


def dead(path: Path) -> Path:
    """Return a temporary sibling that a process left which has died."""
    code = (
        "import sys; from pathlib import Path; from rdvla.leftovers import temporary_name as name; "
        "path = name(Path(sys.argv[1])); path.touch(); print(path)"
    )
    return Path(child(code, path).stdout.strip())


def test_the_next_writer_removes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    left, mine = dead(tmp_path / "shard.safetensors"), temporary_name(tmp_path / "other.json")
    others = {mine, tmp_path / ".hidden", tmp_path / ".results.tmp.json", tmp_path / "plain.tmp"}
    owner = left.name.split(".")[2]
    foreign = left.with_name(left.name.replace(owner, "0" * 6 + owner[6:]))
    for path in {*others, foreign}:
        path.touch()
    code = "import sys; from rdvla.files import write_json; write_json(sys.argv[1], {})"
    child(code, tmp_path / "next.json")
    assert set(tmp_path.iterdir()) == {*others, foreign, tmp_path / "next.json"}
    long_ago = time.time() - 2 * 86_400
    os.utime(foreign, (long_ago, long_ago))
    child(code, tmp_path / "next.json")
    assert set(tmp_path.iterdir()) == {*others, tmp_path / "next.json"}


def test_the_sole_user_of_a_folder_finds_no_leftovers_in_it(tmp_path: Path) -> None:
    """Older versions' included; hidden files of others stay."""
    run = tmp_path / "run"
    (run / "videos").mkdir(parents=True)
    gone = [dead(run / "videos" / "a.mp4"), dead(run), run / ".results.0123abcd.tmp.json"]
    gone.append(tmp_path / ".run.tmp")
    kept = [run / ".env.tmp", run / ".git", tmp_path / ".other.tmp", tmp_path / ".run.staging"]
    for path in [*gone[2:], *kept]:
        path.touch()
    with sole_user(run):
        assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)
