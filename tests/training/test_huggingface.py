"""Fine-tuning a published vision-language model by `rdvla train`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from rdvla.backbone import HuggingFaceBackbone, LoraSettings
from rdvla.cli import main
from rdvla.config import save_config
from rdvla.data import EpisodeDataset
from rdvla.errors import ConfigError
from rdvla.policy import PolicyConfig, RDVLAPolicy
from rdvla.training import TrainConfig, Trainer, train
from rdvla.training.config import DataConfig, OptimizerConfig
from rdvla.types import Observation
from tests.support.tiny_training import policy_config, train_config
from tests.support.tiny_vlms import save_tiny_vlm, vlm_config

pytest.importorskip("peft")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_vlm(tmp_path_factory.mktemp("model"), "smolvlm")


def vlm_policy(model: str, **backbone: Any) -> PolicyConfig:
    policy = policy_config()
    head = replace(policy.head, prelude=(1,), core=(2,))
    return replace(policy, backbone=vlm_config(model, **backbone), head=head)


def vlm_train(dataset: Path, output_dir: Path, model: str, **changes: Any) -> TrainConfig:
    values = {"policy": vlm_policy(model), "steps": 6, "data": DataConfig(validation_fraction=0.34)}
    return train_config(dataset, output_dir, **(values | changes))


def observe(dataset: Path) -> Observation:
    data = EpisodeDataset(dataset, chunk_size=4)
    frames = data.sample_index[[0, -1]]
    return Observation(
        images=data.images(frames), state=data.state(frames), instruction=data.instructions(frames)
    )


def test_what_was_trained_is_saved_and_the_model_only_named(
    dataset: Path, tmp_path: Path, model: str
) -> None:
    trainer = Trainer(vlm_train(dataset, tmp_path / "run", model), console=QUIET)
    before = {name: value.clone() for name, value in trainer.policy.state_dict().items()}
    folder = trainer.run().policy_dir
    assert folder is not None
    saved = load_file(folder / "model.safetensors")
    published = [name for name in before if name.startswith("backbone.model.") and ".lora_" not in name]
    assert published and not saved.keys() & set(published)
    assert saved.keys() == before.keys() - set(published)
    assert all(torch.equal(trainer.policy.state_dict()[name], before[name]) for name in published)
    for part in (".lora_A", ".lora_B", "backbone.latents", "head."):
        names = [name for name in saved if part in name]
        assert names and any(not torch.equal(saved[name], before[name]) for name in names), part
    assert json.loads((folder / "config.json").read_text())["backbone"]["name_or_path"] == model
    with trainer.state.ema.applied():
        expected = trainer.policy.eval().predict(observe(dataset), generator=torch.Generator().manual_seed(0))
    loaded = RDVLAPolicy.from_pretrained(folder)
    found = loaded.predict(observe(dataset), generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.actions, expected.actions)


@pytest.mark.parametrize("name", ["idefics3", "qwen2_5_vl", "qwen3_vl", "paligemma", "paligemma2"])
def test_every_family_is_fine_tuned_and_comes_back(dataset: Path, tmp_path: Path, name: str) -> None:
    model = save_tiny_vlm(tmp_path / "model", name)
    config = vlm_train(dataset, tmp_path / "run", model, steps=2, optimizer=OptimizerConfig(warmup_steps=1))
    trainer = Trainer(config, console=QUIET)
    folder = trainer.run().policy_dir
    assert folder is not None
    with trainer.state.ema.applied():
        expected = trainer.policy.eval().predict(observe(dataset), generator=torch.Generator().manual_seed(0))
    found = RDVLAPolicy.from_pretrained(folder).predict(
        observe(dataset), generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(found.actions, expected.actions)


def test_features_before_anything_trained_are_cached(dataset: Path, tmp_path: Path, model: str) -> None:
    def cached(name: str, **backbone: Any) -> set[str]:
        config = vlm_train(dataset, tmp_path / name, model, policy=vlm_policy(model, **backbone))
        assert train(config, console=QUIET).finished
        shards = (tmp_path / name / "cache").rglob("*.safetensors")
        return {feature for shard in shards for feature in load_file(shard)}

    assert cached("language") >= {"image", "tokens"}
    assert "image" not in cached("all", lora=LoraSettings(where="all", rank=2))


def test_a_resumed_run_ends_where_an_unbroken_one_does(dataset: Path, tmp_path: Path, model: str) -> None:
    whole = train(vlm_train(dataset, tmp_path / "whole", model), console=QUIET).policy_dir
    config = vlm_train(dataset, tmp_path / "broken", model)
    trainer = Trainer(config, console=QUIET)
    draw = trainer.sampler.draw

    def stop(step: int) -> Any:
        if step == 4:
            raise KeyboardInterrupt
        return draw(step)

    trainer.sampler.draw = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.store.steps() == [3]
    resumed = train(replace(config, resume=True), console=QUIET).policy_dir
    assert whole is not None and resumed is not None
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_other_weights_under_the_same_name_are_noticed(dataset: Path, tmp_path: Path) -> None:
    model = save_tiny_vlm(tmp_path / "model", "smolvlm")
    config = vlm_train(dataset, tmp_path / "run", model)
    train(config, console=QUIET)
    save_tiny_vlm(tmp_path / "model", "smolvlm", seed=1)
    with pytest.raises(ConfigError, match="fixed weights changed since it began"):
        Trainer(replace(config, resume=True), console=QUIET)


def test_another_scale_of_pixels_under_the_same_name_is_noticed(dataset: Path, tmp_path: Path) -> None:
    model = save_tiny_vlm(tmp_path / "model", "smolvlm")
    config = vlm_train(dataset, tmp_path / "run", model)
    train(config, console=QUIET)
    assert Trainer(replace(config, resume=True), console=QUIET).state.step == config.steps
    processor = tmp_path / "model" / "preprocessor_config.json"
    processor.write_text(json.dumps(json.loads(processor.read_text()) | {"image_mean": [0.1, 0.1, 0.1]}))
    with pytest.raises(ConfigError, match="published files changed since it began"):
        Trainer(replace(config, resume=True), console=QUIET)


def test_the_loss_falls(dataset: Path, tmp_path: Path, model: str) -> None:
    config = vlm_train(
        dataset, tmp_path / "run", model, steps=60, log_every=15, data=DataConfig(validation_fraction=0),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=5),
        policy=vlm_policy(model, gradient_checkpointing=True, reasoning_tokens=2),
    )  # fmt: skip
    train(config, console=QUIET)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < 0.9 * losses[0]


def test_the_command_line_takes_the_model_by_name(
    dataset: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--backbone.name_or_path` is short for the policy's backbone, and chooses its kind."""
    config = vlm_train(dataset, tmp_path / "run", "overridden")
    save_config(tmp_path / "train.yaml", config)
    command = ["train", "--config", str(tmp_path / "train.yaml"), f"--backbone.name_or_path={model}"]
    assert main([*command, "--backbone.lora.rank", "3"]) == 0
    policy = RDVLAPolicy.from_pretrained(tmp_path / "run/policy")
    assert isinstance(policy.backbone, HuggingFaceBackbone)
    assert policy.backbone.config.lora.rank == 3
    assert policy.backbone.config.name_or_path == model


def test_the_heads_levels_must_be_the_backbones(model: str) -> None:
    with pytest.raises(ConfigError, match=r"level 'middle', backbone\.levels are \[1, 2\]"):
        replace(policy_config(), backbone=vlm_config(model))
