"""Converts a published checkpoint folder into a policy folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import rdvla
from rdvla.backbone import PrismaticConfig
from rdvla.config import save_config
from rdvla.errors import RDVLAError
from rdvla.files import new_folder
from rdvla.interop.merged_names import NameReport, match_names
from rdvla.interop.published_backbone import (
    PUBLISHED_ENCODERS,
    Encoders,
    has_tied_embeddings,
    published_layout,
)
from rdvla.interop.published_config import ConvertOptions, Description, describe_published
from rdvla.interop.published_folder import MergedWeights, published_folder
from rdvla.interop.published_head import head_names
from rdvla.interop.published_statistics import STATISTICS_FILE
from rdvla.policy import PolicyConfig, RDVLAPolicy
from rdvla.policy.files import check_finite

TRAINING_FILE = "train.yaml"  # for `rdvla train --config`, to train on from the policy


@dataclass(frozen=True)
class _Start:
    """The options of a training that a converted policy decides."""

    policy: PolicyConfig


@dataclass(frozen=True)
class Conversion:
    """A converted policy, with a report on every published tensor."""

    policy: RDVLAPolicy
    names: NameReport
    head_names: dict[str, tuple[str, ...]]  # ours -> published, of the head's file
    statistics: str  # the chosen entry of dataset_statistics.json


def convert_published(
    source: str | Path,
    output: Path,
    *,
    options: ConvertOptions | None = None,
    encoders: Encoders = PUBLISHED_ENCODERS,
) -> Conversion:
    """Write a policy folder from a published checkpoint, with a record of every tensor.

    Args:
        source: a folder in the published layout, or its id on the hub. It is only read.
        output: a folder that does not exist yet.
        options: what the published folder does not say.
        encoders: sizes of the image encoders by timm's name.

    Raises:
        RDVLAError: something is missing, unexpected or damaged, or `output` exists; nothing is written then.
    """
    with new_folder(output) as temporary:
        conversion = read_published(source, options=options or ConvertOptions(), encoders=encoders)
        conversion.policy.save_pretrained(temporary)
        save_config(temporary / TRAINING_FILE, _Start(policy=conversion.policy.config))
    return conversion


def read_published(
    source: str | Path, *, options: ConvertOptions, encoders: Encoders = PUBLISHED_ENCODERS
) -> Conversion:
    """Return the policy of a published checkpoint, in eval mode; see `convert_published`."""
    folder = published_folder(source)
    with MergedWeights(folder) as merged:
        published = describe_published(folder, merged, options=options, encoders=encoders)
        names = _check_weights(published, merged, folder)
        policy = _untrained(published, folder)
        _take_weights(policy, merged, names, folder)
    policy.head.load_state_dict(published.head.state_dict())
    policy.proprio_projector.load_state_dict(published.projector.state_dict())
    backbone = published_layout(policy)
    backbone.load_tokenizer_from(folder)
    conversion = Conversion(policy.eval(), names, head_names(published.head.config), published.key)
    backbone.conversion = _report(source, conversion)
    return conversion


def format_report(conversion: Conversion) -> str:
    """Return a summary of mapped and left out tensors; `conversion.json` names each."""
    names = conversion.names
    lines = [
        f"mapped      {len(names.mapped):>6} tensors of the merged weights",
        f"            {sum(map(len, conversion.head_names.values())):>6} tensors of the head",
        f"left out    {len(names.left_out):>6}",
    ]
    for why in dict.fromkeys(names.left_out.values()):
        of_kind = [name for name, reason in names.left_out.items() if reason == why]
        lines.append(f"            {len(of_kind):>6} {of_kind[0]}{' ...' * (len(of_kind) > 1)}: {why}")
    lines += [f"missing     {len(names.missing):>6}", f"unexpected  {len(names.unexpected):>6}"]
    return "\n".join(lines)


def _untrained(published: Description, folder: Path) -> RDVLAPolicy:
    """Make the policy with random weights."""
    try:
        return RDVLAPolicy(published.config, published.statistics)
    except RDVLAError as error:  # the statistics are of another size than the weights
        raise RDVLAError(f"{folder / STATISTICS_FILE}: {error}") from error


def _report(source: str | Path, conversion: Conversion) -> dict[str, Any]:
    """Return the content of `conversion.json`."""
    folder = Path(source)
    return {
        # The full path is private; a bare name could be taken for a hub id.
        "source": f"./{folder.resolve().name}" if folder.is_dir() else str(source),
        "rdvla": rdvla.__version__,
        "statistics": conversion.statistics,
        "mapped": conversion.names.mapped,
        "head": {ours: list(theirs) for ours, theirs in conversion.head_names.items()},
        "left_out": conversion.names.left_out,
    }


def _check_weights(published: Description, merged: MergedWeights, folder: Path) -> NameReport:
    """Check every name and shape of the backbone's weights, before it takes any memory."""
    with torch.device("meta"):
        backbone = published.config.backbone.make()
    own = {f"backbone.{name}": tuple(value.shape) for name, value in backbone.state_dict().items()}
    config = published.config.backbone
    assert isinstance(config, PrismaticConfig)  # the published family
    names = match_names(merged.names, wanted=own.keys(), config=config, tied=has_tied_embeddings(folder))
    names.check(str(folder))
    for ours, theirs in names.mapped.items():
        if merged.shape(theirs) != own[ours]:
            raise RDVLAError(
                f"{folder}: {theirs} has the shape {merged.shape(theirs)}, but by config.json it should have "
                f"{own[ours]}"
            )
    return names


def _take_weights(policy: RDVLAPolicy, merged: MergedWeights, names: NameReport, folder: Path) -> None:
    """Copy the backbone's weights, one by one."""
    own = {f"backbone.{name}": value for name, value in policy.backbone.state_dict().items()}
    with torch.no_grad():
        for ours, theirs in names.mapped.items():
            value = merged.tensor(theirs)
            check_finite({theirs: value}, folder)
            own[ours].copy_(value)
