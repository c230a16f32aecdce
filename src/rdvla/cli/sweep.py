"""`rdvla sweep`."""

from __future__ import annotations

import sys

from rdvla.cli.failures import BAD_INPUT, INTERRUPTED
from rdvla.errors import optional
from rdvla.files import check_writable
from rdvla.sweep.config import SweepConfig


def run(config: SweepConfig) -> int:
    """Train, and evaluate, many policies that differ in options and seeds; write one report.

    Finished trials are skipped, so the same command goes on after an interruption, and after more seeds,
    variants or values were added.
    """
    check_writable(config.output, option="output", folder=True)
    with optional("train,report"):
        from rdvla.sweep import sweep

    result = sweep(config)
    if result.report is not None:
        print(f"written: {result.report}, {result.report.with_name('sweep.json')}")
        print("next: open the page in a browser")
    if result.stopped:
        print("rdvla: stopped; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    if result.problems:
        names = ", ".join(end.trial.name for end in result.problems)
        total = result.finished + len(result.problems)
        print(
            f"rdvla: error: {len(result.problems)} of {total} trials did not finish ({names}); the reasons "
            "are above, and the same command tries them again",
            file=sys.stderr,
        )
        return BAD_INPUT
    return 0
