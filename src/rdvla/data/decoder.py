"""Decode single frames of a video file by their time, forwards without seeking where that is shorter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from rdvla.data.pixels import RGBConverter
from rdvla.data.video import DECODE_ERRORS, KEYFRAME_INTERVAL
from rdvla.errors import DatasetError


class VideoDecoder:
    """One open video file. Not safe to share between threads or processes."""

    def __init__(self, path: Path, *, fps: float, rgb: RGBConverter) -> None:
        """Open the file.

        Args:
            path: the MP4 file.
            fps: frames per second; a frame counts as found when it lies within a quarter frame of the wanted
                time.
            rgb: makes the images of the frames.

        Raises:
            DatasetError: the file is no video that can be opened.
        """
        self.path = path
        self._tolerance = 0.25 / fps
        self._reach = 2 * KEYFRAME_INTERVAL / fps  # decode on to this far ahead, seek beyond
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
            self._stream.thread_type = "NONE"
            self._tick = float(self._stream.time_base or 0)  # seconds
            self._frames: Iterator[VideoFrame] = self._container.decode(self._stream)
        except DECODE_ERRORS as error:
            raise self._damaged(error) from error
        self._frame: VideoFrame | None = None  # the last one decoded
        self._rgb = rgb

    def read(self, times: Sequence[float]) -> list[NDArray[np.uint8]]:
        """Frames at the given times (ascending, in seconds), each (H, W, 3) uint8 RGB.

        Raises:
            DatasetError: the file is damaged, or has no frame at one of the times.
        """
        images: list[NDArray[np.uint8]] = []
        shown: VideoFrame | None = None
        for time in times:
            try:
                frame = self._frame_at(time)
                if frame is not shown:
                    images.append(self._rgb(frame))
                else:
                    images.append(images[-1])
            except DECODE_ERRORS as error:
                raise error if isinstance(error, DatasetError) else self._damaged(error) from error
            shown = frame
        return images

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _frame_at(self, time: float) -> VideoFrame:
        now = self._time(self._frame)
        if not now - self._tolerance <= time <= now + self._reach:
            self._seek(time)
        while self._frame is None or self._time(self._frame) < time - self._tolerance:
            self._frame = self._next(time)
        if self._time(self._frame) > time + self._tolerance:
            raise DatasetError(
                f"{self.path} has no frame at {time:.4f} s (the next is {self._time(self._frame):.4f} s)"
            )
        return self._frame

    def _next(self, time: float) -> VideoFrame:
        try:
            frame = next(self._frames)
        except StopIteration:
            raise DatasetError(f"{self.path} ends before {time:.4f} s: it is truncated or damaged") from None
        if frame.is_corrupt or frame.pts is None:
            raise DatasetError(f"{self.path} is damaged near {time:.4f} s")
        return frame

    def _seek(self, time: float) -> None:
        """Go to the last keyframe at or before `time`."""
        ticks = int((time + self._tolerance) / (self._tick or 1))
        self._container.seek(max(ticks, 0), stream=self._stream, backward=True)
        self._frames = self._container.decode(self._stream)
        self._frame = None

    def _time(self, frame: VideoFrame | None) -> float:
        if frame is None or frame.pts is None:
            return -np.inf
        return frame.pts * self._tick if self._tick else -np.inf

    def _damaged(self, error: Any) -> DatasetError:
        return DatasetError(f"{self.path} cannot be decoded: it is truncated or damaged ({error})")
