"""What the command line says when the machine refuses something: a sentence, and never a traceback."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rdvla import cli
from rdvla.cli.failures import sentence
from tests.cli.test_cli import fake_verb
from tests.test_extras import run_with_the_core_only


def failing_write(folder: Path, kind: str) -> Path:
    """Try to write where it cannot be done; return the place."""
    if kind == "missing":
        (folder / "nothing").read_bytes()
    if kind == "folder":
        folder.write_bytes(b"")
    if kind == "file in between":
        (folder / "file").write_bytes(b"")
        (folder / "file" / "below").write_bytes(b"")
    if kind == "too long":
        (folder / ("x" * 300)).write_bytes(b"")
    if kind == "exists":
        folder.mkdir()
    raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "nothing does not exist: check the name"),
        ("folder", " is a folder: name a file"),
        ("file in between", "below: a file is where this path needs a folder"),
        ("too long", "the name is too long: choose a shorter one"),
        ("exists", " exists already: name another place, or remove it"),
    ],
)
def test_an_error_of_the_system_is_a_sentence_with_the_place(tmp_path, monkeypatch, capsys, kind, said):
    with pytest.raises(OSError) as caught:
        failing_write(tmp_path, kind)
    fake_verb(monkeypatch, caught.value)
    assert cli.main(["fake"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("rdvla: error: ") and shown.count("\n") == 1 and "Errno" not in shown
    assert said in shown
    assert str(tmp_path)[:50] in shown and len(shown) < 400


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "full", "/data/x"), "/data/x: no space is left on that disk: make room"),
        (OSError(errno.ENOSPC, "full"), "the output: no space is left on that disk"),
        (PermissionError(errno.EACCES, "no", "/x"), "/x: permission denied: change the permissions"),
        (OSError(errno.EROFS, "no", "/x"), "/x is on a disk that cannot be written"),
        (OSError(errno.EMFILE, "no"), r"too many files are open: allow more (ulimit -n)"),
        (OSError(errno.ENOTEMPTY, "not empty", "/x"), "/x: not empty"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "no connection"),
        (TimeoutError("timed out"), "no connection (timed out)"),
        (OSError("a library's own words\nand more"), "a library's own words"),
        (MemoryError("Unable to allocate 7 GiB"), "the memory is full (Unable to allocate 7 GiB): choose"),
        (MemoryError(), "the memory is full: choose smaller batches"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"),
            "the memory is full (CUDA out of memory.",
        ),
    ],
)
def test_what_the_machine_lacks_is_said(monkeypatch, capsys, error, said):
    monkeypatch.delenv("RDVLA_DEBUG", raising=False)
    fake_verb(monkeypatch, error)
    assert cli.main(["fake"]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1
    assert cli.main(["fake", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_full_memory_of_the_processor_is_told_from_bugs():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert "the memory is full" in (sentence(caught.value) or "")
    assert sentence(RuntimeError("shapes differ")) is None
    assert sentence(ValueError("a bug")) is None


def test_a_package_of_an_extra_names_the_extra():
    said = sentence(ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow.parquet"))
    assert said is not None and said.startswith("pyarrow is not installed: ") and "[data]" in said
    picture = sentence(ModuleNotFoundError("No module named 'PIL'", name="PIL"))
    assert picture is not None and picture.startswith("PIL is not installed")
    assert sentence(ModuleNotFoundError("No module named 'rdvla.nothing'", name="rdvla.nothing")) is None
    installed = sentence(ModuleNotFoundError("No module named 'nosuch'", name="nosuch"))
    assert installed == "nosuch is not installed, which rdvla needs: pip install nosuch"


def test_an_installed_package_knows_its_extras_from_its_metadata(monkeypatch):
    monkeypatch.setattr("rdvla.cli.failures.checkout", lambda: None)
    monkeypatch.setattr("rdvla.errors.checkout", lambda: None)
    lines = ["numpy>=1", "pyarrow>=17; extra == 'all'", "pyarrow>=17; extra == 'data'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _name: lines)
    said = sentence(ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow"))
    assert said is not None and said.endswith("[data]'")


@pytest.mark.parametrize("verb", [["--help"], ["info", "metaworld"]])
def test_a_reader_that_ends_early_is_no_error(verb):
    code = f"import sys; from rdvla.cli import main; sys.exit(main({verb!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="the system has no /dev/full")
def test_a_full_disk_behind_the_output_is_said_once():
    code = "import sys; from rdvla.cli import main; sys.exit(main(['--help']))"
    with Path("/dev/full").open("w") as full:
        finished = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1 and "no space is left" in finished.stderr


def test_without_any_extra_every_verb_names_the_one_it_needs(tmp_path):
    (tmp_path / "some").mkdir()
    needs = {
        "demos --output=a": "data,metaworld",
        "eval --policy=metaworld --output=b": "metaworld",
        "train --dataset=some --output_dir=c": "train",
        "report some": "report",
        "profile some": "report",
        "calibrate metaworld some": "data",
        "export metaworld d": "export",
        "data inspect some": "data,report",
        "data check some": "data",
        "data convert some e": "data",
        "data merge f some some": "data",
    }
    printed = run_with_the_core_only(
        f"""
import contextlib, io, os
from rdvla.cli import main
os.chdir({str(tmp_path)!r})
for words, extra in {needs!r}.items():
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        code = main(words.split())
    text = shown.getvalue()
    assert code == 2 and text.count(chr(10)) == 1, (words, text)
    assert f"is not installed: run pip install -e '.[{{extra}}]'" in text, (words, text)
print("all")
"""
    )
    assert printed == "all\n"
