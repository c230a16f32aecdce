"""Kill training, demonstrations and evaluation at random times; compare the results with undisturbed runs.

    python -m benchmarks.faults --kills 100 --output runs/bench/faults

After every kill the same command is given again, until it exits with 0. What it leaves must equal what an
undisturbed run leaves: weights, average, optimiser, policy, dataset, videos and every episode bit for bit,
logs line by line, no file, process or shared memory more. Exit code 1 if anything differs. Given again with
the same output, the benchmark goes on from its log.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from benchmarks.faults.cases import CASES, demonstrations, training
from benchmarks.faults.cluster import RayNodes
from benchmarks.faults.host import Host
from benchmarks.faults.runs import Benchmark
from benchmarks.faults.tables import row, table
from benchmarks.harness import hardware
from rdvla.files import write_json

SETUPS = {"demonstrations": demonstrations, "training": training}


def main(argv: Sequence[str] | None = None) -> int:
    """Kill, compare, print the table; return 1 if anything differs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whats, wheres = (list(dict.fromkeys(names)) for names in zip(*CASES, strict=True))
    parser.add_argument("--what", nargs="+", choices=whats, default=whats)
    parser.add_argument("--where", nargs="+", choices=wheres, default=wheres)
    parser.add_argument("--kills", type=int, default=100, help="of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/faults"))
    options = parser.parse_args(argv)
    cases = [case for (what, where), case in CASES.items() if what in options.what and where in options.where]
    needed = {name for case in cases for name in case.needs}
    on_ray = any(case.where == "ray" for case in cases)
    with Host() as host, RayNodes() if on_ray else nullcontext() as cluster:
        benchmark = Benchmark(options.output, seed=options.seed, host=host, cluster=cluster)
        benchmark.prepare({name: make() for name, make in SETUPS.items() if name in needed})
        for case in cases:
            benchmark.disturb(case, benchmark.measure(case), kills=options.kills)
    rows = [row(benchmark.record, case.name) for case in cases]
    print("\n".join(table(rows)))
    for said in (said for each in rows for said in each["wrong"]):
        print(said)
    arguments = {name: str(value) for name, value in vars(options).items() if name != "output"}
    result = {"schema": 1, "hardware": hardware(), "options": arguments, "rows": rows}
    write_json(options.output / "faults.json", result)
    return int(any(each["wrong"] for each in rows))


if __name__ == "__main__":
    sys.exit(main())
