"""The fingerprint that earlier versions gave a dataset: runs that began with them are still to be recognised.

It covers names, sizes and both ends of the files in LeRobot's folders, and follows no links.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

END_BYTES = 1 << 16  # of either end of a file
FOLDERS = ("meta", "data", "videos")
SUFFIXES = (".json", ".parquet", ".mp4")
LEFT_OUT = "meta/checksums.json"


def older_fingerprint(roots: Sequence[Path]) -> str:
    """Return the earlier fingerprint of one dataset, or of several in this order.

    Args:
        roots: folders of LeRobot datasets.
    """
    own = [_of_one(root) for root in roots]
    return own[0] if len(own) == 1 else hashlib.sha256("\n".join(own).encode()).hexdigest()[:16]


def _of_one(root: Path) -> str:
    found = (
        path for name in FOLDERS for suffix in SUFFIXES for path in (root / name).rglob(f"[!.]*{suffix}")
    )
    names = {path.relative_to(root).as_posix() for path in found} - {LEFT_OUT}
    digest = hashlib.sha256()
    for name in sorted(names):
        size = (root / name).stat().st_size
        digest.update(f"{name} {size} ".encode())
        with (root / name).open("rb") as file:
            digest.update(file.read(END_BYTES))
            file.seek(max(0, size - END_BYTES))
            digest.update(file.read())
    return digest.hexdigest()[:16]
