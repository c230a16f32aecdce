"""Turns functions of tensors into ONNX graphs of plain operators."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx

NO_SIZE_LIMIT = 2**40  # bytes or elements, more than any weight has
OPSET = 18  # torch writes this version itself and converts to any other


@dataclass(frozen=True)
class Example:
    """An input of a graph: a tensor like those to come, and the dimensions whose size varies.

    A size that varies must not be 0 or 1 in the example, because torch takes these for constants.
    """

    tensor: Tensor
    varying: Mapping[int, str]  # dimension -> name of the size


@dataclass(frozen=True)
class TensorFunction:
    """A function of tensors that becomes a graph of its own."""

    call: Callable[..., Tensor | tuple[Tensor, ...]]  # takes `inputs` in their order
    inputs: Mapping[str, Example]
    outputs: tuple[str, ...]  # names of the returned tensors


@dataclass(frozen=True)
class TracedGraph:
    """The ONNX nodes of a `TensorFunction`."""

    nodes: tuple[onnx.NodeProto, ...]
    inputs: Mapping[str, str]  # name in the function -> name in the nodes
    outputs: Mapping[str, str]
    weights: Mapping[str, onnx.TensorProto]  # by name


def trace(owner: nn.Module, functions: Mapping[str, TensorFunction]) -> dict[str, TracedGraph]:
    """Export functions that compute with a module's weights; a weight has the same name in every graph.

    They are exported together, because every export takes seconds before its first operator.
    """
    from onnxscript import optimizer

    inputs = {
        f"{name}.{key}": value for name, each in functions.items() for key, value in each.inputs.items()
    }
    shapes = tuple(
        dict.fromkeys(example.varying, torch.export.Dim.DYNAMIC) or None for example in inputs.values()
    )
    with without_exporter_messages(), _unfused_attention(), torch.no_grad():
        program = torch.onnx.export(
            _AllFunctions(owner, tuple(functions.values())).eval(),
            tuple(example.tensor.clone() for example in inputs.values()),  # a repeated tensor is one input
            dynamo=True,
            dynamic_shapes=(shapes,),  # `forward` takes all tensors as one argument
            input_names=list(inputs),
            output_names=[_output(name, key) for name, each in functions.items() for key in each.outputs],
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None
        # Without a limit on sizes, slices of large weights would be cut out anew in every run.
        model = optimizer.optimize(
            program.model_proto, input_size_limit=NO_SIZE_LIMIT, output_size_limit=NO_SIZE_LIMIT
        )
    assert not model.functions, "the exporter left calls of functions, which cannot be split"
    return {name: _extract(model.graph, name, each) for name, each in functions.items()}


@contextmanager
def without_exporter_messages() -> Iterator[None]:
    """Hide warnings, and log messages up to warnings; errors are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _extract(graph: onnx.GraphProto, name: str, function: TensorFunction) -> TracedGraph:
    """Return the nodes that a function's outputs depend on."""
    outputs = {key: _output(name, key) for key in function.outputs}
    needed = set(outputs.values())
    nodes = []
    for node in reversed(graph.node):  # they are in the order of computation
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
            assert not any(attribute.HasField("g") for attribute in node.attribute), "a graph in a graph"
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name in needed}
    inputs = {key: f"{name}.{key}" for key in function.inputs}
    return TracedGraph(tuple(nodes[::-1]), inputs, outputs, weights)


def _output(function: str, key: str) -> str:
    return f"{function}/{key}"  # inputs have a dot: an input and an output may have the same key


class _AllFunctions(nn.Module):
    """Several functions as one module, which owns the weights they compute with."""

    def __init__(self, owner: nn.Module, functions: Sequence[TensorFunction]) -> None:
        super().__init__()
        self.owner = owner
        self.functions = functions

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        results: list[Tensor] = []
        for function in self.functions:
            found = function.call(*islice(rest, len(function.inputs)))
            results += [found] if isinstance(found, Tensor) else found
        return tuple(results)


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Disable the fused operator of transformer layers, which ONNX does not have."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
