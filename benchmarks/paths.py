"""The ways in which a head can run, to be timed side by side: name -> how to make one."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.roofline import FLOAT32, Bytes
from rdvla.control import Stop
from rdvla.engine import solve
from rdvla.export import export_compiled_head, export_head, load_compiled
from rdvla.export.folder import Precision as OnnxPrecision
from rdvla.export.observed import features_of
from rdvla.export.quantize import BLOCK
from rdvla.export.verify import as_stop
from rdvla.head.compiled import CompiledSteps, Precision
from rdvla.heads import Context, RecurrentDepthHead
from rdvla.runtime import OnnxHead
from rdvla.types import Prediction

Run = Callable[[Context, Tensor, Stop], Prediction]  # features, S_0 (B, K, D), rule


def eager(head: RecurrentDepthHead) -> Run:
    """As it is after loading."""
    return lambda context, state, rule: head(context, depth=rule, initial_state=state)


def compiled(precision: Precision) -> Callable[[RecurrentDepthHead], Run]:
    """After `head.optimize(precision=...)`; compiled by the first call."""

    def make(head: RecurrentDepthHead) -> Run:
        steps = CompiledSteps(head, precision=precision)

        def run(context: Context, state: Tensor, rule: Stop) -> Prediction:
            encoded = steps.encode(context, coda_reads=rule.coda_reads)
            return solve(steps, encoded, rule=rule, initial_state=state)

        return run

    return make


def aoti(precision: Precision) -> Callable[[RecurrentDepthHead], Run]:
    """After `rdvla export --part head --format aoti`; the first call compiles, for its numbers of tokens."""

    def make(head: RecurrentDepthHead) -> Run:
        loaded = copy.deepcopy(head)

        def run(context: Context, state: Tensor, rule: Stop) -> Prediction:
            if not loaded.optimized:
                with tempfile.TemporaryDirectory() as folder:
                    output = Path(folder) / "head"
                    export_compiled_head(head, output, example=context, stop=rule, precision=precision)
                    load_compiled(loaded, output)
            prediction: Prediction = loaded(context, depth=rule, initial_state=state)
            return prediction

        return run

    return make


def onnx(precision: OnnxPrecision) -> Callable[[RecurrentDepthHead], Run]:
    """After `rdvla export --part head`, in onnxruntime, with as many threads as torch has."""

    def make(head: RecurrentDepthHead) -> Run:
        with tempfile.TemporaryDirectory() as folder:
            export_head(
                head,
                Path(folder) / "head",
                stop=Stop("action_change"),
                execution="fixed:8",
                precision=precision,
            )
            exported = OnnxHead.load(Path(folder) / "head", threads=torch.get_num_threads())

        def run(context: Context, state: Tensor, rule: Stop) -> Prediction:
            found = exported(features_of(context), depth=as_stop(rule), initial_state=state.numpy())
            return Prediction(
                torch.from_numpy(found.actions),
                torch.from_numpy(found.depth),
                torch.from_numpy(found.converged),
                torch.from_numpy(found.state),
            )

        return run

    return make


PATHS: dict[str, Callable[[RecurrentDepthHead], Run]] = {
    "eager fp32": eager,
    "compiled fp32": compiled("fp32"),
    "compiled bf16": compiled("bf16"),
    "aoti fp32": aoti("fp32"),
    "aoti bf16": aoti("bf16"),
    "onnx fp32": onnx("fp32"),
    "onnx int8": onnx("int8"),
}
TOLERANCES = {"fp32": 1e-4, "bf16": 1e-2, "int8": 3e-2}  # largest difference of actions, normalised units
BYTES = {
    "fp32": FLOAT32,
    "bf16": Bytes(weight=2, context=2),
    "int8": Bytes(weight=1 + 4 / BLOCK, context=4),  # a scale in float32 for each block of weights
}


def precision_of(path: str) -> str:
    """The last word of a path's name."""
    return path.rsplit(" ", 1)[1]
