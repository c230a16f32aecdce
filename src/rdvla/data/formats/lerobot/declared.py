"""What a dataset's files say of themselves is checked before anything is decoded: names, amounts, sizes."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import pyarrow.parquet as pq

from rdvla.data.decoding import MOST_PIXELS
from rdvla.errors import DatasetError

TEMPLATE_NAMES = {"chunk_index", "file_index", "episode_chunk", "episode_index", "video_key"}
PLAIN_FORMAT = re.compile(r"(0?[1-9]d?|d)?")  # such as 03d; wider ones would make names of gigabytes
LONGEST_NAME = 255  # bytes between two slashes
LONGEST_TEMPLATE = 1000  # characters

# What a parquet file may take in memory: a small one need not be believed when it says it is huge.
SPARE_BYTES = 256 << 20
EXPANSION = 100  # times the file's size
NUMBER = 8  # bytes of a value in memory, at most

FAR_LARGER = 16  # times the declared area or frames; published metadata may be a little wrong
SPARE_ROWS = 100_000  # of a data file beyond that


def is_inside(name: str) -> bool:
    """Return whether a file's name can be one, and stays within the folder that it is relative to."""
    longest = max(len(part.encode(errors="replace")) for part in name.split("/"))
    if longest > LONGEST_NAME or not name.isprintable():
        return False
    return not any(
        kind(name).is_absolute() or ".." in kind(name).parts or kind(name).drive
        for kind in (PurePosixPath, PureWindowsPath)
    )


def is_plain_template(text: object) -> bool:
    """Return whether a template of info.json only fills in numbers and a camera's name, below the dataset."""
    if not isinstance(text, str) or len(text) > LONGEST_TEMPLATE or not is_inside(text):
        return False
    try:
        fields = [field for field in string.Formatter().parse(text) if field[1] is not None]
    except ValueError:
        return False
    return all(
        name in TEMPLATE_NAMES and not conversion and PLAIN_FORMAT.fullmatch(form or "")
        for _, name, form, conversion in fields
    )


def check_expansion(file: pq.ParquetFile, path: Path, columns: Sequence[str] | None = None) -> None:
    """Check by its header that a parquet file does not take far more memory than it is large.

    A few bytes can stand for a text of gigabytes, or for millions of equal rows.

    Args:
        file: open.
        path: of it.
        columns: that will be read; None: all.

    Raises:
        DatasetError: it would; the message says how much.
    """
    header = file.metadata
    taken = 0
    for number in range(header.num_row_groups):
        group = header.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            if columns is None or column.path_in_schema.split(".")[0] in columns:
                taken += max(column.total_uncompressed_size, NUMBER * column.num_values)
    if columns is None or len(columns):
        taken = max(taken, header.num_rows)
    allowed = SPARE_BYTES + EXPANSION * path.stat().st_size
    if taken > allowed:
        raise DatasetError(
            f"{path} has {path.stat().st_size:,} bytes and says that it holds {header.num_rows:,} rows of "
            f"{taken:,} bytes: it is damaged or made to fill the memory. Get it from somebody you trust"
        )


def check_rows(file: pq.ParquetFile, path: Path, frames: int) -> None:
    """Check by its header that a data file does not hold far more rows than there are frames.

    Args:
        file: open.
        path: of it.
        frames: that the dataset's metadata lists.

    Raises:
        DatasetError: it does.
    """
    rows = file.metadata.num_rows
    if rows > FAR_LARGER * frames + SPARE_ROWS:
        raise DatasetError(
            f"{path} says that it holds {rows:,} rows, and the dataset's metadata lists {frames:,} frames: "
            "one of them is damaged or made to fill the memory. Get the dataset again"
        )


def oversized(height: int, width: int, *, declared: tuple[int, int] = (0, 0)) -> str:
    """Return why pictures of this size are not decoded; empty if they are.

    Args:
        height: in pixels, by the file's header.
        width: in pixels.
        declared: (height, width) in info.json; (0, 0): it does not say.
    """
    if height * width > MOST_PIXELS:
        return f"has pictures of {width}x{height}, more than are decoded ({MOST_PIXELS:,} pixels)"
    if 0 not in declared and height * width > FAR_LARGER * declared[0] * declared[1]:
        return f"has pictures of {width}x{height}, though info.json says {declared[1]}x{declared[0]}"
    return ""
