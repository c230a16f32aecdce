"""Processes that fill one cache share the work, and none waits for one that is dead or stuck."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest

from rdvla.data.feature_plan import Shard
from rdvla.data.missing_shards import MissingShards, remove_if_damaged

TIMEOUT = 60


def shards(folder: Path, count: int) -> list[Shard]:
    return [Shard(folder / f"shard-{i:05d}.safetensors", np.arange(4 * i, 4 * i + 4)) for i in range(count)]


def claim_and_hang(folder: Path, claimed: Event) -> None:
    with MissingShards(shards(folder, 1)) as missing:
        assert missing.claim() is not None
        claimed.set()
        time.sleep(TIMEOUT)


@pytest.fixture
def holder(tmp_path: Path):
    """A process that computes the first shard for ever."""
    context = multiprocessing.get_context("spawn")
    claimed = context.Event()
    process = context.Process(target=claim_and_hang, args=(tmp_path, claimed), daemon=True)
    process.start()
    assert claimed.wait(TIMEOUT)
    yield process
    process.kill()
    process.join(TIMEOUT)


def test_every_shard_is_computed_once_by_several_that_start_at_once(tmp_path: Path) -> None:
    written: list[str] = []
    together = Barrier(3)

    def fill() -> None:
        with MissingShards(shards(tmp_path, 12)) as missing:
            together.wait(TIMEOUT)
            while (shard := missing.take()) is not None:
                time.sleep(0.01)
                written.append(shard.path.name)
                shard.path.write_bytes(b"")
                missing.finish(shard)
            assert len(missing) == 0

    threads = [Thread(target=fill, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert sorted(written) == [shard.path.name for shard in shards(tmp_path, 12)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)  # no lock is left


def test_what_another_process_computes_is_left_to_it_until_it_dies(tmp_path: Path, holder) -> None:
    with MissingShards(shards(tmp_path, 2)) as missing:
        second = missing.claim()
        assert second is not None and second.path.name == "shard-00001.safetensors"
        assert missing.claim() is None and len(missing) == 2
        os.kill(holder.pid, signal.SIGKILL)
        holder.join(TIMEOUT)
        first = missing.take()
        assert first is not None and first.path.name == "shard-00000.safetensors"


def test_a_stopped_process_holds_nobody_up(tmp_path: Path, holder) -> None:
    os.kill(holder.pid, signal.SIGSTOP)
    with MissingShards(shards(tmp_path, 1), patience=0.5) as missing:
        assert missing.claim() is None
        assert missing.take() is not None


def test_progress_counts_what_others_wrote(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    own = shards(tmp_path, 3)
    with MissingShards(own, total=20, progress=lambda *now: told.append(now)) as missing:
        first = missing.claim()
        assert first is not None
        missing.advance(first, 3)
        own[1].path.write_bytes(b"")
        second = missing.claim()
        assert second is not None and second.path == own[2].path
        first.path.write_bytes(b"")
        missing.finish(first)
    assert told == [(8, 20), (11, 20), (15, 20), (16, 20)]


def test_a_damaged_shard_is_removed_unless_somebody_has_it_in_hand(tmp_path: Path) -> None:
    (shard,) = shards(tmp_path, 1)
    shard.path.write_bytes(b"damaged")

    def is_damaged() -> bool:
        return shard.path.read_bytes() == b"damaged"

    remove_if_damaged(shard, is_damaged)
    assert not any(tmp_path.iterdir())
    with MissingShards([shard]) as missing:
        assert missing.claim() is not None
        shard.path.write_bytes(b"damaged")  # whoever claimed it writes it anew
        remove_if_damaged(shard, is_damaged)
        assert shard.path.exists()
    shard.path.write_bytes(b"written anew")
    remove_if_damaged(shard, is_damaged)
    assert shard.path.exists()
