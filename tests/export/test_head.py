"""The exported loop against an independent implementation's outputs, and against torch under every rule."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx

from rdvla.control import CHANGES, STOP_RULES, Stop, Stops
from rdvla.control.stop import Change, Limit, StopRule
from rdvla.engine import Engine
from rdvla.errors import InputError, RDVLAError
from rdvla.export import export_head
from rdvla.export.interface import features_of
from rdvla.export.to_onnx import quantize
from rdvla.hashing import hash_file
from rdvla.heads import Context, RecurrentDepthHead
from rdvla.runtime import OnnxHead, OnnxPolicy
from rdvla.runtime.description import GRAPH, read_description
from rdvla.types import Prediction
from tests.support.closeness import assert_stops_clearly
from tests.support.reference_case import load_case

STOPS = (
    Stop.fixed(1),
    Stop.fixed(7),
    Stop("action_change", threshold=1e-3),
    Stop("action_change", threshold=1e-5, min_depth=4, max_depth=9),
    Stop("deferred_action_change", threshold=1e-3, coda_below=0.02),
    Stop("deferred_action_change", threshold=1e-4, coda_below=0.2, min_depth=3),
    Stop("deferred_action_change", threshold=1e-3, coda_below=1e-9, max_depth=6),
    Stop("latent_change", threshold=0.05),
    Stop("latent_change", threshold=1e-9, max_depth=4),
    Stop("cosine", threshold=1e-3),
)
TOLERANCE = 1.1e-4  # of actions and states below; states are 0.97 or more in the root mean square


@dataclass
class Case:
    head: RecurrentDepthHead
    context: Context
    expected: dict[str, torch.Tensor]
    depths: dict[str, int]
    folder: Path

    @property
    def features(self) -> dict[str, np.ndarray]:
        return features_of(self.context)

    def run(self, stop: Stops, **options: object) -> Prediction:
        return OnnxHead.load(self.folder, threads=1).predict(
            self.features, stop=stop, initial_state=self.expected["initial_state"].numpy(), **options
        )

    def assert_stops_clearly(self, stop: Stops, **options: object) -> None:
        start = self.expected["initial_state"]
        assert_stops_clearly(
            self.head, self.context, stop=stop, initial_state=start, tolerance=TOLERANCE, **options
        )


@pytest.fixture(scope="module", params=["tiny", pytest.param("no_prelude_no_coda", marks=pytest.mark.slow)])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    head, context, expected, depths = load_case(request.param)
    output = tmp_path_factory.mktemp("head") / "export"
    export_head(head, output, stop=Stop("action_change", threshold=1e-3), execution="fixed:1")
    return Case(head, context, expected, depths, output)


@pytest.mark.parametrize("depth", [1, 2, 8, 32])
def test_actions_and_state_at_fixed_depth(case: Case, depth: int) -> None:
    prediction = case.run(depth)
    np.testing.assert_allclose(prediction.actions, case.expected[f"actions_depth_{depth}"], atol=1e-4)
    np.testing.assert_allclose(prediction.state, case.expected[f"state_depth_{depth}"], atol=1e-4)
    assert prediction.depth.tolist() == [depth] * case.context.batch_size
    assert prediction.converged.all()


def test_every_sample_stops_where_the_reference_does(case: Case) -> None:
    for name, depth in case.depths.items():
        threshold, _, sample = name.partition("/sample_")
        stop = Stop("action_change", threshold=float(threshold))
        case.assert_stops_clearly(stop)
        prediction = case.run(stop)
        assert prediction.depth[int(sample)] == depth
        assert prediction.converged[int(sample)]
        actions = case.expected[f"actions_adaptive_{threshold}_sample_{sample}"][0]
        np.testing.assert_allclose(prediction.actions[int(sample)], actions, atol=1e-4)


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.describe())
def test_every_rule_decides_as_in_torch(case: Case, stop: Stop) -> None:
    expected = Engine(case.head).predict(
        case.context, stop=stop, initial_state=case.expected["initial_state"]
    )
    case.assert_stops_clearly(stop)
    prediction = case.run(stop)
    assert prediction.depth.tolist() == expected.depth.tolist()
    assert prediction.converged.tolist() == expected.converged.tolist()
    np.testing.assert_allclose(prediction.actions, expected.actions, atol=1e-4)
    np.testing.assert_allclose(prediction.state, expected.state, atol=1e-4)


def test_every_sample_has_its_own_rule_and_limit_as_in_torch(case: Case) -> None:
    batch = case.context.batch_size
    stops = [STOPS[2], Stop.fixed(7), STOPS[4], Stop.fixed(1), STOPS[7]][:batch]
    start = case.expected["initial_state"]
    for max_depth in (None, 3, [5, 2, 30, 1, 4][:batch]):
        expected = case.head.predict(case.context, stop=stops, max_depth=max_depth, initial_state=start)
        case.assert_stops_clearly(stops, max_depth=max_depth)
        found = case.run(stops, max_depth=max_depth)
        assert found.depth.tolist() == expected.depth.tolist()
        assert found.converged.tolist() == expected.converged.tolist()
        np.testing.assert_allclose(found.actions, expected.actions, atol=1e-4)
        np.testing.assert_allclose(found.state, expected.state, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "converged"),
    [
        ("steady:1e-3:1e-2", True),  # the actions settle last
        ("steady:1e-3:1e-4:3:20", True),  # the direction does
        ("steady:1e-5:1e-3:3:12", False),  # neither does in time
        ("settled:0.05:1e-3", True),
    ],
)
def test_a_rule_registered_after_the_export_runs_in_its_graph_as_in_torch(
    case: Case, monkeypatch: pytest.MonkeyPatch, text: str, converged: bool
) -> None:
    # `case` was exported before the table has these rules.
    actions, cosine = Limit("threshold", "action_change", 1e-3), Limit("below", "cosine_change", 1e-3)
    latent = Limit("threshold", "latent_change", 0.05)
    monkeypatch.setitem(STOP_RULES, "steady", StopRule((actions, cosine), "actions and direction"))
    monkeypatch.setitem(STOP_RULES, "settled", StopRule((latent, cosine), "length and direction"))
    start, batch = case.expected["initial_state"], case.context.batch_size
    mixed = [text, 8, "action_change:1e-3", text, "latent_change:0.02"][:batch]
    for stop in (text, mixed):
        expected = case.head.predict(case.context, stop=stop, initial_state=start)
        found = case.run(stop)
        assert found.depth.tolist() == expected.depth.tolist()
        assert found.converged.tolist() == expected.converged.tolist()
        np.testing.assert_allclose(found.actions, expected.actions, atol=1e-4)
        np.testing.assert_allclose(found.state, expected.state, atol=1e-4)
    assert case.run(text).converged.tolist() == [converged] * batch


def test_a_change_registered_after_the_export_needs_another_export(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = case.run("action_change:1e-3")
    monkeypatch.setitem(CHANGES, "jump", Change("state", lambda previous, current: current.max((1, 2))))
    monkeypatch.setitem(STOP_RULES, "jump", StopRule((Limit("threshold", "jump", 1e-3),), "the largest"))
    np.testing.assert_array_equal(case.run("action_change:1e-3").actions, before.actions)
    with pytest.raises(InputError, match="does not measure the jump that a stop rule asks for"):
        case.run("jump")


def test_the_default_rule_is_the_one_that_was_exported(case: Case) -> None:
    head = OnnxHead.load(case.folder, threads=1)
    assert head.description.stop == "action_change:0.001"
    first, second = (head.predict(case.features, generator=np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.actions, second.actions)
    assert first.depth.min() >= 2


def test_eight_bits_reach_the_loop(case: Case, tmp_path: Path) -> None:
    model = onnx.load(case.folder / GRAPH)
    model = quantize(model)
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    kinds = [node.op_type for node in loop.attribute[0].g.node]
    assert "MatMulNBits" in kinds
    (tmp_path / GRAPH).write_bytes(model.SerializeToString())
    replace(read_description(case.folder), precision="int8").write(tmp_path)
    found = OnnxHead.load(tmp_path).predict(
        case.features, stop=8, initial_state=case.expected["initial_state"].numpy()
    )
    difference = np.abs(found.actions - case.expected["actions_depth_8"].numpy()).max()
    assert 1e-4 < difference < 0.3


def test_no_torch_is_needed(case: Case) -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "onnx", "onnxscript", "draccus")))
import numpy as np
from rdvla.runtime import OnnxHead
head = OnnxHead.load({str(case.folder)!r}, threads=1)
features = {{name: np.ones((2, 3, {case.head.config.context_width}), np.float32) for name in head.features}}
features["proprio"] = features["proprio"][:, :1]
print(head.predict(features, stop=3).depth.tolist())
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "[3, 3]"


def test_what_is_wrong_is_named(case: Case) -> None:
    head = OnnxHead.load(case.folder)
    features = case.features
    with pytest.raises(InputError, match="features lack 'proprio'"):
        head.predict({name: value for name, value in features.items() if name != "proprio"})
    vision = next(name for name in head.features if name.startswith("vision"))
    for wrong in (features[vision][..., :-1], features[vision][:, 0]):
        with pytest.raises(InputError, match=r"features\['vision\..*'\] must be \(.*, tokens, \d+\), got"):
            head.predict({**features, vision: wrong})
    with pytest.raises(InputError, match="initial_state must be"):
        head.predict(features, initial_state=np.zeros((1, 2, 3), np.float32))
    with pytest.raises(RDVLAError, match="a head alone"):
        OnnxPolicy.load(case.folder)


def test_a_damaged_graph_is_named(case: Case, tmp_path: Path) -> None:
    for path in case.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    graph = tmp_path / GRAPH
    before = hash_file(graph)
    graph.write_bytes(graph.read_bytes()[:-100])
    assert hash_file(graph) != before
    with pytest.raises(RDVLAError, match=r"policy\.onnx is damaged or was changed"):
        OnnxHead.load(tmp_path)
    graph.unlink()
    with pytest.raises(RDVLAError, match=r"policy\.onnx is missing"):
        OnnxHead.load(tmp_path)
