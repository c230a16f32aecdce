"""Fuzzed frames, few of them: counted by what happens, and a server that lives on."""

from __future__ import annotations

import asyncio
import random

import pytest

pytest.importorskip("rdvla_client")

from benchmarks.serving_fuzz import FUZZERS, fuzz_sockets, fuzz_unpack
from rdvla_client import PolicyClient
from rdvla_client.wire import Limits, pack
from tests.support.serving import DoublePolicy, make_message, running_server


@pytest.mark.parametrize("name", FUZZERS)
def test_frames_are_repeatable_and_rarely_what_they_were(name: str) -> None:
    message = pack(make_message())
    frames = [FUZZERS[name](message, random.Random(seed)) for seed in range(50)]
    assert frames == [FUZZERS[name](message, random.Random(seed)) for seed in range(50)]
    assert sum(frame != message for frame in frames) >= 49


def test_every_fuzzed_frame_is_decoded_or_refused() -> None:
    limits = Limits(max_bytes=5000)
    found = fuzz_unpack([pack(make_message())], frames=3000, seed=1, limits=limits)
    assert found["decoded"] + found["refused"] == found["frames"] == 3000
    assert found["decoded"] > 0 < found["refused"]
    assert found["failed"] == 0, found["examples"]


def test_a_server_answers_or_refuses_every_fuzzed_frame() -> None:
    with running_server(DoublePolicy()) as address:
        found = asyncio.run(
            fuzz_sockets(address, [pack(make_message())], frames=510, connections=4, seed=2, largest=2**24)
        )
        assert found["no reaction"] == 0, found["examples"]
        assert found["answered"] + found["refused"] + found["closed"] == found["frames"] == 510
        assert found["refused"] > 0 < found["closed"]
        with PolicyClient(address) as client:
            assert client.infer(make_message())["depth"] == 4
