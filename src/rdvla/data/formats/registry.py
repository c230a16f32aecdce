"""The known dataset formats, and which of them a folder has."""

from __future__ import annotations

from pathlib import Path

from rdvla.data.formats.base import DatasetFormat, DatasetReader
from rdvla.data.formats.lerobot_v3.reader import LeRobotV3
from rdvla.errors import DatasetError

FORMATS: list[DatasetFormat] = [LeRobotV3()]  # asked in this order


def find_format(folder: Path, *, name: str | None = None) -> DatasetFormat:
    """Return the format that takes the folder for its own.

    Args:
        folder: of a dataset, or its marker files alone.
        name: what the message calls the dataset; None: the folder.

    Raises:
        DatasetError: no format does; the message has the reason of each.
    """
    reasons: list[str] = []
    for known in FORMATS:
        reason = known.rejects(folder)
        if reason is None:
            return known
        reasons.append(f"Not {known.name}: {reason}.")
    raise DatasetError(f"{name or folder} is in no dataset format that rdvla knows. {' '.join(reasons)}")


def open_reader(folder: Path) -> DatasetReader:
    """Open a dataset in whatever format it has.

    Raises:
        DatasetError: an unknown format, or a file that is missing or damaged (named).
    """
    return find_format(folder).open(folder)
