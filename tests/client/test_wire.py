"""The wire format: openpi's bytes, and nothing but an answer or a `WireError` for whatever arrives."""

from __future__ import annotations

import random
import struct

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from rdvla_client.errors import WireError
from rdvla_client.wire import Limits, pack, unpack

# Written down from openpi's own client.
CHUNK = bytes.fromhex(
    "81a7616374696f6e7384c40b5f5f6e6461727261795f5fc3c40464617461c40c000000000000803f00000040"
    "c4056474797065a33c6634c40573686170659103"
)
SCALAR = bytes.fromhex(
    "83c40d5f5f6e7067656e657269635f5fc3c40464617461cb3ff8000000000000c4056474797065a33c6634"
)

DTYPES = st.sampled_from(["?", "i1", "u1", "<i2", ">i4", "<u8", "<i8", "<f2", "<f4", ">f8", "<f8", "<U3"])
ARRAYS = DTYPES.flatmap(
    lambda dtype: st_numpy.arrays(
        dtype, st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    )
)
SCALARS = st.sampled_from(["?", "i1", "u1", "<i8", "<u8", "<f2", "<f4", "<f8"]).flatmap(
    lambda dtype: st_numpy.from_dtype(np.dtype(dtype)).map(np.dtype(dtype).type)
)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
    | ARRAYS | SCALARS
)  # fmt: skip
MESSAGES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def assert_same(one, other) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert np.asarray(one).dtype.newbyteorder("=") == np.asarray(other).dtype.newbyteorder("=")
        np.testing.assert_array_equal(one, other)


def frame(**changes) -> bytes:
    """A frame with one array, parts of which are changed."""
    array = {"__ndarray__": True, "data": b"\0" * 12, "dtype": "<f4", "shape": [3]} | changes
    return msgpack.packb({"actions": {name.encode(): value for name, value in array.items()}})


def test_bytes_are_those_of_openpi():
    assert pack({"actions": np.arange(3, dtype=np.float32)}) == CHUNK
    assert pack(np.float32(1.5)) == SCALAR
    np.testing.assert_array_equal(unpack(CHUNK)["actions"], np.float32([0, 1, 2]))
    assert unpack(SCALAR) == np.float32(1.5)
    assert unpack(SCALAR).dtype == np.float32


@given(MESSAGES)
@settings(deadline=None)
def test_openpi_reads_what_is_packed_and_the_other_way_round(message):
    theirs = pytest.importorskip("openpi_client.msgpack_numpy")
    packed = pack(message)
    assert packed == theirs.packb(message)
    assert_same(message, unpack(packed))
    assert_same(message, theirs.unpackb(packed))


def test_arrays_arrive_read_only_and_in_this_machines_byte_order():
    array = unpack(pack(np.arange(4, dtype=">f8")))
    assert array.dtype == np.float64
    assert array.dtype.isnative
    assert not array.flags.writeable
    assert not unpack(CHUNK)["actions"].flags.writeable


def test_an_array_that_is_not_contiguous_is_packed_in_c_order():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4).T[::2]
    np.testing.assert_array_equal(unpack(pack(array)), array)


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]), np.array([1j]), np.zeros(2, "V4"), np.array([b"x"]), np.longdouble(1),
        np.array("2026-01-01", "M8[D]"), object(), {1, 2}, 2**64, "\ud800", {"a": [1j]},
    ],
)  # fmt: skip
def test_values_that_the_protocol_lacks_are_not_sent(value):
    with pytest.raises(WireError):
        pack({"value": value})


def test_a_message_that_contains_itself_is_not_sent():
    message: list = []
    message.append(message)
    with pytest.raises(WireError):
        pack(message)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "|O"}, "dtype"),
        ({"dtype": "O"}, "dtype"),
        ({"dtype": "<c8"}, "dtype"),
        ({"dtype": "|V4"}, "dtype"),
        ({"dtype": "<f4,<f4"}, "dtype"),
        ({"dtype": "<U0"}, "dtype"),
        ({"dtype": "<U99999999999"}, "dtype"),
        ({"dtype": 4}, "dtype"),
        ({"dtype": ["<f4"]}, "dtype"),
        ({"shape": [4]}, "16 bytes, got 12"),
        ({"shape": [2]}, "8 bytes, got 12"),
        ({"shape": [-3]}, "negative"),
        ({"shape": [-1, -3]}, "negative"),
        ({"shape": [True, 3]}, "whole numbers"),
        ({"shape": [3.0]}, "whole numbers"),
        ({"shape": 3}, "list"),
        ({"shape": {"0": 3}}, "list"),
        ({"shape": [2**62, 4]}, "limit"),
        ({"shape": [2**63, 2**63]}, "limit"),
        ({"shape": [0, 2**62, 2**62], "data": b""}, "limit"),
        ({"shape": [3] + [1] * 40}, "dimensions"),
        ({"data": "text"}, "bytes"),
        ({"data": 3}, "bytes"),
        ({"__ndarray__": False}, "keys"),
        ({"more": 1}, "keys"),
        ({"dtype": "|b1", "shape": [12], "data": b"\2" * 12}, "bools"),
        ({"dtype": "<U1", "shape": [3], "data": b"\xff" * 12}, "characters"),
        ({"dtype": ">U1", "shape": [3], "data": struct.pack(">3I", 65, 66, 0xD800)}, "characters"),
    ],
)
def test_an_array_that_lies_about_itself_is_refused(changes, words):
    with pytest.raises(WireError, match=words):
        unpack(frame(**changes))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(300, "|u1"), (-1, "<u8"), (1.5, "<i4"), (1e300, "<f4"), (10**19, "<f2"), (2, "|b1"), ("1", "<f4"),
     (1, "<U1"), (None, "<f4"), (True, "<i4"), ([1], "<i4"), (1, "|O")],
)  # fmt: skip
def test_a_scalar_that_does_not_fit_its_dtype_is_refused(value, dtype):
    with pytest.raises(WireError):
        unpack(msgpack.packb({b"__npgeneric__": True, b"data": value, b"dtype": dtype}))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"\x81", b"\x81\xa1a", CHUNK[:-1], CHUNK + b"\0", b"\xa4abc", b"\xa1\xff",
        msgpack.packb(msgpack.ExtType(5, b"x")), msgpack.packb(msgpack.Timestamp(1)),
        b"\xc7\xff\xff", b"\xc9\xff\xff\xff\xff\x01", b"\x82\xa1a\x01\xa1a\x02",
        msgpack.packb({1: 2}), msgpack.packb({None: 2}), msgpack.packb({b"a": 2}),
        msgpack.packb({"a": 1, b"a": 2}),
        b"\x81\x90\x01", b"\x81\x80\x01", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff", b"\x91" * 100_000, b"\x81\xa1a" * 50_000, b"\xdc\xff\xff" * 30_000,
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(data):
    with pytest.raises(WireError):
        unpack(data)


@pytest.mark.parametrize("data", ["text", None, 3, [1]])
def test_what_is_no_bytes_is_refused(data):
    with pytest.raises(WireError, match="bytes"):
        unpack(data)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_bytes=100), b"x" * 101),
        (Limits(max_array_bytes=100), b"x" * 101),
        (Limits(max_array_bytes=100), np.zeros(26, np.float32)),
        (Limits(max_text_bytes=10), "x" * 11),
        (Limits(max_items=10), list(range(11))),
        (Limits(max_items=10), [[0] * 5] * 2),
        (Limits(max_items=10), {str(number): number for number in range(6)}),
        (Limits(max_depth=3), [[[[]]]]),
        (Limits(), {"k" * 1025: 1}),
    ],
)
def test_limits_are_kept(limits, message):
    with pytest.raises(WireError):
        unpack(pack(message), limits=limits)


def test_messages_up_to_the_limits_pass():
    limits = Limits(max_array_bytes=104, max_text_bytes=10, max_items=10, max_depth=3)
    for message in ("x" * 10, list(range(10)), [[[]]], {str(number): number for number in range(5)}):
        assert unpack(pack(message), limits=limits) == message
    assert unpack(pack(np.zeros(26, np.float32)), limits=limits).shape == (26,)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=500)
def test_random_bytes_are_read_or_refused(data):
    read_or_refuse(data)


def test_damaged_messages_are_read_or_refused():
    damage_many(3_000)


@pytest.mark.slow
def test_very_many_damaged_messages_are_read_or_refused():
    damage_many(400_000)


def read_or_refuse(data: bytes) -> bool:
    try:
        message = unpack(data)
    except WireError as error:
        assert str(error)
        return False
    pack(message)  # what was read is sound: it can be sent on
    return True


def damage_many(count: int) -> None:
    generator = random.Random(0)
    valid = [
        CHUNK, SCALAR,
        pack({"observation/image": np.zeros((4, 4, 3), np.uint8), "state": np.zeros(8), "prompt": "go"}),
        pack({"text": np.array(["ab", "c"]), "flags": np.array([True, False]), "rdvla": {"seed": None}}),
        pack([np.float64(2), [np.int8(-1), [True, None, b"raw"]], {"a": {"b": {"c": [1.5, 2**40]}}}]),
    ]  # fmt: skip
    for frame in valid:
        assert read_or_refuse(frame)
    outcomes = {read_or_refuse(damaged(generator, valid)) for _ in range(count)}
    assert outcomes == {True, False}


def damaged(generator: random.Random, valid: list[bytes]) -> bytes:
    data = bytearray(generator.choice(valid))
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(data) + 1)
        kind = generator.randrange(5)
        if kind == 0 and place < len(data):
            data[place] = generator.randrange(256)
        elif kind == 1:
            data[place:place] = generator.randbytes(generator.randint(1, 6))
        elif kind == 2:
            del data[place : place + generator.randint(1, 6)]
        elif kind == 3:
            data[place:] = generator.choice(valid)
        elif place < len(data):
            data[place] ^= 1 << generator.randrange(8)
    return bytes(data)


@pytest.mark.parametrize("data", [b"\xc1", b"\x81\xa1a\xc1", b"\x92\x01\xc1", b"\xa1\xff"])
def test_bytes_that_cannot_be_read_are_told_with_a_reason(data):
    with pytest.raises(WireError, match=r"cannot be read at byte \d+: \S"):
        unpack(data)
