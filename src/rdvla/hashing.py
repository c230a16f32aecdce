"""Fingerprints of weights and files: equal bytes, equal fingerprint. Imports no torch when it is imported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def fingerprint(module: nn.Module) -> str:
    """Return a short hash of a module's weights.

    Policies with equal hashes act the same on one kind of processor, and up to rounding on different ones, if
    their statistics and the way they fit images are the same, too: the hash does not cover these.
    """
    return hash_tensors(sorted(module.state_dict().items()))


def hash_tensors(named: Iterable[tuple[str, Tensor]], *, start: bytes = b"") -> str:
    """Return a short hash of `start` and of the names and bytes of tensors, in their order."""
    import torch

    digest = hashlib.sha256(start)
    for name, tensor in named:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
