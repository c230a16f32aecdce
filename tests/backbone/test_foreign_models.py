"""A model from elsewhere is data: its code is never run, and nothing is unpickled."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rdvla.backbone import CompactBackbone, HuggingFaceBackbone
from rdvla.errors import ConfigError
from tests.support.tiny_models import BACKBONE, save_tiny_bert, save_tiny_dinov2
from tests.support.tiny_vlms import save_tiny_vlm, vlm_config

CLASSES = {name: f"foreign.{name}" for name in ("AutoConfig", "AutoModel", "AutoModelForImageTextToText")}
READERS: dict[str, Callable[[str], Any]] = {
    "vision-language model": lambda folder: HuggingFaceBackbone(vlm_config(folder)),
    "image encoder": lambda folder: compact(pretrained_image_encoder=folder),
    "text encoder": lambda folder: compact(pretrained_text_encoder=folder),
}
SAVERS: dict[str, Callable[[Path], str]] = {
    "vision-language model": lambda folder: save_tiny_vlm(folder, "smolvlm"),
    "image encoder": save_tiny_dinov2,
    "text encoder": save_tiny_bert,
}


def compact(**changes: Any) -> CompactBackbone:
    return replace(BACKBONE, **changes).make()


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions on the terminal; every answer is yes."""
    asked: list[str] = []

    def answer(question: str = "") -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr(builtins, "input", answer)
    return asked


def save_with_code(folder: Path, kind: str, *, ran: Path) -> str:
    """A model whose type its own code defines; the code writes the file `ran` if it is run."""
    folder.mkdir()
    SAVERS[kind](folder)
    (folder / "foreign.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "foreign", "auto_map": CLASSES}))
    return str(folder)


@pytest.mark.parametrize("kind", READERS)
def test_code_that_comes_with_a_model_is_not_run(kind: str, questions: list[str], tmp_path: Path) -> None:
    folder = save_with_code(tmp_path / "model", kind, ran=tmp_path / "ran")
    with pytest.raises(ConfigError, match="contains custom code"):
        READERS[kind](folder)
    assert questions == [] and not (tmp_path / "ran").exists()


def test_code_that_comes_with_a_tokenizer_is_not_run(questions: list[str], tmp_path: Path) -> None:
    folder = save_with_code(tmp_path / "model", "text encoder", ran=tmp_path / "ran")
    path = tmp_path / "model" / "tokenizer_config.json"
    foreign = {"tokenizer_class": "Foreign", "auto_map": {"AutoTokenizer": [None, "foreign.Foreign"]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | foreign))
    with pytest.raises(ConfigError, match="contains custom code"):
        READERS["text encoder"](folder)
    assert questions == [] and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", READERS)
def test_pickled_weights_are_refused(kind: str, tmp_path: Path) -> None:
    folder = SAVERS[kind](tmp_path)
    weights = tmp_path / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        READERS[kind](folder)
