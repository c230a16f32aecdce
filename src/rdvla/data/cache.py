"""Features that no trained parameter touches, computed once and kept on disk.

A frozen image encoder would otherwise repeat the same work in every epoch. Features are kept for rows with a
new image only; a row that shows a held image gets the features of the row at which that image was new. Of
datasets that are read together each has a folder of its own, which every selection of them shares.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.data.dataset import EpisodeDataset
from rdvla.data.feature_encoder import Encode, FeatureEncoder, Images
from rdvla.data.parts import split_by_part
from rdvla.data.rows import Rows
from rdvla.data.shards import map_shard, write_shard
from rdvla.errors import ConfigError, DatasetError, RDVLAError
from rdvla.files import read_json, write_json

Progress = Callable[[int, int], None]

SHARD_ROWS = 512
INDEX_FILE = "index.json"


class FeatureCache:
    """Frozen features of dataset rows. Make one with `open_or_build`."""

    def __init__(
        self, dataset: EpisodeDataset, rows: NDArray[np.int64], shards: list[dict[str, Tensor]]
    ) -> None:
        """Features that the shards hold, in this order, of (N,) ascending rows with a new image."""
        sizes = [len(next(iter(shard.values()))) for shard in shards]
        self._dataset = dataset
        self._rows = rows
        self._shards = shards
        self._shard_of = np.repeat(np.arange(len(shards)), sizes)  # (N,)
        self._place_of = np.concatenate([np.arange(size) for size in sizes])  # (N,) in its shard

    @classmethod
    def open_or_build(
        cls,
        dataset: EpisodeDataset,
        rows: Rows,
        encode: Encode,
        *,
        key: str,
        directory: Path | str,
        images: Images | None = None,
        batch_size: int = 32,
        dtype: torch.dtype = torch.float16,
        progress: Progress | None = None,
        in_memory: bool = False,
    ) -> FeatureCache:
        """Open the cache of these rows, after computing what is not there yet.

        The cache lives in folders `directory/<key>-<hash>/`, one a dataset; the hash covers the dataset's
        content, the cameras and the rows. It is written in shards of 512 rows, each at once, so an
        interrupted build goes on with the next shard.

        Args:
            dataset: where images and instructions come from.
            rows: rows whose features will be asked for (training and validation together).
            encode: ({camera: (n, H, W, 3) uint8}, n instructions) -> {name: (n, ...)}, on the CPU, without
                gradient.
            key: names the encoder; it must change whenever the encoder's output would (`policy.cache_key()`).
            directory: parent folder of all caches.
            images: gives the images of rows, as `dataset.images`; None: that.
            batch_size: rows that `encode` gets at once.
            dtype: how floating-point features are kept, float16 or float32.
            progress: called with (rows done, rows in all) after each batch.
            in_memory: read all features into memory instead of mapping the files.

        Raises:
            DatasetError: a damaged shard or index (named, with what to delete), or a damaged image.
            ConfigError: the encoder's output has the wrong number of rows, or does not fit `dtype`.
        """
        fresh, folders = _plan(dataset, rows, key=key, directory=Path(directory), dtype=dtype)
        encoder = FeatureEncoder(dataset, images or dataset.images, encode, batch_size, dtype)
        report = progress or (lambda _done, _total: None)
        shards: list[dict[str, Tensor]] = []
        done = 0
        for folder in folders:
            _check_index(folder.path, len(folder.rows))
            for path, piece in folder.shards():
                if not path.exists():
                    write_shard(path, encoder.features(piece, _behind(report, done, len(fresh))))
                shards.append(map_shard(path, rows=len(piece)))
                done += len(piece)
                report(done, len(fresh))
                _check_alike(path, shards)
        if in_memory:
            shards = [{name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}]
        return cls(dataset, fresh, shards)

    @staticmethod
    def exists(
        dataset: EpisodeDataset,
        rows: Rows,
        *,
        key: str,
        directory: Path | str,
        dtype: torch.dtype = torch.float16,
    ) -> bool:
        """Whether `open_or_build` would find everything there (the files are not read)."""
        _, folders = _plan(dataset, rows, key=key, directory=Path(directory), dtype=dtype)
        return all(path.exists() for folder in folders for path, _ in folder.shards())

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Feature name -> shape of one row's feature."""
        return {name: tuple(tensor.shape[1:]) for name, tensor in self._shards[0].items()}

    def get(self, rows: Rows, *, dtype: torch.dtype | None = torch.float32) -> dict[str, Tensor]:
        """Features of (B,) rows, name -> (B, ...).

        Args:
            rows: rows of the dataset; those with a held image give the features of that image.
            dtype: floating-point features are converted to this; None: as they are kept.

        Raises:
            ConfigError: the cache was not built for one of the rows.
        """
        fresh = self._dataset.fresh_rows(rows)
        place = np.searchsorted(self._rows, fresh)
        found = self._rows[np.minimum(place, len(self._rows) - 1)] == fresh
        if not found.all():
            raise ConfigError(
                f"row {int(fresh[~found][0])} is not in the feature cache: build it with that row"
            )
        return {name: self._gather(name, place, dtype) for name in self._shards[0]}

    def _gather(self, name: str, place: NDArray[np.int64], dtype: torch.dtype | None) -> Tensor:
        first = self._shards[0][name]
        kept_as = dtype if dtype is not None and first.is_floating_point() else first.dtype
        gathered = torch.empty(len(place), *first.shape[1:], dtype=kept_as)
        wanted = zip(self._shard_of[place].tolist(), self._place_of[place].tolist(), strict=True)
        for target, (shard, source) in enumerate(wanted):
            # Converts while it copies: one pass over the memory.
            gathered[target] = self._shards[shard][name][source]
        return gathered


@dataclass(frozen=True)
class _Folder:
    """Where the features of one dataset's rows (ascending, numbered through all datasets) are kept."""

    path: Path
    rows: NDArray[np.int64]

    def shards(self) -> list[tuple[Path, NDArray[np.int64]]]:
        """Every file with its rows."""
        starts = range(0, len(self.rows), SHARD_ROWS)
        return [
            (self.path / f"shard-{number:05d}.safetensors", self.rows[start : start + SHARD_ROWS])
            for number, start in enumerate(starts)
        ]


def _plan(
    dataset: EpisodeDataset, rows: Rows, *, key: str, directory: Path, dtype: torch.dtype
) -> tuple[NDArray[np.int64], list[_Folder]]:
    """The rows with a new image that are kept, ascending, and the folder of each dataset's share."""
    fresh = np.unique(dataset.fresh_rows(rows))
    if len(fresh) == 0:
        raise ConfigError("the feature cache needs at least one row")
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", key)[:80]
    folders = []
    for number, places in split_by_part(dataset.parts, fresh):
        part, own = dataset.parts[number], fresh[places]
        cameras = [f"{name} {part.cameras[name]} {dataset.image_size}" for name in dataset.cameras]
        digest = hashlib.sha256((own - part.first_row).tobytes())
        digest.update("\n".join([part.metadata.files.fingerprint(), *cameras, key, str(dtype)]).encode())
        folders.append(_Folder(directory / f"{readable}-{digest.hexdigest()[:16]}", own))
    return fresh, folders


def _behind(report: Progress, done: int, total: int) -> Callable[[int], None]:
    return lambda more: report(done + more, total)


def _check_index(folder: Path, rows: int) -> None:
    """Write what the folder is, or compare with what it says of itself."""
    index = {"version": 1, "rows": rows, "shard_rows": SHARD_ROWS}
    path = folder / INDEX_FILE
    if not path.exists():
        write_json(path, index)
        return
    try:
        found = read_json(path)
    except RDVLAError as error:
        raise DatasetError(f"{error}: delete that file and run again") from error
    if found != index:
        raise DatasetError(f"{path} does not describe this cache: delete {folder} and run again")


def _check_alike(path: Path, shards: list[dict[str, Tensor]]) -> None:
    first, last = (
        {name: (tensor.shape[1:], tensor.dtype) for name, tensor in shard.items()}
        for shard in (shards[0], shards[-1])
    )
    if first != last:
        raise DatasetError(
            f"{path} holds other features than the first shard: the encoder changed under the same key; "
            f"delete {path.parent} and run again"
        )
