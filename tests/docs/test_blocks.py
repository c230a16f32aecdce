"""Every block of the documents is understood, and runs as printed or says why it does not."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")
pytest.importorskip("metaworld")
pytest.importorskip("onnxscript")
pytest.importorskip("transformers")

from tests.docs import commands
from tests.support.document_setups import given
from tests.support.documents import ROOT, SHELL, Block, blocks, pages

PAGES = [page for page in pages() if blocks(page)]
LANGUAGES = (*SHELL, "python", "yaml", "json", "text")
REASONS = (
    "changes the installation", "needs a GPU", "needs an idle machine", "needs hours", "needs the hub",
    "needs a published",
    "needs a robot", "needs a server", "needs a cluster", "needs another environment", "needs Docker",
    "needs a checkpoint of", "LeRobot lives in a Python of its own", "needs a person",
)  # fmt: skip


def selected(page: str, *, slow: bool) -> list[Block]:
    return [block for block in blocks(page) if not block.not_run and (slow or not block.slow)]


def enter_page(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Make `folder` look like a fresh checkout, go there, and return the names that the page expects."""
    for name in ("benchmarks", "docs", "src", *(path.relative_to(ROOT) for path in ROOT.glob("policies/*"))):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return given(page)


def run_page(page: str, *, slow: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a page's blocks in order: Python in one namespace, commands in a checkout with empty runs/."""
    namespace = enter_page(page, folder, monkeypatch)
    for block in selected(page, slow=slow):
        try:
            if block.title:
                Path(block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                # As many lines before it as in the page: a traceback names the page's own line.
                exec(compile("\n" * block.line + block.text, str(ROOT / page), "exec"), namespace)
            elif block.language in SHELL:
                for words in block.commands():
                    commands.run(words)
        except BaseException as error:
            error.add_note(f"in the block at {block.place}")
            raise


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_understood(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    enter_page(page, tmp_path, monkeypatch)
    written: set[str] = set()
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.place}: language {block.language!r}"
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
            written.add(block.title)
        if block.language == "python":
            constants = (node for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Constant))
            written |= {node.value for node in constants if isinstance(node.value, str)}
        elif block.language in ("yaml", "json"):
            yaml.safe_load(block.text)
        elif block.language in SHELL:
            for words in block.commands():
                written |= commands.check(words)
                assert not commands.missing_files(words, written=written), f"{block.place}: {words}"


@pytest.mark.parametrize("page", [page for page in PAGES if selected(page, slow=False)])
def test_a_page_runs_as_printed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run_page(page, slow=False, folder=tmp_path, monkeypatch=monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.slow for block in blocks(page))])
def test_a_page_runs_with_its_slow_blocks(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run_page(page, slow=True, folder=tmp_path, monkeypatch=monkeypatch)


def test_what_does_not_run_says_why():
    skipped = [f"{block.place}: {block.not_run}" for page in PAGES for block in blocks(page) if block.not_run]
    unclear = [line for line in skipped if not line.partition(": ")[2].startswith(REASONS)]
    listed = "\n".join(skipped)
    assert not unclear, f"{unclear}; the reasons are {REASONS}. All that does not run:\n{listed}"
    warnings.warn(f"not run, only checked:\n{listed}", stacklevel=1)  # listed at the end of the test run
