"""Whatever a well-formed message holds: it is read, or refused in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numbers

from rdvla.errors import InputError, RDVLAError
from rdvla.serving import Layout, LayoutMapping
from rdvla.serving.requests import OPTION_NAMES, Options, read_options
from rdvla.types import Observation
from tests.support.serving import CHUNK, make_facts, make_message

SHAPES = numbers.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
DTYPES = st.sampled_from(["u1", "i1", "i8", "f2", "f4", "f8", "?", "U3"])
ARRAYS = DTYPES.flatmap(lambda dtype: numbers.arrays(dtype, SHAPES))
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9)
    | st.binary(max_size=9) | ARRAYS
    | ARRAYS.filter(lambda array: array.size).map(lambda array: array.flat[0])
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["images/front", "images/wrist", "images", "state", "prompt", "other"])
LAYOUTS = [
    Layout.of(make_facts(), "native"),
    Layout.of(make_facts(sizes={"front": (6, 8)}), "native", LayoutMapping(rotate=("front",))),
    Layout.of(make_facts(), "native", LayoutMapping(resize=True, state=("state", "other"))),
]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=3), st.sampled_from(LAYOUTS), st.booleans())
def test_an_observation_is_read_or_refused(changes: dict[str, Any], layout: Layout, whole: bool):
    message = (make_message() if whole else {}) | changes
    try:
        found = layout.read(message)
    except InputError as error:
        assert 0 < len(str(error)) < 3000
        return
    assert isinstance(found, Observation)
    assert found.state.shape == (2,)
    assert np.isfinite(found.state).all()
    assert all(image.dtype == np.uint8 and image.ndim == 3 for image in found.images.values())


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(OPTION_NAMES) | st.text(max_size=5), VALUES, max_size=4)
    | st.dictionaries(
        st.sampled_from(["stop", "execution"]),
        st.text("0123456789:,.@-efixdbnaryl_chgto", max_size=20),
        min_size=1,
    )
    | VALUES
)
def test_options_are_read_or_refused(options: Any):
    try:
        found = read_options({"rdvla": options}, depth_limit=64, chunk_size=CHUNK)
    except RDVLAError as error:
        assert 0 < len(str(error)) < 3000
        return
    assert isinstance(found, Options)
    assert found.max_depth is None or 1 <= found.max_depth <= 64
    assert found.executed is None or 0 <= found.executed <= CHUNK
