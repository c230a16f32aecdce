"""The results as a table for the terminal, and how numbers and names are written everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rdvla.evaluation.aggregate import Summary, part_of, summaries
from rdvla.evaluation.results import Results


def print_table(results: Results, *, console: Console) -> None:
    """Print a line for each task and a column for each setting, then means, interval, depth and time.

    With several environments, each has its tasks and its mean, and their average comes last.
    """
    columns = summaries(results.rows)
    table = Table(title="Success by task and setting", title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("task", min_width=18)
    for one in columns:
        table.add_column(_heading(one, columns), justify="right", overflow="fold", min_width=6)
    envs = list(dict.fromkeys(row.env for row in results.rows))
    for env in envs:
        for task in dict.fromkeys(row.task for row in results.rows if row.env == env):
            table.add_row(readable(task), *(percent(_success(one, env, task)) for one in columns))
        table.add_section()
        if len(envs) > 1:
            _add_means(table, env, [part_of(one, env) for one in columns])
            table.add_section()
    _add_means(table, "mean" if len(envs) == 1 else "mean of environments", columns)
    table.add_row("iterations a query", *(number(one.mean_depth, 2) for one in columns))
    table.add_row("actions executed", *(number(one.mean_executed, 1) for one in columns))
    table.add_row("ms a query", *(number(one.query_ms, 1) for one in columns))
    if any(one.errors for one in columns):
        table.add_row("exceptions", *(str(one.errors) for one in columns), style="red")
    console.print(table)
    if any(one.errors for one in columns):
        console.print("Episodes that ended with an exception are neither successes nor failures.")


def _add_means(table: Table, title: str, columns: Sequence[Summary | None]) -> None:
    table.add_row(title, *("-" if one is None else percent(one.success) for one in columns), style="bold")
    table.add_row("95% interval", *("-" if one is None else _interval(one) for one in columns))


def _heading(one: Summary, columns: Sequence[Summary]) -> str:
    """The setting, and what else tells the columns apart; with spaces, at which it may break."""
    parts = [one.policy] if len({other.policy for other in columns}) > 1 else []
    parts.append(one.setting.describe().replace("_", " ").replace(":", " "))
    if len({other.setting.execution for other in columns}) > 1:
        parts.append(one.setting.execution)
    return "\n".join(parts)


def _success(one: Summary, env: str, task: str) -> float | None:
    return next((row.success for row in one.rows if (row.env, row.task) == (env, task)), None)


def _interval(one: Summary) -> str:
    return f"{100 * one.interval.low:.0f}-{100 * one.interval.high:.0f}"


def readable(task: str) -> str:
    """A task's name with spaces, at which a line may break."""
    return task.replace("_", " ")


def percent(value: float | None) -> str:
    """E.g. ``92%``; a dash for None."""
    return "-" if value is None else f"{100 * value:.0f}%"


def number(value: float | None, digits: int) -> str:
    """A number with so many digits; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"
