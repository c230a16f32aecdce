"""Shards of a feature cache: safetensors files with a checksum per tensor, read through memory mapping."""

from __future__ import annotations

import json
import zlib
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


def write_shard(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors with equal first dimensions; the file appears whole or not at all."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    sums = {name: str(_checksum(tensor.numpy())) for name, tensor in contiguous.items()}
    with write_atomically(path) as temporary:
        save_file(contiguous, str(temporary), metadata={"crc32": json.dumps(sums, sort_keys=True)})


def map_shard(path: Path, *, length: int) -> dict[str, Tensor]:
    """Open a shard without reading it into memory.

    Args:
        path: the file.
        length: first dimension that every tensor must have.

    Returns:
        Name -> tensor over the mapped file; do not write to it.

    Raises:
        DatasetError: the shard is damaged; the message says which file to delete.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if header_size > min(size, HEADER_LIMIT):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(header_size))
        sums = json.loads(header.pop("__metadata__")["crc32"])
        tensors = {name: _map_tensor(path, 8 + header_size, entry, size) for name, entry in header.items()}
        for name, array in tensors.items():
            if array.shape[:1] != (length,) or str(_checksum(array)) != sums[name]:
                raise ValueError(f"{name!r} is not what was written")
        if not tensors or set(sums) != set(tensors):
            raise ValueError("a tensor is missing")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path} is damaged ({error}): delete this file and run again; "
            "only its features are computed anew"
        ) from error
    # The maps copy on write: PyTorch wants writable memory, and the file never changes.
    return {name: torch.from_numpy(array) for name, array in tensors.items()}


def _map_tensor(path: Path, base: int, entry: dict[str, list[int]], size: int) -> NDArray[Any]:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    dtype = np.dtype(DTYPES[str(entry["dtype"])])
    if any(n < 0 for n in shape) or base + end > size or end - begin != int(np.prod(shape)) * dtype.itemsize:
        raise ValueError("it is truncated")
    return np.memmap(path, dtype=dtype, mode="c", offset=base + begin, shape=shape)


def _checksum(array: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
