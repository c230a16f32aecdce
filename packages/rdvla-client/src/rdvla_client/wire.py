"""openpi's wire format: msgpack with numpy arrays, the same bytes as `openpi_client.msgpack_numpy`.

An array is a map with *binary* keys: ``{__ndarray__: true, data: bytes, dtype: "<f4", shape: [...]}``; a
numpy scalar is ``{__npgeneric__: true, data: number, dtype: "<f4"}``. Whatever bytes arrive, `unpack` returns
plain values and numeric arrays, or raises `WireError`: it checks every size before it allocates.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from rdvla_client.errors import WireError

_ARRAY = frozenset({b"__ndarray__", b"data", b"dtype", b"shape"})
_SCALAR = frozenset({b"__npgeneric__", b"data", b"dtype"})
_NUMBERS = "?bBhHiIlLqQefd"  # bool, whole numbers, and floats of 16, 32 and 64 bits
_NATIVE = {np.dtype(code) for code in _NUMBERS}
# How a sender may write each dtype: numpy's short text, with either byte order, or its name.
_DTYPES: dict[str, np.dtype[Any]] = {
    text: dtype
    for native in _NATIVE
    for dtype in (native, native.newbyteorder(">"), native.newbyteorder("<"))
    for text in (dtype.str, native.name)
    if text != native.name or dtype is native
}
_UNICODE = re.compile(r"[<>]U([1-9][0-9]{0,5})")
_MOST_DIMENSIONS = 16


@dataclass(frozen=True)
class Limits:
    """The most that a message may hold; more raises `WireError` before it is decoded."""

    max_bytes: int = 64 * 2**20  # whole message
    max_array_bytes: int = 32 * 2**20  # one array, or one value of raw bytes
    max_text_bytes: int = 2**20  # one text, in UTF-8
    max_items: int = 100_000  # values in all maps and lists together, keys included
    max_depth: int = 16  # maps and lists inside each other


def pack(message: Any) -> bytes:
    """Return the bytes of a message: maps, lists, texts, numbers, bools, None, bytes and numpy values.

    Raises:
        WireError: it holds something else, such as an array of objects.
    """
    try:
        packed: bytes = msgpack.packb(message, default=_encode)
    except WireError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(
            f"cannot send this message: {error}; give numpy arrays, numbers, texts, lists and dicts"
        ) from None
    return packed


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        _check_sendable(value.dtype)
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return value  # msgpack names its type


def _check_sendable(dtype: np.dtype[Any]) -> None:
    if dtype.str not in _DTYPES and not _UNICODE.fullmatch(dtype.str):
        raise WireError(
            f"cannot send a numpy value of dtype {dtype}; "
            "bools, whole numbers, floats of up to 64 bits and text can be sent"
        )


def unpack(data: bytes | bytearray | memoryview, *, limits: Limits | None = None) -> Any:
    """Return the message in `data`; its arrays are read-only and in the byte order of this machine.

    Args:
        data: from anybody.
        limits: the most that it may hold; by default those of `Limits()`.

    Raises:
        WireError: it is no message, holds what the protocol lacks, or exceeds a limit.
    """
    limits = limits or Limits()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise WireError(f"a message is bytes, got {type(data).__name__}")
    data = bytes(data)
    if len(data) > limits.max_bytes:
        raise WireError(f"a message of {len(data)} bytes exceeds the limit of {limits.max_bytes}")
    return _Reader(data, limits).message()


class _Reader:
    """Walks through a message; msgpack decodes one leaf or one header at a time, so limits come first."""

    def __init__(self, data: bytes, limits: Limits) -> None:
        self.data = data
        self.limits = limits
        self.items = 0
        self.unpacker = msgpack.Unpacker(
            max_buffer_size=max(len(data), 1),
            max_str_len=limits.max_text_bytes,
            max_bin_len=limits.max_array_bytes,
        )
        self.unpacker.feed(data)

    def message(self) -> Any:
        try:
            value = self.value(0)
        except msgpack.OutOfData:
            raise self.early_end() from None
        except (msgpack.UnpackException, ValueError) as error:
            if isinstance(error, WireError):
                raise
            reason = str(error) or type(error).__name__
            raise WireError(f"the message cannot be read at byte {self.unpacker.tell()}: {reason}") from None
        if self.unpacker.tell() != len(self.data):
            raise WireError(f"the message has {len(self.data) - self.unpacker.tell()} bytes after its end")
        return value

    def early_end(self) -> WireError:
        return WireError(f"the message of {len(self.data)} bytes ends before it is complete")

    def first_byte(self) -> int:
        """The byte that tells the type of the next value."""
        place: int = self.unpacker.tell()
        if place >= len(self.data):
            raise self.early_end()
        return self.data[place]

    def value(self, depth: int) -> Any:
        first = self.first_byte()
        if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
            return self.map(depth + 1)
        if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
            return self.list(depth + 1)
        if 0xC7 <= first <= 0xC9 or 0xD4 <= first <= 0xD8:
            raise WireError("the message holds a msgpack extension or timestamp, which the protocol lacks")
        if first == 0xC1:
            raise WireError(
                f"the message cannot be read at byte {self.unpacker.tell()}: no value begins with 0xc1"
            )
        return self.unpacker.unpack()

    def enter(self, depth: int, items: int) -> None:
        if depth > self.limits.max_depth:
            raise WireError(f"the message is nested deeper than {self.limits.max_depth} maps and lists")
        self.items += items
        if self.items > self.limits.max_items:
            raise WireError(f"the message holds more than {self.limits.max_items} values")
        if items > len(self.data) - self.unpacker.tell():  # each has at least a byte
            raise self.early_end()

    def list(self, depth: int) -> list[Any]:
        count = self.unpacker.read_array_header()
        self.enter(depth, count)
        return [self.value(depth) for _ in range(count)]

    def map(self, depth: int) -> Any:
        count = self.unpacker.read_map_header()
        self.enter(depth, 2 * count)
        found: dict[Any, Any] = {}
        for _ in range(count):
            key = self.key()
            if key in found:
                raise WireError(f"a map has the key {key!r} twice")
            found[key] = self.value(depth)
        kinds = {type(key) for key in found}
        if kinds <= {str}:
            return found
        if found.keys() == _ARRAY and found[b"__ndarray__"] is True:
            return _array(found[b"data"], found[b"dtype"], found[b"shape"], self.limits)
        if found.keys() == _SCALAR and found[b"__npgeneric__"] is True:
            return _scalar(found[b"data"], found[b"dtype"])
        raise WireError(
            f"a map has text keys, or is a numpy value, got the keys {sorted(map(repr, found))[:8]}"
        )

    def key(self) -> str | bytes:
        first = self.first_byte()
        if not (0xA0 <= first <= 0xBF or 0xC4 <= first <= 0xC6 or 0xD9 <= first <= 0xDB):
            raise WireError(f"a map has a key that is no text, of msgpack type 0x{first:02x}")
        key: str | bytes = self.unpacker.unpack()
        if len(key) > 1024:
            raise WireError(f"a map has a key of {len(key)} characters; 1024 are allowed")
        return key


def _dtype(text: Any) -> np.dtype[Any]:
    # Looked up, not parsed: numpy never sees a text of the sender, such as an object or a record type.
    if isinstance(text, str):
        if text in _DTYPES:
            return _DTYPES[text]
        if _UNICODE.fullmatch(text):
            return np.dtype(text)
    shown = repr(text)[:60]
    raise WireError(
        f"the dtype {shown} is not allowed; bools, whole numbers, floats of up to 64 bits and text are"
    )


def _array(data: Any, dtype_text: Any, shape: Any, limits: Limits) -> NDArray[Any]:
    dtype = _dtype(dtype_text)
    if not isinstance(data, bytes):
        raise WireError(f"the data of an array is bytes, got {type(data).__name__}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise WireError("the shape of an array is a list of whole numbers that are not negative")
    if len(shape) > _MOST_DIMENSIONS:
        raise WireError(f"an array has {len(shape)} dimensions; {_MOST_DIMENSIONS} are allowed")
    # Python's whole numbers do not overflow. A size of 0 must not hide another that numpy cannot hold.
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize > limits.max_array_bytes:
        raise WireError(f"an array of shape {shape} exceeds the limit of {limits.max_array_bytes} bytes")
    needed = math.prod(shape) * dtype.itemsize
    if needed != len(data):
        raise WireError(f"an array of shape {shape} and dtype {dtype} has {needed} bytes, got {len(data)}")
    array: NDArray[Any] = np.ndarray(shape=tuple(shape), dtype=dtype, buffer=data)
    if dtype.kind == "b" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise WireError("an array of bools holds bytes other than 0 and 1")
    if dtype.kind == "U":
        _check_characters(data, dtype)
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
        array.flags.writeable = False
    return array


def _check_characters(data: bytes, dtype: np.dtype[Any]) -> None:
    codes = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF))).any():
        raise WireError("an array of text holds numbers that are no characters")


def _scalar(value: Any, dtype_text: Any) -> np.generic:
    dtype = _dtype(dtype_text)
    if not _fits(value, dtype):
        raise WireError(f"{repr(value)[:60]} is no value of dtype {dtype}")
    scalar: np.generic = dtype.type(value)
    return scalar


def _fits(value: Any, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "b":
        return isinstance(value, bool)
    if dtype.kind == "U":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return isinstance(value, int) and info.min <= value <= info.max
    return not math.isfinite(value) or abs(value) <= float(np.finfo(dtype).max)
