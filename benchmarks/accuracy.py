"""How far each way of running the head is from the plain loop, on inputs other than the one that is timed."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.baseline import plain_loop
from benchmarks.head_case import random_query
from benchmarks.paths import Run
from rdvla.control import Stop
from rdvla.heads import RecurrentDepthHead

INPUTS = 8
DEPTH = 8


def errors(
    head: RecurrentDepthHead, runs: Mapping[str, Run], *, vision_tokens: int, latent_tokens: int
) -> dict[str, Any]:
    """Median and maximum over the inputs of a chunk's largest difference, in normalised units, by path."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for seed in range(2, 2 + INPUTS):  # 1 is the one that is timed
        context, state = random_query(
            head, vision_tokens=vision_tokens, latent_tokens=latent_tokens, seed=seed
        )
        expected = plain_loop(head, context, depth=DEPTH, initial_state=state)
        for name, run in runs.items():
            actions = run(context, state, Stop.fixed(DEPTH)).actions
            found[name].append(float((actions - expected).abs().max()))
    paths = {name: {"median": median(values), "max": max(values)} for name, values in found.items()}
    return {"inputs": INPUTS, "depth": DEPTH, "paths": paths}
