"""`rdvla compare`."""

from __future__ import annotations

from json import dumps
from typing import TYPE_CHECKING

from rdvla.cli.options import SettingText

if TYPE_CHECKING:
    from rdvla.evaluation.comparison import PairedRuns
    from rdvla.evaluation.statistics import PairedTest


def run(
    first: str,
    second: str,
    *,
    a_setting: SettingText | None = None,
    b_setting: str | None = None,
    json: bool = False,
) -> None:
    """Compare two evaluations by paired tests on the episodes that both played.

    Episodes are paired by environment, task and seed. Differences are the first's success minus the
    second's, with Newcombe's 95% interval for paired proportions; p is McNemar's exact test. Environments
    count alike in the total, which has a p only if all have equally many pairs. Name one evaluation twice to
    compare two of its settings.

    Args:
        first: results.json, or the run directory that holds it; or several that count as one, such as one for
            each environment: runs/a_goal,runs/a_object. NAME= before it is what the table calls it.
        second: what it is compared with, named likewise.
        a_setting: setting of the first: STOP or STOP/EXECUTION, such as 8 or action_change:1e-3/fixed:8.
        b_setting: setting of the second, written likewise (default: the same; without either: all).
        json: print the same as JSON.
    """
    from rdvla.evaluation import compare_runs, find_setting, load_side

    runs = load_side(first), load_side(second)
    named = [
        None if text is None else find_setting(text, [row.setting for row in results.rows])
        for text, results in zip((a_setting, b_setting), runs, strict=True)
    ]
    compared = compare_runs(*runs, first_setting=named[0], second_setting=named[1])
    if json:
        print(dumps(compared.to_dict(), indent=2))
        return
    for pair in compared.pairs:
        _show(pair)
    if compared.left_out:
        names = ", ".join(setting.name for setting in compared.left_out)
        print(f"Left out, as no episode was played under them by both: {names}.")


def _show(pair: PairedRuns) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"A: {pair.first.name}\nB: {pair.second.name}", title_justify="left", box=SIMPLE_HEAD, padding=0
    )
    table.add_column("environment", no_wrap=True)
    for heading in ("pairs", "A", "B", "A - B", "95%, points", "only A", "only B", "p"):
        table.add_column(heading, justify="right")
    lines = dict(pair.suites)
    if len(lines) > 1:
        lines["all, equal weight"] = pair.total
    for name, test in lines.items():
        table.add_row(name, *_cells(test))
    console = Console()
    console.print(table)
    if pair.total.p_value is None:
        console.print("No p in all: environments count alike in A - B, and differ in their number of pairs.")
    for letter, side in (("A", pair.first), ("B", pair.second)):
        if side.unpaired or side.errors:
            console.print(
                f"{letter}: {side.unpaired} episodes without a partner and {side.errors} that ended with an "
                "exception are left out.",
                highlight=False,
            )


def _cells(test: PairedTest) -> list[str]:
    from rdvla.evaluation.table import percent

    return [
        str(test.pairs),
        percent(test.first_success),
        percent(test.second_success),
        f"{100 * test.difference:+.1f}",
        f"{100 * test.interval.low:+.1f} to {100 * test.interval.high:+.1f}",
        str(test.only_first),
        str(test.only_second),
        "-" if test.p_value is None else f"{test.p_value:.2g}",
    ]
