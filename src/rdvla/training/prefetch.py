"""Fetch the files of a streamed dataset that will be needed next, while an update runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from rdvla.data import EpisodeDataset
from rdvla.data.formats.base import ImagesInFiles
from rdvla.data.image_shards import ShardFile
from rdvla.errors import RDVLAError
from rdvla.training.choices import FrameChoice, WindowedChoice

LAST_WAIT = 2.0  # seconds for the file that is being fetched when a run ends


@dataclass(frozen=True)
class _Wanted:
    """Files in the order in which they are needed, and those that must stay."""

    files: tuple[ShardFile, ...]
    open: frozenset[ShardFile]


class Ahead(Protocol):
    """What is told before every update, so that it fetches ahead."""

    def before(self, step: int) -> None:
        """Tell that update number `step` is about to begin."""
        ...


class NothingAhead:
    """Everything is here."""

    def before(self, step: int) -> None:
        """Do nothing."""


class Prefetcher:
    """Tells a thread of its own which shards are open and which open next.

    Args:
        dataset: that is streamed.
        choice: how frames are chosen.
        batch_size: B.
    """

    def __init__(self, dataset: EpisodeDataset, choice: WindowedChoice, *, batch_size: int) -> None:
        self._dataset = dataset
        self._choice = choice
        self._batch_size = batch_size
        self._wanted: _Wanted | None = None
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def before(self, step: int) -> None:
        """Tell that update number `step` is about to begin."""
        sample = step * self._batch_size
        opened = [self._dataset.shards.files[shard] for shard in self._choice.open_shards(sample)]
        following = [self._dataset.shards.files[shard] for shard in self._choice.next_shards(sample)]
        files = tuple(dict.fromkeys(file for own in (*opened, *following) for file in own))
        wanted = _Wanted(files, frozenset(file for own in opened for file in own))
        with self._changed:
            if wanted != self._wanted:
                self._wanted = wanted
                self._changed.notify()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, without waiting for a file that takes long to fetch."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(timeout=LAST_WAIT)

    def _run(self) -> None:
        seen: _Wanted | None = None
        while (wanted := self._after(seen)) is not None:
            seen = wanted
            for file in wanted.files:
                if self._stopped or self._wanted is not wanted:
                    break
                # What cannot be fetched now is fetched, or told, when it is needed.
                with suppress(RDVLAError, OSError):
                    self._fetch(file, wanted.open)

    def _after(self, seen: _Wanted | None) -> _Wanted | None:
        """Wait for something else than `seen`; None: there is nothing more to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._wanted is not seen)
            return None if self._stopped else self._wanted

    def _fetch(self, file: ShardFile, opened: frozenset[ShardFile]) -> None:
        reader = self._reader(file)
        if reader is not None:
            # Datasets share the folder, so the open files of all of them stay.
            keepers = [(self._reader(other), other.name) for other in opened]
            spare = frozenset(keeper.kept_as(name) for keeper, name in keepers if keeper is not None)
            reader.prefetch(file.name, spare=spare)

    def _reader(self, file: ShardFile) -> ImagesInFiles | None:
        reader = self._dataset.mixture.members[file.member].reader
        return reader if isinstance(reader, ImagesInFiles) and reader.is_streamed else None


@contextmanager
def prefetching(dataset: EpisodeDataset, choice: FrameChoice, *, batch_size: int) -> Iterator[Ahead]:
    """Yield what fetches ahead while the body runs, or does nothing if nothing can be fetched ahead."""
    if not (dataset.is_streamed and isinstance(choice, WindowedChoice)):
        yield NothingAhead()
        return
    prefetcher = Prefetcher(dataset, choice, batch_size=batch_size)
    prefetcher.start()
    try:
        yield prefetcher
    finally:
        prefetcher.stop()
