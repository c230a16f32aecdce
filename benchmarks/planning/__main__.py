"""Train heads of several shapes, in several ways, on problems that need a plan; print what each solves.

    python -m benchmarks.planning --suite shapes --seeds 0 1 2

Given again with the same output, the benchmark goes on from its log. `--tables LOG` prints a log's tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.log import Log, read_lines
from benchmarks.planning.suites import SUITES
from benchmarks.planning.tables import tables


def main(argv: Sequence[str] | None = None) -> int:
    """Train what the log lacks, and print tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--suite", choices=SUITES, default="shapes")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, help="runs/bench/planning/SUITE if not given")
    parser.add_argument(
        "--tables", nargs="+", type=Path, metavar="LOG", help="print their tables, train nothing"
    )
    options = parser.parse_args(argv)
    if options.tables:
        for path in options.tables:
            print("\n".join([str(path), "", *tables(read_lines(path)), ""]))
        return 0
    torch.set_num_threads(1)  # more are slower at this size
    output = options.output or Path("runs/bench/planning") / options.suite
    log = Log(output / "log.jsonl")
    SUITES[options.suite].run(log, seeds=options.seeds)
    print("\n".join(tables(log.lines)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
