"""Writes a policy into a folder in the published layout.

The layout holds more than our policies: the vocabulary matrix, layers that are not used, code and processor
files. They come from a template, any published checkpoint of the same sizes.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rdvla.backbone import PrismaticBackbone
from rdvla.errors import RDVLAError
from rdvla.files import new_folder, read_object, write_atomically, write_json
from rdvla.heads import RecurrentConfig
from rdvla.interop.merged_names import match_names
from rdvla.interop.published_backbone import (
    PUBLISHED_ENCODERS,
    Encoders,
    has_tied_embeddings,
    published_layout,
)
from rdvla.interop.published_config import ConvertOptions, describe_published
from rdvla.interop.published_folder import COPIED, MergedWeights, published_folder
from rdvla.interop.published_head import find_published_files, head_names, read_tensors, training_entries
from rdvla.interop.published_statistics import FEATURES, STATISTICS_FILE, read_statistics
from rdvla.policy import PolicyConfig, RDVLAPolicy

# Our choices that published weights do not depend on.
_FREE_OF_BACKBONE = ("attention", "dtype", "crop_area", "jpeg_quality", "max_prompt_tokens")


def write_published(
    policy: RDVLAPolicy,
    output: Path,
    *,
    template: str | Path,
    statistics: str | None = None,
    encoders: Encoders = PUBLISHED_ENCODERS,
) -> None:
    """Write a policy in the published layout; LoRA is merged into the weights.

    Args:
        policy: with a prismatic backbone.
        output: a folder that does not exist yet.
        template: a published checkpoint of the same sizes, a folder or an id on the hub; it is only read.
        statistics: which entry of the template's dataset_statistics.json the policy's replace; None: the only
            one.
        encoders: sizes of the image encoders by timm's name.

    Raises:
        RDVLAError: the template has other sizes, or `output` exists; nothing is written then.
    """
    backbone = published_layout(policy)
    folder = published_folder(template, template=True)
    with new_folder(output) as temporary:
        with MergedWeights(folder) as merged:
            chosen = ConvertOptions(
                statistics=statistics, cameras=policy.config.cameras, image_size=policy.config.image_size,
                gripper="opening" if policy.config.gripper_opening else "raw",
            )  # fmt: skip
            published = describe_published(folder, merged, options=chosen, encoders=encoders)
            _check_sizes(policy.config, published.config, folder)
            names = _names(backbone, merged, folder)
        for path in sorted(folder.glob("model*.safetensors")):
            _write_merged(path, temporary / path.name, names)
        _write_heads(policy, folder, temporary)
        _write_statistics(policy, folder, temporary, key=published.key)
        for path in sorted(folder.iterdir()):
            if path.suffix in COPIED and not (temporary / path.name).exists():
                shutil.copyfile(path, temporary / path.name)


def _check_sizes(ours: PolicyConfig, theirs: PolicyConfig, folder: Path) -> None:
    free = (*_FREE_OF_BACKBONE, *ours.backbone.tuning_fields)
    of_backbone: dict[str, Any] = {name: getattr(ours.backbone, name) for name in free}
    of_head: dict[str, Any] = {name: getattr(ours.head, name) for name in ours.head.training_fields}
    pairs = {
        "backbone": (ours.backbone, replace(theirs.backbone, **of_backbone)),
        "head": (ours.head, replace(theirs.head, **of_head)),
        **{
            name: (getattr(ours, name), getattr(theirs, name))
            for name in ("state_dim", "unscaled_actions", "gripper_opening", "clip_state")
        },
    }
    for name, (mine, other) in pairs.items():
        if mine != other:
            raise RDVLAError(
                f"the template {folder} has another {name}: {other}; the policy has {mine}. Take a "
                "checkpoint of the same model as the template"
            )


def _names(backbone: PrismaticBackbone, merged: MergedWeights, folder: Path) -> dict[str, Tensor]:
    """Map published names to our tensors."""
    own = {f"backbone.{name}": value for name, value in backbone.plain_weights().items()}
    report = match_names(
        merged.names, wanted=own.keys(), config=backbone.config, tied=has_tied_embeddings(folder)
    )
    report.check(str(folder))
    return {theirs: own[ours] for ours, theirs in report.mapped.items()}


def _write_merged(path: Path, output: Path, ours: Mapping[str, Tensor]) -> None:
    """Write a file of the template with our numbers, in the template's dtypes."""
    weights = {}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        names = file.keys()
        for name in names:
            value = file.get_tensor(name)
            weights[name] = ours[name].to(value.dtype).contiguous() if name in ours else value
    with write_atomically(output) as temporary:
        save_file(weights, temporary, metadata=metadata)


def _write_heads(policy: RDVLAPolicy, folder: Path, output: Path) -> None:
    files = find_published_files(folder)
    head = _split(policy.head.state_dict(), _recurrent(policy))
    projector = dict(policy.proprio_projector.state_dict())
    for path, prefix, ours in ((files.head, "model.", head), (files.proprio_projector, "", projector)):
        theirs = read_tensors(path)
        written = {
            key: ours[key.removeprefix("module.").removeprefix(prefix)].to(value.dtype)
            for key, value in theirs.items()
        }
        content = io.BytesIO()  # torch's own writer says nothing of a full disk
        torch.save(written, content)
        with write_atomically(output / path.name) as temporary:
            temporary.write_bytes(content.getbuffer())
    write_json(output / files.config.name, read_object(files.config) | training_entries(_recurrent(policy)))


def _recurrent(policy: RDVLAPolicy) -> RecurrentConfig:
    assert isinstance(policy.config.head, RecurrentConfig)  # as the template's, which was compared with it
    return policy.config.head


def _split(weights: Mapping[str, Tensor], config: RecurrentConfig) -> dict[str, Tensor]:
    """Split our concatenated matrices of a head into the published ones, of equal size."""
    published: dict[str, Tensor] = {}
    for ours, theirs in head_names(config).items():
        chunks = weights[ours].chunk(len(theirs))
        published |= {name: chunk.clone() for name, chunk in zip(theirs, chunks, strict=True)}
    return published


def _write_statistics(policy: RDVLAPolicy, folder: Path, output: Path, *, key: str) -> None:
    _, entry = read_statistics(folder, key)
    for theirs, ours in FEATURES.items():
        known = {
            name: list(values) for name, values in policy.statistics[ours].items() if name in entry[theirs]
        }
        entry[theirs] = entry[theirs] | known
    write_json(output / STATISTICS_FILE, read_object(folder / STATISTICS_FILE) | {key: entry})
