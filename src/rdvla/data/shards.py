"""Shards of a feature cache: safetensors files with a checksum per tensor, read through memory mapping."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from rdvla.errors import DatasetError
from rdvla.files import write_atomically

DTYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
HEADER_LIMIT = 1 << 20
FACTS = "shard"  # entry of a file's metadata, with these in it; earlier versions had the former alone
CHECKSUMS, COMPUTED_BY = "crc32", "computed_by"


@dataclass(frozen=True)
class MappedShard:
    """A shard that is open."""

    tensors: dict[str, Tensor]  # over the mapped file; do not write to them
    computed_by: Mapping[str, Any]  # as it was written; empty in files of earlier versions


def write_shard(
    path: Path, tensors: dict[str, Tensor], *, computed_by: Mapping[str, Any] | None = None
) -> None:
    """Write tensors with equal first dimensions; the file appears whole or not at all.

    Args:
        path: of the file.
        tensors: on the CPU.
        computed_by: plain values, kept next to them.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    sums = {name: str(_checksum(tensor.numpy())) for name, tensor in contiguous.items()}
    with write_atomically(path) as temporary:
        # One entry: safetensors writes several in random order, and equal shards should have equal bytes.
        facts = {CHECKSUMS: sums, COMPUTED_BY: dict(computed_by or {})}
        save_file(contiguous, str(temporary), metadata={FACTS: json.dumps(facts, sort_keys=True)})


def map_shard(path: Path, *, length: int) -> MappedShard:
    """Open a shard without reading it into memory.

    Args:
        path: the file.
        length: first dimension that every tensor must have.

    Raises:
        DatasetError: the shard is damaged; it is named.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if header_size > min(size, HEADER_LIMIT):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(header_size))
        sums, computed_by = _facts(header.pop("__metadata__"))
        tensors = {name: _map_tensor(path, 8 + header_size, entry, size) for name, entry in header.items()}
        for name, array in tensors.items():
            if array.shape[:1] != (length,) or str(_checksum(array)) != sums[name]:
                raise ValueError(f"{name!r} is not what was written")
        if not tensors or set(sums) != set(tensors):
            raise ValueError("a tensor is missing")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is damaged ({error})") from error
    # The maps copy on write: PyTorch wants writable memory, and the file never changes.
    return MappedShard({name: torch.from_numpy(array) for name, array in tensors.items()}, computed_by)


def _facts(metadata: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    if FACTS not in metadata:
        return json.loads(metadata[CHECKSUMS]), {}
    facts = json.loads(metadata[FACTS])
    return facts[CHECKSUMS], dict(facts[COMPUTED_BY])


def _map_tensor(path: Path, base: int, entry: dict[str, list[int]], size: int) -> NDArray[Any]:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    dtype = np.dtype(DTYPES[str(entry["dtype"])])
    if any(n < 0 for n in shape) or base + end > size or end - begin != int(np.prod(shape)) * dtype.itemsize:
        raise ValueError("it is truncated")
    return np.memmap(path, dtype=dtype, mode="c", offset=base + begin, shape=shape)


def _checksum(array: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
