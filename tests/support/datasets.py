"""Small datasets for the tests of the data room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rdvla.data import DatasetWriter, Episode
from rdvla.data.features import FORMER_NAMES

FPS = 80
FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": (4,), "names": ["x", "y", "z", "gripper"]},
    "privileged.environment_state": {"dtype": "float32", "shape": (3,), "names": None},
    "action": {"dtype": "float32", "shape": (4,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
}
LENGTHS = (17, 9, 23, 12)
STRIDE = 4


def picture(seed: int, size: int = 32) -> np.ndarray:
    """A smooth background with a marker of 3 x 3 pixels in a pure colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    image = np.stack(
        [120 + 60 * np.sin((x * a + y * b) / 20) for a, b in rng.uniform(-2, 2, (3, 2))], axis=-1
    )
    row, column = rng.integers(2, size - 5, 2)
    image[row : row + 3, column : column + 3] = 255 * np.eye(3)[seed % 3]
    return image.round().astype(np.uint8)


def make_episode(number: int, length: int | None = None) -> Episode:
    rng = np.random.default_rng(number)
    steps = LENGTHS[number % len(LENGTHS)] if length is None else length
    image_index = np.arange(steps) // STRIDE
    captures = int(image_index[-1]) + 1
    features = {
        "observation.state": rng.normal(size=(steps, 4)).astype(np.float32),
        "privileged.environment_state": rng.normal(size=(steps, 3)).astype(np.float32),
        "action": rng.normal(size=(steps, 4)).astype(np.float32),
        "next.success": np.arange(steps) == steps - 1,
    }
    images = {
        camera: np.stack([picture(1000 * number + 100 * c + i) for i in range(captures)])
        for c, camera in enumerate(("front", "wrist"))
    }
    return Episode(
        features=features,
        images=images,
        image_index=image_index,
        task=f"do {number % 2}",
        source={"seed": number},
    )


def make_writer(root: Path) -> DatasetWriter:
    return DatasetWriter.create(
        root, fps=FPS, features=FEATURES, cameras=("front", "wrist"), image_size=32, robot_type="test"
    )


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two images, in dB."""
    return float(10 * np.log10(255**2 / max(((a.astype(float) - b.astype(float)) ** 2).mean(), 1e-9)))


def give_former_names(root: Path) -> Path:
    """Make a dataset look as an older version wrote it, down to the names inside its files."""
    (root / "meta/checksums.json").unlink()
    for name in ("meta/info.json", "meta/stats.json"):
        text = (root / name).read_text()
        for former, present in FORMER_NAMES.items():
            text = text.replace(f'"{present}"', f'"{former}"')
        (root / name).write_text(text)
    for path in [*root.glob("data/*/*.parquet"), *root.glob("meta/episodes/*/*.parquet")]:
        table = pq.read_table(path)
        names = table.column_names
        for former, present in FORMER_NAMES.items():
            names = [name if name != present else former for name in names]
            names = [name.replace(f"stats/{present}/", f"stats/{former}/") for name in names]
        pq.write_table(table.rename_columns(names), path)
    return root
