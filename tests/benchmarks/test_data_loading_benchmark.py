"""The data loading benchmark reads the same pixels in every way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import data_loading
from rdvla.data import ImageCache
from rdvla.files import read_json
from rdvla.processing.fit import ImageFit


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> data_loading.Case:
    root = tmp_path_factory.mktemp("loading") / "data"
    data_loading.make_dataset(root, episodes=3, length=9, size=(48, 64))
    return data_loading.Case(root, ImageFit(32, "pad"), batch_size=4)


def test_every_way_reads_the_same_pixels(case: data_loading.Case, tmp_path: Path) -> None:
    reader = data_loading.NaiveReader(case.root, case.fit)
    cache = ImageCache.open_or_build(case.dataset, directory=tmp_path)
    assert len(case.dataset) == 27
    for frames in case.shuffled(27, seed=0):
        direct = torch.stack(list(case.dataset.images(frames).values()), dim=1)
        assert direct.equal(cache.stacked(frames))
        naive = np.stack([np.stack(list(reader.images(int(frame)).values())) for frame in frames])
        assert np.abs(naive.astype(int) - direct.numpy()).max() <= 2  # colours may be rounded differently


def test_the_frames_of_an_epoch_come_once_each(case: data_loading.Case) -> None:
    batches = case.shuffled(27, seed=1)
    assert sorted(np.concatenate(batches)) == list(range(27)) and max(map(len, batches)) <= 4
    assert np.bincount(np.concatenate(case.shuffled(40, seed=1)), minlength=27).max() == 2


def test_reading_in_order_reads_the_bytes_of_all_images(case: data_loading.Case, tmp_path: Path) -> None:
    ImageCache.open_or_build(case.dataset, directory=tmp_path)
    images = 27 * case.sample_bytes
    assert case.sample_bytes == 2 * 32 * 32 * 3
    assert images <= data_loading.read_in_order(tmp_path, evict=False) < 1.1 * images


def test_the_benchmark_writes_a_row_for_every_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "loading.json"
    arguments = ["--output", str(output), "--folder", str(tmp_path), "--episodes", "2", "--length", "6"]
    data_loading.main([*arguments, "--size", "48", "64", "--fit", "32", "--samples", "5", "--rounds", "2"])
    result = read_json(output)
    rows = {row["way"]: row for row in result["rows"]}
    assert [*rows][:6] == [
        data_loading.NAIVE,
        data_loading.DIRECT,
        data_loading.FIRST,
        data_loading.OPENED,
        data_loading.LATER,
        data_loading.MEMORY,
    ]
    assert rows[data_loading.NAIVE]["times_naive"] == 1
    assert all(row["samples_per_second"] > 0 for row in rows.values())
    assert result["dataset"]["samples"] == 12 and result["dataset"]["video_mb"] > 0
    assert f"| {data_loading.DIRECT} |" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["loading.json"]
