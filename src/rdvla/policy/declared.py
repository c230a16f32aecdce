"""Compares what a policy's configuration declares with the header of its weights, before anything is built.

A configuration of a few bytes can ask for terabytes. Its parts are therefore made on torch's `meta` device
first, where tensors have shapes and no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from rdvla.backbone.config import must_match
from rdvla.errors import RDVLAError
from rdvla.heads import ProprioProjector
from rdvla.policy.config import PolicyConfig
from rdvla.policy.files import WEIGHTS_FILE, names_differ

Made = TypeVar("Made", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]
SPARE = 64 << 20  # numbers that a part next to a published model may have beyond those in the file


def check_declared(folder: Path, config: PolicyConfig) -> None:
    """Check that the weights of a policy have the shapes that its configuration asks for; reads no weight.

    Parts that stand on a published model have the model's sizes too, which its own files say. Of these parts
    only the amount is compared.

    Args:
        folder: of the policy.
        config: that it holds.

    Raises:
        RDVLAError: the weights cannot be read, or do not fit; the message names the file.
    """
    path = folder / WEIGHTS_FILE
    held = read_header(path)
    width = config.head.context_width
    head = _on_meta(config.head.make)
    projector = _on_meta(lambda: ProprioProjector(config.state_dim, width))
    wanted = {**_shapes(head, "head."), **_shapes(projector, "proprio_projector.")}
    own_config = config.backbone.without_published()
    own: Shapes = {}
    if own_config is not None:
        backbone = _on_meta(own_config.make)
        own = _shapes(backbone, "backbone.")
        must_match("head.context_dim", width, "the backbone's width", backbone.context_width)
    if own_config is config.backbone:
        _compare(path, held, {**wanted, **own})
        return
    _compare(path, {name: held[name] for name in held if not name.startswith("backbone.")}, wanted)
    asked, stored = sum(map(_numbers, own.values())), sum(map(_numbers, held.values()))
    if asked > 2 * stored + SPARE:
        raise RDVLAError(
            f"{path} does not fit the configuration next to it, which asks for {asked:,} numbers in the "
            f"backbone; the file holds {stored:,}"
        )


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a safetensors file by their names; reads no tensor.

    Raises:
        RDVLAError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RDVLAError(f"{path} cannot be read as safetensors: {error}") from error


def _on_meta(make: Callable[[], Made]) -> Made:
    with torch.device("meta"):
        return make()


def _shapes(module: nn.Module, prefix: str) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}{name}": tuple(value.shape) for name, value in module.state_dict().items()}


def _compare(path: Path, held: Shapes, wanted: Shapes) -> None:
    if held.keys() != wanted.keys():
        raise names_differ(path, set(held), set(wanted))
    for name, shape in wanted.items():
        if held[name] != shape:
            raise RDVLAError(
                f"{path} does not fit the configuration next to it: {name} has the shape {list(held[name])} "
                f"there, the configuration asks for {list(shape)}"
            )


def _numbers(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
