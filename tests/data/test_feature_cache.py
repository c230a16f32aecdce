"""The feature cache gives what the encoder gives, computes it once, and survives being killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rdvla.data import EpisodeDataset, FeatureCache
from rdvla.data import feature_cache as cache_module
from rdvla.errors import ConfigError, DatasetError


def encode(images: dict[str, Tensor], instructions: list[str]) -> dict[str, Tensor]:
    front = images["front"].float() / 255
    return {
        "tokens": front.reshape(len(front), 16, -1)[:, :, :6],
        "words": torch.tensor([[len(text), ord(text[-1])] for text in instructions]),
    }


class Counting:
    def __init__(self, fail_after: int = 10**9) -> None:
        self.frames = 0
        self.fail_after = fail_after

    def __call__(self, images: dict[str, Tensor], instructions: list[str]) -> dict[str, Tensor]:
        if self.frames >= self.fail_after:
            raise KeyboardInterrupt
        self.frames += len(instructions)
        return encode(images, instructions)


@pytest.fixture
def dataset(dataset_root: Path, monkeypatch: pytest.MonkeyPatch) -> EpisodeDataset:
    monkeypatch.setattr(cache_module, "SHARD_FRAMES", 4)
    return EpisodeDataset(dataset_root, chunk_size=2)


@pytest.mark.parametrize("in_memory", [False, True])
def test_features_are_those_of_the_encoder(dataset: EpisodeDataset, tmp_path: Path, in_memory: bool) -> None:
    counting, steps = Counting(), []
    cache = FeatureCache.open_or_build(
        dataset, range(dataset.num_frames), counting, key="tiny/1", directory=tmp_path, batch_size=3,
        progress=lambda done, total: steps.append((done, total)), in_memory=in_memory,
    )  # fmt: skip
    assert counting.frames == len(cache) == len(dataset) == steps[-1][0] == steps[-1][1]
    assert cache.shapes == {"tokens": (16, 6), "words": (2,)}
    frames = [33, 2, 0, 60, 33]
    fresh = dataset.captured_at(frames)
    expected = encode(dataset.images(fresh), dataset.instructions(fresh))
    found = cache.get(frames)
    assert found["tokens"].dtype == torch.float32
    torch.testing.assert_close(found["tokens"], expected["tokens"], atol=1e-3, rtol=0)
    assert torch.equal(found["words"], expected["words"])
    assert torch.equal(cache.get(frames, dtype=None)["tokens"], expected["tokens"].half())


def test_a_killed_build_goes_on(dataset: EpisodeDataset, tmp_path: Path) -> None:
    frames = dataset.sample_index
    with pytest.raises(KeyboardInterrupt):
        FeatureCache.open_or_build(dataset, frames, Counting(9), key="k", directory=tmp_path, batch_size=2)
    again = Counting()
    FeatureCache.open_or_build(dataset, frames, again, key="k", directory=tmp_path, batch_size=2)
    assert again.frames == len(frames) - 8  # two whole shards of four were kept
    third = Counting()
    FeatureCache.open_or_build(dataset, frames, third, key="k", directory=tmp_path)
    assert third.frames == 0
    FeatureCache.open_or_build(dataset, frames, third, key="other", directory=tmp_path)
    assert third.frames == len(frames)


@pytest.mark.parametrize("how", ["truncate", "flip", "header"])
def test_a_damaged_shard_is_named_and_kept(dataset: EpisodeDataset, tmp_path: Path, how: str) -> None:
    FeatureCache.open_or_build(dataset, dataset.sample_index, encode, key="k", directory=tmp_path)
    shard = sorted(tmp_path.glob("*/shard-*.safetensors"))[1]
    content = bytearray(shard.read_bytes())
    content[{"flip": -1, "header": 12}.get(how, 0)] ^= 1
    shard.write_bytes(content[:-7] if how == "truncate" else content)
    with pytest.raises(DatasetError, match=f"{shard.name}.*delete this file"):
        FeatureCache.open_or_build(dataset, dataset.sample_index, encode, key="k", directory=tmp_path)
    shard.unlink()
    counting = Counting()
    FeatureCache.open_or_build(dataset, dataset.sample_index, counting, key="k", directory=tmp_path)
    assert counting.frames == 4


def test_errors(dataset: EpisodeDataset, tmp_path: Path) -> None:
    cache = FeatureCache.open_or_build(dataset, [0], encode, key="k", directory=tmp_path)
    with pytest.raises(ConfigError, match="frame 4 is not in the feature cache"):
        cache.get([0, 5])
    with pytest.raises(ConfigError, match="float16 ends"):
        FeatureCache.open_or_build(
            dataset, [0], lambda i, t: {"x": torch.full((len(t), 1), 1e6)}, key="big", directory=tmp_path
        )
    with pytest.raises(ConfigError, match="shape"):
        FeatureCache.open_or_build(
            dataset, [0], lambda i, t: {"x": torch.zeros(len(t) + 1, 1)}, key="frames", directory=tmp_path
        )
