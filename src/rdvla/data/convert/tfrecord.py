"""Read TFRecord files and the `tf.train.Example` messages in them, without TensorFlow.

A record is framed as: length (8 bytes, little endian), masked CRC-32C of the length (4), data, masked CRC-32C
of the data (4). Source: TensorFlow, `tensorflow/core/lib/io/record_writer.h`. The messages are those of
`tensorflow/core/example/example.proto` and `feature.proto`, in protobuf's wire format.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import DatasetError, optional

MASK_DELTA = 0xA282EAD8
HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")

BytesList = list[bytes]
Values = BytesList | NDArray[np.float32] | NDArray[np.int64]

# Wire types of protobuf.
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
# Fields of the message `Feature`.
BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3


def masked_crc(data: bytes) -> int:
    """Return the checksum that TFRecord keeps of some bytes."""
    with optional("convert"):
        import google_crc32c
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


@dataclass(frozen=True)
class Record:
    """One record of a file.

    Attributes:
        data: its bytes, not yet compared with the checksum.
        checksum: the masked CRC-32C that the file holds of them.
        where: file and number, for messages.
    """

    data: bytes
    checksum: int
    where: str

    def checked(self) -> bytes:
        """Return the bytes; raise DatasetError if they do not have the checksum."""
        if masked_crc(self.data) != self.checksum:
            raise DatasetError(f"{self.where} is damaged (its checksum differs): get the file again")
        return self.data


def read_records(path: Path) -> Iterator[Record]:
    """Return the records of a file.

    Raises:
        DatasetError: the file cannot be read, or ends inside a record, or where the next record starts is
            damaged.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            number = 0
            while header := file.read(HEADER.size):
                where = f"{path}: record {number}"
                length = _length(header, left=size - file.tell(), where=where)
                yield Record(file.read(length), FOOTER.unpack(file.read(FOOTER.size))[0], where)
                number += 1
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def count_records(path: Path) -> int:
    """Return the number of records of a file; the data of the records is not read.

    Raises:
        DatasetError: as `read_records`, but damage inside a record's data is not seen.
    """
    count = 0
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while header := file.read(HEADER.size):
                length = _length(header, left=size - file.tell(), where=f"{path}: record {count}")
                file.seek(length + FOOTER.size, os.SEEK_CUR)
                count += 1
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    return count


def _length(header: bytes, *, left: int, where: str) -> int:
    cut = f"{where} is cut off: the file is incomplete, get it again"
    if len(header) < HEADER.size:
        raise DatasetError(cut)
    length, checksum = HEADER.unpack(header)
    if masked_crc(header[:8]) != checksum:
        raise DatasetError(f"{where} is damaged (the checksum of its length differs), or this is no TFRecord")
    if length + FOOTER.size > left:
        raise DatasetError(cut)
    return int(length)


def parse_example(record: bytes) -> dict[str, Values]:
    """Return the features of a `tf.train.Example`: name -> bytes strings, float32 or int64 numbers.

    A feature without values is an empty list.

    Raises:
        ValueError: the bytes are no such message.
    """
    found: dict[str, Values] = {}
    try:
        for number, features in _fields(memoryview(record)):
            if number != 1:
                continue
            for _, entry in _fields(features):
                pair = dict(_fields(entry))
                found[str(pair[1], "utf-8")] = _values(pair.get(2, memoryview(b"")))
    except (IndexError, KeyError, TypeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"it holds no tf.train.Example ({error})") from error
    return found


def _values(feature: memoryview) -> Values:
    lists = list(_fields(feature))
    if not lists:
        return []
    kind, content = lists[-1]
    if kind == BYTES_LIST:
        return [bytes(value) for _, value in _fields(content)]
    # Numbers are packed into one field by every writer of today; protobuf also allows one field for each.
    parts = [value for _, value in _fields(content)]
    if kind == FLOAT_LIST:
        return np.frombuffer(b"".join(parts), dtype="<f4").astype(np.float32)
    if kind == INT64_LIST:
        return _varints(b"".join(parts))
    raise ValueError(f"a feature has the unknown kind {kind}")


def _varints(data: bytes) -> NDArray[np.int64]:
    """Decode packed variable-length integers: seven bits per byte, the top bit set on all but the last."""
    octets = np.frombuffer(data, dtype=np.uint8)
    if not len(octets):
        return np.zeros(0, np.int64)
    last = octets < 0x80
    if not last[-1]:
        raise ValueError("an integer is cut off")
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(octets)) - np.repeat(starts, np.diff([*starts, len(octets)]))
    parts = (octets & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(parts, starts).astype(np.int64)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Return the fields of a message: number and bytes; of a single varint its encoded bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        start = at
        if key & 7 == DELIMITED:
            length, start = _varint(message, at)
            at = start + length
        elif key & 7 == VARINT:
            _, at = _varint(message, at)
        elif key & 7 in (FIXED32, FIXED64):
            at += 4 if key & 7 == FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {key & 7}")
        if at > len(message):
            raise ValueError("a field is cut off")
        yield key >> 3, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        octet = message[at]
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
        shift += 7
