"""Does training in several processes learn the same, and how much faster is it?

    python -m benchmarks.distributed datasets/drawer --processes 1 2 --seeds 0 1 -- --steps 200

Each number of processes trains the same runs by `rdvla train`; options after `--` go to it. Samples per
second are the median over the lines of the log, without the first quarter. The loss curves lie side by side
in the JSON file; the table has their largest difference from the first number of processes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import hardware
from rdvla.files import write_atomically, write_json
from rdvla.training.metrics import read_metrics


def trained(dataset: str, run: Path, *, processes: int, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """Train one run; return its samples per second and its losses."""
    words = ["--dataset", dataset, "--output_dir", str(run), "--seed", str(seed), "--log_every", "5"]
    command = [sys.executable, "-m", "rdvla.cli", "train", *words, "--compute.processes", str(processes)]
    subprocess.run([*command, *options], check=True)
    lines = read_metrics(run / "metrics.jsonl", kind="train")
    settled = lines[len(lines) // 4 :]
    return {
        "processes": processes,
        "seed": seed,
        "samples_per_second": statistics.median(line["samples_per_second"] for line in settled),
        "steps": [line["step"] for line in lines],
        "losses": [line["loss"] for line in lines],
    }


def rows_of(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line of the table for each number of processes."""
    counts = list(dict.fromkeys(run["processes"] for run in runs))
    reference = {run["seed"]: run["losses"] for run in runs if run["processes"] == counts[0]}
    rows = []
    for count in counts:
        own = [run for run in runs if run["processes"] == count]
        pairs = [pair for run in own for pair in zip(run["losses"], reference[run["seed"]], strict=True)]
        rows.append(
            {
                "processes": count,
                "runs": len(own),
                "samples_per_second": statistics.median(run["samples_per_second"] for run in own),
                "last_loss": statistics.mean(run["losses"][-1] for run in own),
                "largest_difference": max(abs(one - other) for one, other in pairs),
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]], *, where: dict[str, Any]) -> str:
    """Return the rows as Markdown, under what they were measured on."""
    lines = [
        ", ".join(f"{name} {value}" for name, value in where.items()),
        "",
        "| processes | runs | samples per second | last loss | largest difference of losses |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            row["processes"],
            row["runs"],
            f"{row['samples_per_second']:.1f}",
            f"{row['last_loss']:.4f}",
            f"{row['largest_difference']:.1e}",
        )
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Train, print the table, write JSON and Markdown."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, options = (
        (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed", description=__doc__)
    parser.add_argument("dataset", help="folder of a LeRobot dataset")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes (1 2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a run each (0 1 2)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/distributed"), help="a new folder")
    chosen = parser.parse_args(own)
    runs = [
        trained(
            chosen.dataset,
            chosen.output / f"processes-{processes}-seed-{seed}",
            processes=processes,
            seed=seed,
            options=options,
        )
        for seed in chosen.seeds  # outside: what slows the machine for a while slows all numbers of processes
        for processes in chosen.processes
    ]
    rows, where = rows_of(runs), hardware()
    text = table(rows, where=where)
    print(text)
    write_json(
        chosen.output / "distributed.json",
        {"hardware": where, "seeds": chosen.seeds, "options": options, "rows": rows, "runs": runs},
    )
    with write_atomically(chosen.output / "distributed.md") as file:
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
