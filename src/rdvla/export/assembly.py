"""Assembles traced functions into one ONNX model, whose loop ends when every sample has stopped.

    encode -> Loop(iterate -> gate -> Loop(decode), DECODE_COUNT times -> stop) -> finish

See `rdvla.export.loop_functions` for the functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from rdvla.export.loop_functions import CARRIED, DECODE_COUNT, KEEP_GOING, LAST_DEPTH, LIMITS, LoopFunctions
from rdvla.export.tracing import OPSET, Example, TensorFunction, TracedGraph

if TYPE_CHECKING:
    import onnx

IR_VERSION = 10  # of the file
OUTPUTS = ("actions", "depth", "converged", "state")
FLAG, COUNTER = Example(torch.tensor(True), {}), Example(torch.tensor(0), {})
Names = dict[str, str]


def assemble(loop: LoopFunctions, graphs: Mapping[str, TracedGraph]) -> onnx.ModelProto:
    """Return the whole model: inputs, an initial state and stop rules -> `OUTPUTS`."""
    from onnx import helper

    nodes, first = _call(graphs["encode"], {name: name for name in loop.inputs}, prefix="encode")
    encoded = {name: first[name] for name in loop.encoded}
    first["state"] = "initial_state"
    final = {name: f"final/{name}" for name in CARRIED}
    node = helper.make_node(
        "Loop",
        [LAST_DEPTH, "", *(first[name] for name in CARRIED)],
        list(final.values()),
        name="loop",
        body=_iteration(loop, graphs, encoded),
    )
    finish, finished = _call(graphs["finish"], {"normalized": final["actions"]}, prefix="finish")
    results = {**final, "actions": finished["actions"]}
    outputs = [helper.make_node("Identity", [results[name]], [name]) for name in OUTPUTS]
    return _model(
        [*nodes, node, *finish, *outputs],
        [_value(name, example) for name, example in loop.inputs.items()],
        [_value(name, loop.carried[name]) for name in OUTPUTS],
        [graph for name, graph in graphs.items() if name != "decode"],  # it holds its own weights
    )


def single_model(
    graph: TracedGraph, function: TensorFunction, outputs: Mapping[str, Example]
) -> onnx.ModelProto:
    """Return a model of one function; `outputs` are examples of what it returns."""
    from onnx import helper

    nodes, found = _call(graph, {name: name for name in function.inputs}, prefix="")
    nodes += [helper.make_node("Identity", [found[name]], [name]) for name in outputs]
    inputs, results = ([_value(*item) for item in each.items()] for each in (function.inputs, outputs))
    return _model(nodes, inputs, results, [graph])


def _iteration(
    loop: LoopFunctions, graphs: Mapping[str, TracedGraph], encoded: Mapping[str, str]
) -> onnx.GraphProto:
    """Return the loop's body; encoded context, stop rules and most weights come from the graph around it."""
    from onnx import helper

    before = {name: f"before/{name}" for name in CARRIED}
    known = {name: name for name in LIMITS} | {"iteration": "iteration"} | before
    iterate, iterated = _call(graphs["iterate"], {"state": before["state"], **encoded}, prefix="iterate")
    known |= iterated
    gate, gated = _call(graphs["gate"], known, prefix="gate")
    known |= gated | {"previous_actions": "previous_actions", "next_actions": "next_actions"}
    decode = helper.make_node(
        "Loop",
        [known[DECODE_COUNT], "", before["actions"], before["actions"]],
        ["previous_actions", "next_actions"],
        name="decode_loop",
        body=_decoding(graphs["decode"], {**encoded, **known}, like=loop.carried["actions"]),
    )
    stop, after = _call(graphs["stop"], known, prefix="stop")
    return helper.make_graph(
        [*iterate, *gate, decode, *stop],
        "iteration",
        [
            _value("iteration", COUNTER),
            _value("going", FLAG),
            *(_value(before[name], loop.carried[name]) for name in CARRIED),
        ],
        [
            _value(after[KEEP_GOING], FLAG),
            *(_value(after[name], loop.carried[name]) for name in CARRIED),
        ],
    )


def _decoding(graph: TracedGraph, known: Mapping[str, str], *, like: Example) -> onnx.GraphProto:
    """Return the inner loop's body: it decodes the previous state if asked to, and the new state last.

    It holds the coda's weights itself. onnxruntime packs weights for its products unless they lie two graphs
    further out; packed products are four times as fast.
    """
    from onnx import helper

    nodes, decoded = _call(graph, {**known, "number": "number"}, prefix="decode", weights="decode/")
    going = helper.make_node("Identity", ["decoding/going"], ["decoding/keep_going"])
    previous = helper.make_node("Identity", ["decoding/latest"], ["decoding/previous"])
    return helper.make_graph(
        [*nodes, going, previous],
        "decoding",
        [
            _value("number", COUNTER),
            _value("decoding/going", FLAG),
            _value("decoding/dropped", like),
            _value("decoding/latest", like),
        ],
        [
            _value("decoding/keep_going", FLAG),
            _value("decoding/previous", like),
            _value(decoded["actions"], like),
        ],
        initializer=[_renamed(tensor, f"decode/{name}") for name, tensor in graph.weights.items()],
    )


def _renamed(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    from onnx import TensorProto

    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _call(
    graph: TracedGraph, arguments: Mapping[str, str], *, prefix: str, weights: str = ""
) -> tuple[list[onnx.NodeProto], Names]:
    """Return the nodes of a graph applied to `arguments`, and the names of its results.

    Args:
        graph: may be called several times.
        arguments: the graph's inputs -> names around it; further ones are ignored.
        prefix: of the names of the graph's values, different for every call.
        weights: prefix of the names of the graph's weights, if it holds its own.
    """
    from onnx import NodeProto

    names = {inner: arguments[key] for key, inner in graph.inputs.items()}
    names |= {name: f"{weights}{name}" for name in graph.weights}
    nodes = []
    for node in graph.nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{prefix}/{node.name}"
        for values in (copy.input, copy.output):
            values[:] = [value and names.setdefault(value, f"{prefix}/{value}") for value in values]
        del copy.metadata_props[:]  # the position in the source takes more bytes than the node
        copy.doc_string = ""
        nodes.append(copy)
    return nodes, {key: names[inner] for key, inner in graph.outputs.items()}


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    graphs: Iterable[TracedGraph],
) -> onnx.ModelProto:
    from onnx import checker, helper

    weights = {name: tensor for graph in graphs for name, tensor in graph.weights.items()}
    graph = helper.make_graph(nodes, "rdvla", inputs, outputs, initializer=list(weights.values()))
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="rdvla", ir_version=IR_VERSION
    )
    checker.check_model(model)
    return model


def _value(name: str, example: Example) -> onnx.ValueInfoProto:
    from onnx import helper

    shape = [example.varying.get(dim, size) for dim, size in enumerate(example.tensor.shape)]
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(example.tensor.numpy().dtype), shape
    )
