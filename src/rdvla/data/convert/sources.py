"""Recognise what format a folder or file of demonstrations has."""

from __future__ import annotations

from pathlib import Path

from rdvla.data.convert.rlds import RLDSSource, find_rlds
from rdvla.data.convert.robomimic import RobomimicSource, find_hdf5
from rdvla.data.convert.source import Source
from rdvla.errors import DatasetError


def open_source(path: Path, *, split: str | None = None) -> Source:
    """Open demonstrations in RLDS (TFRecord), or in LIBERO's or robomimic's HDF5.

    Args:
        path: a folder, or one HDF5 file.
        split: part of the demonstrations, by its name in the source; None: all.

    Raises:
        DatasetError: nothing of the kind is there, or a file is damaged (named).
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist")
    rlds = find_rlds(path)
    if rlds is not None:
        return RLDSSource(rlds, split=split)
    if find_hdf5(path):
        return RobomimicSource(path, split=split)
    raise DatasetError(
        f"{path} holds neither RLDS (features.json and TFRecord files) nor HDF5 files (.hdf5, .h5)"
    )
