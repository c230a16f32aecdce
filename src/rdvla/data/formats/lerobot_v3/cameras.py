"""Images of a camera: decoded from MP4 files, or from pictures stored in the data files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rdvla.data.decoding import DECODE_ERRORS, ImageConverter, VideoDecoder, decode_picture
from rdvla.data.formats.lerobot_v3.files import DatasetFiles, column_values
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

    def __init__(
        self,
        files: EpisodeFiles,
        convert: ImageConverter,
        *,
        fps: float,
        starts: NDArray[np.float64],
        times: NDArray[Any],
    ) -> None:
        """Open nothing yet.

        Args:
            files: the camera's video files.
            convert: makes the images of decoded frames.
            fps: frames per second.
            starts: (E,) time at which each episode begins in its file, in seconds.
            times: (N,) time of each frame in its episode, in seconds.
        """
        self._files = files
        self._fps = fps
        self._starts = starts
        self._times = times
        self._convert = convert
        self._decoders: OrderedDict[str, VideoDecoder] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "files": self._files,
            "convert": self._convert,
            "fps": self._fps,
            "starts": self._starts,
            "times": self._times,
        }

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
        times = self._starts[episodes] + self._times[frames].astype(np.float64)
        wanted: dict[str, list[tuple[float, int]]] = {}
        for index, (episode, time) in enumerate(zip(episodes.tolist(), times.tolist(), strict=True)):
            wanted.setdefault(self._files.names[episode], []).append((time, index))
        images: dict[int, NDArray[np.uint8]] = {}
        for file, items in sorted(wanted.items()):
            items.sort()
            found = self._decoder(file).read([time for time, _ in items])
            images.update(zip((index for _, index in items), found, strict=True))
        return _stacked([images[index] for index in range(len(images))], self._files)

    def _decoder(self, file: str) -> VideoDecoder:
        if file not in self._decoders:
            path = self._files.folder.path(file)
            self._decoders[file] = VideoDecoder(path, fps=self._fps, convert=self._convert)
            if len(self._decoders) > MAX_OPEN_FILES:
                self._decoders.popitem(last=False)[1].close()
        self._decoders.move_to_end(file)
        return self._decoders[file]


class StoredCamera:
    """Reads images of a camera from the PNG or JPEG bytes in the data files."""

    def __init__(self, files: EpisodeFiles, key: str, convert: ImageConverter) -> None:
        """Open nothing yet.

        Args:
            files: the data files.
            key: the camera's feature.
            convert: makes the images of decoded pictures.
        """
        self._files = files
        self._key = key
        self._convert = convert
        self._open: _StoredPictures | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self._files, "key": self._key, "convert": self._convert}

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
        if self._open is None or self._open.file != file:
            self._open = None  # free the last file's pictures before loading the next ones
            self._open = _StoredPictures(self._files.folder, file, self._key)
        try:
            return self._convert(decode_picture(self._open.content(frame)))
        except (KeyError, TypeError, *DECODE_ERRORS) as error:
            path = self._files.folder.root / file
            raise DatasetError(
                f"{path}: the image {self._key!r} of frame {frame} cannot be read: {error}"
            ) from error


class _StoredPictures:
    """The encoded pictures of one data file."""

    def __init__(self, folder: DatasetFiles, file: str, key: str) -> None:
        self.file = file
        table = folder.table(file, [key, "index"])
        self._index = column_values(table, "index", path=folder.root / file)
        self._column: pa.ChunkedArray = table.column(key)

    def content(self, frame: int) -> bytes:
        """Return a frame's picture file; raise KeyError or TypeError if there is none."""
        line = int(np.searchsorted(self._index, frame))
        if line == len(self._index) or self._index[line] != frame:
            raise KeyError("the frame is missing")
        content: Any = self._column[line].as_py()["bytes"]
        if not isinstance(content, bytes):
            raise TypeError("its bytes are missing (it is stored as a path to another file)")
        return content


def _stacked(images: Sequence[NDArray[np.uint8]], files: EpisodeFiles) -> NDArray[np.uint8]:
    if len({image.shape for image in images}) > 1:
        raise DatasetError(f"{files.folder.root}: the images of one camera differ in size: {files.names[0]}")
    return np.stack(images)
