"""Whole runs on a tiny dataset."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from rdvla.config import decode_config
from rdvla.data import EpisodeDataset
from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.policy.config import RobotConfig
from rdvla.training import CheckpointError, NonFiniteLossError, TrainConfig, Trainer, train
from rdvla.training.batches import Draw
from rdvla.training.config import (
    DataConfig,
    DepthConfig,
    EMAConfig,
    LossConfig,
    OptimizerConfig,
    ValidationConfig,
)
from rdvla.training.metrics import read_metrics
from rdvla.training.optimization import fixed_weights
from rdvla.types import Observation
from tests.support.tiny_training import TASKS, policy_config, train_config

QUIET = Console(quiet=True)


def test_a_run_leaves_everything_behind(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run")
    result = train(config, console=QUIET)
    assert result.finished
    assert result.step == 12
    assert result.policy_dir == tmp_path / "run" / "policy"
    policy = RDVLAPolicy.from_pretrained(result.policy_dir)
    data = EpisodeDataset(dataset, chunk_size=4)
    frames = data.sample_index[:2]
    observation = Observation(
        images=data.images(frames), state=data.state(frames), instruction=data.instructions(frames)
    )
    assert policy.predict(observation, stop=2).actions.shape == (2, 4, 4)
    record = json.loads((result.policy_dir / "training.json").read_text())
    best = json.loads((tmp_path / "run/checkpoints/best.json").read_text())
    assert (record["steps"], record["validation_loss"]) == (int(best["checkpoint"][5:]), best["loss"])
    assert record["training_seconds"] > 0
    assert record["versions"]["torch"] == torch.__version__
    recorded = decode_config(TrainConfig, record["config"])
    robot = RobotConfig(fps=80.0)
    policy_config = replace(config.policy, unscaled_actions=(), robot=robot)
    assert recorded == replace(config, policy=policy_config, data=replace(config.data, sampling="uniform"))
    assert record["instructions"] == list(TASKS)
    averaged = load_file(tmp_path / "run/checkpoints" / best["checkpoint"] / "ema.safetensors")
    saved = load_file(result.policy_dir / "model.safetensors")
    assert all(saved[name].equal(value) for name, value in averaged.items())
    lines = read_metrics(tmp_path / "run/metrics.jsonl", kind="validation")
    assert [line["step"] for line in lines] == [6, 12]
    assert {"l1_depth_1", "l1_depth_2", "l1_depth_4"} < lines[0].keys()


def test_the_loss_falls_on_a_tiny_set(dataset: Path, tmp_path: Path) -> None:
    config = train_config(
        dataset,
        tmp_path / "run",
        steps=80,
        batch_size=12,
        log_every=20,
        data=DataConfig(validation_fraction=0),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=5),
        loss=LossConfig(perception_weight=0.5, proprio_noise=0.01),
    )
    train(config, console=QUIET)
    losses = [line["loss"] for line in read_metrics(tmp_path / "run/metrics.jsonl", kind="train")]
    assert losses[-1] < 0.6 * losses[0]


def test_perception_then_a_head_on_frozen_context(dataset: Path, tmp_path: Path) -> None:
    first = train(train_config(dataset, tmp_path / "perception", objective="perception"), console=QUIET)
    assert first.policy_dir is not None
    config = train_config(
        dataset,
        tmp_path / "head",
        init_from=str(first.policy_dir),
        freeze_backbone=True,
        policy=policy_config(core=("late", "late")),  # the head may be another one
        depth=DepthConfig(distribution="constant", mean=1),
    )
    second = train(config, console=QUIET)
    assert second.policy_dir is not None
    perceiving, both = (
        load_file(folder / "model.safetensors") for folder in (first.policy_dir, second.policy_dir)
    )
    backbone = [name for name in both if name.startswith("backbone.")]
    assert backbone
    assert all(both[name].equal(perceiving[name]) for name in backbone)
    weights = load_file(tmp_path / "head/checkpoints/step-00000012/weights.safetensors")
    assert not any(name.startswith("backbone.") for name in weights)
    caches = list((tmp_path / "head/cache").glob("*/shard-*.safetensors"))
    assert {name for file in caches for name in load_file(file)} == {
        "vision/middle",  # the same tokens are read as vision/late, and stored once
        "latents/middle",
        "latents/late",
    }
    assert {line["depth"] for line in read_metrics(tmp_path / "head/metrics.jsonl", kind="train")} == {1}


def test_perception_trains_the_backbone_only(dataset: Path, tmp_path: Path) -> None:
    trainer = Trainer(train_config(dataset, tmp_path / "run", objective="perception"), console=QUIET)
    assert {name.split(".")[0] for name in trainer.state.parameters} == {"backbone"}
    before = {name: p.detach().clone() for name, p in trainer.policy.named_parameters()}
    trainer.run()
    changed = {name for name, p in trainer.policy.named_parameters() if not p.equal(before[name])}
    assert "backbone.readout.0.weight" in changed
    assert not any(name.startswith(("head.", "proprio_projector.")) for name in changed)
    assert "l1" in read_metrics(tmp_path / "run/metrics.jsonl", kind="validation")[0]


def test_a_head_that_perception_leaves_out_may_differ(dataset: Path, tmp_path: Path) -> None:
    """Its random weights differ in their last bits between kinds of processors."""
    trainer = Trainer(train_config(dataset, tmp_path / "run", objective="perception"), console=QUIET)
    head = trainer.policy.head
    before = (fixed_weights(trainer.policy), fixed_weights(trainer.policy, used=("",)))
    with torch.no_grad():
        next(head.parameters()).add_(1e-7)
    after = (fixed_weights(trainer.policy), fixed_weights(trainer.policy, used=("",)))
    assert after[0] == before[0] and after[1] != before[1]


def test_a_run_of_an_older_version_goes_on(dataset: Path, tmp_path: Path) -> None:
    """It recorded a fingerprint of all weights that are not trained."""
    config = train_config(dataset, tmp_path / "run", objective="perception")
    trainer = Trainer(config, console=QUIET)
    record = tmp_path / "run/run.json"
    began_with = json.loads(record.read_text())
    record.write_text(json.dumps(began_with | {"fixed weights": fixed_weights(trainer.policy, used=("",))}))
    Trainer(replace(config, resume=True), console=QUIET)
    record.write_text(json.dumps(began_with | {"fixed weights": "0" * 16}))
    with pytest.raises(ConfigError, match="fixed weights changed since it began"):
        Trainer(replace(config, resume=True), console=QUIET)


def test_a_policy_is_fine_tuned_in_the_units_it_was_trained_in(dataset: Path, tmp_path: Path) -> None:
    first = train(train_config(dataset, tmp_path / "first"), console=QUIET).policy_dir
    assert first is not None
    statistics = json.loads((first / "statistics.json").read_text())
    statistics["action"]["q99"] = [9.0, 9.0, 9.0, 9.0]
    (first / "statistics.json").write_text(json.dumps(statistics))
    (first / "checksums.json").unlink()
    config = train_config(dataset, tmp_path / "second", init_from=str(first), init_parts=("backbone", "head"))
    policy = Trainer(config, console=QUIET).policy
    assert policy.statistics["action"]["q99"] == [9.0, 9.0, 9.0, 9.0]
    expected = load_file(first / "model.safetensors")
    assert all(value.equal(expected[name]) for name, value in policy.state_dict().items())
    other = replace(config, output_dir=str(tmp_path / "third"), policy=policy_config(hidden_dim=32))
    with pytest.raises(ConfigError, match=r"policy.head.hidden_dim is 32, there 16"):
        Trainer(other, console=QUIET)


def test_nan_stops_with_step_batch_and_last_checkpoint(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(train_config(dataset, tmp_path / "run"), console=QUIET)
    poisoned = int(trainer.sampler.draw(7).frames[0])
    steps_before = [frame for step in range(7) for frame in trainer.sampler.draw(step).frames.tolist()]
    actions = trainer.dataset.actions

    def poison(frames: Any) -> torch.Tensor:
        values = actions(frames)
        if trainer.state.step == 7:
            values[torch.as_tensor(frames) == poisoned] = float("nan")
        return values

    monkeypatch.setattr(trainer.dataset, "actions", poison)
    with pytest.raises(NonFiniteLossError) as failure:
        trainer.run()
    message = str(failure.value)
    episode = int(trainer.dataset.episode_of([poisoned])[0])
    assert "at step 8 " in message
    assert f"the action is not finite in frames [{poisoned}]" in message
    assert str(trainer.sampler.draw(7).frames.tolist()) in message
    assert str(episode) in message.split("of episodes ")[1].split("]")[0]
    assert str(tmp_path / "run/checkpoints/step-00000006") in message
    assert steps_before
    assert all(bool(p.isfinite().all()) for p in trainer.policy.parameters())
    monkeypatch.undo()
    resumed = train(replace(trainer.config, resume=True), console=QUIET)  # the checkpoint is good
    assert resumed.finished


def test_an_infinite_gradient_stops_before_the_weights_change(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(train_config(dataset, tmp_path / "run"), console=QUIET)
    before = {name: p.detach().clone() for name, p in trainer.policy.named_parameters()}
    weight = trainer.state.parameters["head.output.weight"]
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteLossError, match="all of its inputs are finite"):
        trainer.update(trainer.sampler.draw(0))
    assert all(p.equal(before[name]) for name, p in trainer.policy.named_parameters())


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    reference = train(train_config(dataset, tmp_path / "reference"), console=QUIET).policy_dir
    console = Console(record=True, force_terminal=False, width=200)
    trainer = Trainer(train_config(dataset, tmp_path / "run"), console=console)
    draw = trainer.sampler.draw

    def interrupt(step: int) -> Draw:
        if step == 4:
            os.kill(os.getpid(), getattr(signal, name))
        return draw(step)

    monkeypatch.setattr(trainer.sampler, "draw", interrupt)
    result = trainer.run()
    assert (result.finished, result.step, result.policy_dir) == (False, 5, None)
    assert result.signal == getattr(signal, name)
    assert "rdvla train --config" in console.export_text()
    assert trainer.store.steps() == [3, 5]
    resumed = train(replace(trainer.config, resume=True), console=QUIET).policy_dir
    assert reference is not None
    assert resumed is not None
    expected, actual = (load_file(folder / "model.safetensors") for folder in (reference, resumed))
    assert all(value.equal(actual[name]) for name, value in expected.items())


def test_an_existing_run_is_not_overwritten(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="is not empty"):
        Trainer(train_config(dataset, tmp_path / "run"), console=QUIET)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_resuming_with_another_configuration_names_the_fields(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run")
    train(config, console=QUIET)
    changed = replace(
        config, resume=True, seed=20, policy=policy_config(hidden_dim=32), validation=ValidationConfig()
    )
    with pytest.raises(ConfigError) as failure:
        Trainer(changed, console=QUIET)
    message = str(failure.value)
    assert "seed was 0, is now 20" in message
    assert "policy.head.hidden_dim was 16, is now 32" in message
    assert "validation.max_samples was 16, is now 1024" in message
    assert "learning_rate" not in message


def test_a_run_from_before_an_option_or_a_record_resumes(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run")
    train(config, console=QUIET)
    file, record = tmp_path / "run/config.yaml", tmp_path / "run/run.json"
    saved = yaml.safe_load(file.read_text())
    assert saved.pop("ema")
    older = {k: v for k, v in json.loads(record.read_text()).items() if k != "published files"}
    file.write_text(yaml.safe_dump(saved))
    record.write_text(json.dumps(older))
    assert train(replace(config, resume=True), console=QUIET).finished
    file.write_text(yaml.safe_dump(saved))
    changed = replace(config, resume=True, ema=EMAConfig(decay=0.5))
    with pytest.raises(ConfigError, match=r"ema\.decay was 0\.995, is now 0\.5"):
        Trainer(changed, console=QUIET)


def test_resuming_a_finished_run_changes_nothing(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run")
    train(config, console=QUIET)
    before = (tmp_path / "run/metrics.jsonl").read_text()
    weights = (tmp_path / "run/policy/model.safetensors").read_bytes()
    assert train(replace(config, resume=True), console=QUIET).finished
    assert (tmp_path / "run/metrics.jsonl").read_text() == before
    assert (tmp_path / "run/policy/model.safetensors").read_bytes() == weights


def test_resuming_where_nothing_is_starts_a_run(dataset: Path, tmp_path: Path) -> None:
    assert Trainer(train_config(dataset, tmp_path / "run", resume=True), console=QUIET).state.step == 0


def test_a_damaged_checkpoint_is_passed_over_only_when_asked_for(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run")
    train(config, console=QUIET)
    reference = load_file(tmp_path / "run/policy/model.safetensors")
    (tmp_path / "run/checkpoints/step-00000012/ema.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="step-00000012"):
        Trainer(replace(config, resume=True), console=QUIET)
    train(replace(config, resume=True, resume_from_previous=True), console=QUIET)
    again = load_file(tmp_path / "run/policy/model.safetensors")
    assert all(value.equal(again[name]) for name, value in reference.items())


def test_a_dataset_that_changed_is_noticed(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run")
    Trainer(config, console=QUIET)
    record = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(record | {"dataset": "another"}))
    with pytest.raises(ConfigError, match="dataset changed since it began"):
        Trainer(replace(config, resume=True), console=QUIET)


def test_sizes_that_do_not_fit_the_dataset_are_named(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run", policy=replace(policy_config(), state_dim=5))
    with pytest.raises(ConfigError, match=r"set policy\.state_dim=4"):
        Trainer(config, console=QUIET)
    assert not (tmp_path / "run").exists()


def test_bf16_and_a_run_without_validation(dataset: Path, tmp_path: Path) -> None:
    config = train_config(
        dataset, tmp_path / "run", mixed_precision="bf16", data=DataConfig(validation_fraction=0), steps=4
    )
    assert train(config, console=QUIET).finished
    assert all(line["kind"] == "train" for line in read_metrics(tmp_path / "run/metrics.jsonl"))
