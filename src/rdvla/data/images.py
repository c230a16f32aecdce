"""Camera images of dataset rows: decoded from MP4 files, or from pictures stored in the data files."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rdvla.data.dataset_files import column_values
from rdvla.data.decoder import VideoDecoder
from rdvla.data.metadata import DatasetMetadata
from rdvla.data.pixels import RGBConverter, decode_picture
from rdvla.data.video import DECODE_ERRORS
from rdvla.errors import DatasetError

MAX_OPEN_FILES = 16


class CameraReader:
    """Reads the images of one camera of one dataset. Every process and thread needs its own."""

    def __init__(self, metadata: DatasetMetadata, key: str, *, size: int | None = None) -> None:
        """Open nothing yet.

        Args:
            metadata: of the dataset.
            key: the camera's feature, of dtype "video" or "image".
            size: side in pixels that the images are scaled to; None: they stay as they are.
        """
        self._metadata = metadata
        self._key = key
        self._size = size
        self._is_video = metadata.features[key]["dtype"] == "video"
        self._forget()

    def _forget(self) -> None:
        self._decoders: OrderedDict[str, VideoDecoder] = OrderedDict()
        self._stored: _StoredPictures | None = None
        self._rgb = RGBConverter(size=self._size)

    def __getstate__(self) -> dict[str, Any]:
        return {"metadata": self._metadata, "key": self._key, "size": self._size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # open files do not travel

    def read(
        self, *, episodes: NDArray[np.int64], times: NDArray[np.float64], rows: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Images of some rows, fastest in ascending order.

        Args:
            episodes: (B,) episode of each row.
            times: (B,) time in the episode, in seconds.
            rows: (B,) row of the dataset.

        Returns:
            (B, H, W, 3) RGB.

        Raises:
            DatasetError: naming the video or data file that is missing or damaged.
        """
        if self._is_video:
            images = self._video_images(episodes, times)
        else:
            images = [self._stored_image(int(e), int(r)) for e, r in zip(episodes, rows, strict=True)]
        if len({image.shape for image in images}) > 1:
            raise DatasetError(f"{self._metadata.files.root}: the images of {self._key!r} differ in size")
        return np.stack(images)

    def _video_images(
        self, episodes: NDArray[np.int64], times: NDArray[np.float64]
    ) -> list[NDArray[np.uint8]]:
        wanted: dict[str, list[tuple[float, int]]] = {}
        starts = self._metadata.episodes[f"videos/{self._key}/from_timestamp"]
        for place, (episode, time) in enumerate(zip(episodes.tolist(), times.tolist(), strict=True)):
            file = self._metadata.video_file(episode, self._key)
            wanted.setdefault(file, []).append((float(starts[episode]) + time, place))
        images: dict[int, NDArray[np.uint8]] = {}
        for file, items in sorted(wanted.items()):
            items.sort()
            read = self._decoder(file).read([time for time, _ in items])
            images.update(zip((place for _, place in items), read, strict=True))
        return [images[place] for place in range(len(images))]

    def _decoder(self, file: str) -> VideoDecoder:
        if file not in self._decoders:
            path = self._metadata.files.path(file)
            self._decoders[file] = VideoDecoder(path, fps=self._metadata.fps, rgb=self._rgb)
            if len(self._decoders) > MAX_OPEN_FILES:
                self._decoders.popitem(last=False)[1].close()
        self._decoders.move_to_end(file)
        return self._decoders[file]

    def _stored_image(self, episode: int, row: int) -> NDArray[np.uint8]:
        """An image of a feature of dtype "image": the bytes of a PNG or JPEG file in the data file."""
        file = self._metadata.data_file(episode)
        if self._stored is None or self._stored.file != file:
            self._stored = None  # the last file's pictures go before the next ones come
            self._stored = _StoredPictures(self._metadata, file, self._key)
        try:
            return self._rgb(decode_picture(self._stored.content(row)))
        except (KeyError, TypeError, *DECODE_ERRORS) as error:
            path = self._metadata.files.root / file
            raise DatasetError(
                f"{path}: the image {self._key!r} of row {row} cannot be read: {error}"
            ) from error


class _StoredPictures:
    """The still encoded pictures of one data file."""

    def __init__(self, metadata: DatasetMetadata, file: str, key: str) -> None:
        self.file = file
        table = metadata.files.table(file, [key, "index"])
        self._index = column_values(table, "index", path=metadata.files.root / file)
        self._column: pa.ChunkedArray = table.column(key)

    def content(self, row: int) -> bytes:
        """The file of the picture of a row; raises KeyError or TypeError where there is none."""
        place = int(np.searchsorted(self._index, row))
        if place == len(self._index) or self._index[place] != row:
            raise KeyError("the row is missing")
        content: Any = self._column[place].as_py()["bytes"]
        if not isinstance(content, bytes):
            raise TypeError("its bytes are missing (it is stored as a path to another file)")
        return content
