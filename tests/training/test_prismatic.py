"""Fine-tuning a converted policy, and the check of its attention, on a tiny dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from rdvla import cli
from rdvla.backbone import LoraSettings, PrismaticBackbone
from rdvla.config import load_config
from rdvla.data import EpisodeDataset
from rdvla.errors import ConfigError
from rdvla.heads import RecurrentConfig
from rdvla.interop import ConvertOptions, convert_published
from rdvla.policy import RDVLAPolicy
from rdvla.training import TrainConfig, train
from rdvla.training.attention_check import compare_attention, format_comparison
from rdvla.types import Observation
from tests.support.published_checkpoint import ENCODERS, WIDTH, make_published
from tests.support.tiny_models import make_policy
from tests.support.tiny_training import train_config

QUIET = Console(quiet=True)
HEAD = RecurrentConfig(
    hidden_dim=WIDTH, num_heads=2, chunk_size=4, action_dim=4, prelude=(2,), core=(3,), coda=(),
    mean_depth=4, backprop_depth=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prismatic")
    published = make_published(folder / "published").folder
    options = ConvertOptions(cameras=("front",), image_size=32)
    convert_published(published, folder / "policy", options=options, encoders=ENCODERS)
    return folder / "policy"


@pytest.fixture
def fitted(converted: Path, dataset: Path) -> RDVLAPolicy:
    """The converted backbone with a head for the tiny dataset's robot."""
    source = RDVLAPolicy.from_pretrained(converted)
    config = replace(
        source.config, head=HEAD, state_dim=4, unscaled_actions=(3,), gripper_opening=(), execution="fixed:4"
    )  # fmt: skip
    torch.manual_seed(0)
    policy = RDVLAPolicy(config, EpisodeDataset(dataset, chunk_size=4).statistics)
    policy.backbone.take_over(source.backbone)
    return policy.eval()


@pytest.mark.parametrize("where", ["none", "language", "all"])
def test_a_converted_policy_is_fine_tuned(
    fitted: RDVLAPolicy, dataset: Path, tmp_path: Path, where: str
) -> None:
    if where != "none":
        pytest.importorskip("peft")
    fitted.save_pretrained(tmp_path / "start")
    lora = LoraSettings(where=where, rank=2, alpha=4)  # type: ignore[arg-type]
    backbone = replace(fitted.config.backbone, lora=lora, gradient_checkpointing=True)  # type: ignore[type-var]
    config = train_config(
        dataset, tmp_path / "run", policy=replace(fitted.config, backbone=backbone), steps=4,
        init_from=str(tmp_path / "start"),
    )  # fmt: skip
    result = train(config, console=QUIET)
    before, after = fitted, RDVLAPolicy.from_pretrained(result.policy_dir)
    assert isinstance(before.backbone, PrismaticBackbone) and isinstance(after.backbone, PrismaticBackbone)
    old, new = before.backbone.plain_weights(), after.backbone.plain_weights()
    changed = {name for name, value in old.items() if not torch.equal(value, new[name])}
    assert "latents" in changed
    assert any("language_model" in name for name in changed) == (where != "none")
    assert any("vision_backbone" in name for name in changed) == (where == "all")
    assert not any("norm" in name or "embed" in name for name in changed)
    data = EpisodeDataset(dataset, chunk_size=4)
    assert after.predict(observe(data, data.sample_index[:2]), stop=2).actions.shape == (2, 4, 4)


def test_a_converted_policy_brings_the_configuration_to_train_it(converted: Path) -> None:
    options = ["--config", str(converted / "train.yaml"), "--dataset=d", "--output_dir=o"]
    config = load_config(TrainConfig, [*options, "--policy.backbone.lora.where=all"])
    policy = RDVLAPolicy.from_pretrained(converted).config
    backbone = replace(policy.backbone, lora=LoraSettings(where="all"))  # type: ignore[type-var]
    assert config.policy == replace(policy, backbone=backbone)


def observe(data: EpisodeDataset, frames: np.ndarray) -> Observation:
    return Observation(
        images=data.images(frames), state=data.state(frames), instruction=data.instructions(frames)
    )


@pytest.mark.parametrize("truth", ["causal", "bidirectional"])
def test_the_attention_that_made_the_data_is_found(
    fitted: RDVLAPolicy, dataset: Path, monkeypatch: pytest.MonkeyPatch, truth: str
) -> None:
    """Actions that the policy itself would take under one setting have no loss there, and some elsewhere."""
    data = EpisodeDataset(dataset, chunk_size=4)
    backbone = fitted.backbone
    assert isinstance(backbone, PrismaticBackbone)
    before = backbone.config

    def own_actions(frames: np.ndarray) -> torch.Tensor:
        present = backbone.config
        backbone.config = replace(before, attention=truth)  # type: ignore[arg-type]
        initial = fitted.initial_state(len(frames), torch.Generator().manual_seed(0))
        taken = fitted.predict(observe(data, frames), stop=3, initial_state=initial).actions
        backbone.config = present
        return taken

    monkeypatch.setattr(data, "actions", own_actions)
    monkeypatch.setattr(data, "action_is_pad", lambda frames: torch.zeros(len(frames), 4, dtype=torch.bool))
    losses = compare_attention(fitted, data, samples=10, depth=3)
    other = {"causal": "bidirectional", "bidirectional": "causal"}[truth]
    assert len(losses[truth]) == 10 and losses[truth].max() < 1e-5 and losses[other].mean() > 1e-3
    assert backbone.config == before
    assert f"The weights fit {truth} attention." in format_comparison(losses)


def test_losses_leave_out_what_lies_past_an_episodes_end(fitted: RDVLAPolicy, dataset: Path) -> None:
    data = EpisodeDataset(dataset, chunk_size=4)
    losses = compare_attention(fitted, data, samples=len(data), depth=2)["causal"]
    frame = data.sample_index[-1:]
    exists = ~data.action_is_pad(frame)[0]
    assert 0 < exists.sum() < 4
    start = (len(data) - 1) // 4 * 4  # initial states are drawn by batches of four
    of_batch = data.sample_index[start:]
    initial = fitted.initial_state(len(of_batch), torch.Generator().manual_seed(0))[-1:]
    taken = fitted.predict(observe(data, frame), stop=2, initial_state=initial).actions
    normal = fitted.action_normalizer.normalize
    expected = (normal(taken) - normal(data.actions(frame))).abs()[0][exists].mean()
    torch.testing.assert_close(losses[-1], expected, atol=1e-5, rtol=1e-4)


def test_samples_that_say_nothing_are_not_overread() -> None:
    noise = torch.randn(20, generator=torch.Generator().manual_seed(0))
    shown = format_comparison({"causal": noise, "bidirectional": noise.flip(0)})
    assert "do not tell them apart" in shown


def test_only_a_prismatic_backbone_is_checked(dataset: Path) -> None:
    with pytest.raises(ConfigError, match="only a prismatic backbone"):
        compare_attention(make_policy(), EpisodeDataset(dataset, chunk_size=4), samples=2, depth=1)


def test_command_line(
    fitted: RDVLAPolicy, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted.save_pretrained(tmp_path / "policy")
    arguments = ["convert", str(tmp_path / "policy"), "--check-attention", str(dataset), "--depth", "2"]
    assert cli.main([*arguments, "--samples", "3"]) == 0
    assert "mean of 3 samples" in capsys.readouterr().out
    assert cli.main([*arguments, "--samples", "0"]) == 2
    assert "samples must be at least 1, got 0" in capsys.readouterr().err
