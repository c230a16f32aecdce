"""What a dataset's files declare is compared with their headers before anything is decoded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdvla.data import EpisodeDataset
from rdvla.data.formats.lerobot.declared import is_inside, is_plain_template
from rdvla.errors import ConfigError, DatasetError
from tests.support.datasets import make_episode, make_writer

DATA = "data/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    writer = make_writer(tmp_path_factory.mktemp("declared") / "demos")
    for number in range(2):
        writer.add_episode(make_episode(number, length=6))
    root = writer.finalize()
    (root / "meta/checksums.json").unlink()
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "demos"))


def read(root: Path) -> np.ndarray:
    dataset = EpisodeDataset(root, chunk_size=3, cameras=["front"])
    return dataset.images(range(dataset.num_frames))["front"].numpy()


def edit(root: Path, **entries: object) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("name", ["data_path", "video_path"])
@pytest.mark.parametrize(
    "template",
    [
        "{chunk_index:0>3000000000}",
        "{chunk_index:09999999999d}",
        "{chunk_index:{file_index}}",
        "{video_key.__class__}",
        "{video_key!r}",
        "{chunk_index[0]}",
        "x" * 5000,
        "/etc/passwd",
        "../x",
    ],
)
def test_templates_only_fill_in_numbers_and_names(whole: Path, root: Path, name: str, template: str):
    assert not is_plain_template(template)
    edit(root, **{name: template})
    np.testing.assert_array_equal(read(root), read(whole))


@pytest.mark.parametrize("key", ["/etc/x.mp4", "../../x.mp4", "C:\\x.mp4", "a/../../../x"])
def test_no_file_outside_of_a_dataset_is_read(root: Path, key: str):
    assert not is_inside(key)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features[key] = features.pop("observation.images.front")
    edit(root, features=features, video_path="{video_key}")
    with pytest.raises((DatasetError, ConfigError), match="has no camera 'front'"):
        read(root)


@pytest.mark.slow
def test_a_small_file_that_says_it_holds_a_long_text_is_refused_before_it_is_read(root: Path):
    path = root / "meta/tasks.parquet"
    table = pq.read_table(path)
    text = pa.array([" " * 300_000_000])
    columns = {
        field.name: text if pa.types.is_string(field.type) else table.column(field.name)[:1]
        for field in table.schema
    }
    pq.write_table(pa.table(columns), path, compression="zstd")
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DatasetError, match=r"tasks\.parquet has .* made to fill the memory"):
        read(root)


@pytest.mark.slow
def test_a_small_file_that_says_it_holds_millions_of_rows_is_refused_before_it_is_read(root: Path):
    path = root / DATA
    names = pq.read_schema(path).names
    zeros = pa.array(np.zeros(4_000_000, dtype=np.int64))
    with pq.ParquetWriter(path, pa.schema([(name, pa.int64()) for name in names])) as writer:
        for _ in range(10):
            writer.write_table(pa.table(dict.fromkeys(names, zeros)))
    with pytest.raises(DatasetError, match=r"file-000\.parquet has .* 40,000,000 rows"):
        read(root)


def test_a_data_file_with_far_more_rows_than_the_metadata_lists_is_not_read(root: Path, monkeypatch):
    path = root / DATA
    names, rows = pq.read_schema(path).names, 1_000_000
    zeros = pa.array(np.zeros(rows, dtype=np.int8))  # below what a small file may hold in memory
    pq.write_table(pa.table(dict.fromkeys(names, zeros)), path)

    read_file = pq.ParquetFile.read

    def read_small(file: pq.ParquetFile, columns: list[str] | None = None) -> pa.Table:
        assert file.metadata.num_rows < rows, "the file was read"
        return read_file(file, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read", read_small)
    with pytest.raises(DatasetError, match=r"file-000\.parquet says .* 1,000,000 rows.* lists 12 frames"):
        read(root)


def write_square_video(path: Path, size: int, frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            picture = np.zeros((size, size, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_pictures_far_larger_than_declared_are_not_decoded(root: Path):
    declared = json.loads((root / "meta/info.json").read_text())["features"]["observation.images.front"]
    size = 8 * max(declared["shape"][:2])
    write_square_video(root / VIDEO, size, 12)
    with pytest.raises(DatasetError, match=rf"front.*{size}x{size}, though info\.json says"):
        read(root)
