"""An exported policy acts like the policy, even if torch cannot be imported."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from rdvla.backbone import Backbone
from rdvla.backbone.compact.image_encoders import computes_bfloat16
from rdvla.cli.export import format_report
from rdvla.cli.export import run as run_verb
from rdvla.control import FixedHorizon, Stop
from rdvla.errors import ConfigError, InputError, RDVLAError, UnknownInstructionWarning
from rdvla.export import Report, export_head, export_policy
from rdvla.heads import RecurrentDepthHead
from rdvla.policy import TRAINING, RDVLAPolicy
from rdvla.runtime import OnnxHead, OnnxPolicy
from rdvla.types import Observation
from tests.support.closeness import assert_no_close_calls
from tests.support.heads import make_head
from tests.support.tiny_models import (
    SENTENCES,
    make_observation,
    make_policy,
    pretrained_config,
    save_tiny_bert,
    save_tiny_dinov2,
)

pytestmark = pytest.mark.slow  # an export takes many seconds
STOPS = (
    Stop.fixed(3),
    Stop("action_change", threshold=2.5e-3, max_depth=20),
    Stop("latent_change", threshold=0.02),
)


def in_float32(policy: RDVLAPolicy) -> RDVLAPolicy:
    config = replace(policy.config, backbone=replace(policy.config.backbone, conv_bfloat16=False))
    copy = RDVLAPolicy(config, policy.statistics)
    copy.load_state_dict(policy.state_dict())
    return copy.eval().requires_grad_(False)


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.describe())
@pytest.mark.parametrize("batch", [1, 4])
def test_it_acts_like_the_policy(policy: RDVLAPolicy, exported: Path, stop: Stop, batch: int) -> None:
    plain, runtime = in_float32(policy), OnnxPolicy.load(exported, threads=1)
    observation = make_observation(batch, seed=3)
    start = plain.initial_state(batch, torch.Generator().manual_seed(1))
    expected = plain.predict(observation, stop=stop, initial_state=start, trace=True)
    assert_no_close_calls(expected.trace, stop, tolerance=2e-4)  # normalised: at most twice the real units
    found = runtime.predict(observation, stop=stop, initial_state=start.numpy())
    np.testing.assert_allclose(found.actions, expected.actions, atol=1e-4)
    assert found.depth.tolist() == expected.depth.tolist()
    assert found.converged.tolist() == expected.converged.tolist()
    np.testing.assert_allclose(found.state, expected.state, atol=1e-4)


def test_the_report_says_how_near_it_is(report: Report, policy: RDVLAPolicy) -> None:
    assert set(report.sizes) == {"policy.onnx", "instruction.onnx", "runtime.json"}
    assert [check.stop for check in report.checks] == ["fixed:8", "action_change:0.001:2:12"]
    assert all(check.difference < 1e-4 and check.depths == check.expected for check in report.checks)
    in_bfloat16 = computes_bfloat16(torch.device("cpu"))
    assert report.bfloat16 or not in_bfloat16  # without its instructions the policy runs in float32 too
    assert all(0 <= each.usual <= each.largest < 0.1 for each in report.bfloat16)
    assert [each.stop for each in report.differences] == [
        *(f"fixed:{n}" for n in (1, 4, 8, 16)),
        policy.config.stop,
    ]
    assert all(each.largest < 1e-4 and each.samples == 32 for each in report.differences)
    shown = format_report(report)
    assert "policy.onnx" in shown
    assert "fixed:8" in shown
    assert "made-up images" in shown
    assert ("bfloat16" in shown) == bool(report.bfloat16)


def test_no_torch_is_needed(exported: Path) -> None:
    blocked = ("torch", "transformers", "onnx", "onnxscript", "draccus", "huggingface_hub")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
import numpy as np
from rdvla.runtime import OnnxPolicy
from rdvla.types import Observation
policy = OnnxPolicy.load({str(exported)!r}, threads=1)
images = {{camera: np.zeros((2, 32, 32, 3), np.uint8) for camera in policy.description.cameras}}
state, instruction = np.zeros((2, 3), np.float32), ["push the puck", "open the drawer"]
observation = Observation(images, state, instruction)
prediction = policy.predict(observation)
assert prediction.actions.shape == (2, 4, 4) and np.isfinite(prediction.actions).all()
policy.reset(seed=0)
print(policy.select_action(observation).shape)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "(2, 4)"


def test_chunks_are_executed_as_the_rule_says(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = OnnxPolicy.load(exported, threads=1)
    observation = make_observation(2)
    asked = []
    predict = policy.predict
    monkeypatch.setattr(policy, "predict", lambda *a, **k: asked.append(a[0].batch_size) or predict(*a, **k))
    policy.reset(seed=4)
    first = [policy.select_action(observation) for _ in range(4)]  # fixed:3
    assert asked == [2, 2]
    policy.reset(seed=4)
    np.testing.assert_array_equal(first, [policy.select_action(observation) for _ in range(4)])


def test_it_pickles_with_its_random_stream(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported.parent)
    policy, observation = OnnxPolicy.load(exported.name, threads=1), make_observation(2)
    policy.reset(seed=4)
    policy.select_action(observation)
    pickled = pickle.dumps(policy)
    monkeypatch.chdir("/")  # another process may run elsewhere
    copy = pickle.loads(pickled)
    expected = [policy.select_action(observation) for _ in range(5)]
    np.testing.assert_array_equal([copy.select_action(observation) for _ in range(5)], expected)


def test_a_query_starts_from_the_one_before(exported: Path, policy: RDVLAPolicy) -> None:
    assert policy.config.start == "final"
    found = OnnxPolicy.load(exported, threads=1)
    observation = make_observation(2)
    found.reset(seed=4)
    taken = [found.select_action(observation) for _ in range(4)]  # fixed:3
    first = found.predict(observation, generator=np.random.default_rng(4))
    second = found.predict(observation, initial_state=first.state)
    np.testing.assert_array_equal(taken[:3], first.actions.swapaxes(0, 1)[:3])
    np.testing.assert_array_equal(taken[3], second.actions[:, 0])


def test_what_is_wrong_with_an_observation_is_named(exported: Path) -> None:
    policy = OnnxPolicy.load(exported, threads=1)
    whole = make_observation(2).numpy()
    images, state, instruction = whole.images, whole.state, whole.instruction
    without = {"wrist": images["wrist"]}
    small = {camera: image[:, :16] for camera, image in images.items()}
    broken = np.full_like(state, np.nan)
    for arguments, message in (
        ((without, state, instruction), "lacks the camera 'front'"),
        ((small, state, instruction), "32x16 images, the policy was trained on 32x32"),
        (({**images, "front": images["front"].astype(np.float32)}, state, instruction), "uint8, got"),
        ((images, state[:, :2], instruction), "takes 3 numbers of proprioception, got 2"),
        ((images, broken, instruction), "NaN or infinite"),
        ((images, state[:1], instruction), r"state must be \(2, S\)"),
        ((images, state, "push"), "a list of instructions"),
        ((images, state, ["a" * 25, "b"]), "1 to 24 bytes"),
    ):
        with pytest.raises(InputError, match=message):
            policy.predict(Observation(*arguments))
    with pytest.raises(ConfigError, match="stop must be a number of iterations"):
        policy.predict(whole, stop=8.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="lacks the camera 'front'"):
        policy.select_action(Observation(without, state, instruction))
    assert len(policy.select_action(whole)) == 2  # nothing is left of the call before
    with pytest.raises(RDVLAError, match="a whole policy"):
        OnnxHead.load(exported)


def test_it_takes_what_the_policy_takes(exported: Path) -> None:
    policy = OnnxPolicy.load(exported, threads=1)
    batch = make_observation(1)
    start = policy.initial_state(1, np.random.default_rng(0))
    expected = policy.predict(batch, initial_state=start).actions
    images = {name: image[0].permute(2, 0, 1) for name, image in batch.images.items()}
    observation = Observation(images, batch.state[0].tolist(), np.array(batch.instruction))
    for given in (start, torch.from_numpy(start), start.astype(np.float64)):
        np.testing.assert_array_equal(policy.predict(observation, initial_state=given).actions, expected)
    for options, message in (
        ({"initial_state": start * np.nan}, "initial_state holds NaN"),
        ({"initial_state": start[:, :1]}, "initial_state must be"),
        ({"generator": torch.Generator()}, r"generator must be such as numpy\.random\.default_rng"),
    ):
        with pytest.raises(InputError, match=message):
            policy.predict(batch, **options)
    with pytest.raises(InputError, match=r"takes an Observation\(images"):
        policy.select_action({})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a seed must be"):
        policy.reset(-1)


def test_an_export_warns_of_instructions_that_the_policy_was_not_trained_on(tmp_path: Path) -> None:
    policy = make_policy().requires_grad_(False)
    policy.records = {TRAINING: {"instructions": list(SENTENCES[:2])}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_policy(policy, tmp_path / "export")
        runtime = OnnxPolicy.load(tmp_path / "export", threads=1)
        runtime.predict(make_observation(2))
    assert runtime.description.instructions == SENTENCES[:2]
    with pytest.warns(UnknownInstructionWarning, match="'close the door'") as warned:
        runtime.predict(make_observation(3))
        runtime.predict(make_observation(3))
    assert len(warned) == 1 and warned[0].filename == __file__


def test_a_folder_of_something_else_is_kept(policy: RDVLAPolicy, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RDVLAError, match="exists and is no export"):
        export_policy(policy, tmp_path)
    assert (tmp_path / "thesis.txt").exists()
    with pytest.raises(RDVLAError, match=r"holds no runtime\.json"):
        OnnxPolicy.load(tmp_path)


def test_other_backbones_are_refused_before_anything_is_exported(tmp_path: Path) -> None:
    class Own(Backbone):
        def prepare(self, images, instructions):
            raise NotImplementedError

        def transform(self, prepared):
            raise NotImplementedError

    policy = make_policy()
    policy.backbone = Own()
    with pytest.raises(ConfigError, match=r"Own cannot be exported as a whole.*--part head"):
        export_policy(policy, tmp_path / "export")


def test_an_export_that_acts_otherwise_is_not_written(
    policy: RDVLAPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = RecurrentDepthHead.decode

    def decode_otherwise_in_a_graph(head, state, encoded):
        actions = decode(head, state, encoded)
        return 1 - actions if torch.compiler.is_exporting() else actions

    monkeypatch.setattr(RecurrentDepthHead, "decode", decode_otherwise_in_a_graph)
    with pytest.raises(RDVLAError, match="does not act as the policy under fixed:8"):
        export_policy(policy, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_published_encoders(tmp_path: Path) -> None:
    config = pretrained_config(save_tiny_dinov2(tmp_path / "vit"), save_tiny_bert(tmp_path / "bert"))
    policy = make_policy(config).requires_grad_(False)
    report = export_policy(policy, tmp_path / "export")
    assert "tokenizer.json" in report.sizes
    runtime = OnnxPolicy.load(tmp_path / "export", threads=1)
    observation = make_observation(4, instructions=SENTENCES)
    start = policy.initial_state(4, torch.Generator().manual_seed(0))
    expected = policy.predict(observation, initial_state=start)
    found = runtime.predict(observation, initial_state=start.numpy())
    np.testing.assert_allclose(found.actions, expected.actions, atol=1e-4)
    with pytest.raises(InputError, match="at most 10 tokens"):
        runtime.predict(make_observation(1, instructions=["push the puck " * 4]))


@pytest.mark.parametrize(("part", "loader"), [("policy", OnnxPolicy), ("head", OnnxHead)])
def test_the_verb_writes_int8(
    policy: RDVLAPolicy, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, loader: type
) -> None:
    policy.save_pretrained(tmp_path / "policy")
    output = tmp_path / "export"
    run_verb(str(tmp_path / "policy"), output, precision="int8", part=part)
    shown = capsys.readouterr().out
    compared = {"policy": "differences from torch in float32", "head": "fixed:8: actions differ"}
    assert compared[part] in shown and f"written: {output}, int8" in shown
    assert shown.splitlines()[-1] == f'next: rdvla.runtime.{loader.__name__}.load("{output}")'
    assert loader.load(output).description.precision == "int8"
    assert json.loads((output / "runtime.json").read_text())["files"].keys() >= {"policy.onnx"}


def test_a_single_observation_gives_a_single_prediction(exported: Path) -> None:
    policy = OnnxPolicy.load(exported, threads=1)
    batch = make_observation(1)
    single = Observation({c: x[0] for c, x in batch.images.items()}, batch.state[0], batch.instruction[0])
    start = policy.initial_state(1, np.random.default_rng(0))
    from_single, from_batch = (policy.predict(each, stop=3, initial_state=start) for each in (single, batch))
    np.testing.assert_array_equal(from_single.actions, from_batch.actions[0])
    assert int(from_single.depth) == 3 and from_single.state.shape == from_batch.state.shape[1:]
    assert policy.select_action(single).shape == (4,)


@pytest.mark.parametrize("stop", [3, "3", "fixed:3", Stop.fixed(3), np.int64(3), [3, "fixed:3"]], ids=repr)
def test_every_form_of_a_stop_rule_means_the_same(exported: Path, stop: Any) -> None:
    policy = OnnxPolicy.load(exported, threads=1)
    assert policy.predict(make_observation(2), stop=stop).depth.tolist() == [3, 3]
    with pytest.raises(ConfigError, match="Did you mean 'action_change'"):
        policy.predict(make_observation(2), stop="acton_change")


def test_a_head_is_exported_with_rules_in_any_form(tmp_path: Path) -> None:
    export_head(make_head(), tmp_path / "head", stop="4", execution=FixedHorizon(2))
    description = OnnxHead.load(tmp_path / "head").description
    assert (description.stop, description.execution) == ("fixed:4", "fixed:2")


@pytest.mark.parametrize(
    ("execution", "message"), [("fixed:99", "a chunk has 3"), ("some", "unknown execution rule")]
)
def test_an_execution_rule_that_does_not_fit_is_refused_first(
    execution: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        export_head(make_head(), tmp_path / "head", stop=Stop.fixed(4), execution=execution)
    assert not (tmp_path / "head").exists()
