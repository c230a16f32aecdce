"""Camera images of dataset rows: decoded from MP4 files, or from images stored in the data files."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from rdvla.data.decoder import VideoDecoder, rgb
from rdvla.data.metadata import DatasetMetadata
from rdvla.data.video import DECODE_ERRORS
from rdvla.errors import DatasetError

MAX_OPEN_FILES = 16


class ImageReader:
    """Reads the images of one dataset. Every process (data loader worker) opens its own files."""

    def __init__(self, metadata: DatasetMetadata) -> None:
        self._metadata = metadata
        self._decoders: OrderedDict[str, VideoDecoder] = OrderedDict()
        self._stored: tuple[tuple[str, str], dict[int, Any]] | None = (
            None  # the last data file's image column
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"_metadata": self._metadata, "_decoders": OrderedDict(), "_stored": None}

    def read(
        self, key: str, *, episodes: NDArray[np.int64], times: NDArray[np.float64], rows: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Images of one camera.

        Args:
            key: the camera's feature key.
            episodes: (B,) episode of each row.
            times: (B,) time in the episode, in seconds.
            rows: (B,) row of the dataset.

        Returns:
            (B, H, W, 3) RGB.

        Raises:
            DatasetError: naming the video or data file that is missing or damaged.
        """
        if self._metadata.features[key]["dtype"] == "image":
            images = [self._stored_image(key, int(e), int(r)) for e, r in zip(episodes, rows, strict=True)]
        else:
            images = self._video_images(key, episodes, times)
        if len({image.shape for image in images}) > 1:
            raise DatasetError(f"{self._metadata.files.root}: the images of {key!r} differ in size")
        return np.stack(images)

    def _video_images(
        self, key: str, episodes: NDArray[np.int64], times: NDArray[np.float64]
    ) -> list[NDArray[np.uint8]]:
        wanted: dict[str, list[tuple[float, int]]] = {}
        starts = self._metadata.episodes[f"videos/{key}/from_timestamp"]
        for place, (episode, time) in enumerate(zip(episodes.tolist(), times.tolist(), strict=True)):
            file = self._metadata.video_file(episode, key)
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
            self._decoders[file] = VideoDecoder(path, fps=self._metadata.fps)
            if len(self._decoders) > MAX_OPEN_FILES:
                self._decoders.popitem(last=False)[1].close()
        self._decoders.move_to_end(file)
        return self._decoders[file]

    def _stored_image(self, key: str, episode: int, row: int) -> NDArray[np.uint8]:
        """An image of a feature of dtype "image": PNG or JPEG bytes in a column of the data file."""
        file = self._metadata.data_file(episode)
        if self._stored is None or self._stored[0] != (file, key):
            table = self._metadata.files.table(file, [key, "index"])
            index = table.column("index").to_pylist()
            self._stored = ((file, key), dict(zip(index, table.column(key).to_pylist(), strict=True)))
        path = self._metadata.files.root / file
        try:
            content = self._stored[1][row]["bytes"]
            with av.open(io.BytesIO(content), "r") as container:
                return rgb(next(container.decode(video=0)))
        except (KeyError, TypeError, StopIteration, *DECODE_ERRORS) as error:
            raise DatasetError(f"{path}: the image {key!r} of row {row} cannot be read: {error}") from error
