"""A policy with the paper's backbone: caching, files, acting in batches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rdvla.backbone import LoraSettings, PrismaticBackbone
from rdvla.errors import ConfigError, RDVLAError
from rdvla.policy import RDVLAPolicy, describe
from tests.support.converting import backbone_inputs, contents, convert, observe
from tests.support.published_checkpoint import make_published


@pytest.fixture
def policy(tmp_path: Path) -> RDVLAPolicy:
    return convert(make_published(tmp_path / "published").folder, tmp_path).policy


def test_a_cache_depends_on_what_it_holds_and_on_nothing_else(policy: RDVLAPolicy) -> None:
    backbone = policy.backbone
    assert isinstance(backbone, PrismaticBackbone)
    key = policy.cache_key()
    with torch.no_grad():
        backbone.latents.add_(1)
        backbone.published.language_model.embed_tokens.weight.add_(1)
    assert policy.cache_key() == key  # neither is in projected image features
    with torch.no_grad():
        backbone.published.projector.fc3.bias.add_(1)
    assert policy.cache_key() != key


def test_a_frozen_backbone_is_cached_whole(policy: RDVLAPolicy) -> None:
    before = policy.frozen_inputs(observe())
    assert before.keys() == {"patches", "prompt"}
    policy.freeze_backbone()
    key, after = policy.cache_key(), policy.frozen_inputs(observe())
    assert after.keys() == {"vision/2", "latents/2", "vision/3", "latents/3"}
    assert isinstance(policy.backbone, PrismaticBackbone)
    with torch.no_grad():
        policy.backbone.latents.add_(1)
    assert policy.cache_key() != key


@pytest.mark.parametrize("where", ["none", "language", "all"])
def test_saved_policies_act_the_same(policy: RDVLAPolicy, tmp_path: Path, where: str) -> None:
    if where != "none":
        pytest.importorskip("peft")
    lora = LoraSettings(where=where, rank=2, alpha=4)  # type: ignore[arg-type]
    backbone = replace(policy.config.backbone, lora=lora)  # type: ignore[type-var]
    tuned = RDVLAPolicy(replace(policy.config, backbone=backbone), policy.statistics).eval()
    tuned.backbone.take_over(policy.backbone)
    with torch.no_grad():
        for name, parameter in tuned.backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    tuned.save_pretrained(tmp_path / "tuned")
    loaded = RDVLAPolicy.from_pretrained(tmp_path / "tuned")
    state = tuned.initial_state(2, torch.Generator().manual_seed(0)).detach()
    first, second = (p.predict(observe(), stop=3, initial_state=state) for p in (tuned, loaded))
    assert torch.equal(first.actions, second.actions) and torch.equal(first.state, second.state)


def test_a_batch_is_its_samples(policy: RDVLAPolicy) -> None:
    state = policy.initial_state(2, torch.Generator().manual_seed(0)).detach()
    together = policy.predict(observe(), stop=3, initial_state=state)
    for row in range(2):
        alone = policy.predict(observe().select([row]), stop=3, initial_state=state[row : row + 1])
        torch.testing.assert_close(alone.state[0], together.state[row], atol=1e-4, rtol=1e-4)


def test_five_actions_are_executed_as_published(policy: RDVLAPolicy) -> None:
    policy.reset(seed=0)
    chunk = policy.predict(observe(), generator=torch.Generator().manual_seed(0)).actions
    taken = torch.stack([policy.select_action(observe()) for _ in range(5)], dim=1)
    torch.testing.assert_close(taken, chunk[:, :5])
    assert taken.shape == (2, 5, 7)


def test_a_folder_without_its_tokenizer_is_explained(policy: RDVLAPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(RDVLAError, match=r"tokenizer_config\.json is missing"):
        RDVLAPolicy.from_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "checksums.json").unlink()  # as in an older policy
    with pytest.raises(RDVLAError, match="tokenizer holds no tokenizer"):
        RDVLAPolicy.from_pretrained(tmp_path / "saved")


def test_what_the_hub_gives_of_a_policy_is_enough(policy: RDVLAPolicy, tmp_path: Path) -> None:
    """Of a policy on the hub only JSON and safetensors are downloaded."""
    policy.save_pretrained(tmp_path / "saved")
    for path in (tmp_path / "saved").rglob("*"):
        if path.is_file() and path.suffix not in (".json", ".safetensors"):
            path.unlink()
    loaded = RDVLAPolicy.from_pretrained(tmp_path / "saved")
    images, sentences = backbone_inputs(observe())
    expected = policy.backbone.prepare(images, sentences)["prompt"]
    assert torch.equal(loaded.backbone.prepare(images, sentences)["prompt"], expected)


def test_a_policy_names_the_checkpoint_that_it_comes_from(policy: RDVLAPolicy, tmp_path: Path) -> None:
    """However it was trained further: the checkpoint's licence goes with it."""
    tuned = RDVLAPolicy(policy.config, policy.statistics)
    assert tuned.backbone.base_models() == ()
    tuned.backbone.take_over(policy.backbone)
    tuned.save_pretrained(tmp_path / "tuned")
    for each in (policy, tuned, RDVLAPolicy.from_pretrained(tmp_path / "tuned")):
        assert describe(each)["base_models"] == ["./published"]  # where it lies is nobody's business
        card = str(each.generate_model_card())
        assert "license: other" in card and "`published`, a local folder" in card
        assert "from scratch" not in card and "loaded by name" not in card and str(tmp_path) not in card


def test_a_policy_saved_over_a_converted_one_has_no_origin(policy: RDVLAPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "saved")
    assert isinstance(policy.backbone, PrismaticBackbone)
    policy.backbone.conversion = {}
    policy.save_pretrained(tmp_path / "saved")
    assert RDVLAPolicy.from_pretrained(tmp_path / "saved").backbone.base_models() == ()


def test_a_failed_save_leaves_the_tokenizer_that_was_there(
    policy: RDVLAPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.save_pretrained(tmp_path / "saved")
    before = contents(tmp_path / "saved" / "tokenizer")
    assert isinstance(policy.backbone, PrismaticBackbone) and policy.backbone.prompt_tokenizer is not None

    def fail(folder: Path) -> None:
        (folder / "tokenizer.json").write_text("half of")
        raise OSError("the disk is full")

    monkeypatch.setattr(policy.backbone.prompt_tokenizer.tokenizer, "save_pretrained", fail)
    with pytest.raises(OSError, match="full"):
        policy.save_pretrained(tmp_path / "saved")
    assert contents(tmp_path / "saved" / "tokenizer") == before
    assert not list((tmp_path / "saved").glob(".*"))


def test_a_checkpoint_on_the_hub_is_linked(policy: RDVLAPolicy) -> None:
    assert isinstance(policy.backbone, PrismaticBackbone)
    policy.backbone.conversion = {"source": "maker/checkpoint@v1"}
    card = str(policy.generate_model_card())
    assert "[maker/checkpoint@v1](https://huggingface.co/maker/checkpoint)" in card
    assert "base_model:\n- maker/checkpoint\n" in card


def test_a_record_without_a_source_is_refused(policy: RDVLAPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "conversion.json").write_text(json.dumps({"mapped": {}}))
    (tmp_path / "saved" / "checksums.json").unlink()
    with pytest.raises(RDVLAError, match=r"conversion\.json does not name its source"):
        RDVLAPolicy.from_pretrained(tmp_path / "saved")


def test_a_backbone_of_other_parts_is_refused(policy: RDVLAPolicy) -> None:
    config = policy.config.backbone
    fewer = PrismaticBackbone(replace(config, latents=2))  # type: ignore[type-var]
    with pytest.raises(ConfigError, match=r"differs in \['latents'\]"):
        policy.backbone.take_over(fewer)
    lower = PrismaticBackbone(replace(config, levels=(1, 2)))  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="same parts"):
        policy.backbone.take_over(lower)
