"""Decode images: single frames of a video file by their time, and PNG or JPEG pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from rdvla.errors import DatasetError
from rdvla.processing.fit import ImageFit

# PyAV reports damage by any of these, depending on where the damage lies.
DECODE_ERRORS = (av.error.FFmpegError, OSError, ValueError, IndexError, EOFError, MemoryError)
FRAMES_TO_DECODE = 40  # how far ahead to decode rather than seek: two keyframe intervals of our own videos
MOST_PIXELS = 1 << 26  # of a picture in a data file: 8192 x 8192
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
    try:
        with Image.open(io.BytesIO(content)) as header:  # decodes nothing yet
            is_too_large = header.width * header.height > MOST_PIXELS
    except Image.DecompressionBombError:
        is_too_large = True
    if is_too_large:
        raise ValueError(f"it has more than {MOST_PIXELS:,} pixels")
    codec = av.CodecContext.create(names[0], "r")
    assert isinstance(codec, VideoCodecContext)
    codec.thread_type = "NONE"
    frames = [*codec.decode(av.Packet(content)), *codec.decode(None)]
    if not frames or frames[0].is_corrupt:
        raise ValueError("it holds no whole picture")
    return frames[0]


def video_stream(container: InputContainer) -> VideoStream:
    """Return the first video stream of an open file.

    Raises:
        IndexError: it has none.
        ValueError: its codec is not known.
    """
    stream = container.streams.video[0]
    if getattr(stream, "codec_context", None) is None:  # PyAV's types say that this cannot be
        raise ValueError("its codec is not known")
    return stream


class VideoDecoder:
    """One open video file, whose pictures are numbered from 0 in the order in which they are shown.

    Not safe to share between threads or processes.
    """

    def __init__(
        self, path: Path, *, convert: ImageConverter, times: NDArray[np.int64] | None = None
    ) -> None:
        """Open the file.

        Args:
            path: the MP4 file.
            convert: makes the images of decoded pictures.
            times: `times` of an earlier decoder of the same file; None: read the file for them.

        Raises:
            DatasetError: the file is no video that can be opened.
        """
        self.path = path
        try:
            self._container = av.open(str(path))
            self._stream = video_stream(self._container)
            self._stream.thread_type = "NONE"
            # Picture -> time it is shown at, in ticks of the stream.
            self.times = self._picture_times() if times is None else times
            self._frames: Iterator[VideoFrame] = iter(())
        except DECODE_ERRORS as error:
            raise self._damaged(error) from error
        self._frame: VideoFrame | None = None  # the last one decoded
        self._number = -1  # of that one
        self._convert = convert

    def read(self, numbers: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Read pictures by number (ascending), each (H, W, 3) uint8 RGB.

        Raises:
            DatasetError: the file is damaged, or has no picture of one of the numbers.
        """
        images: list[NDArray[np.uint8]] = []
        shown = -1
        for number in numbers:
            if number != shown:
                try:
                    image = self._convert(self._picture(number))
                except DECODE_ERRORS as error:
                    raise self._damaged(error) from error
            images.append(image)
            shown = number
        return images

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _picture_times(self) -> NDArray[np.int64]:
        packets = self._container.demux(self._stream)
        times = [packet.pts for packet in packets if packet.pts is not None and not packet.is_discard]
        return np.sort(np.array(times, dtype=np.int64))

    def _picture(self, number: int) -> VideoFrame:
        if number >= len(self.times):
            raise DatasetError(f"{self.path} ends before picture {number}: it is truncated or damaged")
        if self._frame is None or not self._number <= number <= self._number + FRAMES_TO_DECODE:
            self._decode_to(number, start=int(self.times[number]))
            if self._number > number:  # the container's index led to a later picture
                self._decode_to(number, start=int(self.times[0]))
        while self._frame is None or self._number < number:
            self._next(number)
        if self._number != number:
            raise DatasetError(f"{self.path} is damaged: picture {number} cannot be decoded")
        return self._frame

    def _decode_to(self, number: int, *, start: int) -> None:
        """Move to the last keyframe at or before `start` ticks, and decode the first picture there."""
        self._container.seek(start, stream=self._stream, backward=True)
        self._frames = self._decoded()
        self._next(number)

    def _decoded(self) -> Iterator[VideoFrame]:
        for packet in self._container.demux(self._stream):
            try:
                yield from self._stream.decode(packet)
            except av.error.InvalidDataError:
                break  # where a file was cut off: the pictures before are whole
        yield from self._stream.codec_context.decode(None)

    def _next(self, number: int) -> None:
        try:
            frame = next(self._frames)
        except StopIteration:
            raise DatasetError(
                f"{self.path} ends before picture {number}: it is truncated or damaged"
            ) from None
        if frame.is_corrupt or frame.pts is None:
            raise DatasetError(f"{self.path} is damaged near picture {number}")
        self._frame = frame
        after = int(np.searchsorted(self.times, frame.pts))
        nearest = [i for i in (after - 1, after) if 0 <= i < len(self.times)]
        self._number = min(nearest, key=lambda i: abs(int(self.times[i]) - int(frame.pts or 0)))

    def _damaged(self, error: Any) -> DatasetError:
        if isinstance(error, DatasetError):
            return error
        return DatasetError(f"{self.path} cannot be decoded: it is truncated or damaged ({error})")
