"""`checksums.json`: the SHA-256 of a policy's files, so damage is found when the policy is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rdvla.errors import RDVLAError
from rdvla.files import read_object, write_json
from rdvla.hashing import hash_file

CHECKSUMS_FILE = "checksums.json"


def write_checksums(folder: Path, files: Iterable[str]) -> None:
    """Write the checksums of some files of a policy's folder.

    Args:
        folder: of the policy.
        files: names below the folder; those that do not exist are left out.
    """
    found = {name: hash_file(folder / name) for name in sorted(files) if (folder / name).is_file()}
    write_json(folder / CHECKSUMS_FILE, {"sha256": found})


def check_checksums(folder: Path) -> None:
    """Check that a policy's files are those that were saved; without checksums, as in older policies, pass.

    Raises:
        RDVLAError: a file is missing or differs, or the checksums are damaged; the message names it.
    """
    path = folder / CHECKSUMS_FILE
    if not path.is_file():
        return
    expected = read_object(path).get("sha256")
    if not isinstance(expected, dict):
        raise RDVLAError(f"{path} is damaged: get the policy again, or delete this file")
    for name, value in expected.items():
        file = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise RDVLAError(f"{path} is damaged: it names {name!r:.200}, which is no file of the policy")
        if not file.is_file():
            raise RDVLAError(
                f"{file} is missing: get the whole policy again, or delete its entry from {path} if you "
                "removed it on purpose"
            )
        if hash_file(file) != value:
            raise RDVLAError(
                f"{file} is damaged or was changed (its checksum is not that in {CHECKSUMS_FILE}): get the "
                f"policy again, or delete its entry from {path} if you changed it on purpose"
            )


def describe_checksums(folder: Path) -> str:
    """Say of a policy that was loaded whether its files were checked."""
    if (folder / CHECKSUMS_FILE).is_file():
        return "the files are those that were saved"
    return "none, as in older policies: damage of its files may go unseen"
