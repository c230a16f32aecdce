"""What a page's Python blocks take as given: the reader's own observation, dataset or features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rdvla import RDVLAPolicy
from rdvla.cli.demo import shipped_observations
from rdvla.export import example_context
from rdvla.export.comparison import random_observation
from rdvla.export.interface import features_of
from rdvla.interop import convert_published
from tests.support.converting import OPTIONS
from tests.support.documents import ROOT
from tests.support.published_checkpoint import ENCODERS, make_published


def readme() -> dict[str, Any]:
    """Observations of the robot."""
    return {"observation": shipped_observations()}


def export() -> dict[str, Any]:
    """Features and an observation of a policy with two cameras."""
    policy = RDVLAPolicy.from_pretrained(ROOT / "policies" / "libero_goal")
    observation = random_observation(policy).select([0])
    features = features_of(example_context(policy).select(slice(1)))
    return {"observation": observation, "features": features}


def checkpoints() -> dict[str, Any]:
    """The folder that `rdvla convert` writes, of a small checkpoint in the published layout."""
    folder = make_published(Path("published_checkpoint")).folder
    convert_published(folder, Path("policies/paper_spatial"), options=OPTIONS, encoders=ENCODERS)
    return {}


GIVEN = {"README.md": readme, "docs/checkpoints.md": checkpoints, "docs/export.md": export}


def given(page: str) -> dict[str, Any]:
    """Return the names that a page expects; write the files it expects into the present folder."""
    return GIVEN[page]() if page in GIVEN else {}
