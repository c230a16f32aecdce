"""The paths that the head's benchmark compares: ways to run a head, by name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.roofline import FLOAT32, Bytes
from rdvla.control import Stop
from rdvla.engine import Engine, compile, load_compiled
from rdvla.export import export_compiled_head, export_head
from rdvla.export.interface import features_of
from rdvla.export.to_onnx import INT8_BLOCK
from rdvla.export.to_onnx import Precision as OnnxPrecision
from rdvla.heads import Context, RecurrentDepthHead
from rdvla.runtime import OnnxHead
from rdvla.types import Prediction

Run = Callable[[Context, Tensor, Stop], Prediction]  # features, S_0 (B, K, D), stop rule


def run_engine(engine: Engine) -> Run:
    """Return the run of an engine."""
    return lambda context, state, stop: engine.predict(context, stop=stop, initial_state=state)


def compiled(dtype: torch.dtype) -> Callable[[RecurrentDepthHead], Run]:
    """Compile the head in torch; the first call takes the time."""
    return lambda head: run_engine(compile(head, dtype=dtype))


def aoti(precision: str) -> Callable[[RecurrentDepthHead], Run]:
    """Export the head as native code and load it; the first call does so, for its token counts."""

    def make(head: RecurrentDepthHead) -> Run:
        loaded: list[Engine] = []

        def run(context: Context, state: Tensor, stop: Stop) -> Prediction:
            if not loaded:
                with tempfile.TemporaryDirectory() as folder:
                    output = Path(folder) / "head"
                    export_compiled_head(head, output, example=context, stop=stop, precision=precision)
                    loaded.append(load_compiled(head, output))
            return loaded[0].predict(context, stop=stop, initial_state=state)

        return run

    return make


def onnx(precision: OnnxPrecision) -> Callable[[RecurrentDepthHead], Run]:
    """Export the head as an ONNX graph, and run it with as many threads as torch has."""

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

        def run(context: Context, state: Tensor, stop: Stop) -> Prediction:
            found = exported.predict(features_of(context), stop=stop, initial_state=state.numpy())
            return Prediction(
                *map(torch.from_numpy, (found.actions, found.depth, found.converged, found.state))
            )

        return run

    return make


PATHS: dict[str, Callable[[RecurrentDepthHead], Run]] = {
    "eager fp32": lambda head: run_engine(Engine(head)),
    "compiled fp32": compiled(torch.float32),
    "compiled bf16": compiled(torch.bfloat16),
    "aoti fp32": aoti("fp32"),
    "aoti bf16": aoti("bf16"),
    "onnx fp32": onnx("fp32"),
    "onnx int8": onnx("int8"),
}
TOLERANCES = {"fp32": 1e-4, "bf16": 1e-2, "int8": 3e-2}  # largest difference of actions, normalised units
BYTES = {
    "fp32": FLOAT32,
    "bf16": Bytes(weight=2, context=2),
    "int8": Bytes(weight=1 + 4 / INT8_BLOCK, context=4),  # a float32 scale per block of weights
}


def precision_of(path: str) -> str:
    """Return the precision that a path's name ends with."""
    return path.rsplit(" ", 1)[1]
