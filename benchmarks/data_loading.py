"""Samples a second: our loader against decoding naively, and against the disk.

    python -m benchmarks.data_loading --output runs/bench/data_loading.json

Makes a dataset with `DatasetWriter` in a temporary folder: a textured scene that moves, with a camera's
grain, seen by two cameras. A sample is a random frame: images of all cameras, made square, with its state and
chunk of actions. The ways take turns, so a slow moment of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.harness import Spread, hardware
from rdvla.data import DatasetWriter, Episode, EpisodeDataset, ImageCache
from rdvla.files import read_json, write_json
from rdvla.processing.fit import ImageFit

CAMERAS = ("front", "wrist")
JOINTS = 6
FPS = 30
CHUNK = 8  # actions of a sample
READ = 2**20  # bytes at once, from the disk
NAIVE = "open the video, seek, decode, for every sample"
DIRECT = "rdvla, straight from the videos"
FIRST = "rdvla, image cache, first epoch: decode, write, read"
LATER = "rdvla, image cache, later epochs"
OPENED = "rdvla, image cache, opened and checked by the next run"
MEMORY = "the cache's bytes in order, from the system's memory"
DISK = "the cache's bytes in order, from the disk"


@dataclass(frozen=True)
class Case:
    """A dataset, and what a sample of it is."""

    root: Path
    fit: ImageFit
    batch_size: int

    @cached_property
    def dataset(self) -> EpisodeDataset:
        """The dataset as training opens it."""
        return EpisodeDataset(
            self.root, chunk_size=CHUNK, cameras=CAMERAS, fits=dict.fromkeys(CAMERAS, self.fit)
        )

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample's images."""
        return len(CAMERAS) * self.fit.size**2 * 3

    def shuffled(self, count: int, *, seed: int) -> list[NDArray[np.int64]]:
        """Return batches of random frames; every frame comes once before one comes twice."""
        rng = np.random.default_rng(seed)
        rounds = [rng.permutation(self.dataset.sample_index) for _ in range(-(-count // len(self.dataset)))]
        frames = np.concatenate(rounds)[:count]
        return np.array_split(frames, max(1, -(-count // self.batch_size)))


def make_dataset(root: Path, *, episodes: int, length: int, size: tuple[int, int]) -> Path:
    """Write the dataset: `episodes` of `length` frames with images of `size` (height, width)."""
    joints = {"dtype": "float32", "shape": (JOINTS,), "names": None}
    writer = DatasetWriter.create(
        root,
        fps=FPS,
        features={"observation.state": joints, "action": joints},
        cameras=CAMERAS,
        image_size=size,
    )
    for number in range(episodes):
        rng = np.random.default_rng(number)
        path = np.cumsum(rng.normal(size=(length, JOINTS)), axis=0).astype(np.float32)
        episode = Episode(
            features={"observation.state": path, "action": path},
            images={camera: _moving_scene(rng, length=length, size=size) for camera in CAMERAS},
            image_index=np.arange(length),
            task="push the puck",
        )
        writer.add_episode(episode, number=number)
    return writer.finalize()


def _moving_scene(rng: np.random.Generator, *, length: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    coarse = rng.integers(0, 256, (height // 12 + 8, width // 12 + 8, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((width + length, height + length)), dtype=np.float32)
    frames = np.empty((length, height, width, 3), dtype=np.uint8)
    for t in range(length):
        grain = rng.normal(scale=2, size=frames.shape[1:])
        frames[t] = (scene[t : t + height, t // 2 : t // 2 + width] + grain).clip(0, 255)
    return frames


class NaiveReader:
    """Reads a frame of a LeRobot v3.0 dataset as a short script would."""

    def __init__(self, root: Path, fit: ImageFit) -> None:
        self._root, self._fit = root, fit
        self._info = read_json(root / "meta" / "info.json")
        self._episodes = pq.read_table(root / "meta" / "episodes").to_pylist()

    def images(self, frame: int) -> dict[str, NDArray[np.uint8]]:
        """Return camera -> (size, size, 3)."""
        episode = next(e for e in self._episodes if frame < e["dataset_to_index"])
        return {camera: self._fit(self._decode(camera, episode, frame)) for camera in CAMERAS}

    def _decode(self, camera: str, episode: dict[str, Any], frame: int) -> NDArray[np.uint8]:
        key = f"observation.images.{camera}"
        names = {name: episode[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
        seconds = episode[f"videos/{key}/from_timestamp"]
        seconds += (frame - episode["dataset_from_index"]) / self._info["fps"]
        with av.open(self._root / self._info["video_path"].format(video_key=key, **names)) as video:
            stream = video.streams.video[0]
            assert stream.time_base is not None
            video.seek(int(seconds / stream.time_base), stream=stream)
            for picture in video.decode(stream):
                if picture.time is not None and picture.time > seconds - 0.5 / self._info["fps"]:
                    return picture.to_ndarray(format="rgb24")
        raise RuntimeError(f"{camera} has no frame {frame}")


def read_naively(case: Case, count: int, *, seed: int) -> int:
    """Read random samples one by one; return how many."""
    reader, dataset = NaiveReader(case.root, case.fit), case.dataset
    for batch in case.shuffled(count, seed=seed):
        pictures = [reader.images(int(frame)) for frame in batch]
        torch.from_numpy(np.stack([np.stack(list(each.values())) for each in pictures]))
        _numbers(dataset, batch)
    return count


def read_directly(case: Case, count: int, *, seed: int) -> int:
    """Read random samples from the videos through `EpisodeDataset`; return how many."""
    for batch in case.shuffled(count, seed=seed):
        torch.stack(list(case.dataset.images(batch).values()), dim=1)
        _numbers(case.dataset, batch)
    return count


def read_cached(case: Case, cache: ImageCache, count: int, *, seed: int) -> int:
    """Read random samples from the image cache; return how many."""
    for batch in case.shuffled(count, seed=seed):
        cache.stacked(batch)
        _numbers(case.dataset, batch)
    return count


def read_first_epoch(case: Case) -> int:
    """Fill an image cache, and read every sample once; return how many there are."""
    with tempfile.TemporaryDirectory(dir=case.root.parent) as folder:
        cache = ImageCache.open_or_build(case.dataset, directory=folder)
        return read_cached(case, cache, len(case.dataset), seed=0)


def read_in_order(folder: Path, *, evict: bool) -> int:
    """Read all files of a folder from start to end; return their bytes.

    Args:
        folder: of the files.
        evict: first ask the system to forget what it keeps of them in memory (Linux).
    """
    done = 0
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            if evict:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while block := file.read(READ):
                done += len(block)
    return done


def _numbers(dataset: EpisodeDataset, frames: NDArray[np.int64]) -> None:
    dataset.state(frames)
    dataset.actions(frames)


def measure(case: Case, *, samples: int, rounds: int) -> list[dict[str, Any]]:
    """Measure every way in turn; return a row for each, with samples a second.

    Args:
        case: the dataset.
        samples: per round, for ways that decode; whole epochs for the others.
        rounds: how often.
    """
    with tempfile.TemporaryDirectory(dir=case.root.parent) as folder:
        ImageCache.open_or_build(case.dataset, directory=folder)

        def cached(turn: int) -> int:
            return read_cached(case, kept[0], 4 * len(case.dataset), seed=turn)

        def opened(_turn: int) -> int:
            kept[:] = [ImageCache.open_or_build(case.dataset, directory=folder)]
            return len(case.dataset)

        kept = [ImageCache.open_or_build(case.dataset, directory=folder)]
        ways: dict[str, Callable[[int], int]] = {
            NAIVE: lambda turn: read_naively(case, samples, seed=turn),
            DIRECT: lambda turn: read_directly(case, samples, seed=turn),
            FIRST: lambda _turn: read_first_epoch(case),
            OPENED: opened,
            LATER: cached,
            MEMORY: lambda _turn: read_in_order(Path(folder), evict=False) // case.sample_bytes,
        }
        if hasattr(os, "posix_fadvise"):
            ways[DISK] = lambda _turn: read_in_order(Path(folder), evict=True) // case.sample_bytes
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds):
            for name, read in ways.items():
                before = time.perf_counter()
                done = read(turn)
                rates[name].append(done / (time.perf_counter() - before))
    naive = Spread.of(rates[NAIVE]).median
    return [
        {
            "way": name,
            "samples_per_second": (spread := Spread.of(own)).median,
            "spread": [spread.low, spread.high],
            "times_naive": spread.median / naive,
            "mb_per_second": spread.median * case.sample_bytes / 1e6,
        }
        for name, own in rates.items()
    ]


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Format the rows as the table of docs/datasets.md."""
    lines = ["| way | samples a second (quartiles) | times naive | MB/s of images |", "|---|---|---|---|"]
    for row in rows:
        rate, low, high = map(_three_digits, (row["samples_per_second"], *row["spread"]))
        lines.append(
            f"| {row['way']} | {rate} ({low}-{high}) | "
            f"{_three_digits(row['times_naive'])} | {_three_digits(row['mb_per_second'])} |"
        )
    return lines


def _three_digits(number: float) -> str:
    return f"{float(f'{number:.3g}'):,.{1 if number < 100 else 0}f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Make the dataset, measure, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_loading", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/data_loading.json"))
    parser.add_argument(
        "--folder", type=Path, help="where the dataset is made; a temporary folder if not given"
    )
    parser.add_argument("--episodes", type=int, default=6)
    parser.add_argument("--length", type=int, default=120, help="frames of an episode")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width, recorded")
    parser.add_argument("--fit", type=int, default=128, help="side of the square that images are made to")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=64, help="per round, of ways that decode")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        height, width = options.size
        root = make_dataset(
            Path(folder) / "data", episodes=options.episodes, length=options.length, size=(height, width)
        )
        case = Case(root, ImageFit(options.fit, "pad"), options.batch_size)
        rows = measure(case, samples=options.samples, rounds=options.rounds)
        videos = sum(path.stat().st_size for path in root.rglob("*.mp4"))
        result = {
            "schema": 1,
            "hardware": hardware(),
            "dataset": {
                "samples": len(case.dataset),
                "cameras": len(CAMERAS),
                "recorded": [height, width],
                "fit": options.fit,
                "video_mb": videos / 1e6,
            },
            "rounds": options.rounds,
            "rows": rows,
        }
    print(f"{len(CAMERAS)} cameras of {width}x{height} pixels, made {options.fit}x{options.fit}")
    print("\n".join(table(rows)))
    write_json(options.output, result)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
