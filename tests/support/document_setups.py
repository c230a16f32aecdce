"""What a page's Python blocks take as given: the reader's own observation, dataset or features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rdvla import RDVLAPolicy
from rdvla.cli.demo import shipped_observations
from rdvla.data import DatasetWriter, Episode
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


def datasets() -> dict[str, Any]:
    """The reader's datasets."""
    for seed, name in enumerate(("mine", "monday", "tuesday")):
        _write_dataset(Path("datasets") / name, seed=seed)
    return {}


def _write_dataset(folder: Path, *, seed: int) -> None:
    """Two short episodes of six joints and two cameras that are not square."""
    sizes = {"top": (48, 64), "wrist": (24, 32)}
    joints = {"dtype": "float32", "shape": (6,), "names": [f"joint_{number}" for number in range(6)]}
    features = {"observation.state": joints, "action": joints}
    writer = DatasetWriter.create(folder, fps=10, features=features, cameras=tuple(sizes), image_size=sizes)
    draw = np.random.default_rng(seed)
    for _ in range(2):
        numbers = np.cumsum(draw.normal(size=(12, 6)), axis=0).astype(np.float32)
        images = {camera: draw.integers(0, 256, (12, *size, 3), np.uint8) for camera, size in sizes.items()}
        values = {"observation.state": numbers, "action": numbers}
        writer.add_episode(Episode(values, images, task="put the cup on the plate"))
    writer.finalize()


GIVEN = {
    "docs/datasets.md": datasets,
    "docs/look.md": datasets,
    "README.md": readme,
    "docs/checkpoints.md": checkpoints,
    "docs/export.md": export,
}


def given(page: str) -> dict[str, Any]:
    """Return the names that a page expects; write the files it expects into the present folder."""
    return GIVEN[page]() if page in GIVEN else {}
