"""The folder where episodes wait, and its end: after a kill it still says whether they are in the dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rdvla.data.formats.lerobot.files import CHECKSUMS_PATH, checksum
from rdvla.errors import DatasetError, RDVLAError
from rdvla.files import flush_tree, read_json, write_json
from rdvla.leftovers import remove, temporary_name

FINISHED_FILE = "finished.json"  # what the dataset is once the episodes are in it


def staging_of(root: Path) -> Path:
    """Return the folder where the episodes of a dataset wait."""
    return root.parent / f".{root.name}.staging"


def place(temporary: Path, target: Path) -> None:
    """Give an episode its name once all of it is on the disk.

    Raises:
        DatasetError: there is one of that name.
    """
    flush_tree(temporary)
    try:
        temporary.rename(target)
    except OSError as error:
        if not target.exists():
            raise
        raise DatasetError(f"episode number {int(target.name)} is already there") from error


def mark_finished(staging: Path, dataset: Path) -> None:
    """Say that the episodes are in a new dataset, just before it gets its name."""
    write_json(staging / FINISHED_FILE, _identity(dataset))


def is_finished(staging: Path, dataset: Path) -> bool:
    """Return whether the episodes are in the dataset that was made of them."""
    try:
        return _marked(staging, _identity(dataset))
    except OSError:
        return False


def mark_added(staging: Path, *, total: int) -> None:
    """Say how many episodes a dataset will have once those that wait are behind the others."""
    write_json(staging / FINISHED_FILE, {"total_episodes": total})


def are_added(staging: Path, *, total: int) -> bool:
    """Return whether the episodes are in the dataset, which has `total` now."""
    return _marked(staging, {"total_episodes": total})


def remove_staging(staging: Path) -> None:
    """Remove a staging folder; a kill leaves all of it, or something that `sole_user` removes."""
    if staging.is_dir():
        gone = temporary_name(staging.with_name(staging.name[1:].removesuffix(".staging")))
        staging.rename(gone)
        remove(gone)


def _marked(staging: Path, mark: dict[str, Any]) -> bool:
    try:
        return bool(read_json(staging / FINISHED_FILE) == mark)
    except RDVLAError:
        return False


def _identity(dataset: Path) -> dict[str, int]:
    """Return what tells a dataset from others: a checksum of its files' checksums."""
    return {"checksums": checksum(dataset / CHECKSUMS_PATH)}
