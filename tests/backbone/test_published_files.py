"""Files next to a published model's weights, and the weights that a backbone takes from another."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rdvla.backbone import HuggingFaceBackbone, LoraSettings
from rdvla.policy import RDVLAPolicy
from tests.support.tiny_models import (
    STATISTICS,
    make_images,
    pretrained_config,
    save_tiny_bert,
    save_tiny_dinov2,
)
from tests.support.tiny_vlms import IMAGE_SIZE, WIDTH, save_tiny_vlm, vlm_config

NO_LORA = LoraSettings(where="none")


def edit(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def swap_two_letters(folder: Path) -> None:
    """Another tokenizer under the same name: p and u are exchanged."""
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["p"], words["u"] = words["u"], words["p"]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def test_a_cache_depends_on_the_files_of_a_vision_language_model(tmp_path: Path) -> None:
    folder = Path(save_tiny_vlm(tmp_path, "smolvlm"))

    def description() -> str:
        return json.dumps(HuggingFaceBackbone(vlm_config(str(folder), lora=NO_LORA)).preparation())

    found = [description(), description()]
    edit(folder / "preprocessor_config.json", {"image_mean": [0.1, 0.1, 0.1]})
    found.append(description())
    swap_two_letters(folder)
    found.append(description())
    edit(folder / "generation_config.json", {"eos_token_id": [2, 5]})
    found.append(description())
    assert found[0] == found[1] and len(set(found)) == 4


def test_a_cache_depends_on_the_files_of_published_encoders(tmp_path: Path) -> None:
    vision, text = save_tiny_dinov2(tmp_path / "vision"), save_tiny_bert(tmp_path / "text")

    def key() -> str:
        return RDVLAPolicy(pretrained_config(vision, text), STATISTICS).cache_key()

    found = [key(), key()]
    edit(Path(vision) / "preprocessor_config.json", {"image_std": [0.1, 0.1, 0.1]})
    found.append(key())
    tokenizer = Path(text) / "tokenizer.json"
    tokenizer.write_text(
        tokenizer.read_text().replace('"[UNK]": 1', '"[UNK]": 3').replace('"[SEP]": 3', '"[SEP]": 1')
    )
    found.append(key())
    assert found[0] == found[1] and len(set(found)) == 3


def test_a_cache_depends_on_what_published_models_are_and_not_on_their_place(tmp_path: Path) -> None:
    vision, text = save_tiny_dinov2(tmp_path / "vision"), save_tiny_bert(tmp_path / "text")
    vlm = save_tiny_vlm(tmp_path, "smolvlm")

    def keys(vision: str, text: str, vlm: str) -> tuple[str, ...]:
        encoders = pretrained_config(vision, text)
        head = replace(encoders.head, prelude=(), core=(2,), context_dim=WIDTH)
        model = replace(encoders, backbone=vlm_config(vlm, lora=NO_LORA), head=head)
        return tuple(RDVLAPolicy(config, STATISTICS).cache_key() for config in (encoders, model))

    found = [keys(vision, text, vlm)]
    moved = [
        str(shutil.copytree(folder, tmp_path / f"moved-{number}"))
        for number, folder in enumerate((vision, text, vlm))
    ]
    assert keys(*moved) == found[0]
    for folder in (vision, text):  # no weight says this
        edit(Path(folder) / "config.json", {"layer_norm_eps": 0.01})
        found.append(keys(vision, text, vlm))
    content = json.loads((Path(vlm) / "config.json").read_text())
    edit(Path(vlm) / "config.json", {"text_config": content["text_config"] | {"rms_norm_eps": 0.01}})
    found.append(keys(vision, text, vlm))
    encoders, models = zip(*found, strict=True)
    assert len(set(encoders)) == 3 and encoders[2] == encoders[3]
    assert len(set(models[:3])) == 1 and models[3] != models[0]


def test_pairs_with_another_alpha_still_add_what_they_did(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = save_tiny_vlm(tmp_path, "smolvlm")
    torch.manual_seed(0)
    source, other = (
        HuggingFaceBackbone(vlm_config(folder, lora=LoraSettings(rank=2, alpha=alpha))).eval()
        for alpha in (16, 3)
    )
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    images = make_images(1, size=IMAGE_SIZE)

    def features(backbone: HuggingFaceBackbone) -> dict[str, torch.Tensor]:
        return backbone.features(backbone.frozen_inputs(images, ["push"])).flatten()

    before = features(other)
    other.take_over(source)
    expected = features(source)
    for name, value in features(other).items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(value, before[name], atol=1e-3)
