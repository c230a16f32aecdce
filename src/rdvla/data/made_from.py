"""What a dataset was made from, so the command that made it knows its own work when it is given again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdvla.data.formats.lerobot_v3.writer import DatasetWriter
from rdvla.errors import RDVLAError
from rdvla.files import read_object

MADE_FROM_FILE = "made_from.json"  # next to meta/, so it does not count as content


def finish(writer: DatasetWriter, facts: Mapping[str, Any]) -> None:
    """Write a dataset with what it was made from.

    Args:
        writer: holds sources and settings.
        facts: more that JSON can hold, for `finished_facts`.
    """
    writer.finalize(records={MADE_FROM_FILE: {"sha256": _digest(writer.made_from), **facts}})


def finished_facts(root: Path, made_from: str) -> dict[str, Any] | None:
    """Return the facts of a finished dataset that was made from the same; clear up after a kill.

    Returns:
        what `finish` was given; None: there is no dataset, or it was made from something else.
    """
    try:
        facts = read_object(root / MADE_FROM_FILE)
    except RDVLAError:
        return None
    if facts.pop("sha256", None) != _digest(made_from):
        return None
    DatasetWriter.clear_finished(root)
    return facts


def _digest(made_from: str) -> str:
    # A published dataset need not show the paths of whoever made it.
    return hashlib.sha256(made_from.encode()).hexdigest()
