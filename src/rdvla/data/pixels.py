"""From decoded frames to RGB bytes."""

from __future__ import annotations

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

CODECS = {b"\x89PNG": "png", b"\xff\xd8\xff": "mjpeg"}  # by the first bytes of a file


class RGBConverter:
    """Converts frames that follow each other. Not safe to share between threads.

    FFmpeg's converter takes ten times longer to set up than to run, so one is kept for all frames; it sets
    itself up anew when size or format change.
    """

    def __init__(self, *, size: int | None = None) -> None:
        """Convert to images of `size` pixels square, each the mean of what it covers; None: as they are."""
        self._size = size
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """A frame as (H, W, 3) bytes."""
        converted = self._reformatter.reformat(
            frame,
            width=self._size,
            height=self._size,
            format="rgb24",
            interpolation=None if self._size is None else Interpolation.AREA,
            threads=1,
        )
        return np.asarray(converted.to_ndarray(), dtype=np.uint8)


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
