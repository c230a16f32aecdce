"""A staged episode as one file, for the way from another machine, which arrives whole or not at all."""

from __future__ import annotations

import zipfile
from pathlib import Path

from rdvla.errors import DatasetError


def pack(folder: Path, parcel: Path) -> None:
    """Write the files of a staged episode into a new file; videos are compressed already."""
    parcel.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(parcel, "x", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)


def unpack(parcel: Path, folder: Path) -> None:
    """Write the files of a parcel into an empty folder.

    Raises:
        DatasetError: the parcel is damaged (named).
    """
    try:
        with zipfile.ZipFile(parcel) as archive:
            for entry in archive.infolist():
                if Path(entry.filename).name != entry.filename:
                    raise DatasetError(f"{parcel} holds {entry.filename!r}, which is no file of an episode")
                (folder / entry.filename).write_bytes(archive.read(entry))
    except (zipfile.BadZipFile, EOFError) as error:
        raise DatasetError(f"{parcel} is damaged: delete it and go on ({error})") from error
