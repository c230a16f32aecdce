"""Formats the results of the benchmarks as the tables of docs/performance.md.

python -m benchmarks.markdown runs/bench/head.json runs/bench/gemv.json runs/bench/query.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rdvla.files import read_json

Row = Mapping[str, Any]
ADAPTIVE = {"action_change": "adaptive", "deferred_action_change": "adaptive, coda deferred"}


def head_tables(result: Row) -> Iterator[str]:
    """Format every path under every stop rule, the least time of an iteration, and peak memory."""
    paths = list(result["iteration_ms"])
    rows: dict[str, dict[str, Row]] = {}
    for row in result["rows"]:
        rows.setdefault(_setting(row), {})[row["path"]] = row
    yield from _title("setting", "plain loop, ms", *paths)
    for setting, by_path in rows.items():
        base = next(iter(by_path.values()))["baseline_ms"]
        yield _line(setting, f"{base:.0f}", *(_ratio(by_path[path]) for path in paths))
    errors = [max(by_path[path]["max_abs_difference"] for by_path in rows.values()) for path in paths]
    yield _line("largest error above", "", *(f"{error:.0e}" for error in errors))
    others = result["errors"]["paths"]
    label = f"of {result['errors']['inputs']} other inputs, depth {result['errors']['depth']}"
    yield _line(label, "", *(f"{others[path]['median']:.0e}, {others[path]['max']:.0e}" for path in paths))
    yield ""
    yield from _title("path", "an iteration, ms", "MiB", "least, ms", "achieved")
    for row in result["possible"]["rows"]:
        yield _line(
            row["path"],
            f"{row['iteration_ms']:.1f}",
            f"{row['mib']:.0f}",
            f"{row['least_ms']:.1f}",
            f"{row['achieved']:.0%}",
        )
    yield ""
    possible = result["possible"]
    yield (
        f"{possible['gib_per_second']:.1f} GiB/s, {possible['gigamultiplications_per_second']:.0f} G "
        f"multiplications/s, {result['rows'][0]['rounds']} rounds, {result['hardware']['cpu']}, "
        f"torch {result['hardware']['torch']}, {result['hardware']['torch_threads']} thread(s)"
    )
    yield ", ".join(f"depth {row['depth']}: {row['mib']:.0f} MiB" for row in result["peak_memory"]["rows"])


def query_tables(result: Row) -> Iterator[str]:
    """Format whole queries of compact policies."""
    yield from _title("policy", "what", "ms (quartiles)", "iterations")
    for policy in result["policies"]:
        for row in policy["rows"]:
            depth = "" if row["depth"] is None else str(row["depth"][0])
            yield _line(policy["policy"], row["what"], _spread(row, digits=1), depth)


def vision_tables(result: Row) -> Iterator[str]:
    """Format the shares of a query at the paper's size."""
    yield from _title("what", "share", "ms (quartiles)")
    for row in result["rows"]:
        yield _line(row["what"], f"{row['share']:.0%}", _spread(row, digits=0))


def gemv_tables(result: Row) -> Iterator[str]:
    """Format an iteration's matrix products: torch's compiled products against the kernel."""
    yield from _title("weights", "rows", "torch, ms", "kernel, ms", "ratio (quartiles)")
    for row in result["rows"]:
        low, high = row["ratio_spread"]
        times = (
            f"{row['ms'][name]:.1f} ({row['gib_per_second'][name]:.1f} GiB/s)" for name in ("torch", "kernel")
        )
        ratio = f"**{row['ratio']:.2f}×** ({low:.2f}-{high:.2f})"  # noqa: RUF001  # the sign is meant
        yield _line(row["dtype"], str(row["rows"]), *times, ratio)


def tables(result: Row) -> Iterator[str]:
    """Format the results of any of the four benchmarks."""
    if "iteration_ms" in result:
        return head_tables(result)
    if "policies" in result:
        return query_tables(result)
    return gemv_tables(result) if "dtype" in result["rows"][0] else vision_tables(result)


def _setting(row: Row) -> str:
    name = row["rule"].partition(":")[0]
    return ADAPTIVE.get(name, f"depth {row['depth']}")


def _ratio(row: Row) -> str:
    return f"**{row['ratio']:.1f}×** ({row['ours_ms']:.0f} ms)"  # noqa: RUF001  # the sign is meant


def _spread(row: Row, *, digits: int) -> str:
    low, high = row["spread_ms"]
    return f"{row['ms']:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _title(*cells: str) -> Iterator[str]:
    yield _line(*cells)
    yield "|" + "---|" * len(cells)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of each file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.markdown", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    for path in parser.parse_args(argv).files:
        print(f"{path}\n")
        print("\n".join([*tables(read_json(path)), ""]))


if __name__ == "__main__":
    main()
