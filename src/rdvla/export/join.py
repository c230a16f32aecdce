"""Joins the pieces of a policy into one graph whose loop ends when every sample has stopped.

encode -> Loop(iterate -> consider -> Loop(decode), as often as states are read -> advance) -> finish
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from rdvla.export.pieces import CARRIED, GOING, LAST, LIMITS, READINGS, Pieces
from rdvla.export.trace import OPSET, Example, Graph

if TYPE_CHECKING:
    import onnx

IR_VERSION = 10  # of the file
OUTPUTS = ("actions", "depth", "converged", "state")
FLAG, COUNTER = Example(torch.tensor(True), {}), Example(torch.tensor(0), {})
Names = dict[str, str]


def join(pieces: Pieces, graphs: Mapping[str, Graph]) -> onnx.ModelProto:
    """The whole: what the pieces take, an initial state and a stop rule, to `OUTPUTS`."""
    from onnx import helper

    nodes, started = _place(graphs["encode"], {name: name for name in pieces.inputs}, call="encode")
    encoded = {name: started[name] for name in pieces.encoded}
    started["state"] = "initial_state"
    ended = {name: f"ended/{name}" for name in CARRIED}
    loop = helper.make_node(
        "Loop",
        [LAST, "", *(started[name] for name in CARRIED)],
        list(ended.values()),
        name="loop",
        body=_body(pieces, graphs, encoded),
    )
    finish, finished = _place(graphs["finish"], {"normalized": ended["actions"]}, call="finish")
    results = {**ended, "actions": finished["actions"]}
    outputs = [helper.make_node("Identity", [results[name]], [name]) for name in OUTPUTS]
    return _model(
        [*nodes, loop, *finish, *outputs],
        [_value(name, example) for name, example in pieces.inputs.items()],
        [_value(name, pieces.carried[name]) for name in OUTPUTS],
        [graph for name, graph in graphs.items() if name != "decode"],  # which holds its own
    )


def alone(graph: Graph, inputs: Mapping[str, Example], outputs: Mapping[str, Example]) -> onnx.ModelProto:
    """One graph as a model of its own."""
    from onnx import helper

    nodes, found = _place(graph, {name: name for name in inputs}, call="")
    nodes += [helper.make_node("Identity", [found[name]], [name]) for name in outputs]
    declared = [[_value(*item) for item in values.items()] for values in (inputs, outputs)]
    return _model(nodes, declared[0], declared[1], [graph])


def _body(pieces: Pieces, graphs: Mapping[str, Graph], encoded: Mapping[str, str]) -> onnx.GraphProto:
    """One iteration; it reads the encoded context, the stop rule and its weights from the graph around it."""
    from onnx import helper

    before = {name: f"before/{name}" for name in CARRIED}
    around = {name: name for name in LIMITS} | {"iteration": "iteration"} | before
    nodes, iterated = _place(graphs["iterate"], {"state": before["state"], **encoded}, call="iterate")
    around |= iterated
    choose, considered = _place(graphs["consider"], around, call="consider")
    around |= considered | {"actions_before": "actions_before", "next_actions": "next_actions"}
    read = helper.make_node(
        "Loop",
        [around[READINGS], "", before["actions"], before["actions"]],
        ["actions_before", "next_actions"],
        name="read",
        body=_reading(graphs["decode"], encoded, around, like=pieces.carried["actions"]),
    )
    decide, after = _place(graphs["advance"], around, call="advance")
    return helper.make_graph(
        [*nodes, *choose, read, *decide],
        "iteration",
        [
            _value("iteration", COUNTER),
            _value("going", FLAG),
            *(_value(before[name], pieces.carried[name]) for name in CARRIED),
        ],
        [_value(after[GOING], FLAG), *(_value(after[name], pieces.carried[name]) for name in CARRIED)],
    )


def _reading(
    graph: Graph, encoded: Mapping[str, str], around: Mapping[str, str], *, like: Example
) -> onnx.GraphProto:
    """The coda on one state: last on that of this iteration, and on the one before it where two are read.

    It holds the coda's weights itself: onnxruntime packs them for its products only where they are not two
    graphs further out, which makes them four times as fast.
    """
    from onnx import helper

    inputs = {**encoded, **around, "number": "number"}
    nodes, decoded = _place(graph, inputs, call="decode", weights="decode/")
    going = helper.make_node("Identity", ["reading/going"], ["reading/goes_on"])
    newer = helper.make_node("Identity", ["reading/newer"], ["reading/older"])
    return helper.make_graph(
        [*nodes, going, newer],
        "reading",
        [
            _value("number", COUNTER),
            _value("reading/going", FLAG),
            _value("reading/forgotten", like),
            _value("reading/newer", like),
        ],
        [_value("reading/goes_on", FLAG), _value("reading/older", like), _value(decoded["actions"], like)],
        initializer=[_renamed(tensor, f"decode/{name}") for name, tensor in graph.weights.items()],
    )


def _renamed(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    from onnx import TensorProto

    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _place(
    graph: Graph, arguments: Mapping[str, str], *, call: str, weights: str = ""
) -> tuple[list[onnx.NodeProto], Names]:
    """Nodes of a graph that reads `arguments`, and what its outputs are called.

    Args:
        graph: may be placed several times.
        arguments: its inputs' names -> names around it; it may read fewer.
        call: start of the names of its values, another one in every place.
        weights: start of the names of its weights, where it has its own.
    """
    from onnx import NodeProto

    names = {inner: arguments[key] for key, inner in graph.inputs.items()}
    names |= {name: f"{weights}{name}" for name in graph.weights}
    nodes = []
    for node in graph.nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{call}/{node.name}"
        for values in (copy.input, copy.output):
            values[:] = [value and names.setdefault(value, f"{call}/{value}") for value in values]
        del copy.metadata_props[:]  # where in the source it comes from: more bytes than the node
        copy.doc_string = ""
        nodes.append(copy)
    return nodes, {key: names[inner] for key, inner in graph.outputs.items()}


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    graphs: Iterable[Graph],
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
