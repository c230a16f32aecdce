"""Read demonstrations in robomimic's HDF5 layout, which LIBERO's files follow too.

A file holds `data/demo_<n>/` with `actions` (T, A), `obs/<name>` (T, ...), `states`, `rewards` and `dones`,
and optionally `mask/<name>`: lists of demonstrations. Attributes of `data` describe the environment.
Source: robomimic, `docs/datasets/overview.md` and `scripts/dataset_states_to_obs.py`; LIBERO,
`scripts/create_dataset.py`.

Images: robomimic turns each rendered image upright before it is stored. LIBERO stores them as OpenGL renders
them, which is upside down. Published LIBERO datasets rotate them by 180 degrees, so upright and mirrored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.convert.source import Found, ReadEpisode, SourceEpisode, SourceFacts
from rdvla.errors import DatasetError, optional

SUFFIXES = (".hdf5", ".h5")
ACTIONS = "actions"
LIBERO_STATE = ("obs/ee_states", "obs/gripper_states")
ROBOMIMIC_STATE = ("obs/robot0_eef_pos", "obs/robot0_eef_quat", "obs/robot0_gripper_qpos")
OLDER_STATE = ("obs/eef_pos", "obs/eef_quat", "obs/gripper_qpos")  # of robosuite before 1.0
UPRIGHT = "opencv"  # LIBERO's files say how robosuite gave the images: "opengl" is upside down


def find_hdf5(path: Path) -> list[Path]:
    """Return the HDF5 files at or below a path, in the order of their names."""
    if path.is_file():
        return [path] if path.suffix in SUFFIXES else []
    return sorted(found for found in path.rglob("*") if found.suffix in SUFFIXES)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with optional("convert"):
        import h5py
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        raise DatasetError(f"{path} cannot be read as HDF5, or is damaged: {error}") from error


@dataclass(frozen=True)
class StoredImages:
    """One camera's images of a demonstration; see `LazyImages`."""

    file: Path
    name: str  # of the HDF5 dataset
    length: int

    def __len__(self) -> int:
        return self.length

    def read(self, steps: Sequence[int]) -> NDArray[np.uint8]:
        """Read the images of some control steps, (n, H, W, 3) RGB."""
        with _opened(self.file) as file:
            stored = file[self.name]
            images = stored[()] if len(steps) == self.length else np.stack([stored[step] for step in steps])
        return np.asarray(images, dtype=np.uint8)


class RobomimicSource:
    """Demonstrations in one or several HDF5 files; see `Source`."""

    def __init__(self, path: Path, *, split: str | None = None) -> None:
        """Read what the files say of their demonstrations.

        Args:
            path: a file, or a folder with one file per task.
            split: use the demonstrations listed in `mask/<split>` only, such as "train".

        Raises:
            DatasetError: naming the file that is damaged, of another layout, or without this split.
        """
        self._path = path
        self._split = split
        self.files = find_hdf5(path)
        self._demos = [(file, name) for file in self.files for name in _demonstrations(file, split)]
        if not self._demos:
            raise DatasetError(f"{path} holds no demonstrations")

    @property
    def path(self) -> Path:
        """The file or folder."""
        return self._path

    @property
    def split(self) -> str | None:
        """The mask whose demonstrations are taken; None: all."""
        return self._split

    @property
    def inputs(self) -> list[Path]:
        """The HDF5 files."""
        return self.files

    @cached_property
    def facts(self) -> SourceFacts:
        """What the attributes of the first file and its first demonstration say."""
        file, name = self._demos[0]
        with _opened(file) as opened:
            described = _attributes(opened["data"])
            arrays = dict(_arrays(opened[f"data/{name}"]))
            shapes = {key: tuple(array.shape[1:]) for key, array in arrays.items()}
            cameras = [key for key, array in arrays.items() if _is_camera(array)]
        features = {
            key: shape
            for key, shape in shapes.items()
            if len(shape) <= 1 and key not in ("rewards", "dones") and not key.startswith("next_obs/")
        }
        libero = "problem_info" in described or "bddl_file_name" in described
        settings = _inner(_inner(described, "env_args"), "env_kwargs")
        robots = settings.get("robots")
        convention = str(described.get("macros_image_convention", "opengl"))
        return SourceFacts(
            format="LIBERO's HDF5" if libero else "robomimic's HDF5",
            features=features,
            cameras=tuple(cameras),
            action=(ACTIONS,) if ACTIONS in features else (),
            state=_first_present((LIBERO_STATE, ROBOMIMIC_STATE, OLDER_STATE), features),
            fps=settings.get("control_freq"),
            robot_type=" ".join(robots) if isinstance(robots, list) else robots,
            flip="rotate" if libero and convention != UPRIGHT else "none",
            notes=_notes(libero=libero, convention=convention),
        )

    def __len__(self) -> int:
        return len(self._demos)

    def episodes(self, *, skip: Container[int]) -> Iterator[tuple[int, ReadEpisode]]:
        """Return the demonstrations by file and number."""
        for number, (file, name) in enumerate(self._demos):
            if number not in skip:
                yield number, partial(self._episode, file, name)

    def _episode(self, file: Path, name: str) -> SourceEpisode:
        wanted = self.facts
        with _opened(file) as opened:
            group = opened[f"data/{name}"]
            arrays = dict(_arrays(group))
            faults = {
                key: f"{file}: data/{name} lacks {key!r}, which {self._demos[0][0]} has"
                for key in (*wanted.features, *wanted.cameras)
                if key not in arrays
            }
            features: dict[str, NDArray[Any]] = {}
            for key in (key for key in wanted.features if key in arrays):
                try:
                    features[key] = np.asarray(arrays[key][()])
                except OSError as error:
                    faults[key] = f"{file}: data/{name}/{key} is damaged: {error}"
            images = {
                key: StoredImages(file, f"data/{name}/{key}", len(arrays[key]))
                for key in wanted.cameras
                if key in arrays
            }
            task = _instruction(_attributes(group)) or _instruction(_attributes(opened["data"]))
        origin = {"file": file.name, "demonstration": name}
        return SourceEpisode(Found(features, faults), Found(images, faults), task, origin)


def _demonstrations(path: Path, split: str | None) -> list[str]:
    with _opened(path) as file:
        if "data" not in file or not any(ACTIONS in demo for demo in file["data"].values()):
            raise DatasetError(
                f"{path} is not in robomimic's layout, as it has no data/demo_<n>/actions. "
                f"It holds {list(file)[:8]}"
            )
        names = [name for name, demo in file["data"].items() if ACTIONS in demo]
        if split is not None:
            masks = file.get("mask", {})
            if split not in masks:
                raise DatasetError(f"{path} has no mask/{split}: its splits are {', '.join(masks) or 'none'}")
            listed = {name.decode() for name in masks[split][()]}
            names = [name for name in names if name in listed]
    return sorted(names, key=lambda name: [int(part) for part in re.findall(r"\d+", name)] or [0])


def _arrays(group: Any) -> Iterator[tuple[str, Any]]:
    """Return the arrays of a demonstration: those of the group itself and of `obs/`."""
    for name, value in group.items():
        if hasattr(value, "shape"):
            yield name, value
        elif name == "obs":
            yield from ((f"obs/{inner}", array) for inner, array in value.items() if hasattr(array, "shape"))


def _is_camera(array: Any) -> bool:
    return bool(array.ndim == 4 and array.shape[-1] == 3 and array.dtype == np.uint8)


def _attributes(group: Any) -> dict[str, Any]:
    """Return the attributes of a group; texts that hold JSON objects are parsed."""
    found: dict[str, Any] = {}
    for name, value in group.attrs.items():
        text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
        try:
            parsed = json.loads(text) if isinstance(text, str) else text
        except json.JSONDecodeError:
            parsed = text
        found[name] = parsed if isinstance(parsed, dict) else text
    return found


def _instruction(attributes: Mapping[str, Any]) -> str:
    """Return LIBERO's (`problem_info`), RoboCasa's (`ep_meta`) or robomimic's instruction; empty: none."""
    arguments = _inner(attributes, "env_args")
    text = _inner(attributes, "problem_info").get("language_instruction")
    for place in (_inner(attributes, "ep_meta"), arguments, _inner(arguments, "env_kwargs")):
        text = text or place.get("lang")
    if isinstance(text, list):  # some of LIBERO's files hold a list of texts that are to be joined
        text = "".join(map(str, text))
    return str(text or "").strip().strip('"').strip()


def _notes(*, libero: bool, convention: str) -> tuple[str, ...]:
    if not libero:
        return ()
    order = "LIBERO's files hold what was seen after each action, not before it; this stays as it is"
    upright = "images are stored upright, so they stay; published LIBERO datasets hold them mirrored"
    return (order, upright) if convention == UPRIGHT else (order,)


def _inner(mapping: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = mapping.get(name)
    return value if isinstance(value, dict) else {}


def _first_present(groups: Sequence[tuple[str, ...]], features: Mapping[str, Any]) -> tuple[str, ...]:
    return next((group for group in groups if all(name in features for name in group)), ())
