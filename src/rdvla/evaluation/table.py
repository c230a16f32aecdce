"""Results as a table for the terminal, and how numbers and names are written everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rdvla.evaluation.results import Results
from rdvla.evaluation.served import served_shares
from rdvla.evaluation.summaries import Summary, sort_rows, summaries, within


def print_table(results: Results, *, console: Console) -> None:
    """Print a line per task and a column per setting, then means, interval, depth and time.

    With several environments, each has its tasks and its mean, and their average comes last.
    """
    rows = sort_rows(results.rows)
    columns = summaries(rows)
    table = Table(title="Success by task and setting", title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("task", min_width=18)
    for column in columns:
        table.add_column(_heading(column, columns), justify="right", overflow="fold", min_width=6)
    envs = list(dict.fromkeys(row.env for row in rows))
    for env in envs:
        for task in dict.fromkeys(row.task for row in rows if row.env == env):
            table.add_row(readable(task), *(percent(_success(column, env, task)) for column in columns))
        table.add_section()
        if len(envs) > 1:
            _add_means(table, env, [within(column, env) for column in columns])
            table.add_section()
    _add_means(table, "mean" if len(envs) == 1 else "mean of environments", columns)
    table.add_row("iterations per query", *(number(column.mean_depth, 2) for column in columns))
    table.add_row("actions executed", *(number(column.mean_executed, 1) for column in columns))
    times = results.query_ms
    if times:
        where = " through Ray" if results.timed_elsewhere else ""
        table.add_row(
            f"ms per query{where}", *(number(times.get(column.setting.stop), 1) for column in columns)
        )
    _add_served(table, results, columns)
    if any(column.errors for column in columns):
        table.add_row("exceptions", *(str(column.errors) for column in columns), style="red")
    console.print(table)
    helped = sum(column.helped for column in columns)
    if helped:
        console.print(
            f"A person stepped in in {helped} of {sum(column.episodes for column in columns)} episodes. "
            f"{sum(row.helped_successes for row in rows)} of these succeeded, with help: none of them counts "
            "as a success of the policy.",
            highlight=False,
        )
    errors = sum(column.errors for column in columns)
    if errors:
        played = errors + sum(column.episodes for column in columns)
        console.print(
            f"{errors} of {played} episodes ended with an exception: neither successes nor failures.",
            style="red",
        )


def _add_means(table: Table, title: str, columns: Sequence[Summary | None]) -> None:
    successes = ("-" if column is None else percent(column.success) for column in columns)
    table.add_row(title, *successes, style="bold")
    table.add_row("95% interval", *("-" if column is None else _interval(column) for column in columns))


def _add_served(table: Table, results: Results, columns: Sequence[Summary]) -> None:
    """What a policy server did with the queries, if there was one."""
    shares = served_shares(results.episodes)
    if not shares:
        return
    found = [shares.get(column.setting) for column in columns]
    medians = [None if each is None else each.median_ms for each in found]
    table.add_row("ms until the answer", *(number(each, 1) for each in medians))
    for title, values in (
        ("ended by the deadline", [None if each is None else each.ended_by_deadline for each in found]),
        ("deadline kept", [None if each is None else each.kept for each in found]),
    ):
        if any(column.setting.deadline_ms is not None for column in columns):
            table.add_row(title, *map(percent, values))


def _heading(column: Summary, columns: Sequence[Summary]) -> str:
    """The setting, and whatever else distinguishes the columns; spaces let it break."""
    lines = [column.policy] if len({other.policy for other in columns}) > 1 else []
    lines.append(column.setting.describe().replace("_", " ").replace(":", " "))
    if len({other.setting.execution for other in columns}) > 1:
        lines.append(column.setting.execution)
    return "\n".join(lines)


def _success(column: Summary, env: str, task: str) -> float | None:
    return next((row.success for row in column.rows if (row.env, row.task) == (env, task)), None)


def _interval(column: Summary) -> str:
    return f"{100 * column.interval.low:.0f}-{100 * column.interval.high:.0f}"


def readable(task: str) -> str:
    """Return a task's name with spaces, where a line may break."""
    return task.replace("_", " ")


def percent(value: float | None) -> str:
    """Return a percentage such as ``92%``; a dash for None."""
    return "-" if value is None else f"{100 * value:.0f}%"


def number(value: float | None, digits: int) -> str:
    """Return a number with so many digits; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"
