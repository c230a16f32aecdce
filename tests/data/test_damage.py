"""Whatever happens to a file: the reader names it, or reads what was written, and never fails otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdvla.data import EpisodeDataset
from rdvla.errors import ConfigError, DatasetError
from tests.support.datasets import make_episode, make_writer
from tests.support.datasets_strangers import Draft, frames, shown

FILES = (
    "meta/info.json",
    "meta/tasks.parquet",
    "meta/checksums.json",
    "meta/episodes/chunk-000/file-000.parquet",
    "data/chunk-000/file-000.parquet",
    "videos/observation.images.front/chunk-000/file-000.mp4",
)


@pytest.fixture(scope="module")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    writer = make_writer(tmp_path_factory.mktemp("damage") / "demos")
    for number in range(2):
        writer.add_episode(make_episode(number, length=6))
    return writer.finalize()


def everything(root: Path) -> dict[str, object]:
    dataset = EpisodeDataset(root, chunk_size=3, cameras=["front"])
    return {
        "actions": dataset.actions(dataset.sample_index).numpy(),
        "state": dataset.state(dataset.sample_index).numpy(),
        "images": dataset.images(range(dataset.num_frames))["front"].numpy(),
        "statistics": dataset.statistics,
        "instructions": dataset.instructions(range(dataset.num_frames)),
    }


def damage(content: bytes, data: st.DataObject) -> bytes:
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        return content[:place]
    flipped = content[place] ^ data.draw(st.integers(1, 255))
    return content[:place] + bytes([flipped]) + content[place + 1 :]


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_damage_is_named(
    small_root: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("damaged") / "demos"
    shutil.copytree(small_root, root)
    file = root / name
    file.write_bytes(damage(file.read_bytes(), data))
    try:
        found = everything(root)
    except (DatasetError, ConfigError) as error:  # a damaged camera name reads as another camera
        assert str(root) in str(error)
        if name.startswith(("data", "videos")):
            assert str(file) in str(error)
        return
    assert name in ("meta/info.json", "meta/checksums.json")  # all else is covered by a checksum
    for key, expected in everything(small_root).items():
        np.testing.assert_equal(found[key], expected)


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_damage_without_checksums_raises_nothing_else(
    small_root: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("damaged") / "demos"
    shutil.copytree(small_root, root)
    file = root / name
    file.write_bytes(damage(file.read_bytes(), data))
    (root / "meta/checksums.json").unlink()
    try:
        everything(root)
    except (DatasetError, ConfigError) as error:  # a damaged camera name reads as another camera
        assert str(root) in str(error)


@pytest.mark.parametrize("name", [name for name in FILES if name != "meta/checksums.json"])
def test_a_missing_file_is_named(small_root: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / "demos"
    shutil.copytree(small_root, root)
    (root / name).unlink()
    with pytest.raises(DatasetError, match=name):
        everything(root)


@pytest.mark.parametrize("name", ["frames.parquet", "front.mp4", "episode.json"])
def test_a_damaged_staged_episode_is_named(tmp_path: Path, name: str) -> None:
    writer = make_writer(tmp_path / "demos")
    writer.add_episode(make_episode(0, length=6))
    file = writer.staging / "episodes/000000" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DatasetError, match=str(file)):
        writer.finalize()
    assert not writer.root.exists() and file.exists()


ODD = st.sampled_from(
    [None, True, -1, 0, 3.5, "", "x", "../x", "/etc", "{a}", [], [[1]], {}, {"a": 1}, 10**30]
)


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_odd_metadata_of_others_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, version: str, data: st.DataObject
) -> None:
    """Any value of info.json or episodes.jsonl may be replaced by anything."""
    root = tmp_path_factory.mktemp("odd") / "demos"
    draft = Draft(lengths=(3, 2), files=(0, 0), one_video_each=version == "v2.1")
    names = ["meta/info.json"] if version == "v3.0" else ["meta/info.json", "meta/episodes.jsonl"]
    (draft.write_v3 if version == "v3.0" else draft.write_v2)(root)
    file = root / data.draw(st.sampled_from(names))
    content = json.loads(file.read_text().splitlines()[0])
    node, key = content, data.draw(st.sampled_from(sorted(content)))
    while isinstance(node[key], dict) and node[key] and data.draw(st.booleans()):
        node = node[key]
        key = data.draw(st.sampled_from(sorted(node)))
    node[key] = data.draw(ODD)
    file.write_text(json.dumps(content))
    try:
        dataset = EpisodeDataset(root, chunk_size=3)
        assert dataset.actions(range(dataset.num_frames)).isfinite().all()
        assert not dataset.cameras or set(shown(dataset)) <= set(frames((3, 2)))
        assert dataset.statistics and dataset.fingerprint()
        [(dataset.names(name), dataset.units(name)) for name in dataset.features]
    except (DatasetError, ConfigError) as error:
        assert str(root) in str(error)
