"""Joins the pieces of a policy into one graph whose loop ends when every sample has stopped.

encode -> Loop(iterate -> If(the rule reads actions: decode) -> advance) -> decode, if not done -> finish
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from rdvla.export.pieces import CARRIED, GOING, LIMITS, READS, Pieces
from rdvla.export.trace import OPSET, Example, Graph

if TYPE_CHECKING:
    import onnx

IR_VERSION = 10  # of the file
OUTPUTS = ("actions", "depth", "converged", "state")
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
        ["max_depth", "", *(started[name] for name in CARRIED)],
        list(ended.values()),
        name="loop",
        body=_body(pieces, graphs, encoded, reads=started[READS]),
    )
    actions = pieces.carried["actions"]
    coda, decoded = _place(graphs["decode"], {"state": ended["state"], **encoded}, call="last")
    choose = helper.make_node(
        "If",
        [started[READS]],
        ["normalized"],
        name="actions",
        then_branch=_branch("done", [], ended["actions"], like=actions),  # the last iteration has read them
        else_branch=_branch("read", coda, decoded["actions"], like=actions),
    )
    finish, finished = _place(graphs["finish"], {"normalized": "normalized"}, call="finish")
    results = {**ended, "actions": finished["actions"]}
    outputs = [helper.make_node("Identity", [results[name]], [name]) for name in OUTPUTS]
    return _model(
        [*nodes, loop, choose, *finish, *outputs],
        [_value(name, example) for name, example in pieces.inputs.items()],
        [_value(name, pieces.carried[name]) for name in OUTPUTS],
        graphs.values(),
    )


def alone(graph: Graph, inputs: Mapping[str, Example], outputs: Mapping[str, Example]) -> onnx.ModelProto:
    """One graph as a model of its own."""
    from onnx import helper

    nodes, found = _place(graph, {name: name for name in inputs}, call="")
    nodes += [helper.make_node("Identity", [found[name]], [name]) for name in outputs]
    declared = [[_value(*item) for item in values.items()] for values in (inputs, outputs)]
    return _model(nodes, declared[0], declared[1], [graph])


def _body(
    pieces: Pieces, graphs: Mapping[str, Graph], encoded: Mapping[str, str], *, reads: str
) -> onnx.GraphProto:
    """One iteration; it reads the encoded context, the stop rule and the weights from the graph around it."""
    from onnx import helper

    before = {name: f"before/{name}" for name in CARRIED}
    nodes, iterated = _place(graphs["iterate"], {"state": before["state"], **encoded}, call="iterate")
    state = iterated["next_state"]
    actions = pieces.carried["actions"]
    coda, decoded = _place(graphs["decode"], {"state": state, **encoded}, call="decode")
    read = helper.make_node(
        "If",
        [reads],
        ["next_actions"],
        name="next_actions",
        then_branch=_branch("decode", coda, decoded["actions"], like=actions),
        else_branch=_branch("keep", [], before["actions"], like=actions),
    )
    around = {name: name for name in LIMITS}
    changed = {"next_state": state, "next_actions": "next_actions"}
    decide, after = _place(
        graphs["advance"], {"iteration": "iteration", **around, **before, **changed}, call="advance"
    )
    flag = Example(torch.tensor(True), {})
    counter = Example(torch.tensor(0), {})
    return helper.make_graph(
        [*nodes, read, *decide],
        "iteration",
        [
            _value("iteration", counter),
            _value("going", flag),
            *(_value(before[name], pieces.carried[name]) for name in CARRIED),
        ],
        [_value(after[GOING], flag), *(_value(after[name], pieces.carried[name]) for name in CARRIED)],
    )


def _branch(name: str, nodes: list[onnx.NodeProto], result: str, *, like: Example) -> onnx.GraphProto:
    """Nodes that lead to a result, or none where it is there already."""
    from onnx import helper

    output = _value(f"{name}/result", like)
    given = helper.make_node("Identity", [result], [output.name], name=output.name)
    return helper.make_graph([*nodes, given], name, [], [output])


def _place(graph: Graph, arguments: Mapping[str, str], *, call: str) -> tuple[list[onnx.NodeProto], Names]:
    """Nodes of a graph that reads `arguments`, and what its outputs are called.

    Args:
        graph: may be placed several times.
        arguments: its inputs' names -> names around it; it may read fewer.
        call: start of the names of its values, another one in every place.
    """
    from onnx import NodeProto

    names = {inner: arguments[key] for key, inner in graph.inputs.items()}
    names |= {name: name for name in graph.weights}
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
