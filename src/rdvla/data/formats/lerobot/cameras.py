"""Images of a camera: decoded from MP4 files, or from pictures stored in the data files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rdvla.data.decoding import DECODE_ERRORS, ImageConverter, VideoDecoder, decode_picture
from rdvla.data.formats.lerobot.files import PICTURES, DatasetFiles
from rdvla.errors import DatasetError

MAX_OPEN_FILES = 16


@dataclass(frozen=True)
class EpisodeFiles:
    """Which file each episode of a dataset lies in.

    Attributes:
        folder: of the dataset.
        names: E names relative to the folder, one per episode.
        stop: (E,) number of the frame after the episode's last.
    """

    folder: DatasetFiles
    names: Sequence[str]
    stop: NDArray[np.int64]

    def episode_of(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the episode of each of (B,) frames."""
        return np.searchsorted(self.stop, frames, side="right").astype(np.int64)


class VideoCamera:
    """Reads images of a camera from MP4 files. Every process and thread needs its own."""

    def __init__(self, files: EpisodeFiles, convert: ImageConverter, *, shift: NDArray[np.int64]) -> None:
        """Open nothing yet.

        Args:
            files: the camera's video files.
            convert: makes the images of decoded pictures.
            shift: (E,) number of a picture in its file, less the number of its frame in the dataset.
        """
        self._files = files
        self._shift = shift
        self._convert = convert
        self._decoders: OrderedDict[str, VideoDecoder] = OrderedDict()
        self._times: dict[str, NDArray[np.int64]] = {}  # of every file that was opened once

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self._files, "convert": self._convert, "shift": self._shift}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # open files do not travel

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read images, fastest in ascending order.

        Args:
            frames: (B,) frame numbers.

        Returns:
            (B, H, W, 3) RGB.

        Raises:
            DatasetError: naming the video that is missing or damaged.
        """
        episodes = self._files.episode_of(frames)
        numbers = frames + self._shift[episodes]
        wanted: dict[str, list[tuple[int, int]]] = {}
        for index, (episode, number) in enumerate(zip(episodes.tolist(), numbers.tolist(), strict=True)):
            wanted.setdefault(self._files.names[episode], []).append((number, index))
        images: dict[int, NDArray[np.uint8]] = {}
        for file, items in sorted(wanted.items()):
            items.sort()
            with self._opened(file) as decoder:
                found = decoder.read([number for number, _ in items])
            images.update(zip((index for _, index in items), found, strict=True))
        return _stacked([images[index] for index in range(len(images))], self._files)

    @contextmanager
    def _opened(self, file: str) -> Iterator[VideoDecoder]:
        if not self._files.folder.is_remote(file):
            yield self._decoder(file)
            return
        # It may leave the cache after every use: decoding takes far longer than opening it again.
        with self._files.folder.leased(file) as path:
            decoder = VideoDecoder(path, convert=self._convert, times=self._times.get(file))
            self._times[file] = decoder.times
            try:
                yield decoder
            finally:
                decoder.close()

    def _decoder(self, file: str) -> VideoDecoder:
        if file not in self._decoders:
            path = self._files.folder.path(file)
            decoder = VideoDecoder(path, convert=self._convert, times=self._times.get(file))
            self._decoders[file] = decoder
            self._times[file] = decoder.times
            if len(self._decoders) > MAX_OPEN_FILES:
                self._decoders.popitem(last=False)[1].close()
        self._decoders.move_to_end(file)
        return self._decoders[file]


class StoredCamera:
    """Reads images of a camera from the PNG or JPEG bytes in the data files."""

    def __init__(
        self, files: EpisodeFiles, key: str, convert: ImageConverter, *, rows: NDArray[np.int64]
    ) -> None:
        """Open nothing yet.

        Args:
            files: the data files.
            key: the camera's feature.
            convert: makes the images of decoded pictures.
            rows: (N,) row of each frame in its file.
        """
        self._files = files
        self._key = key
        self._convert = convert
        self._rows = rows
        self._open: tuple[str, pa.ChunkedArray] | None = None  # the last file and its column

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self._files, "key": self._key, "convert": self._convert, "rows": self._rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # open files do not travel

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read images, fastest in ascending order.

        Args:
            frames: (B,) frame numbers.

        Returns:
            (B, H, W, 3) RGB.

        Raises:
            DatasetError: naming the data file that is missing or damaged.
        """
        episodes = self._files.episode_of(frames).tolist()
        images = [
            self._image(self._files.names[episode], frame)
            for episode, frame in zip(episodes, frames.tolist(), strict=True)
        ]
        return _stacked(images, self._files)

    def _image(self, file: str, frame: int) -> NDArray[np.uint8]:
        if self._open is None or self._open[0] != file:
            self._open = None  # free the last file's pictures before loading the next ones
            self._open = file, self._files.folder.table(file, [self._key]).column(self._key)
        row = int(self._rows[frame])
        try:
            content = picture_bytes(self._files.folder, self._open[1][row].as_py())
            return self._convert(decode_picture(content))
        except (KeyError, TypeError, *DECODE_ERRORS) as error:
            path = self._files.folder.root / file
            raise DatasetError(
                f"{path}: the image {self._key!r} in row {row} cannot be read: {error}"
            ) from error


def picture_bytes(folder: DatasetFiles, value: Any) -> bytes:
    """Return the picture file that a cell of a data file holds, or names by its path in the dataset.

    Raises:
        TypeError: it does neither.
        OSError: the file that it names cannot be read.
    """
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return content
    name = value.get("path") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise TypeError("it holds neither a picture nor the path of one")
    path = (folder.root / name).resolve()
    if not path.is_relative_to(folder.root.resolve()):
        raise TypeError(f"it is stored outside the dataset, as {name}")
    if path.suffix.lower() not in PICTURES:  # others would not count for the fingerprint
        raise TypeError(f"it is stored as {name}, whose ending is none of {', '.join(PICTURES)}")
    return path.read_bytes()


def _stacked(images: Sequence[NDArray[np.uint8]], files: EpisodeFiles) -> NDArray[np.uint8]:
    if len({image.shape for image in images}) > 1:
        raise DatasetError(f"{files.folder.root}: the images of one camera differ in size: {files.names[0]}")
    return np.stack(images)
