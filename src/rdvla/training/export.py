"""The trained policy as a folder."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import rdvla
from rdvla.files import new_folder
from rdvla.policy import TRAINING, RDVLAPolicy


def save_policy(policy: RDVLAPolicy, folder: Path, *, provenance: Mapping[str, Any]) -> None:
    """Save a policy with a record of how it came about; the folder appears whole, replacing an older one.

    Args:
        policy: with the weights to save.
        folder: what `RDVLAPolicy.from_pretrained` will load.
        provenance: goes into training.json, with the versions of what trained it.
    """
    versions = {"rdvla": rdvla.__version__, "torch": torch.__version__, "python": platform.python_version()}
    policy.records = {TRAINING: {**provenance, "versions": versions}}
    with new_folder(folder, replace=True) as temporary:
        policy.save_pretrained(temporary)
