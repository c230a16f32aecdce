"""The documents' blocks: fenced and indented code of a Markdown page, with the marks that stand before it.

A mark is a comment, which no reader sees, right before a block:

    <!-- not run: needs the hub -->    it is checked, but not run
    <!-- slow -->                      it is run by the slow tests only

Fenced blocks are what their language says; an indented block is a shell block. A fence with a title, such as
```yaml title="mine.yaml"``, is a file that later commands of the page find.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"<!--\s*(not run|slow)(?::\s*(.*?))?\s*-->")
SHELL = ("sh", "bash", "console")


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Attributes:
        page: the file, relative to the checkout.
        line: its first line, counted from 1.
        language: such as "python" or "sh".
        title: the file that it is, or "".
        text: what it says.
        not_run: why it is checked only, or "".
        slow: whether only the slow tests run it.
    """

    page: str
    line: int
    language: str
    title: str
    text: str
    not_run: str
    slow: bool

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """Return the words of every command of a shell block, without comments."""
        if self.language not in SHELL:
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        words = [shlex.split(line, comments=True) for line in lines]
        return [command for command in words if command]


def pages() -> list[str]:
    """Every document with blocks, relative to the checkout."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    return sorted(str(file.relative_to(ROOT)) for file in files)


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """The blocks of a page in order."""
    found, mark = [], None
    for token in MarkdownIt("commonmark").parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type == "html_block":
            mark = MARK.search(token.content)
        elif token.type in ("fence", "code_block"):
            language, _, rest = token.info.strip().partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            assert token.map is not None
            found.append(
                Block(
                    page=page,
                    line=token.map[0] + 1,
                    language="sh" if token.type == "code_block" else language,
                    title=title[1] if title else "",
                    text=token.content,
                    not_run=(mark[2] or "no reason") if mark and mark[1] == "not run" else "",
                    slow=mark is not None and mark[1] == "slow",
                )
            )
            mark = None
        elif token.type not in ("list_item_open", "bullet_list_open"):
            mark = None  # a mark belongs to the block right behind it
    return tuple(found)
