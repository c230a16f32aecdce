"""Files and folders that no two processes spoil for each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdvla.errors import ConfigError, RDVLAError
from rdvla.files import check_writable, new_folder, sole_user, write_json

HOLD = """
import sys
from pathlib import Path
from rdvla.files import check_writable, new_folder, sole_user, write_json
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
        with sole_user(folder), sole_user(folder):  # whoever has it may reserve it again
            pass
        assert not list(folder.parent.iterdir())
    with sole_user(tmp_path / "never" / "made"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [folder.parent.name]


# --- what the system refuses ---


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder that may not be written, without the rights of root, who may write everywhere."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)


def limited(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process that may write files of 1,000 bytes, like one on a full disk."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    return subprocess.run(
        [sys.executable, "-c", limit + code], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "body",
    [
        "temporary.write_bytes(bytes(5000))",
        "import torch, safetensors.torch as st; st.save_file({'x': torch.zeros(5000)}, temporary)",
    ],
)
def test_a_write_that_fails_names_the_file_and_leaves_nothing(tmp_path: Path, body: str) -> None:
    """The system's error names no file, or just the temporary one; safetensors' only has a text."""
    (tmp_path / "kept.bin").write_text("before")
    finished = limited(
        f"""
from rdvla.files import os_error_sentence, write_atomically
try:
    with write_atomically("kept.bin") as temporary:
        {body}
except OSError as error:
    print(os_error_sentence(error))
""",
        tmp_path,
    )
    assert finished.stdout == "kept.bin: the file would be larger than this system allows (ulimit -f)\n"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.bin"]
    assert (tmp_path / "kept.bin").read_text() == "before"


def test_a_place_that_cannot_be_written_is_found_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for path, folder, said in [
        (tmp_path, False, "is a folder: name a file"),
        (tmp_path / "file", True, "a file is where this path needs a folder"),
        (tmp_path / "file" / "below", False, "a file is where this path needs a folder"),
        (tmp_path / "file" / "a" / "b", True, "a file is where this path needs a folder"),
        (tmp_path / ("x" * 300), False, "the name is too long"),
        (tmp_path / ("x" * 300) / "y", True, "the name is too long"),
        (tmp_path / "loop" / "x", False, "cannot be|links lead in a circle"),
        (Path("/dev/null"), False, "is a device"),
        (Path("/proc/nothing/here"), False, "/proc/nothing/here"),
    ]:
        with pytest.raises(ConfigError, match=said) as caught:
            check_writable(path, option="--output", folder=folder)
        assert str(caught.value).startswith("--output: ")
    for path, folder in [
        ("new.json", False),
        ("a/b/new.json", False),
        ("a/run", True),
        ("", True),
        ("file", False),
    ]:
        check_writable(tmp_path / path, option="--output", folder=folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


def test_a_device_is_never_replaced_by_a_file() -> None:
    with pytest.raises(ConfigError, match="is a device"):
        write_json("/dev/null", {})
    assert Path("/dev/null").is_char_device()


def test_a_new_folder_that_fails_names_itself_not_its_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as caught, new_folder(tmp_path / "file" / "made"):
        pass
    assert caught.value.filename == str(tmp_path / "file" / "made")


def test_a_folder_without_permission_is_found_before_any_work(closed: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"--output: .*closed/run: permission denied: change the permissions"
    ):
        check_writable(closed / "run", option="--output", folder=True)


def test_a_file_that_grows_is_named_when_the_disk_is_full(tmp_path: Path) -> None:
    finished = limited(
        """
from pathlib import Path
from rdvla.files import errors_name, os_error_sentence
with open("lines.jsonl", "ab") as file:
    try:
        with errors_name(Path("lines.jsonl")):
            file.write(bytes(5000))
            file.flush()
    except OSError as error:
        print(os_error_sentence(error), flush=True)
    file.close = lambda: None
    import os
    os._exit(0)
""",
        tmp_path,
    )
    assert finished.stdout.startswith("lines.jsonl: the file would be larger")


def test_a_new_folder_names_the_file_in_it_that_could_not_be_written(tmp_path: Path) -> None:
    finished = limited(
        """
from pathlib import Path
from rdvla.files import new_folder, os_error_sentence, write_atomically
for name in ("inner/file.bin", None):
    try:
        with new_folder(Path("made")) as folder:
            if name:
                with write_atomically(folder / name) as temporary:
                    temporary.write_bytes(bytes(5000))
            (folder / "plain.bin").write_bytes(bytes(5000))
    except OSError as error:
        print(os_error_sentence(error).split(": ")[0])
""",
        tmp_path,
    )
    assert finished.stdout.splitlines() == ["made/inner/file.bin", "made"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [".", "", "..", "run", "new/run"])
def test_a_folder_is_tried_within_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Its parent may be closed."""
    (tmp_path / "here" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    tried: list[Path] = []
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: (tried.append(path), write(path, data))[1])
    check_writable(name, option="--output", folder=True)
    expected = {"..": tmp_path, "run": tmp_path / "here" / "run"}.get(name, tmp_path / "here")
    assert [path.parent.resolve() for path in tried] == [expected]


def test_a_folder_behind_a_link_is_replaced_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "export").mkdir()
    (tmp_path / "disk" / "export" / "old").touch()
    link = tmp_path / "export"
    link.symlink_to("disk/export")
    for name in ("new", "newer"):
        with new_folder(link, replace=True) as folder:
            assert folder.parent == tmp_path / "disk"  # on which there is room
            (folder / name).touch()
        assert link.is_symlink() and [path.name for path in link.iterdir()] == [name]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["export"]
    with pytest.raises(RDVLAError, match="export exists"), new_folder(link):
        pass
