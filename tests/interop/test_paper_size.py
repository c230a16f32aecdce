"""A checkpoint of the paper's true size: converted, saved, loaded, its features computed independently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from rdvla.backbone import PrismaticBackbone, PrismaticConfig
from rdvla.interop import ConvertOptions, convert_published
from rdvla.policy import RDVLAPolicy
from tests.support import prismatic_reference as reference
from tests.support.published_checkpoint import DINOV2_SCALE, PAPER, make_published

NEEDED_MEMORY = 8e9  # bytes


class Float32Weights(Mapping[str, Tensor]):
    """Reads tensor by tensor, so the reference needs little memory next to the policy."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt")
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        value: Tensor = self._file.get_tensor(name)
        return value.float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def free_memory() -> float:
    """Bytes that are free without swapping or crossing a container's limit; infinite if unknown."""
    found = [float("inf")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        entries = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(float(entries["MemAvailable"].split()[0]) * 1024)
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups, new and old
        path = Path("/sys/fs/cgroup") / limit
        if path.exists() and path.read_text().strip() != "max":
            found.append(float(path.read_text()))
    return min(found)


@pytest.mark.slow  # a minute and a half, and 7 GB
def test_a_checkpoint_of_true_size(tmp_path: Path) -> None:
    if free_memory() < NEEDED_MEMORY:
        pytest.skip(f"needs {NEEDED_MEMORY / 1e9:.0f} GB of free memory")
    folder = tmp_path / "published"
    make_published(folder, levels=(11, 23), dtype=torch.bfloat16, sizes=PAPER)
    conversion = convert_published(folder, tmp_path / "policy", options=ConvertOptions(image_size=224))
    assert conversion.policy.config.backbone == PrismaticConfig(
        dinov2=conversion.policy.config.backbone.dinov2, jpeg_quality=95  # type: ignore[attr-defined]
    )  # fmt: skip
    del conversion
    backbone = RDVLAPolicy.from_pretrained(tmp_path / "policy").backbone
    assert isinstance(backbone, PrismaticBackbone)
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    assert 1.19e9 < parameters < 1.26e9  # without last layer, both last blocks and the pooling
    sentence = "put the white mug on the left plate"
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 1, 224, 224, 3), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        out = backbone.features(backbone.frozen_inputs(images, [sentence])).flatten()
        expected = independent_features(folder / "model.safetensors", backbone, images[0, 0], sentence)
    for level in (11, 23):
        for name, value in zip(("vision", "latents"), expected[level], strict=True):
            assert out[f"{name}/{level}"].shape == (1, *value.shape)
            error = (out[f"{name}/{level}"][0] - value).norm() / value.norm()
            assert error < 0.05, (name, level, float(error))


def independent_features(
    path: Path, backbone: PrismaticBackbone, image: Tensor, sentence: str
) -> list[tuple[Tensor, Tensor]]:
    """In float32, from the published file."""
    weights = Float32Weights(path)
    cropped = backbone.image_transform(image[None])
    rounded = replace(PAPER.dinov2, mean=tuple(DINOV2_SCALE["mean"]), std=tuple(DINOV2_SCALE["std"]))
    patches = reference.encode_cameras(weights, cropped, encoders=(rounded, PAPER.siglip))
    assert backbone.prompt_tokenizer is not None
    prompt = backbone.prompt_tokenizer([sentence])[0]
    language = PAPER.language
    return reference.context(
        weights, patches, prompt[prompt >= 0].tolist(), layers=language.layers, heads=language.heads,
        key_value_heads=language.key_value_heads,
    )  # fmt: skip
