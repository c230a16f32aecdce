"""Published encoders, with tiny random ones in their place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from rdvla.backbone import CompactBackbone, CompactConfig
from rdvla.errors import ConfigError
from tests.support.tiny_models import (
    SENTENCES,
    make_images,
    pretrained_config,
    save_tiny_bert,
    save_tiny_dinov2,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CompactConfig:
    dinov2 = save_tiny_dinov2(tmp_path_factory.mktemp("dinov2"))
    bert = save_tiny_bert(tmp_path_factory.mktemp("bert"))
    backbone = pretrained_config(dinov2, bert).backbone
    assert isinstance(backbone, CompactConfig)
    return backbone


def make_backbone_of(config: CompactConfig) -> CompactBackbone:
    torch.manual_seed(0)
    return CompactBackbone(config).eval()


def test_frozen_encoders_run_in_prepare(config: CompactConfig) -> None:
    backbone = make_backbone_of(config)
    prepared = backbone.prepare(make_images(2), list(SENTENCES[:2]))
    assert {name: tuple(value.shape) for name, value in prepared.items()} == {
        "image_tokens": (2, 2, 16, 12),  # 32 pixels are 4 patches of 7, and 28 of them are looked at
        "text": (2, 12),
    }
    out = backbone.transform(prepared)
    assert out.vision["late"].shape == (2, 6, 16) and out.latents["middle"].shape == (2, 5, 16)


def test_image_tokens_are_the_published_models(config: CompactConfig) -> None:
    from transformers import Dinov2Model

    images = make_images(2, size=32)
    assert config.pretrained_image_encoder is not None
    model = Dinov2Model.from_pretrained(config.pretrained_image_encoder).eval()
    pixels = images.flatten(0, 1).permute(0, 3, 1, 2) / 255
    pixels = functional.interpolate(pixels, size=28, mode="bilinear", antialias=True)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        expected = model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    tokens = make_backbone_of(config).prepare(images, list(SENTENCES[:2]))["image_tokens"]
    torch.testing.assert_close(tokens.flatten(0, 1), expected, atol=1e-5, rtol=1e-5)


def test_sentences_are_read_alone_and_have_entries_of_size_one(config: CompactConfig) -> None:
    images = make_images(4)
    together = make_backbone_of(config).prepare(images, list(SENTENCES))["text"]
    torch.testing.assert_close(together.square().mean(dim=1), torch.ones(4))
    alone = make_backbone_of(config)
    for row, sentence in enumerate(SENTENCES):
        one = alone.prepare(images[:1], [sentence])["text"]
        assert torch.equal(one[0], together[row])  # the same code on the same shapes
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_training_does_not_touch_them(config: CompactConfig) -> None:
    """Neither by gradient, nor by dropout that comes on with train()."""
    backbone = make_backbone_of(config)
    images, sentences = make_images(2), list(SENTENCES[:2])
    calm = backbone.prepare(images, sentences)
    training = make_backbone_of(config).train()
    assert all(torch.equal(value, calm[name]) for name, value in training.prepare(images, sentences).items())
    training.transform(calm).latents["late"].sum().backward()
    for name, parameter in training.named_parameters():
        if name.startswith(training.external_prefixes()):
            assert not parameter.requires_grad and parameter.grad is None


def test_remembered_sentences_follow_the_model(config: CompactConfig) -> None:
    backbone = make_backbone_of(config)
    assert backbone.prepare(make_images(1), ["push the puck"])["text"].device.type == "cpu"
    backbone.to("meta")
    assert backbone.text_encoder.embed(["push the puck"]).device.type == "meta"  # type: ignore[operator]


def test_a_sentence_beyond_the_models_length_is_refused(config: CompactConfig) -> None:
    with pytest.raises(ValueError, match="at most 10 tokens"):
        make_backbone_of(config).prepare(make_images(1), ["push " * 9])


@pytest.mark.parametrize("option", ["pretrained_image_encoder", "pretrained_text_encoder"])
def test_a_folder_without_a_model_is_refused(config: CompactConfig, option: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"backbone\.{option}"):
        make_backbone_of(replace(config, **{option: str(tmp_path)}))  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", [4, -5])
def test_a_layer_that_does_not_exist_is_refused(config: CompactConfig, layer: int) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.pretrained_image_layer"):
        make_backbone_of(replace(config, pretrained_image_layer=layer))
