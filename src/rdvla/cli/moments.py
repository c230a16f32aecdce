"""`rdvla moments`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def run(argv: Sequence[str]) -> None:
    """Draw which moments of a task take the most iterations, over a film strip of an episode."""
    parser = argparse.ArgumentParser(
        prog="rdvla moments",
        description=f"{run.__doc__} The band shows the quartiles of the task's successful episodes, "
        "stretched to one length. The evaluation needs an adaptive rule and videos.",
    )
    parser.add_argument("results", type=Path, help="results.json, or the run directory that holds it")
    parser.add_argument(
        "--output", type=Path, help="picture to write (default: moments.png beside the results)"
    )
    parser.add_argument("--tasks", nargs="+", default=[], help="tasks to show (default: the first four)")
    parser.add_argument("--rule", help="adaptive rule, such as action_change:1e-3 (default: the first one)")
    options = parser.parse_args(argv)
    from rdvla.evaluation import find_setting, load_results, write_moments

    results = load_results(options.results)
    known = [row.setting for row in results.rows]
    setting = None if options.rule is None else find_setting(options.rule, known)
    folder: Path = options.results if options.results.is_dir() else options.results.parent
    output: Path = options.output or folder / "moments.png"
    print(f"moments: {write_moments(results, output, tasks=options.tasks, setting=setting)}")
