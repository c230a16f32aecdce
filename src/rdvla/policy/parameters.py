"""Which of a policy's parameters are its own: numbers, and a fingerprint of them all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rdvla.backbone import is_lora


def count_parameters(module: nn.Module) -> dict[str, int]:
    """Numbers of parameters: all, and which of them are frozen, low-rank pairs, or trained as they are."""
    sizes = {"all": 0, "frozen": 0, "lora": 0, "trained": 0}
    for name, parameter in module.named_parameters():
        kind = "lora" if is_lora(name) else "trained" if parameter.requires_grad else "frozen"
        sizes["all"] += parameter.numel()
        sizes[kind] += parameter.numel()
    return sizes


def fingerprint(module: nn.Module) -> str:
    """A short hash of a module's weights: two policies with the same one act the same."""
    return hash_tensors(sorted(module.state_dict().items()))


def hash_tensors(named: Iterable[tuple[str, Tensor]], *, start: bytes = b"") -> str:
    """A short hash of `start`, and of names and contents of tensors, in their order."""
    digest = hashlib.sha256(start)
    for name, tensor in named:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
