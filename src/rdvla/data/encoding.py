"""Write MP4 files, and join them without encoding again.

Encoding: H.264, 4:4:4 chroma. The usual 4:2:0 chroma halves the colour resolution. It wipes out the
markers of a few pixels in a 128-pixel picture of a table (15 dB on such markers against 38 dB here with CRF
6). In larger images CRF 6 mostly keeps the noise of the sensor, in files ten times as large: CRF 18. A
keyframe every 20 frames keeps seeking short, and no B-frames keep the packets in display order. A held image
costs some ten bytes. Tuning for fast decoding saves two fifths of the reading time at the same size and
quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from rdvla.data.decoding import DECODE_ERRORS
from rdvla.errors import DatasetError

PIXEL_FORMAT = "yuv444p"
CRF_OF_SMALL_IMAGES = 6
CRF_OF_LARGE_IMAGES = 18
LARGE = 256  # pixels; the shorter side of larger images exceeds it
KEYFRAME_INTERVAL = 20
TICKS_PER_FRAME = 256  # the MP4 track's clock runs at fps * 256, so every frame time is exact
# The colour matrix is written into the stream, so every reader inverts the one that was used.
ENCODER_OPTIONS = {
    "preset": "veryfast",
    "tune": "fastdecode",
    "g": str(KEYFRAME_INTERVAL),
    "bf": "0",
    # The macroblock tree reads uninitialised memory if an image is a few macroblocks wide: equal images gave
    # files that differed. Without it they are always the same.
    "x264-params": "mbtree=0:scenecut=0:range=tv"
    ":colormatrix=smpte170m:colorprim=smpte170m:transfer=smpte170m",
}


class VideoEncoder:
    """Writes an MP4 file image by image; the file is complete once it is closed."""

    def __init__(self, path: Path, *, size: tuple[int, int], fps: int, crf: int | None) -> None:
        """Open the file.

        Args:
            path: the file to write.
            size: (height, width) of the images.
            fps: images per second; the t-th is shown at t / fps seconds.
            crf: x264's constant rate factor, 0 (lossless) to 51; None: by the size.
        """
        settings = ENCODER_OPTIONS | {"crf": str(usual_crf(size) if crf is None else crf)}
        options = {"movflags": "faststart", "video_track_timescale": str(fps * TICKS_PER_FRAME)}
        self._output = av.open(str(path), "w", format="mp4", options=options)
        self._stream = self._output.add_stream("libx264", rate=fps, options=settings)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = PIXEL_FORMAT
        self._stream.thread_count = 1  # demonstrations are made in parallel processes already
        self._stream.time_base = Fraction(1, fps)
        self._fps, self._count = fps, 0

    def add(self, image: NDArray[np.uint8]) -> None:
        """Write the next image, (H, W, 3) RGB."""
        frame = VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = self._count, Fraction(1, self._fps)
        self._output.mux(self._stream.encode(frame))
        self._count += 1

    def close(self) -> None:
        """Write what is left and the index."""
        with self._output:
            self._output.mux(self._stream.encode(None))

    def abandon(self) -> None:
        """Let go of the file as it is."""
        self._output.close()


def usual_crf(size: tuple[int, int]) -> int:
    """Return the constant rate factor of images of (height, width)."""
    return CRF_OF_LARGE_IMAGES if min(size) > LARGE else CRF_OF_SMALL_IMAGES


def stream_header(path: Path) -> bytes:
    """Return codec, size and what a decoder needs first; only files with equal headers can be joined.

    Raises:
        DatasetError: naming the file that is damaged.
    """
    try:
        with av.open(str(path)) as container:
            codec = container.streams.video[0].codec_context
            shape = f"{codec.codec.canonical_name} {codec.width}x{codec.height} {codec.pix_fmt} "
            return shape.encode() + bytes(codec.extradata or b"")
    except DECODE_ERRORS as error:
        raise DatasetError(f"{path} cannot be read as a video: {error}") from error


def concatenate_videos(videos: Sequence[tuple[Path, int]], target: Path, *, fps: int) -> None:
    """Join MP4 files with equal stream headers, without encoding again.

    Args:
        videos: each file and the number of frames it must hold.
        target: the file to write.
        fps: frames per second of all of them.

    Raises:
        DatasetError: naming the file that is damaged or has another number of frames.
    """
    options = {"movflags": "faststart", "video_track_timescale": str(fps * TICKS_PER_FRAME)}
    with av.open(str(target), "w", format="mp4", options=options) as output:
        stream: VideoStream | None = None
        offset = 0
        for path, frames in videos:
            try:
                with av.open(str(path)) as source:
                    # opaque: also streams that this FFmpeg can decode and not encode, such as AV1
                    stream = stream or output.add_stream_from_template(source.streams.video[0], opaque=True)
                    copied = _copy_packets(source, output, stream, offset=offset, fps=fps)
            except DECODE_ERRORS as error:
                raise DatasetError(f"{path} cannot be read as a video: {error}") from error
            if copied != frames:
                raise DatasetError(f"{path} holds {copied} frames, the episode has {frames} steps")
            offset += frames


def _copy_packets(source: Any, output: Any, stream: VideoStream, *, offset: int, fps: int) -> int:
    """Copy one file's packets behind `offset` frames; return the number of frames."""
    template = source.streams.video[0]
    ticks = 1 / (template.time_base * fps)  # of the source, per frame
    copied = 0
    for packet in source.demux(template):
        if packet.dts is None:  # the flush packet at the end
            continue
        packet.pts += int(offset * ticks)
        packet.dts += int(offset * ticks)
        packet.stream = stream
        output.mux(packet)
        copied += 1
    return copied


def video_facts(path: Path) -> dict[str, Any]:
    """Return the `info` entry that LeRobot keeps next to a video feature (`video_utils.get_video_info`)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return {
            "video.height": stream.height,
            "video.width": stream.width,
            "video.codec": stream.codec_context.codec.canonical_name,
            "video.pix_fmt": stream.pix_fmt,
            "video.is_depth_map": False,
            "video.fps": int(stream.base_rate or 0),
            "video.channels": 3,
            "has_audio": False,
        }
