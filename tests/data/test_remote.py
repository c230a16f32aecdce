"""Datasets that lie elsewhere: what is copied, what is kept, and what happens if something fails."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.registry import known_implementations

from rdvla.data import EpisodeDataset
from rdvla.data.remote import mirror, shard_cache, source
from rdvla.data.remote.mirror import Streaming
from rdvla.data.remote.shard_cache import Shard, ShardCache
from rdvla.errors import ConfigError, DatasetError, RDVLAError
from tests.support.far_datasets import (
    FILES,
    Fetched,
    fetched,
    in_memory,
    video_sizes,
    watched,
    write_sharded,
)

__all__ = ["fetched"]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_sharded(tmp_path_factory.mktemp("far") / "demos")
    assert len(video_sizes(root)) == FILES
    return root


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FIRST_WAIT", 0.0)


@pytest.fixture(params=["memory", "file"])
def address(request: pytest.FixtureRequest, sharded: Path) -> str:
    return in_memory(sharded) if request.param == "memory" else f"file://{sharded}"


def opened(address: str, folder: Path, limit: int = 10**9) -> EpisodeDataset:
    return EpisodeDataset(address, chunk_size=4, streaming=Streaming(folder, limit))


def test_a_dataset_elsewhere_reads_as_the_same_dataset_here(
    address: str, sharded: Path, tmp_path: Path, fetched: Fetched
) -> None:
    here, far = EpisodeDataset(sharded, chunk_size=4), opened(address, tmp_path)
    assert far.is_streamed and not here.is_streamed
    assert not fetched.videos(), "opening a dataset copies no video"
    assert far.notes == here.notes and far.tasks == here.tasks and far.num_frames == here.num_frames
    for name in ("action", "observation.state"):
        np.testing.assert_array_equal(far.column(name), here.column(name))
    frames = np.arange(0, far.num_frames, 5)
    assert far.images(frames)["front"].equal(here.images(frames)["front"])
    assert len(far.shards.files) == FILES
    assert sorted(fetched.videos()) == sorted(video_sizes(sharded)), "each file is copied once"
    again = opened(address, tmp_path)
    assert again.images(frames)["front"].equal(here.images(frames)["front"])
    assert len(fetched.videos()) == FILES, "another run finds them"
    assert again.fingerprint() == far.fingerprint()


def test_fetched_files_never_take_more_than_their_bound(
    address: str, sharded: Path, tmp_path: Path, fetched: Fetched
) -> None:
    sizes = video_sizes(sharded)
    limit = int(2.5 * max(sizes.values()))
    far, here = opened(address, tmp_path, limit), EpisodeDataset(sharded, chunk_size=4)
    with watched(tmp_path / "files") as held:
        for seed in range(4):
            frames = np.random.default_rng(seed).permutation(far.num_frames)[:40]
            assert far.images(frames)["front"].equal(here.images(frames)["front"])
    assert len(held) > 3 and max(held) <= limit
    assert len(fetched.videos()) > FILES, "files left to make room, and came again"


def test_a_reader_can_be_sent_to_another_process(address: str, sharded: Path, tmp_path: Path) -> None:
    far = opened(address, tmp_path)
    sent = pickle.loads(pickle.dumps(far))
    assert sent.images([3])["front"].equal(EpisodeDataset(sharded, chunk_size=4).images([3])["front"])


def test_the_least_recently_used_file_goes_first_and_none_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ShardCache(tmp_path / "files")
    cache.set_limit(300)
    shards = [Shard(f"{number}.mp4", 100, f"far/{number}.mp4") for number in range(5)]

    def write(path: Path) -> None:
        path.write_bytes(bytes(100))

    for number in (0, 1, 2, 0):
        with cache.lease(shards[number], write):
            pass
    with cache.lease(shards[3], write):
        assert [cache.holds(shard) for shard in shards] == [True, False, True, True, False]
        with cache.lease(shards[0], write), cache.lease(shards[2], write):
            assert not cache.prefetch(shards[4], write, spare=())
            monkeypatch.setattr(shard_cache, "LONGEST_WAIT", 0.2)
            with pytest.raises(DatasetError, match=r"no room for far/4\.mp4.*larger data\.cache_gb"):
                cache.lease(shards[4], write).__enter__()
            assert all(cache.holds(shards[number]) for number in (0, 2, 3))
    assert not cache.prefetch(shards[4], write, spare=[shards[n].key for n in (0, 2, 3)])
    assert cache.prefetch(shards[4], write, spare=[shards[0].key, shards[2].key])
    assert [cache.holds(shard) for shard in shards] == [True, False, True, False, True]
    cache.set_limit(100)
    assert sum(map(cache.holds, shards)) == 1


def _die_half_way(folder: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(bytes(50))
        os.kill(os.getpid(), signal.SIGKILL)

    with ShardCache(folder).lease(Shard("one.mp4", 100, "far"), write):
        pass


def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path)
    cache.set_limit(150)
    process = multiprocessing.get_context("spawn").Process(target=_die_half_way, args=(tmp_path,))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert [path.stat().st_size for path in tmp_path.glob(".*.part")] == [50]
    with cache.lease(Shard("one.mp4", 100, "far"), lambda path: path.write_bytes(b"x" * 100)) as path:
        assert path.read_bytes() == b"x" * 100
    assert not list(tmp_path.glob(".*.part"))


def _use_many(folder: Path, log: Path, number: int) -> None:
    cache = ShardCache(folder)
    for round_number in range(20):
        shard = Shard(f"{(round_number * 7 + number) % 5}.mp4", 100, "far")

        def write(path: Path, content: bytes = shard.key.encode() * 20) -> None:
            with log.open("a") as file:
                file.write("x")
            path.write_bytes(content)

        with cache.lease(shard, write) as path:
            assert path.read_bytes() == shard.key.encode() * 20


def test_several_processes_share_a_bounded_folder(tmp_path: Path) -> None:
    folder, log = tmp_path / "files", tmp_path / "log"
    ShardCache(folder).set_limit(300)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_use_many, args=(folder, log, number)) for number in range(3)]
    with watched(folder) as held:
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert max(held) <= 300
    assert len(log.read_text()) < 60, "what another process fetched is used"


def test_a_file_that_another_fetches_is_waited_for_however_long_that_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest wait for room is over many times meanwhile."""
    monkeypatch.setattr(shard_cache, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(shard_cache, "POLL", 0.01)
    cache, shard = ShardCache(tmp_path), Shard("one.mp4", 100, "far")
    cache.set_limit(100)
    begun, go_on = threading.Event(), threading.Event()

    def slowly(path: Path) -> None:
        begun.set()
        assert go_on.wait(60)
        path.write_bytes(b"x" * 100)

    def never(_path: Path) -> None:
        raise AssertionError("it is fetched twice")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.prefetch, shard, slowly, spare=())
        assert begun.wait(60)
        assert not cache.prefetch(shard, never, spare=()), "what is only fetched ahead waits for nobody"
        second = pool.submit(_content, cache, shard, never)
        with pytest.raises(FutureTimeout):
            second.result(timeout=0.3)
        go_on.set()
        assert first.result(60) and second.result(60) == b"x" * 100


def _content(cache: ShardCache, shard: Shard, fetch: Any) -> bytes:
    with cache.lease(shard, fetch) as path:
        return path.read_bytes()


def test_one_dataset_that_changes_is_noticed(sharded: Path, tmp_path: Path) -> None:
    place = in_memory(sharded)
    far = opened(place, tmp_path)
    name = list(video_sizes(sharded))[-1]
    system, path = fsspec.filesystem("memory"), f"/{place.partition('://')[2]}/{name}"
    system.pipe(path, system.cat_file(path) + b"more")
    with pytest.raises(DatasetError, match=rf"{name} has changed since this run opened the dataset"):
        far.images([far.num_frames - 1])
    assert not list((tmp_path / "files").glob("*.mp4")) and not list((tmp_path / "files").glob(".*.part"))
    assert opened(place, tmp_path).fingerprint() != far.fingerprint()
    system.rm(path)
    with pytest.raises(DatasetError, match=rf"{name} is missing"):
        far.images([far.num_frames - 1])


class Failing:
    """Lets copies from `memory://` fail a number of times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.calls = 0
        system = type(fsspec.filesystem("memory"))
        copy = system.get_file

        def fails(this: Any, path: str, *args: Any, **options: Any) -> Any:
            self.calls += path.endswith(".mp4")
            if path.endswith(".mp4") and self.calls <= times:
                raise ConnectionResetError("the peer hung up: https://store/x.mp4?Signature=SECRET")
            return copy(this, path, *args, **options)

        monkeypatch.setattr(system, "get_file", fails)


def test_a_failing_connection_is_tried_again(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = opened(in_memory(sharded), tmp_path)
    failing = Failing(monkeypatch, times=source.TRIES - 1)
    assert far.images([0])["front"].shape[0] == 1
    assert failing.calls == source.TRIES


def test_a_connection_that_keeps_failing_is_one_sentence_without_secrets(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = opened(in_memory(sharded), tmp_path)
    failing = Failing(monkeypatch, times=10**6)
    with pytest.raises(DatasetError, match=f"{source.TRIES} tries failed.*check the network") as caught:
        far.images([0])
    assert "SECRET" not in str(caught.value) and failing.calls == source.TRIES
    assert not list((tmp_path / "files").glob(".*.part"))


def test_what_does_not_fit_is_refused_before_it_is_fetched(
    address: str, sharded: Path, tmp_path: Path, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = max(video_sizes(sharded).values())
    with pytest.raises(DatasetError, match=r"\.mp4 has .* more than data\.cache_gb"):
        opened(address, tmp_path, largest - 1)
    monkeypatch.setattr(mirror, "SMALL_GB", 0)
    with pytest.raises(DatasetError, match=r"its numbers .* are copied as a whole, more than"):
        opened(address, tmp_path, largest)
    assert not fetched.names and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("s3://key:secret@bucket/demos", "environment"),
        ("https://host/demos?token=secret", "environment"),
        ("filecache::memory://demos", "environment|not a folder"),
        ("nosuch://bucket/demos", "Protocol not known"),
        ("memory://nothing/here", "holds no files|is missing"),
    ],
)
def test_addresses_that_cannot_be_used_say_why(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(RDVLAError, match=said) as caught:
        opened(name, tmp_path)
    assert "secret" not in str(caught.value)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        known_implementations,
        "elsewhere",
        {"class": "no_such_package.System", "err": "Install it"},
    )
    with pytest.raises(ConfigError, match="needs the package no_such_package: pip install no_such_package"):
        opened("elsewhere://bucket/demos", tmp_path)
