"""Features that no trained parameter touches, computed once and kept on disk.

A frozen image encoder would otherwise repeat the same work in every epoch. Features are kept for rows with a
new image only; a row that shows a held image gets the features of the row at which that image was new.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.data.dataset import EpisodeDataset, Rows
from rdvla.data.shards import map_shard, write_shard
from rdvla.errors import ConfigError, DatasetError, RDVLAError
from rdvla.files import read_json, write_json

Encode = Callable[[dict[str, Tensor], list[str]], dict[str, Tensor]]
Progress = Callable[[int, int], None]

SHARD_ROWS = 512
INDEX_FILE = "index.json"


class FeatureCache:
    """Frozen features of dataset rows. Make one with `open_or_build`."""

    def __init__(
        self,
        dataset: EpisodeDataset,
        rows: NDArray[np.int64],
        shards: list[dict[str, Tensor]],
        *,
        shard_rows: int,
    ) -> None:
        """Features by shard of the rows with a new image that are kept, (N,) ascending."""
        self._dataset = dataset
        self._rows = rows
        self._shards = shards
        self._shard_rows = shard_rows

    @classmethod
    def open_or_build(
        cls,
        dataset: EpisodeDataset,
        rows: Rows,
        encode: Encode,
        *,
        key: str,
        directory: Path | str,
        batch_size: int = 32,
        dtype: torch.dtype = torch.float16,
        progress: Progress | None = None,
        in_memory: bool = False,
    ) -> FeatureCache:
        """Open the cache of these rows, after computing what is not there yet.

        The cache lives in `directory/<key>-<hash>/`; the hash covers the dataset's content, the cameras and
        the rows. It is written in shards of 512 rows, each at once, so an interrupted build goes on with the
        next shard.

        Args:
            dataset: where images and instructions come from.
            rows: rows whose features will be asked for (training and validation together).
            encode: ({camera: (n, H, W, 3) uint8}, n instructions) -> {name: (n, ...)}, on the CPU, without
                gradient.
            key: names the encoder; it must change whenever the encoder's output would (`policy.cache_key()`).
            directory: parent folder of all caches.
            batch_size: rows that `encode` gets at once.
            dtype: how floating-point features are kept, float16 or float32.
            progress: called with (rows done, rows in all) after each batch.
            in_memory: read all features into memory instead of mapping the files.

        Raises:
            DatasetError: a damaged shard or index (named, with what to delete), or a damaged image.
            ConfigError: the encoder's output has the wrong number of rows, or does not fit `dtype`.
        """
        fresh = np.unique(dataset.fresh_rows(rows))
        if len(fresh) == 0:
            raise ConfigError("the feature cache needs at least one row")
        folder = (
            Path(directory)
            / f"{re.sub(r'[^A-Za-z0-9._-]', '_', key)[:80]}-{_digest(dataset, fresh, key, dtype)}"
        )
        _check_index(folder, len(fresh))
        pieces = [fresh[start : start + SHARD_ROWS] for start in range(0, len(fresh), SHARD_ROWS)]
        shards = []
        for number, piece in enumerate(pieces):
            path = folder / f"shard-{number:05d}.safetensors"
            report = _report(progress, done=number * SHARD_ROWS, total=len(fresh))
            if not path.exists():
                write_shard(path, _encode_rows(dataset, piece, encode, batch_size, dtype, report))
            shards.append(map_shard(path, rows=len(piece)))
            report(len(piece))
        _check_alike(folder, shards)
        if in_memory:
            shards = [{name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}]
        return cls(dataset, fresh, shards, shard_rows=max(SHARD_ROWS, len(fresh) if in_memory else 0))

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
        for target, source in enumerate(place.tolist()):  # converts while it copies: one pass over the memory
            gathered[target] = self._shards[source // self._shard_rows][name][source % self._shard_rows]
        return gathered


def _digest(dataset: EpisodeDataset, rows: NDArray[np.int64], key: str, dtype: torch.dtype) -> str:
    digest = hashlib.sha256(rows.tobytes())
    digest.update("\n".join([dataset.fingerprint(), *dataset.cameras, key, str(dtype)]).encode())
    return digest.hexdigest()[:16]


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


def _check_alike(folder: Path, shards: list[dict[str, Tensor]]) -> None:
    kinds = [{name: (tensor.shape[1:], tensor.dtype) for name, tensor in shard.items()} for shard in shards]
    for number, kind in enumerate(kinds):
        if kind != kinds[0]:
            raise DatasetError(
                f"{folder / f'shard-{number:05d}.safetensors'} holds other features than the first shard: "
                f"the encoder changed under the same key; delete {folder} and run again"
            )


def _report(progress: Progress | None, *, done: int, total: int) -> Callable[[int], None]:
    def report(in_shard: int) -> None:
        if progress is not None:
            progress(done + in_shard, total)

    return report


def _encode_rows(
    dataset: EpisodeDataset,
    rows: NDArray[np.int64],
    encode: Encode,
    batch_size: int,
    dtype: torch.dtype,
    report: Callable[[int], None],
) -> dict[str, Tensor]:
    parts: list[dict[str, Tensor]] = []
    done = 0
    for batch, images in dataset.iterate_images(rows, batch_size=batch_size):
        with torch.no_grad():
            features = encode(images, dataset.instructions(batch))
        parts.append({name: _kept(name, tensor, len(batch), dtype) for name, tensor in features.items()})
        done += len(batch)
        report(done)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _kept(name: str, tensor: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    if tensor.shape[:1] != (rows,):
        raise ConfigError(f"the encoder's {name!r} has shape {tuple(tensor.shape)} for {rows} rows")
    tensor = tensor.detach().cpu()
    kept = tensor.to(dtype) if tensor.is_floating_point() else tensor
    if kept.is_floating_point() and not torch.isfinite(kept).all():
        raise ConfigError(
            f"the encoder's {name!r} is not finite in {dtype} (float16 ends at 65504; try float32)"
        )
    return kept
