"""Progress is seen where a terminal draws bars and where a file takes lines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import TextColumn

from rdvla import progress as progress_module
from rdvla.progress import Progress


def count_to_three(*, terminal: bool, show: bool = True) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    with Progress(console, TextColumn("loss {task.fields[loss]}"), show=show) as progress:
        task = progress.add_task("training", total=3, loss=0.0)
        for step in range(1, 4):
            progress.update(task, completed=step, loss=step / 4)
    return text.getvalue()


def test_a_file_gets_a_line_when_one_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    lines = count_to_three(terminal=False).splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["training", f"{n}/3", "loss", str(n / 4)] for n in (1, 2, 3)
    ]


def test_a_file_is_not_filled_with_lines() -> None:
    assert count_to_three(terminal=False) == ""


def test_a_terminal_gets_a_bar() -> None:
    assert "━" in count_to_three(terminal=True)


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_said_where_nothing_is_wanted(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    assert count_to_three(terminal=terminal, show=False).strip() == ""
