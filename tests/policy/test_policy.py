"""The policy: acting, queueing, saving, loading."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rdvla.control import Stop
from rdvla.engine import Engine
from rdvla.errors import ConfigError, RDVLAError
from rdvla.policy import RDVLAPolicy
from rdvla.types import Observation
from tests.support.closeness import assert_no_close_calls
from tests.support.tiny_models import (
    BACKBONE,
    CAMERAS,
    CONFIG,
    HEAD,
    STATISTICS,
    make_observation,
    make_policy,
    pretrained_config,
    save_tiny_bert,
    save_tiny_dinov2,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make_policy().save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


# --- acting ---


def test_same_seed_same_actions() -> None:
    policy, observation = make_policy(), make_observation()
    first, again, other = (policy.predict(observation, generator=seeded(s)).actions for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (3, 4, 4) and not first.requires_grad


def test_a_batch_is_its_samples() -> None:
    policy, observation = make_policy(), make_observation(4)
    state = policy.initial_state(4, seeded()).detach()
    rule, tolerance = Stop("action_change", threshold=1e-3), 5e-5
    together = policy.predict(observation, stop=rule, initial_state=state, trace=True)
    assert together.trace is not None
    # Real units are at most twice as large as the normalised ones that the rule compares, or half as large.
    assert_no_close_calls(together.trace, rule, tolerance=2 * tolerance)
    for row in range(4):
        alone = policy.predict(observation.select([row]), stop=rule, initial_state=state[row : row + 1])
        torch.testing.assert_close(alone.actions[0], together.actions[row], atol=tolerance, rtol=0)
        assert alone.depth[0] == together.depth[row]


def test_actions_are_the_heads_in_real_units() -> None:
    policy, observation = make_policy(), make_observation()
    prediction = policy.predict(observation, stop=3, generator=seeded(), trace=True)
    low, high = (torch.tensor(STATISTICS["observation.state"][name]) for name in ("q01", "q99"))
    width = torch.where(high > low, high - low, 2.0)
    normalized = (observation.state - (low + high) / 2) / (width / 2)
    context = policy.context_from(policy.frozen_inputs(observation), normalized)
    raw = policy.head.predict(context, stop=3, generator=seeded()).actions
    low, high = (torch.tensor(STATISTICS["action"][name]) for name in ("q01", "q99"))
    expected = low + (raw + 1) / 2 * (high - low)
    expected[..., 3] = raw[..., 3]  # the gripper is not normalised
    torch.testing.assert_close(prediction.actions, expected, atol=1e-5, rtol=1e-5)
    assert prediction.trace is not None
    assert torch.equal(prediction.trace.actions[-1], prediction.actions)


def test_depth_comes_from_the_configuration_unless_given() -> None:
    policy, observation = make_policy(), make_observation()
    assert policy.predict(observation).depth.tolist() == [4, 4, 4]
    assert policy.predict(observation, stop=2).depth.tolist() == [2, 2, 2]


def change(observation: Observation, **parts: Any) -> Observation:
    return replace(observation, **parts)


def test_observations_that_do_not_fit_are_explained() -> None:
    policy, good = make_policy(), make_observation(2)
    front = good.images["front"]
    small = {camera: image[:, :16, :16] for camera, image in good.images.items()}
    for bad, message in [
        (change(good, images={"front": front, "wirst": front}), "'wrist'.*Did you mean 'wirst'"),
        (change(good, images=small), "16x16 images"),
        (change(good, state=good.state[:, :2]), "takes 3 numbers of proprioception, got 2"),
        (change(good, state=torch.full((2, 3), torch.nan)), "NaN"),
    ]:
        with pytest.raises(RDVLAError, match=message):
            policy.predict(bad)


def test_cameras_beyond_the_policys_are_ignored() -> None:
    policy, observation = make_policy(), make_observation()
    more = change(observation, images={"top": observation.images["front"][:, :8], **observation.images})
    assert torch.equal(
        policy.predict(observation, generator=seeded()).actions,
        policy.predict(more, generator=seeded()).actions,
    )


# --- one action at a time ---


def count_queries(policy: RDVLAPolicy, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    queries: list[int] = []
    predict = policy.predict

    def counted(observation: Observation, **kwargs: Any) -> Any:
        queries.append(observation.batch_size)
        return predict(observation, **kwargs)

    monkeypatch.setattr(policy, "predict", counted)
    return queries


def test_exactly_the_horizon_is_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, observation = make_policy(), make_observation(2)
    policy.reset(seed=3)
    expected = policy.predict(observation, generator=seeded(3)).actions
    queries = count_queries(policy, monkeypatch)
    taken = torch.stack([policy.select_action(observation) for _ in range(3)], dim=1)
    assert torch.equal(taken, expected[:, :3])
    assert queries == [2]
    policy.select_action(observation)
    assert queries == [2, 2]


def test_samples_ask_again_on_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, observation = make_policy(), make_observation(2)

    class Uneven:
        name = "uneven"

        def horizon(self, depth: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1, 3])[: len(depth)]

        def describe(self) -> str:
            return self.name

    policy.execution = Uneven()
    policy.reset()
    queries = count_queries(policy, monkeypatch)
    for _ in range(4):  # 1 action for the first sample in every query, 3 for the second
        policy.select_action(observation)
    assert queries == [2, 1, 1, 2]


def test_a_warm_start_goes_on_from_the_query_before() -> None:
    config = replace(CONFIG, start="shifted", execution="fixed:2")
    policy, observation = make_policy(config), make_observation(2)
    policy.reset(seed=3)
    taken = [policy.select_action(observation) for _ in range(5)]
    noise = seeded(3)
    first = policy.predict(observation, initial_state=policy.initial_state(2, noise))
    drawn = policy.initial_state(2, noise)
    moved = torch.cat([first.state[:, 2:], drawn[:, -2:]], dim=1)
    second = policy.predict(observation, initial_state=moved)
    expected = torch.cat([first.actions[:, :2], second.actions[:, :2]], dim=1)
    assert torch.equal(torch.stack(taken[:4], dim=1), expected)
    policy.reset(seed=3)
    assert torch.equal(policy.select_action(observation), taken[0])  # the next episode starts from noise


def test_reset_forgets_and_a_seed_repeats() -> None:
    policy, observation = make_policy(), make_observation(2)
    policy.reset(seed=1)
    first = torch.stack([policy.select_action(observation) for _ in range(2)])
    with pytest.raises(ValueError, match=r"reset\(\)"):
        policy.select_action(make_observation(1))
    policy.reset(seed=1)
    assert torch.equal(torch.stack([policy.select_action(observation) for _ in range(2)]), first)
    policy.reset()
    assert policy.select_action(make_observation(1)).shape == (1, 4)


# --- configuration ---


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: replace(CONFIG, cameras=("front",)), r"number of cameras \(1\)"),
        (lambda: replace(CONFIG, cameras=("front", "front")), "each once"),
        (lambda: replace(CONFIG, image_size=64), "image_size"),
        (lambda: replace(CONFIG, state_dim=-1), "state_dim"),
        (lambda: replace(CONFIG, stop="acton_change"), "action_change"),
        (lambda: replace(CONFIG, execution="fixed:0"), "at least 1"),
        (lambda: make_policy(replace(CONFIG, head=replace(HEAD, context_dim=8))), "head.context_dim"),
        (lambda: make_policy(replace(CONFIG, head=replace(HEAD, core=("last",)))), "reads the level 'last'"),
        (lambda: make_policy(replace(CONFIG, unscaled_actions=(4,))), "cannot keep dimension 4"),
        (lambda: make_policy(replace(CONFIG, state_dim=2)), "must be 2 finite numbers"),
    ],
)
def test_impossible_configurations_are_refused(build: Any, message: str) -> None:
    with pytest.raises(RDVLAError, match=message):
        build()


def test_statistics_are_needed() -> None:
    with pytest.raises(RDVLAError, match=r"no statistics for 'observation.state'"):
        RDVLAPolicy(CONFIG, {"action": STATISTICS["action"]})


def test_cache_key_follows_what_is_frozen() -> None:
    policy, twin = make_policy(), make_policy(seed=1)
    assert policy.cache_key() == twin.cache_key()  # nothing that is trained is behind the cut
    assert make_policy(replace(CONFIG, cameras=CAMERAS[::-1])).cache_key() != policy.cache_key()
    trained = policy.cache_key()
    for each in (policy, twin):
        each.freeze_backbone()
    assert len({trained, policy.cache_key(), twin.cache_key()}) == 3
    frozen = policy.cache_key()
    with torch.no_grad():
        policy.head.gamma_init.add_(1)
    assert policy.cache_key() == frozen
    with torch.no_grad():
        next(iter(policy.backbone.parameters())).flatten()[0].add_(1e-3)
    assert policy.cache_key() != frozen


# --- files ---


def test_a_saved_policy_acts_the_same(saved: Path) -> None:
    policy, loaded = make_policy(), RDVLAPolicy.from_pretrained(saved)
    observation = make_observation()
    ours, theirs = (each.predict(observation, generator=seeded()) for each in (policy, loaded))
    assert torch.equal(ours.actions, theirs.actions) and torch.equal(ours.state, theirs.state)
    assert loaded.config == CONFIG and loaded.statistics == STATISTICS and not loaded.training
    names = {path.name for path in saved.iterdir()}
    assert names == {"config.json", "model.safetensors", "statistics.json", "checksums.json", "README.md"}


def test_saving_again_replaces_the_files(saved: Path) -> None:
    other = make_policy(seed=5)
    other.save_pretrained(saved)
    observation = make_observation()
    loaded = RDVLAPolicy.from_pretrained(saved)
    assert torch.equal(
        loaded.predict(observation, generator=seeded()).actions,
        other.predict(observation, generator=seeded()).actions,
    )


def damage_weights(path: Path, damage: str) -> None:
    content = path.read_bytes()
    weights = load_file(path)
    name = next(iter(weights))
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbled":
        path.write_bytes(b"\xff" * 64 + content[64:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "missing":
        path.unlink()
    elif damage == "tensor lacks":
        save_file({key: value for key, value in weights.items() if key != name}, path)
    elif damage == "tensor too many":
        save_file(weights | {"surplus": torch.zeros(1)}, path)
    else:
        save_file(weights | {name: torch.zeros(2, 3, 5)}, path)


@pytest.mark.parametrize(
    "damage", ["truncated", "garbled", "empty", "missing", "tensor lacks", "tensor too many", "other shape"]
)
def test_damaged_weights_are_named(saved: Path, damage: str) -> None:
    damage_weights(saved / "model.safetensors", damage)
    with pytest.raises(RDVLAError, match=r"model\.safetensors"):
        RDVLAPolicy.from_pretrained(saved)


@pytest.mark.parametrize("file", ["config.json", "statistics.json"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", "5", "\0", '{"action": 3}'])
def test_damaged_json_is_named(saved: Path, file: str, content: str | None) -> None:
    if content is None:
        (saved / file).unlink()
    else:
        (saved / file).write_text(content)
    with pytest.raises(RDVLAError, match=file):
        RDVLAPolicy.from_pretrained(saved)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("file", ["config.json", "statistics.json"])
def test_truncated_json_is_named(saved: Path, file: str, cut: float) -> None:
    content = (saved / file).read_bytes()
    (saved / file).write_bytes(content[: int(cut * len(content))])
    with pytest.raises(RDVLAError, match=file):
        RDVLAPolicy.from_pretrained(saved)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("head", "hiden_dim", 16, r"config\.json.*Did you mean 'head.hidden_dim'"),
        ("head", "hidden_dim", "wide", r"config\.json.*head.hidden_dim.*expected int"),
        ("head", "hidden_dim", 32, r"model\.safetensors.*does not fit"),
        ("head", "context_dim", 8, r"config\.json.*head.context_dim"),
        ("backbone", "layers", 3, r"model\.safetensors.*missing backbone.layers.2"),
        ("backbone", "type", "compat", r"config\.json.*Did you mean 'compact'"),
    ],
)
def test_configurations_that_do_not_fit(saved: Path, part: str, key: str, value: Any, message: str) -> None:
    path = saved / "config.json"
    config = json.loads(path.read_text())
    config[part][key] = value
    path.write_text(json.dumps(config))
    (saved / "checksums.json").unlink()
    with pytest.raises(RDVLAError, match=message):
        RDVLAPolicy.from_pretrained(saved)


@pytest.mark.parametrize("name", ["no/such/folder/at/all", "/nowhere"])
def test_neither_folder_nor_hub_id(name: str) -> None:
    with pytest.raises(RDVLAError, match=f"{name} is no folder"):
        RDVLAPolicy.from_pretrained(name)


def test_published_encoders_are_named_and_not_saved(tmp_path: Path) -> None:
    dinov2, bert = (tmp_path / name for name in ("dinov2", "bert"))
    config = pretrained_config(save_tiny_dinov2(dinov2), save_tiny_bert(bert))
    policy, observation = make_policy(config), make_observation()
    policy.save_pretrained(tmp_path / "policy")
    names = load_file(tmp_path / "policy" / "model.safetensors").keys()
    assert names and not any("image_encoder." in name or "text_encoder." in name for name in names)
    loaded = RDVLAPolicy.from_pretrained(tmp_path / "policy")
    ours, theirs = (each.predict(observation, generator=seeded()).actions for each in (policy, loaded))
    assert torch.equal(ours, theirs)

    save_tiny_dinov2(dinov2, seed=1)  # other weights in the same folder
    with pytest.warns(UserWarning, match="changed since"):
        other = RDVLAPolicy.from_pretrained(tmp_path / "policy", changed_weights="warn")
    assert other.cache_key() != loaded.cache_key()


def test_a_compact_backbone_must_have_its_cameras() -> None:
    with pytest.raises(ConfigError, match="num_cameras"):
        replace(CONFIG, backbone=replace(BACKBONE, num_cameras=3))


def test_the_policys_engine_runs_its_own_head() -> None:
    policy, other, observation = make_policy(), make_policy(), make_observation()
    policy.engine = Engine(policy.head)
    with pytest.raises(RDVLAError, match="runs another head"):
        policy.engine = Engine(other.head)
    before = policy.predict(observation, stop=3, generator=seeded()).actions
    policy.head = copy.deepcopy(policy.head)
    with torch.no_grad():
        policy.head.output.bias.add_(1)
    after = policy.predict(observation, stop=3, generator=seeded()).actions
    assert policy.engine.head is policy.head and not torch.allclose(before, after)
    assert set(dict(policy.named_children())) == {"backbone", "head", "proprio_projector"}
    twin = copy.deepcopy(policy)
    assert twin.engine.head is twin.head and twin.head is not policy.head


def test_every_sample_may_have_its_own_rule_and_limit() -> None:
    policy, observation = make_policy(), make_observation(3)
    start = policy.initial_state(3, seeded())
    mixed = policy.predict(observation, stop=[2, "fixed:5", 7], max_depth=[9, 9, 4], initial_state=start)
    assert mixed.depth.tolist() == [2, 5, 4] and mixed.converged.tolist() == [True, True, False]


def test_a_single_observation_gives_a_single_prediction() -> None:
    policy, batch = make_policy(), make_observation(1)
    single = Observation({c: x[0] for c, x in batch.images.items()}, batch.state[0], batch.instruction[0])
    one, many = (policy.predict(each, stop=3, generator=seeded()) for each in (single.numpy(), batch))
    assert torch.equal(one.actions, many.actions[0]) and one.state.shape == many.state.shape[1:]
    policy.reset(seed=1)
    assert policy.select_action(single).shape == (4,)


def test_a_robot_whose_episode_begins_anew_drops_its_old_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, observation = make_policy(), make_observation(2)
    queries = count_queries(policy, monkeypatch)
    policy.select_action(observation)
    policy.reset(robots=[1])
    policy.select_action(observation)
    assert queries == [2, 1]


def test_files_from_before_the_option_was_called_stop_load(tmp_path: Path) -> None:
    make_policy().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    older = json.loads(path.read_text())
    older["depth"] = older.pop("stop")
    del older["head"]["type"]
    path.write_text(json.dumps(older))
    (tmp_path / "checksums.json").unlink()
    assert RDVLAPolicy.from_pretrained(tmp_path).config == CONFIG
