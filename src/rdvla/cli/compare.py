"""`rdvla compare`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdvla.evaluation.paired_runs import PairedRuns


def run(argv: Sequence[str]) -> None:
    """Compare two evaluations by paired tests on the episodes that both played."""
    parser = argparse.ArgumentParser(
        prog="rdvla compare",
        description=f"{run.__doc__} Episodes are paired by environment, task and seed. Differences are the "
        "first's success minus the second's, with Newcombe's 95%% interval for paired proportions; p is "
        "McNemar's exact test. Environments count alike in the total. Name one evaluation twice to compare "
        "two of its settings.",
    )
    parser.add_argument("first", type=Path, help="results.json, or the run directory that holds it")
    parser.add_argument("second", type=Path, help="what it is compared with")
    setting = "RULE or RULE/EXECUTION, such as 8 or action_change:1e-3/fixed:8"
    parser.add_argument("--a-setting", metavar="SETTING", help=f"setting of the first: {setting}")
    parser.add_argument(
        "--b-setting",
        metavar="SETTING",
        help="setting of the second (default: the same; without either: all)",
    )
    parser.add_argument("--json", action="store_true", help="print the same as JSON")
    options = parser.parse_args(argv)
    from rdvla.evaluation import compare_runs, find_setting, load_results

    first, second = load_results(options.first), load_results(options.second)
    named = [
        None if text is None else find_setting(text, [row.setting for row in results.rows])
        for text, results in ((options.a_setting, first), (options.b_setting, second))
    ]
    compared = compare_runs(first, second, first_setting=named[0], second_setting=named[1])
    if options.json:
        print(json.dumps([one.to_dict() for one in compared], indent=2))
        return
    for one in compared:
        _show(one)


def _show(one: PairedRuns) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from rdvla.evaluation.table import percent

    table = Table(
        title=f"A: {one.first.name}\nB: {one.second.name}", title_justify="left", box=SIMPLE_HEAD, padding=0
    )
    table.add_column("environment", no_wrap=True)
    for heading in ("pairs", "A", "B", "A - B", "95%, points", "only A", "only B", "p"):
        table.add_column(heading, justify="right")
    lines = dict(one.suites)
    if len(lines) > 1:
        lines["all, equal weight"] = one.total
    for name, test in lines.items():
        low, high = 100 * test.interval.low, 100 * test.interval.high
        table.add_row(
            name,
            str(test.pairs),
            percent(test.first_success),
            percent(test.second_success),
            f"{100 * test.difference:+.1f}",
            f"{low:+.1f} to {high:+.1f}",
            str(test.only_first),
            str(test.only_second),
            f"{test.p_value:.2g}",
        )
    console = Console()
    console.print(table)
    for letter, side in (("A", one.first), ("B", one.second)):
        if side.unpaired or side.errors:
            console.print(
                f"{letter}: {side.unpaired} episodes without a partner and {side.errors} that ended with an "
                "exception are left out.",
                highlight=False,
            )
