"""Decode images: single frames of a video file by their time, and PNG or JPEG pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from rdvla.errors import DatasetError
from rdvla.processing.fit import ImageFit

# PyAV reports damage by any of these, depending on where the damage lies.
DECODE_ERRORS = (av.error.FFmpegError, OSError, ValueError, IndexError, EOFError, MemoryError)
FRAMES_TO_DECODE = 40  # how far ahead to decode rather than seek: two keyframe intervals of our own videos
CODECS = {b"\x89PNG": "png", b"\xff\xd8\xff": "mjpeg"}  # by the first bytes of a file


class ImageConverter:
    """Turns decoded pictures into RGB images that fit a policy. Not safe to share between threads.

    FFmpeg's converter takes ten times longer to set up than to run, so one is kept for all pictures. It sets
    itself up again when size or format change.
    """

    def __init__(self, fit: ImageFit | None = None) -> None:
        """Set up nothing yet.

        Args:
            fit: makes images square; None: they keep their shape.
        """
        self.fit = fit
        self._reformatter = VideoReformatter()

    def __reduce__(self) -> tuple[type[ImageConverter], tuple[ImageFit | None]]:
        return ImageConverter, (self.fit,)

    def __call__(self, picture: VideoFrame | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a picture (a decoded one, or (H, W, 3) RGB) as (H, W, 3) RGB, square if it is fitted."""
        if isinstance(picture, VideoFrame):
            converted = self._reformatter.reformat(picture, format="rgb24", threads=1)
            picture = np.asarray(converted.to_ndarray(), dtype=np.uint8)
        return picture if self.fit is None else self.fit(picture)


def decode_picture(content: bytes) -> VideoFrame:
    """Decode the bytes of one PNG or JPEG file.

    Raises:
        ValueError: another kind of file, or no picture in it.
        av.error.FFmpegError: a damaged file.
    """
    names = [name for start, name in CODECS.items() if content.startswith(start)]
    if not names:
        raise ValueError("it is neither PNG nor JPEG")
    codec = av.CodecContext.create(names[0], "r")
    assert isinstance(codec, VideoCodecContext)
    codec.thread_type = "NONE"
    frames = [*codec.decode(av.Packet(content)), *codec.decode(None)]
    if not frames or frames[0].is_corrupt:
        raise ValueError("it holds no whole picture")
    return frames[0]


class VideoDecoder:
    """One open video file. Not safe to share between threads or processes."""

    def __init__(self, path: Path, *, fps: float, convert: ImageConverter) -> None:
        """Open the file.

        Args:
            path: the MP4 file.
            fps: frames per second; a frame is found if it lies within a quarter frame of the wanted time.
            convert: makes the images of decoded frames.

        Raises:
            DatasetError: the file is no video that can be opened.
        """
        self.path = path
        self._tolerance = 0.25 / fps
        self._reach = FRAMES_TO_DECODE / fps
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
            self._stream.thread_type = "NONE"
            self._tick = float(self._stream.time_base or 0)  # seconds
            self._frames: Iterator[VideoFrame] = self._container.decode(self._stream)
        except DECODE_ERRORS as error:
            raise self._damaged(error) from error
        self._frame: VideoFrame | None = None  # the last one decoded
        self._convert = convert

    def read(self, times: Sequence[float]) -> list[NDArray[np.uint8]]:
        """Read the frames at the given times (ascending, in seconds), each (H, W, 3) uint8 RGB.

        Raises:
            DatasetError: the file is damaged, or has no frame at one of the times.
        """
        images: list[NDArray[np.uint8]] = []
        shown: VideoFrame | None = None
        for time in times:
            try:
                frame = self._frame_at(time)
                if frame is not shown:
                    images.append(self._convert(frame))
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
        """Move to the last keyframe at or before `time`."""
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
