"""`rdvla report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def run(argv: Sequence[str]) -> None:
    """Turn the results of one or more evaluations into one self-contained HTML page."""
    parser = argparse.ArgumentParser(prog="rdvla report", description=run.__doc__)
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        help="results.json, or the run directory that holds it; the first is what others are compared with",
    )
    parser.add_argument(
        "--output", type=Path, help="page to write (default: report.html beside the first results.json)"
    )
    options = parser.parse_args(argv)
    from rdvla.evaluation import write_report

    first: Path = options.results[0]
    output: Path = options.output or (first if first.is_dir() else first.parent) / "report.html"
    print(f"report: {write_report(options.results, output)}")
