"""Latency, memory and errors of the head at the paper's size, against the plain loop of public code.

    python -m benchmarks.head --output runs/bench/head.json

Batch 1. The clock runs from features in memory (vision and latent tokens, proprio token) to the normalised
action chunk: prelude, keys and values, all iterations, and the coda. The adaptive rules have thresholds at
which these random weights stop at depth 8; all candidates run the same rules.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import roofline
from benchmarks.baseline import plain_adaptive_loop, plain_loop
from benchmarks.harness import (
    Spread,
    hardware,
    interleave,
    paired_ratio,
    peak_memory,
    reset_peak_memory,
    run_fresh,
)
from benchmarks.head_case import LATENT_TOKENS, PAPER, VISION_TOKENS, adaptive_stops, build, random_query
from benchmarks.paths import BYTES, PATHS, TOLERANCES, Run, precision_of
from rdvla.control import Stop
from rdvla.engine import Engine
from rdvla.errors import ConfigError, nearest
from rdvla.files import write_json
from rdvla.heads import Context, RecurrentConfig, RecurrentDepthHead

DEPTHS = (1, 4, 8, 12, 32)
ADAPTIVE_DEPTH = 8
MEMORY_DEPTHS = (1, 64)
ERROR_INPUTS, ERROR_DEPTH = 8, 8
TIMER = "features ready in memory -> normalised action chunk; backbone excluded; time.perf_counter"


def measure(
    head: RecurrentDepthHead,
    context: Context,
    state: Tensor,
    *,
    stop: Stop,
    runs: Mapping[str, Run],
    rounds: int,
) -> list[dict[str, Any]]:
    """Check that all paths give the baseline's actions at its depth, then time them; return a row per path.

    Raises:
        RuntimeError: a path stops at another depth, or its actions differ by more than its tolerance.
    """
    baseline, depth = _baseline(head, context, state, stop)
    expected = baseline()
    differences = {}
    for name, run in runs.items():
        prediction = run(context, state, stop)
        differences[name] = float((prediction.actions - expected).abs().max())
        if prediction.depth.tolist() != [depth] or not differences[name] < TOLERANCES[precision_of(name)]:
            raise RuntimeError(
                f"{name} disagrees with the plain loop by {differences[name]} at depth "
                f"{prediction.depth.tolist()} instead of {depth}: its times mean nothing"
            )
    calls: dict[str, Callable[[], object]] = {"plain loop": baseline}
    calls |= {name: lambda run=run: run(context, state, stop) for name, run in runs.items()}  # type: ignore[misc]
    samples = interleave(calls, rounds=rounds)
    slow = Spread.of(samples["plain loop"])
    return [
        {
            "path": name,
            "rule": stop.describe(),
            "depth": depth,
            "ratio": (ratio := paired_ratio(samples["plain loop"], samples[name])).median,
            "ratio_spread": [ratio.low, ratio.high],
            "baseline_ms": slow.median,
            "baseline_spread_ms": [slow.low, slow.high],
            "ours_ms": (fast := Spread.of(samples[name])).median,
            "ours_spread_ms": [fast.low, fast.high],
            "rounds": rounds,
            "max_abs_difference": differences[name],
        }
        for name in runs
    ]


def _baseline(
    head: RecurrentDepthHead, context: Context, state: Tensor, stop: Stop
) -> tuple[Callable[[], Tensor], int]:
    if stop.is_fixed:
        depth = stop.max_depth
        return lambda: plain_loop(head, context, depth=depth, initial_state=state), depth

    def adaptive() -> tuple[Tensor, int]:
        return plain_adaptive_loop(
            head,
            context,
            threshold=stop.below["action_change"],
            max_depth=stop.max_depth,
            initial_state=state,
        )

    return lambda: adaptive()[0], adaptive()[1]


def measure_iterations(
    context: Context, state: Tensor, *, runs: Mapping[str, Run], depths: tuple[int, int], rounds: int
) -> dict[str, float]:
    """Return an iteration's milliseconds by path: the difference of two depths, divided by the iterations."""
    few, many = depths
    calls = {
        f"{name} at {depth}": lambda run=run, depth=depth: run(context, state, Stop.fixed(depth))
        for name, run in runs.items()
        for depth in depths
    }
    samples = interleave(calls, rounds=rounds)

    def per_iteration(name: str) -> float:
        pairs = zip(samples[f"{name} at {few}"], samples[f"{name} at {many}"], strict=True)
        return Spread.of([(deep - shallow) / (many - few) for shallow, deep in pairs]).median

    return {name: per_iteration(name) for name in runs}


def measure_memory(depth: int) -> float:
    """Return the peak memory of the first query at the paper's size, MiB above weights and features."""
    head, context, initial_state = build(PAPER, vision_tokens=VISION_TOKENS, latent_tokens=LATENT_TOKENS)
    before = reset_peak_memory()
    Engine(head).predict(context, stop=depth, initial_state=initial_state)
    return peak_memory() - before


def measure_errors(
    head: RecurrentDepthHead, runs: Mapping[str, Run], *, vision_tokens: int, latent_tokens: int
) -> dict[str, Any]:
    """Return by path the median and maximum error on inputs other than the timed one, in normalised units.

    The error of an input is its chunk's largest difference from the plain loop.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for seed in range(2, 2 + ERROR_INPUTS):  # `build` has seed 1
        context, state = random_query(
            head, vision_tokens=vision_tokens, latent_tokens=latent_tokens, seed=seed
        )
        expected = plain_loop(head, context, depth=ERROR_DEPTH, initial_state=state)
        for name, run in runs.items():
            actions = run(context, state, Stop.fixed(ERROR_DEPTH)).actions
            found[name].append(float((actions - expected).abs().max()))
    paths = {name: {"median": median(values), "max": max(values)} for name, values in found.items()}
    return {"inputs": ERROR_INPUTS, "depth": ERROR_DEPTH, "paths": paths}


def run(
    config: RecurrentConfig,
    *,
    vision_tokens: int,
    latent_tokens: int,
    depths: Sequence[int],
    rounds: int,
    paths: Sequence[str],
    adaptive_depth: int | None = ADAPTIVE_DEPTH,
) -> dict[str, Any]:
    """Measure every stop rule on every path; `main` adds memory and limits."""
    head, context, state = build(config, vision_tokens=vision_tokens, latent_tokens=latent_tokens)
    stops = [Stop.fixed(depth) for depth in depths]
    if adaptive_depth is not None:
        stops += adaptive_stops(head, context, state, depth=adaptive_depth)
    runs = {name: PATHS[name](head) for name in paths}
    rows = []
    for stop in stops:
        rows += measure(head, context, state, stop=stop, runs=runs, rounds=rounds)
        print("\n".join(format_row(row) for row in rows[-len(runs) :]), flush=True)
    return {
        "schema": 2,
        "what": "recurrent-depth head, batch 1",
        "timer": TIMER,
        "hardware": hardware(),
        "config": asdict(config) | {"vision_tokens": vision_tokens, "latent_tokens": latent_tokens},
        "parameters": sum(parameter.numel() for parameter in head.parameters()),
        "rows": rows,
        "errors": measure_errors(head, runs, vision_tokens=vision_tokens, latent_tokens=latent_tokens),
        "iteration_ms": measure_iterations(
            context, state, runs=runs, depths=(min(depths), max(depths)), rounds=rounds
        ),
    }


HEADER = (
    f"{'stop':<22} {'path':<14} {'ratio':>7} {'(quartiles)':>15} {'plain ms':>9} {'ours ms':>8} {'error':>8}"
)


def format_row(row: dict[str, Any]) -> str:
    """Format one line of the table, ratio first."""
    name, _, rest = row["rule"].partition(":")
    stop = f"depth {rest}" if name == "fixed" else f"{name.removesuffix('_change')} ({row['depth']})"
    spread = f"({row['ratio_spread'][0]:.2f}..{row['ratio_spread'][1]:.2f})"
    times = f"{row['baseline_ms']:>9.1f} {row['ours_ms']:>8.1f}"
    return (
        f"{stop:<22} {row['path']:<14} {row['ratio']:>6.2f}x {spread:>15} {times} "
        f"{row['max_abs_difference']:>8.1e}"
    )


def peak_memories() -> dict[str, Any]:
    """Measure the peak memory of a query at the smallest and the greatest depth."""
    rows = [
        {"depth": depth, "mib": float(run_fresh("benchmarks.head", "--memory-at", str(depth)))}
        for depth in MEMORY_DEPTHS
    ]
    for row in rows:
        print(f"peak memory of a query at depth {row['depth']:>2}: {row['mib']:.1f} MiB")
    return {
        "method": "VmHWM of a fresh process during its first query, above its resident memory before it "
        "(weights and features loaded); includes the buffers that libraries allocate once",
        "rows": rows,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.head", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/head.json"))
    parser.add_argument("--rounds", type=int, default=9, help="timings of each candidate at each depth")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--paths", nargs="+", default=list(PATHS), help=f"of {', '.join(PATHS)}")
    parser.add_argument(
        "--memory-at", type=int, metavar="DEPTH", help="print the peak memory of one query and stop"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.memory_at is not None:
        print(measure_memory(options.memory_at))
        return
    for path in options.paths:
        if path not in PATHS:
            raise ConfigError(f"unknown path {path!r}.{nearest(path, PATHS)}")
    print(f"head at the paper's size, batch 1, {options.threads} thread(s); {TIMER}\n{HEADER}")
    result = run(
        PAPER,
        vision_tokens=VISION_TOKENS,
        latent_tokens=LATENT_TOKENS,
        depths=DEPTHS,
        rounds=options.rounds,
        paths=options.paths,
    )
    result["possible"] = roofline.possible(
        PAPER,
        tokens=VISION_TOKENS + LATENT_TOKENS + 1,
        iteration_ms=result["iteration_ms"],
        numbers={path: BYTES[precision_of(path)] for path in options.paths},
    )
    result["peak_memory"] = peak_memories()
    write_json(options.output, result)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
