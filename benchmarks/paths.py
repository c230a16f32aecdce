"""The ways in which a head can run, to be timed side by side: name -> how to make one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rdvla.head import Context, Prediction, RecurrentDepthHead, StopRule
from rdvla.head.compiled import CompiledSteps, Precision
from rdvla.head.solver import solve

Run = Callable[[Context, Tensor, StopRule], Prediction]  # features, S_0 (B, K, D), rule


def eager(head: RecurrentDepthHead) -> Run:
    """As it is after loading."""
    return lambda context, state, rule: head(context, depth=rule, initial_state=state)


def compiled(precision: Precision) -> Callable[[RecurrentDepthHead], Run]:
    """After `head.optimize(precision=...)`; compiled by the first call."""

    def make(head: RecurrentDepthHead) -> Run:
        steps = CompiledSteps(head, precision=precision)

        def run(context: Context, state: Tensor, rule: StopRule) -> Prediction:
            encoded = steps.encode(context, coda_reads=rule.coda_reads)
            return solve(steps, encoded, rule=rule, initial_state=state)

        return run

    return make


PATHS: dict[str, Callable[[RecurrentDepthHead], Run]] = {
    "eager fp32": eager,
    "compiled fp32": compiled("fp32"),
    "compiled bf16": compiled("bf16"),
}
TOLERANCES = {"fp32": 1e-4, "bf16": 1e-2, "int8": 1e-2}  # largest difference of actions, normalised units
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


def precision_of(path: str) -> str:
    """The last word of a path's name."""
    return path.rsplit(" ", 1)[1]
