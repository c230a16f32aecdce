"""Reads a policy's configuration and statistics from a published checkpoint folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rdvla.backbone.config import Precision
from rdvla.backbone.prismatic.config import Attention
from rdvla.errors import RDVLAError
from rdvla.heads import ProprioProjector, RecurrentDepthHead
from rdvla.interop.published_backbone import Encoders, read_backbone
from rdvla.interop.published_folder import MergedWeights
from rdvla.interop.published_head import load_published_head
from rdvla.interop.published_statistics import (
    STATISTICS_FILE,
    our_statistics,
    read_statistics,
    unscaled_actions,
)
from rdvla.policy import PolicyConfig
from rdvla.processing import Statistics

_EXECUTED = 5  # actions of a chunk, in the published evaluation
_LATENTS = "action_queries.weight"

Gripper = Literal["opening", "raw"]


@dataclass(frozen=True)
class ConvertOptions:
    """Choices that a published folder does not say."""

    statistics: str | None = None  # which entry of dataset_statistics.json; None: the only one
    cameras: tuple[str, ...] = ("agentview", "wrist")  # in the order of training: overview first
    image_size: int = 256  # pixels that the cameras give; images are scaled to the encoders' size
    attention: Attention = "causal"  # of the language model
    gripper: Gripper | None = None  # meaning of unscaled actions; None: opening for LIBERO, else refused


@dataclass(frozen=True)
class Description:
    """A published checkpoint without its merged weights."""

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
        merged: its merged weights; only their shapes are used.
        options: choices that the folder does not say.
        encoders: sizes of the image encoders by timm's name.

    Raises:
        RDVLAError: something is missing, damaged, or describes another kind of model.
    """
    head, projector = load_published_head(folder)
    backbone = read_backbone(
        folder,
        levels=tuple(sorted(int(level) for level in head.config.levels)),
        latents=_latents(folder, merged),
        attention=options.attention,
        dtype=_precision(merged),
        encoders=encoders,
    )
    key, published = read_statistics(folder, options.statistics)
    kept = unscaled_actions(published)
    config = PolicyConfig(
        backbone=backbone,
        head=head.config,
        cameras=options.cameras,
        image_size=options.image_size,
        state_dim=projector.fc1.in_features,
        unscaled_actions=kept,
        gripper_opening=_openings(kept, options.gripper, key=key, path=folder / STATISTICS_FILE),
        clip_state=True,
        execution=f"fixed:{min(_EXECUTED, head.config.chunk_size)}",
    )
    return Description(config, our_statistics(published), key, head, projector)


def _latents(folder: Path, merged: MergedWeights) -> int:
    """Return the number of latent tokens in the merged weights."""
    if _LATENTS not in merged.names:
        raise RDVLAError(f"{folder}: the merged weights lack {_LATENTS!r}, the learned latent tokens")
    shape = merged.shape(_LATENTS)
    if len(shape) != 2:
        raise RDVLAError(
            f"{folder}: {_LATENTS} must be a matrix with a row per latent token; its shape is {shape}"
        )
    return shape[0]


def _precision(merged: MergedWeights) -> Precision:
    """Return the smaller dtype that holds every published number exactly."""
    return "bfloat16" if merged.dtypes() == {"BF16"} else "float32"


def _openings(kept: tuple[int, ...], gripper: Gripper | None, *, key: str, path: Path) -> tuple[int, ...]:
    """Return the unscaled actions that are a gripper's opening: all or none."""
    meaning = gripper or ("opening" if "libero" in key.lower() else None)
    if kept and meaning is None:
        raise RDVLAError(
            f"{path}: the action dimensions {list(kept)} of {key!r} are not scaled, and what they mean is "
            "known for LIBERO only: say --gripper opening (1 open, 0 closed, executed as -1 open, 1 close) "
            "or raw"
        )
    if meaning == "opening" and not kept:
        raise RDVLAError(
            f"{path}: a gripper's opening is not scaled, but no 'mask' of 'action' for {key!r} says which "
            "dimension that is: add one in a copy of the folder, true for each dimension and false for the "
            "gripper, or say --gripper raw if the gripper is scaled like the rest"
        )
    return kept if meaning == "opening" else ()
