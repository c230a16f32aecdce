"""The feature cache gives what the encoder gives, computes it once, and survives being killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rdvla.data import EpisodeDataset, FeatureCache
from rdvla.data import feature_plan as cache_module
from rdvla.data.feature_cache import Filling
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
        filling=Filling(progress=lambda done, total: steps.append((done, total))), in_memory=in_memory,
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
def test_a_damaged_shard_is_named_and_computed_anew(
    dataset: EpisodeDataset, tmp_path: Path, how: str
) -> None:
    FeatureCache.open_or_build(dataset, dataset.sample_index, encode, key="k", directory=tmp_path)
    shard = sorted(tmp_path.glob("*/shard-*.safetensors"))[1]
    intact = shard.read_bytes()
    content = bytearray(intact)
    content[{"flip": -1, "header": 12}.get(how, 0)] ^= 1
    shard.write_bytes(content[:-7] if how == "truncate" else content)
    counting, said = Counting(), list[str]()
    FeatureCache.open_or_build(
        dataset, dataset.sample_index, counting, key="k", directory=tmp_path,
        filling=Filling(say=said.append),
    )  # fmt: skip
    assert counting.frames == 4 and shard.read_bytes() == intact
    assert len(said) == 1 and str(shard) in said[0] and "is damaged" in said[0]


def test_a_damaged_index_is_named_and_written_anew(dataset: EpisodeDataset, tmp_path: Path) -> None:
    FeatureCache.open_or_build(dataset, dataset.sample_index, encode, key="k", directory=tmp_path)
    (index,) = tmp_path.glob("*/index.json")
    intact = index.read_text()
    index.write_text(intact[:20])
    said: list[str] = []
    FeatureCache.open_or_build(
        dataset, dataset.sample_index, encode, key="k", directory=tmp_path, filling=Filling(say=said.append)
    )
    assert index.read_text() == intact and len(said) == 1 and str(index) in said[0]
    index.write_text(intact.replace('"rows": ', '"rows": 1'))
    with pytest.raises(DatasetError, match="does not describe this cache"):
        FeatureCache.open_or_build(dataset, dataset.sample_index, encode, key="k", directory=tmp_path)


def test_shards_of_large_features_hold_fewer_frames_and_old_ones_keep_theirs(
    dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SHARD_FRAMES": 9, "SHARD_BYTES": 600, "FEWEST_FRAMES": 2}.items():
        monkeypatch.setattr(cache_module, name, value)

    def shards(key: str, frame_bytes: int) -> int:
        FeatureCache.open_or_build(
            dataset, range(dataset.num_frames), encode, key=key, directory=tmp_path,
            filling=Filling(frame_bytes=frame_bytes),
        )  # fmt: skip
        return len(list(tmp_path.glob(f"{key}-*/shard-*")))

    expected = {"unknown": (0, 9), "small": (1, 9), "large": (200, 3), "huge": (10**6, 2)}
    for key, (frame_bytes, frames) in expected.items():
        assert shards(key, frame_bytes) == -(-len(dataset) // frames), key
    assert shards("unknown", 200) == -(-len(dataset) // 9)


def test_what_killed_processes_left_is_removed(dataset: EpisodeDataset, tmp_path: Path) -> None:
    FeatureCache.open_or_build(dataset, dataset.sample_index, encode, key="k", directory=tmp_path)
    (folder,) = tmp_path.iterdir()
    names = {path.name for path in folder.iterdir()}
    maker = "from rdvla.leftovers import temporary_name; import pathlib, sys; "
    maker += "temporary_name(pathlib.Path(sys.argv[1])).write_bytes(b'half')"
    subprocess.run(
        [sys.executable, "-c", maker, str(folder / "shard-00001.safetensors")], check=True, timeout=60
    )
    (folder / ".shard-00001.lock").write_bytes(b"")
    assert len(list(folder.iterdir())) == len(names) + 2
    FeatureCache.open_or_build(dataset, dataset.sample_index, encode, key="k", directory=tmp_path)
    assert {path.name for path in folder.iterdir()} == names


def test_shards_record_what_computed_them(dataset: EpisodeDataset, tmp_path: Path) -> None:
    def opened(by: str) -> list[object]:
        return FeatureCache.open_or_build(
            dataset, dataset.sample_index, encode, key="k", directory=tmp_path,
            filling=Filling(computed_by={"torch": by}),
        ).computed_by  # fmt: skip

    assert opened("1") == [{"torch": "1"}] == opened("2")
    sorted(tmp_path.glob("*/shard-*"))[0].unlink()
    assert opened("2") == [{"torch": "2"}, {"torch": "1"}]


def test_shards_of_earlier_versions_are_used(dataset: EpisodeDataset, tmp_path: Path) -> None:
    FeatureCache.open_or_build(dataset, dataset.sample_index, encode, key="k", directory=tmp_path)
    for shard in tmp_path.glob("*/shard-*"):
        tensors = load_file(shard)
        sums = {name: str(zlib.crc32(value.numpy().tobytes())) for name, value in tensors.items()}
        save_file(tensors, shard, metadata={"crc32": json.dumps(sums)})
    counting = Counting()
    cache = FeatureCache.open_or_build(dataset, dataset.sample_index, counting, key="k", directory=tmp_path)
    assert counting.frames == 0 and cache.computed_by == [{}]


def test_features_of_a_dataset_that_changes_meanwhile_are_not_kept(
    dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "SHARD_FRAMES", 4)
    root = shutil.copytree(dataset_root, tmp_path / "d")
    dataset = EpisodeDataset(root, chunk_size=2)
    video = next((root / "videos").rglob("*.mp4"))
    content, seen = video.read_bytes(), Counting()

    def changing(images: dict[str, Tensor], instructions: list[str]) -> dict[str, Tensor]:
        if seen.frames == 4:
            facts = video.stat()
            video.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            os.utime(video, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        return seen(images, instructions)

    caches = tmp_path / "caches"
    with pytest.raises(DatasetError, match="changed while its features were computed"):
        FeatureCache.open_or_build(
            dataset, dataset.sample_index, changing, key="k", directory=caches, batch_size=4
        )
    assert [path.name for path in caches.glob("*/shard-*")] == ["shard-00000.safetensors"]


def test_a_video_made_anew_with_the_same_size_and_time_gets_another_cache(
    dataset_root: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(dataset_root, tmp_path / "d")
    (root / "meta/checksums.json").unlink()  # as other programs write datasets
    (root / "videos").rename(tmp_path / "disk")  # linked, as from another disk
    (root / "videos").symlink_to(tmp_path / "disk")
    caches = tmp_path / "caches"

    def frames_computed() -> int:
        dataset, counting = EpisodeDataset(root, chunk_size=2), Counting()
        FeatureCache.open_or_build(dataset, dataset.sample_index, counting, key="k", directory=caches)
        return counting.frames

    assert frames_computed() > 0 == frames_computed()
    video = next((tmp_path / "disk").rglob("*.mp4"))
    content, facts = bytearray(video.read_bytes()), video.stat()
    content[-1] ^= 1
    video.write_bytes(content)
    os.utime(video, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert frames_computed() > 0
    content[-1] ^= 1
    video.write_bytes(content)
    assert frames_computed() == 0  # the first one, whose cache is still there


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
