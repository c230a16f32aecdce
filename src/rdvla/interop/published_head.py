"""Reads the head of a published checkpoint folder.

Layout: ``action_head--<step>_checkpoint.pt``, ``action_head_config--<step>_checkpoint.json`` and
``proprio_projector--<step>_checkpoint.pt``, with ``<step>`` a number or ``latest``. Keys may carry a leading
``module.``; keys of the head start with ``model.``. The files are only read, with ``weights_only=True``.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdvla.errors import ConfigError, RDVLAError, nearest
from rdvla.files import read_object
from rdvla.heads import ProprioProjector, RecurrentConfig, RecurrentDepthHead
from rdvla.policy.files import check_finite

# Published configurations of the same head have either name.
HEAD_TYPES = ("ActionHeadRecurrent", "ActionHeadRecurrentPro")
_HEAD_FILE = re.compile(r"action_head--(\d+|latest)_checkpoint\.pt")
_MODULES = {"prelude": "prelude", "recurrent": "core", "coda": "coda"}  # published name -> ours
_OUTSIDE_BLOCKS = {
    "action_queries": "action_queries",
    "gamma_init": "gamma_init",
    "gamma_adapt": "gamma_adapt",
    "adapter.weight": "adapter.weight",
    "adapter_norm.weight": "adapter_norm.weight",
    "core_norm.weight": "recurrent_norm.weight",
    "output_norm.weight": "output_norm.weight",
    "output.weight": "output_proj.weight",
    "output.bias": "output_proj.bias",
}
_INSIDE_A_BLOCK: dict[str, tuple[str, ...]] = {  # ours -> published, concatenated along the first dimension
    "self_norm.weight": ("norm1.weight",),
    "self_attention.qkv.weight": ("q_self.weight", "k_self.weight", "v_self.weight"),
    "self_attention.output.weight": ("o_self.weight",),
    "cross_norm.weight": ("norm2.weight",),
    "cross_attention.query.weight": ("q_cross.weight",),
    "cross_attention.latents_kv.weight": ("k_latents.weight", "v_latents.weight"),
    "cross_attention.vision_kv.weight": ("k_vision.weight", "v_vision.weight"),
    "cross_attention.output.weight": ("o_cross.weight",),
    "cross_attention.vision_gate": ("gate",),
    "feedforward_norm.weight": ("norm3.weight",),
    "feedforward.gate_up.weight": ("ffn_gate.weight", "ffn_up.weight"),
    "feedforward.down.weight": ("ffn_down.weight",),
}


@dataclass(frozen=True)
class PublishedFiles:
    """The head's three files in a checkpoint folder."""

    head: Path
    config: Path
    proprio_projector: Path


def load_published_head(folder: str | Path) -> tuple[RecurrentDepthHead, ProprioProjector]:
    """Load the action head and the proprio projector of a published checkpoint, in float32 and eval mode.

    The head's context levels are the layer numbers of the published configuration. They count from 0, but
    index a list of hidden states whose entry 0 is the embeddings: level n is the state after n layers.

    Args:
        folder: a local folder in the published layout.

    Returns:
        The head, and the projector from (B, S) normalised proprioception to the (B, 1, D) context token.

    Raises:
        RDVLAError: a file is missing, damaged, or not what the layout says; the message names it.
    """
    files = find_published_files(Path(folder))
    config = read_published_config(files.config)
    published = _read_weights(files.head, prefix="model.")
    key_map = head_names(config)
    with torch.device("meta"):  # has shapes and takes no memory, whatever the configuration asks for
        shapes = {name: value.shape for name, value in RecurrentDepthHead(config).state_dict().items()}
    ours = {
        name: _concatenate(published, names, files.head, shape=shapes[name])
        for name, names in key_map.items()
    }
    unexpected = published.keys() - {name for names in key_map.values() for name in names}
    if unexpected:
        raise RDVLAError(f"{files.head} holds weights that no part of the head takes: {sorted(unexpected)}")
    head = RecurrentDepthHead(config)
    _load(head, ours, files.head)
    projector = _load_projector(files.proprio_projector, width=config.hidden_dim)
    return head.eval(), projector.eval()


def find_published_files(folder: Path) -> PublishedFiles:
    """Find the head's files in a checkpoint folder.

    Raises:
        RDVLAError: the folder or a file is missing, or the folder holds several checkpoints.
    """
    if not folder.is_dir():
        raise RDVLAError(f"{folder} is not a folder")
    heads = sorted(path for path in folder.iterdir() if _HEAD_FILE.fullmatch(path.name))
    if len(heads) != 1:
        found = ", ".join(path.name for path in heads) or "none"
        raise RDVLAError(
            f"{folder} must hold exactly one action_head--<step>_checkpoint.pt (step: a number or 'latest'), "
            f"found {found}"
        )
    suffix = heads[0].name.removeprefix("action_head").removesuffix(".pt")
    files = PublishedFiles(
        head=heads[0],
        config=folder / f"action_head_config{suffix}.json",
        proprio_projector=folder / f"proprio_projector{suffix}.pt",
    )
    for path in (files.config, files.proprio_projector):
        if not path.is_file():
            raise RDVLAError(f"{path} is missing: it belongs to {files.head.name}")
    return files


def read_published_config(path: Path) -> RecurrentConfig:
    """Translate a published head configuration.

    Raises:
        RDVLAError: an entry is missing, unknown, or of another kind of head.
    """
    entries = read_object(path)
    kind = entries.pop("_type", HEAD_TYPES[0])
    if kind not in HEAD_TYPES:
        raise RDVLAError(
            f"{path} describes a head of type {kind!r}; this loader reads {' and '.join(HEAD_TYPES)}"
        )
    if not entries.pop("random_iterations", True):
        raise RDVLAError(
            f"{path}: random_iterations is false; only heads trained at random depths are supported"
        )

    def take(name: str, convert: Callable[[Any], Any]) -> Any:
        if name not in entries:
            raise RDVLAError(f"{path} lacks {name!r}.{nearest(name, entries)}")
        value = entries.pop(name)
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise RDVLAError(
                f"{path}: {name!r} has the value {value!r}, which does not fit: {error}"
            ) from error

    try:
        config = RecurrentConfig(
            hidden_dim=take("hidden_dim", int),
            num_heads=take("num_heads", int),
            chunk_size=take("action_chunk_len", int),
            action_dim=take("action_dim", int),
            prelude=take("prelude_vlm_layers", _layers),
            core=take("recurrent_vlm_layers", _layers),
            coda=take("coda_vlm_layers", _layers),
            rotary="neighbour_pairs",
            rotary_base=take("rope_base", float),
            norm_eps=take("rms_norm_eps", float),
            initial_state_std=take("init_std", float),
            mean_depth=take("mean_recurrence", int),
            backprop_depth=take("backprop_depth", int),
        )
    except ConfigError as error:
        raise RDVLAError(f"{path} describes an impossible head: {error}") from error
    if entries:
        raise RDVLAError(f"{path} has entries that this loader does not know: {sorted(entries)}")
    return config


def training_entries(config: RecurrentConfig) -> dict[str, int]:
    """Return the entries of a published configuration that concern training only."""
    return {"mean_recurrence": config.mean_depth, "backprop_depth": config.backprop_depth}


def _layers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(layer, int) for layer in value):
        raise ValueError("a list of layer numbers is wanted")
    return tuple(value)


def head_names(config: RecurrentConfig) -> dict[str, tuple[str, ...]]:
    """Map our name of a head's parameter to the published names whose tensors it concatenates."""
    return {ours: (theirs,) for ours, theirs in _OUTSIDE_BLOCKS.items()} | dict(_block_keys(config))


def _block_keys(config: RecurrentConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    for theirs, ours in _MODULES.items():
        for index in range(len(getattr(config, ours))):
            for name, published in _INSIDE_A_BLOCK.items():
                yield f"{ours}.{index}.{name}", tuple(f"{theirs}.{index}.{each}" for each in published)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a `.pt` file; no code in it is ever run.

    Raises:
        RDVLAError: it is damaged, or holds something else than named tensors.
    """
    _check_archive(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        # Not the error's own text: torch advises to let the file run its code.
        raise RDVLAError(
            f"{path} cannot be read as weights: it is damaged, or holds something else than tensors, which "
            "is never run. Get the file again from its publisher"
        ) from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise RDVLAError(f"{path} must hold a dictionary of tensors by name")
    check_finite(weights, path)
    return weights


def _check_archive(path: Path) -> None:
    """Check the CRC-32 of everything in a `.pt` file, which torch reads without a look at them."""
    try:
        if not zipfile.is_zipfile(path):  # also of torch before 1.6, which had no checksums
            return
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, ValueError, zipfile.BadZipFile, RuntimeError, zlib.error, EOFError) as error:
        raise RDVLAError(f"{path} is damaged: {error}. Get the file again") from error
    if damaged is not None:
        raise RDVLAError(f"{path} is damaged (the CRC-32 of {damaged} in it differs). Get the file again")


def _read_weights(path: Path, *, prefix: str = "") -> dict[str, Tensor]:
    named = {key.removeprefix("module."): value.float() for key, value in read_tensors(path).items()}
    strays = [key for key in named if not key.startswith(prefix)]
    if strays:
        raise RDVLAError(f"{path}: keys were expected to start with {prefix!r}, found {strays[:3]}")
    return {key.removeprefix(prefix): value for key, value in named.items()}


def _concatenate(
    published: dict[str, Tensor], names: tuple[str, ...], path: Path, *, shape: torch.Size
) -> Tensor:
    """Concatenate our parameter from its published tensors, which are of equal size."""
    missing = [name for name in names if name not in published]
    if missing:
        raise RDVLAError(f"{path} lacks {missing}; the configuration next to it asks for them")
    wanted = (shape[0] // len(names), *shape[1:])
    for name in names:
        found = tuple(published[name].shape)
        if found != wanted:
            raise RDVLAError(
                f"{path} does not fit the configuration next to it: {name} has the shape {found}, "
                f"not {wanted}"
            )
    return torch.cat([published[name] for name in names])


def _load(module: torch.nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise RDVLAError(f"{path} does not fit the configuration next to it: {error}") from error


def _load_projector(path: Path, *, width: int) -> ProprioProjector:
    weights = _read_weights(path)
    first = weights.get("fc1.weight")
    if first is None or first.ndim != 2:
        raise RDVLAError(f"{path} lacks a matrix named 'fc1.weight'; it has {sorted(weights)}")
    projector = ProprioProjector(state_dim=first.shape[1], width=width)
    _load(projector, weights, path)
    return projector
