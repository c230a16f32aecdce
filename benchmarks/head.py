"""Latency and memory of the head at the paper's size, against a loop that keeps nothing between iterations.

    python -m benchmarks.head --output runs/bench/head.json

Batch 1, float32. A timing goes from features that lie ready (the backbone's vision and latent tokens and the
proprio token) to the normalised action chunk: prelude, keys and values, all iterations, and the coda once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.baseline import plain_loop
from benchmarks.harness import (
    Spread,
    hardware,
    interleave,
    paired_ratio,
    peak_memory,
    reset_peak_memory,
    run_fresh,
)
from rdvla.files import write_json
from rdvla.head import Context, HeadConfig, RecurrentDepthHead

PAPER = HeadConfig()
VISION_TOKENS, LATENT_TOKENS = 512, 64  # M, L
DEPTHS = (1, 4, 8, 12, 32)
MEMORY_DEPTHS = (1, 64)
TIMER = "features ready in memory -> normalised action chunk; backbone excluded; time.perf_counter"
TOLERANCE = 1e-4  # largest difference between the two heads' actions, normalised units


def build(
    config: HeadConfig, *, vision_tokens: int, latent_tokens: int
) -> tuple[RecurrentDepthHead, Context, Tensor]:
    """Return a head with random weights, a random context of one observation, and an initial state."""
    torch.manual_seed(0)
    head = RecurrentDepthHead(config).eval().requires_grad_(False)
    for block in (*head.prelude, *head.core, *head.coda):
        block.cross_attention.vision_gate.fill_(
            0.5
        )  # as if trained: a gate of 0 would hide the vision tokens
    generator = torch.Generator().manual_seed(1)
    width = config.context_width
    context = head.context(
        vision={level: torch.randn(1, vision_tokens, width, generator=generator) for level in config.levels},
        latents={level: torch.randn(1, latent_tokens, width, generator=generator) for level in config.levels},
        proprio=torch.randn(1, 1, width, generator=generator),
    )
    return head, context, head.initial_state(1, generator)


def measure_depth(
    head: RecurrentDepthHead, context: Context, initial_state: Tensor, *, depth: int, rounds: int
) -> dict[str, Any]:
    """Check that both give the same actions, then time them in turn: one row of the result."""

    def ours() -> Tensor:
        return head(context, depth=depth, initial_state=initial_state).actions

    def baseline() -> Tensor:
        return plain_loop(head, context, depth=depth, initial_state=initial_state)

    difference = float((ours() - baseline()).abs().max())
    if not difference < TOLERANCE:
        raise RuntimeError(
            f"the two heads disagree by {difference} at depth {depth}: their times mean nothing"
        )
    samples = interleave({"baseline": baseline, "ours": ours}, rounds=rounds)
    slow, fast = Spread.of(samples["baseline"]), Spread.of(samples["ours"])
    ratio = paired_ratio(samples["baseline"], samples["ours"])
    return {
        "depth": depth,
        "ratio": ratio.median,
        "ratio_spread": [ratio.low, ratio.high],
        "baseline_ms": slow.median,
        "baseline_spread_ms": [slow.low, slow.high],
        "ours_ms": fast.median,
        "ours_spread_ms": [fast.low, fast.high],
        "rounds": rounds,
        "max_abs_difference": difference,
    }


def measure_memory(depth: int) -> float:
    """Peak memory of this process's first query at the paper's size, MiB above weights and features."""
    head, context, initial_state = build(PAPER, vision_tokens=VISION_TOKENS, latent_tokens=LATENT_TOKENS)
    before = reset_peak_memory()
    head(context, depth=depth, initial_state=initial_state)
    return peak_memory() - before


def run(
    config: HeadConfig, *, vision_tokens: int, latent_tokens: int, depths: Sequence[int], rounds: int
) -> Any:
    """Measure every depth; memory is added by `main`, as it needs processes of its own."""
    head, context, initial_state = build(config, vision_tokens=vision_tokens, latent_tokens=latent_tokens)
    rows = []
    for depth in depths:
        rows.append(measure_depth(head, context, initial_state, depth=depth, rounds=rounds))
        print(format_row(rows[-1]), flush=True)
    return {
        "schema": 1,
        "what": "recurrent-depth head, batch 1, float32",
        "timer": TIMER,
        "hardware": hardware(),
        "config": asdict(config) | {"vision_tokens": vision_tokens, "latent_tokens": latent_tokens},
        "parameters": sum(parameter.numel() for parameter in head.parameters()),
        "rows": rows,
    }


HEADER = f"{'depth':>5} {'ratio':>7} {'(quartiles)':>15} {'plain loop ms':>14} {'ours ms':>9}"


def format_row(row: dict[str, Any]) -> str:
    """One line of the table, ratio first."""
    spread = f"({row['ratio_spread'][0]:.2f}..{row['ratio_spread'][1]:.2f})"
    times = f"{row['baseline_ms']:>14.1f} {row['ours_ms']:>9.1f}"
    return f"{row['depth']:>5} {row['ratio']:>6.2f}x {spread:>15} {times}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.head", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/head.json"))
    parser.add_argument("--rounds", type=int, default=9, help="timings of each candidate at each depth")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument(
        "--memory-at", type=int, metavar="DEPTH", help="print the peak memory of one query and stop"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.memory_at is not None:
        print(measure_memory(options.memory_at))
        return
    print(f"head at the paper's size, batch 1, float32, {options.threads} thread(s); {TIMER}\n{HEADER}")
    result = run(
        PAPER, vision_tokens=VISION_TOKENS, latent_tokens=LATENT_TOKENS, depths=DEPTHS, rounds=options.rounds
    )
    result["peak_memory"] = {
        "method": "VmHWM of a fresh process during its first query, above its resident memory before it "
        "(weights and features loaded); includes the buffers that libraries allocate once",
        "rows": [
            {"depth": depth, "mib": float(run_fresh("benchmarks.head", "--memory-at", str(depth)))}
            for depth in MEMORY_DEPTHS
        ],
    }
    for row in result["peak_memory"]["rows"]:
        print(f"peak memory of a query at depth {row['depth']:>2}: {row['mib']:.1f} MiB")
    write_json(options.output, result)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
