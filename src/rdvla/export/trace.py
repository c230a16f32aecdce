"""From functions of tensors to ONNX graphs of plain operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rdvla.export.quiet import quiet

if TYPE_CHECKING:
    import onnx

LARGE = 2**40  # bytes or numbers: no limit
OPSET = 18  # what torch writes by itself: other versions are converted from it

Function = Callable[..., "Tensor | tuple[Tensor, ...]"]


@dataclass(frozen=True)
class Example:
    """An input of a graph: a tensor like those to come, and which of its sizes vary.

    A size that varies must not be 0 or 1 in the example, which torch takes for constants.
    """

    tensor: Tensor
    varying: Mapping[int, str]  # dimension -> name of the size


@dataclass(frozen=True)
class Part:
    """A function of tensors that is to become a graph of its own."""

    function: Function  # of `inputs`, in their order
    inputs: Mapping[str, Example]
    outputs: tuple[str, ...]  # names of what it returns


@dataclass(frozen=True)
class Graph:
    """Nodes from `inputs` to `outputs`, which are names of values; weights by name."""

    nodes: tuple[onnx.NodeProto, ...]
    inputs: Mapping[str, str]  # name in the part -> name in the nodes
    outputs: Mapping[str, str]
    weights: Mapping[str, onnx.TensorProto]


def trace(owner: nn.Module, parts: Mapping[str, Part]) -> dict[str, Graph]:
    """Export several functions that compute with the weights of a module.

    They are exported in one go, since each export takes seconds before it looks at its first operator.
    Weights have the same name in every graph.
    """
    from onnxscript import optimizer

    inputs = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.inputs.items()}
    shapes = tuple(
        dict.fromkeys(example.varying, torch.export.Dim.DYNAMIC) or None for example in inputs.values()
    )
    with quiet(), _plain_attention(), torch.no_grad():
        program = torch.onnx.export(
            _Together(owner, tuple(parts.values())).eval(),
            tuple(example.tensor.clone() for example in inputs.values()),  # one tensor twice is one input
            dynamo=True,
            dynamic_shapes=(shapes,),  # of one argument that takes them all
            input_names=list(inputs),
            output_names=[_output(name, key) for name, part in parts.items() for key in part.outputs],
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None
        # By itself it leaves slices of large weights to be cut out in every run.
        model = optimizer.optimize(program.model_proto, input_size_limit=LARGE, output_size_limit=LARGE)
    assert not model.functions, "the exporter left calls of functions, which cannot be taken apart"
    return {name: _extract(model.graph, name, part) for name, part in parts.items()}


def _extract(graph: onnx.GraphProto, name: str, part: Part) -> Graph:
    """The nodes that the outputs of a part depend on."""
    outputs = {key: _output(name, key) for key in part.outputs}
    needed = set(outputs.values())
    nodes = []
    for node in reversed(graph.node):  # they are in the order of computation
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
            assert not any(attribute.HasField("g") for attribute in node.attribute), "a graph within a part"
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name in needed}
    return Graph(tuple(nodes[::-1]), {key: f"{name}.{key}" for key in part.inputs}, outputs, weights)


def _output(part: str, name: str) -> str:
    return f"{part}/{name}"  # not with a dot, as inputs are: what goes in and out may have one name


class _Together(nn.Module):
    """Functions as one module, which owns the weights they compute with."""

    def __init__(self, owner: nn.Module, parts: Sequence[Part]) -> None:
        super().__init__()
        self.owner = owner
        self.parts = parts

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        results: list[Tensor] = []
        for part in self.parts:
            found = part.function(*islice(rest, len(part.inputs)))
            results += [found] if isinstance(found, Tensor) else found
        return tuple(results)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without the fused operator of transformer layers, which has no counterpart in ONNX."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
