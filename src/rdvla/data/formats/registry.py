"""The known dataset formats, and which of them a dataset has."""

from __future__ import annotations

from pathlib import Path

from rdvla.data.formats.base import DatasetFormat, DatasetReader
from rdvla.data.formats.lerobot_v2 import LeRobotV2
from rdvla.data.formats.lerobot_v3.reader import LeRobotV3
from rdvla.errors import DatasetError

# Asked in this order. Append to it to register a format of your own.
FORMATS: list[DatasetFormat] = [LeRobotV3(), LeRobotV2("v2.1"), LeRobotV2("v2.0")]


def find_format(path: Path, *, name: str | None = None) -> DatasetFormat:
    """Return the format that takes the dataset for its own.

    Args:
        path: of a dataset, or of a folder with its marker files alone.
        name: what the message calls the dataset; None: the path.

    Raises:
        DatasetError: no format does; the message has the reason of each.
    """
    reasons: dict[str, list[str]] = {}  # reason -> formats that give it
    for known in FORMATS:
        reason = known.rejects(path)
        if reason is None:
            return known
        reasons.setdefault(reason, []).append(known.name)
    told = " ".join(f"Not {' or '.join(names)}: {reason}." for reason, names in reasons.items())
    raise DatasetError(f"{name or path} is in no dataset format that rdvla knows. {told}")


def open_reader(path: Path) -> DatasetReader:
    """Open a dataset in whatever format it has.

    Raises:
        DatasetError: an unknown format, or a file that is missing or damaged (named).
    """
    return find_format(path).open(path)
