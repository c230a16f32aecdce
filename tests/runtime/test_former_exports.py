"""Exports of schema 2, whose graphs take one stop rule per batch, are driven as they were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from onnx import TensorProto, checker, helper

from rdvla.control import CHANGES, STOP_RULES, Stop, Stops
from rdvla.control.stop import Limit, StopRule
from rdvla.errors import InputError
from rdvla.hashing import hash_file
from rdvla.runtime import OnnxHead
from rdvla.runtime.description import GRAPH

STOP_INPUTS = {
    "rule": TensorProto.INT64,
    "threshold": TensorProto.FLOAT,
    "coda_below": TensorProto.FLOAT,
    "min_depth": TensorProto.INT64,
    "max_depth": TensorProto.INT64,
}
NAMES = tuple(STOP_INPUTS)
NUMBERS = {"threshold": 1e-4, "coda_below": 0.25, "min_depth": 2, "max_depth": 16}


def write_echo_graph(path: Path) -> None:
    """Write a graph whose actions are its five stop inputs: (B, 1, 5); it iterates nothing."""
    float32, nodes = TensorProto.FLOAT, []
    for name in NAMES:
        nodes += [
            helper.make_node("Cast", [name], [f"{name}/float"], to=float32),
            helper.make_node("Reshape", [f"{name}/float", "one"], [f"{name}/1"]),
        ]
    nodes += [
        helper.make_node("Concat", [f"{name}/1" for name in NAMES], ["row"], axis=0),
        helper.make_node("Slice", ["initial_state", "zero", "one", "two"], ["column"]),
        helper.make_node("Mul", ["column", "none"], ["zeros"]),
        helper.make_node("Add", ["zeros", "row"], ["actions"]),
        helper.make_node("Identity", ["initial_state"], ["state"]),
        helper.make_node("ReduceSum", ["zeros", "axes"], ["sums"], keepdims=0),
        helper.make_node("Cast", ["sums"], ["counts"], to=TensorProto.INT64),
        helper.make_node("Add", ["counts", "max_depth"], ["depth"]),
        helper.make_node("Cast", ["depth"], ["converged"], to=TensorProto.BOOL),
    ]
    state, proprio = ["batch", 1, 4], ["batch", 1, 3]
    graph = helper.make_graph(
        nodes,
        "echo",
        [
            helper.make_tensor_value_info("proprio", float32, proprio),
            helper.make_tensor_value_info("initial_state", float32, state),
            *(helper.make_tensor_value_info(name, kind, []) for name, kind in STOP_INPUTS.items()),
        ],
        [
            helper.make_tensor_value_info("actions", float32, ["batch", 1, 5]),
            helper.make_tensor_value_info("depth", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("converged", TensorProto.BOOL, ["batch"]),
            helper.make_tensor_value_info("state", float32, state),
        ],
        initializer=[
            *(
                helper.make_tensor(name, TensorProto.INT64, [1], [value])
                for name, value in {"zero": 0, "one": 1, "two": 2}.items()
            ),
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("none", float32, [1], [0.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model)
    path.write_bytes(model.SerializeToString())


@pytest.fixture
def head(tmp_path: Path) -> OnnxHead:
    write_echo_graph(tmp_path / GRAPH)
    description = {
        "format": "rdvla-onnx",
        "schema": 2,
        "files": {GRAPH: hash_file(tmp_path / GRAPH)},
        "part": "head",
        "precision": "fp32",
        "chunk_size": 1,
        "action_dim": 5,
        "hidden_dim": 4,
        "initial_state_std": 0.6,
        "stop": {"kind": "deferred_action_change", **NUMBERS},
        "execution": "fixed:1",
    } | {"cameras": [], "image_size": 0, "state_dim": 0, "tokenizer": "", "longest_instruction": 0}
    (tmp_path / "runtime.json").write_text(json.dumps(description))
    return OnnxHead.load(tmp_path, threads=1)


def run(
    head: OnnxHead, stop: Stops | None, *, batch: int = 2, **options: object
) -> list[Mapping[str, float]]:
    """Return the stop inputs that the graph was given, one dictionary per sample."""
    found = head.predict({"proprio": np.zeros((batch, 1, 3), np.float32)}, stop=stop, **options)
    return [dict(zip(NAMES, each[0].tolist(), strict=True)) for each in found.actions]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (None, {"rule": 2, **NUMBERS}),
        (7, {"rule": 0, "min_depth": 7, "max_depth": 7}),
        ("action_change:1e-4:3:9", {"rule": 1, "threshold": 1e-4, "min_depth": 3, "max_depth": 9}),
        ("deferred_action_change:1e-3:0.2", {"rule": 2, "threshold": 1e-3, "coda_below": 0.2}),
        (Stop("latent_change", threshold=0.03), {"rule": 3, "threshold": 0.03, "max_depth": 32}),
        (["cosine:1e-3", "cosine:1e-3"], {"rule": 4, "threshold": 1e-3, "min_depth": 2}),
    ],
)
def test_a_rule_becomes_its_number_and_its_numbers(
    head: OnnxHead, stop: Stops | None, expected: dict[str, float]
) -> None:
    for given in run(head, stop):
        assert {name: given[name] for name in expected} == pytest.approx(expected)
        assert given["threshold"] > 0 and given["coda_below"] > 0


def test_the_features_are_what_is_left_of_the_inputs(head: OnnxHead) -> None:
    assert head.features == ("proprio",)


def test_a_limit_on_depth_is_the_graphs_maximum(head: OnnxHead) -> None:
    (given,) = run(head, "action_change:1e-3", batch=1, max_depth=5)
    assert (given["rule"], given["min_depth"], given["max_depth"]) == (1, 2, 5)
    (given,) = run(head, 8, batch=1, max_depth=[3])
    assert (given["rule"], given["min_depth"], given["max_depth"]) == (0, 8, 3)


def test_an_empty_batch_runs(head: OnnxHead) -> None:
    assert run(head, "action_change", batch=0) == []


@pytest.mark.parametrize(
    ("stops", "max_depth"),
    [
        ([4, 5], None),
        (["action_change:1e-3", "action_change:1e-4"], None),
        (["action_change:1e-3", "latent_change:1e-3"], None),
        (["action_change:1e-3", 32], None),
        ("action_change:1e-3", [4, 5]),
    ],
)
def test_rules_that_differ_within_a_batch_are_refused(
    head: OnnxHead, stops: Stops, max_depth: list[int] | None
) -> None:
    with pytest.raises(InputError, match="takes one stop rule per batch: export the policy again"):
        run(head, stops, max_depth=max_depth)


def test_a_rule_that_came_later_is_refused(head: OnnxHead, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = tuple(Limit(f"{change}_below", change, 1e-3) for change in CHANGES)
    monkeypatch.setitem(STOP_RULES, "all_three", StopRule(limits, "every change is small"))
    with pytest.raises(InputError, match="action_change and cosine_change and latent_change"):
        run(head, "all_three")
