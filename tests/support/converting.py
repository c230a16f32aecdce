"""Converts small published checkpoints and edits their files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rdvla.interop import Conversion, ConvertOptions, convert_published
from rdvla.types import Observation
from tests.support.published_checkpoint import ENCODERS

OPTIONS = ConvertOptions(image_size=40)
MERGED = "model.safetensors"


def observe(batch: int = 2, *, seed: int = 0) -> Observation:
    generator = torch.Generator().manual_seed(seed)

    def image() -> torch.Tensor:
        return torch.randint(0, 256, (batch, 40, 40, 3), dtype=torch.uint8, generator=generator)

    return Observation(
        images={"agentview": image(), "wrist": image()},
        state=torch.rand(batch, 8, generator=generator) * 2 - 1,
        instruction=["Pick up the Black Bowl", "turn on the stove and wait"][:batch],
    )


def convert(folder: Path, tmp_path: Path, **options: Any) -> Conversion:
    output = tmp_path / "policy"
    return convert_published(folder, output, options=replace(OPTIONS, **options), encoders=ENCODERS)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_merged(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / MERGED)
    change(weights)
    save_file(weights, folder / MERGED, metadata={"format": "pt"})


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def backbone_inputs(observation: Observation) -> tuple[torch.Tensor, list[str]]:
    images = torch.stack([observation.images[camera] for camera in ("agentview", "wrist")], dim=1)
    return images, list(observation.instruction)
