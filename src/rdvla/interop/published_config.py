"""Reads what a published checkpoint folder says, and makes a policy's configuration and statistics of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rdvla.backbone import PrismaticConfig
from rdvla.backbone.prismatic.config import Attention, Precision
from rdvla.errors import RDVLAError, nearest
from rdvla.files import read_object
from rdvla.head import HeadConfig, ProprioProjector, RecurrentDepthHead
from rdvla.interop.published_backbone import Encoders, read_backbone
from rdvla.interop.published_folder import MergedWeights
from rdvla.interop.published_head import load_published_head
from rdvla.policy import PolicyConfig
from rdvla.processing import Statistics

FEATURES = {"action": "action", "proprio": "observation.state"}  # published statistics -> ours
_CONSTANT = 1e-6  # below this width of the percentiles the published code and ours normalise differently
_EXECUTED = 5  # actions of a chunk, in the published evaluation
_LATENTS = "action_queries.weight"

Gripper = Literal["opening", "raw"]


@dataclass(frozen=True)
class ConvertOptions:
    """What a published folder does not say."""

    statistics: str | None = None  # which entry of dataset_statistics.json; None: the only one
    cameras: tuple[str, ...] = ("agentview", "wrist")  # in the order of training: overview first
    image_size: int = 256  # pixels that the cameras give; images are scaled to the encoders' size
    attention: Attention = "causal"  # of the language model
    gripper: Gripper | None = None  # meaning of unscaled actions; None: opening for LIBERO, else refused


@dataclass(frozen=True)
class Description:
    """All of a published checkpoint but its merged weights."""

    config: PolicyConfig
    statistics: Statistics
    key: str  # of the statistics in dataset_statistics.json
    head: RecurrentDepthHead
    projector: ProprioProjector


def describe_published(
    folder: Path, merged: MergedWeights, *, options: ConvertOptions, encoders: Encoders
) -> Description:
    """Read head, configuration and statistics.

    Args:
        folder: the checkpoint.
        merged: its merged weights, of which only shapes are looked at.
        options: what the folder does not say.
        encoders: sizes of the image encoders by timm's name.

    Raises:
        RDVLAError: something is missing, damaged, or describes another kind of model.
    """
    head, projector = load_published_head(folder)
    if _LATENTS not in merged.names:
        raise RDVLAError(f"{folder}: the merged weights lack {_LATENTS!r}, the learned latent tokens")
    backbone = read_backbone(
        folder,
        levels=tuple(sorted(int(level) for level in head.config.levels)),
        latents=merged.shape(_LATENTS)[0],
        attention=options.attention,
        dtype=_precision(merged),
        encoders=encoders,
    )
    key, published = read_statistics(folder, options.statistics)
    config, statistics = _policy(
        published,
        key,
        head=head.config,
        backbone=backbone,
        state_dim=projector.fc1.in_features,
        options=options,
    )
    return Description(config, statistics, key, head, projector)


def _precision(merged: MergedWeights) -> Precision:
    """The smaller of our precisions that holds every published number exactly."""
    return "bfloat16" if merged.dtypes() == {"BF16"} else "float32"


def read_statistics(folder: Path, chosen: str | None) -> tuple[str, dict[str, Any]]:
    """One entry of `dataset_statistics.json`, by feature, and its name; None: the only one.

    Raises:
        RDVLAError: the choice is not there, or there are several and none was chosen.
    """
    path = folder / "dataset_statistics.json"
    entries = read_object(path)
    if chosen is None and len(entries) != 1:
        raise RDVLAError(f"{path} holds statistics of {sorted(entries)}: choose one with --statistics")
    key = next(iter(entries)) if chosen is None else chosen
    if key not in entries:
        raise RDVLAError(
            f"{path} holds no statistics of {key!r}; it has {sorted(entries)}.{nearest(key, entries)}"
        )
    for feature in FEATURES:
        if not isinstance(entries[key], dict) or not isinstance(entries[key].get(feature), dict):
            raise RDVLAError(f"{path} lacks the statistics of {feature!r} for {key!r}")
    return key, entries[key]


def _policy(
    published: Mapping[str, Any],
    key: str,
    *,
    head: HeadConfig,
    backbone: PrismaticConfig,
    state_dim: int,
    options: ConvertOptions,
) -> tuple[PolicyConfig, Statistics]:
    """A policy that does what the published evaluation does."""
    kept = _unscaled(published, key)
    gripper = options.gripper or ("opening" if "libero" in key.lower() else None)
    if kept and gripper is None:
        raise RDVLAError(
            f"the action dimensions {list(kept)} of {key!r} are not scaled, and what they mean is only known "
            "for LIBERO: say --gripper opening (1 open, 0 closed, executed as -1 open, 1 close) or raw"
        )
    statistics = {
        ours: {name: value for name, value in published[theirs].items() if name != "mask"}
        for theirs, ours in FEATURES.items()
    }
    config = PolicyConfig(
        backbone=backbone,
        head=head,
        cameras=options.cameras,
        image_size=options.image_size,
        state_dim=state_dim,
        unscaled_actions=kept,
        gripper_opening=kept if gripper == "opening" else (),
        clip_state=True,
        execution=f"fixed:{min(_EXECUTED, head.chunk_size)}",
    )
    return config, statistics


def _unscaled(published: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Action dimensions that are left as they are; every other one must have changed in the data."""
    kept: tuple[int, ...] = ()
    for feature in FEATURES:
        entry = published[feature]
        low, high = entry.get("q01"), entry.get("q99")
        if not isinstance(low, list) or not isinstance(high, list) or len(low) != len(high):
            raise RDVLAError(
                f"the statistics of {feature!r} for {key!r} lack 'q01' and 'q99' of equal length"
            )
        mask = entry.get("mask", [True] * len(low))
        for place, (scaled, first, last) in enumerate(zip(mask, low, high, strict=True)):
            if scaled and last - first < _CONSTANT:
                raise RDVLAError(
                    f"dimension {place} of {feature!r} never changed in the data of {key!r}: published "
                    "policies divide by its width, and what they saw cannot be reproduced"
                )
        if feature == "action":
            kept = tuple(place for place, scaled in enumerate(mask) if not scaled)
        elif not all(mask):
            raise RDVLAError(f"the proprioception of {key!r} is partly unscaled, which is not supported")
    return kept
