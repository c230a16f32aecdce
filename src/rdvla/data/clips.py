"""Copy a part of a video file into another dataset, without encoding it again.

A part can be copied if it starts with a keyframe and no picture outside of it is needed to decode it. So it
is with a whole file, and with an episode in a file that was joined from one file per episode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from rdvla.data.decoding import DECODE_ERRORS
from rdvla.data.encoding import TICKS_PER_FRAME
from rdvla.errors import DatasetError

ENOUGH_KEYFRAMES = 8  # for the statistics of a clip's images


@dataclass(frozen=True)
class Clip:
    """Some pictures of a video file that follow each other: one for each control step of an episode.

    Attributes:
        path: the file.
        first: number of the first picture, in the order they are shown.
        count: number of pictures.
    """

    path: Path
    first: int
    count: int

    def can_be_copied(self) -> bool:
        """Return whether the clip can be decoded without other pictures of the file.

        Raises:
            DatasetError: naming the file that is damaged or has too few pictures.
        """
        with _opened(self) as source:
            return _packets(self, source)[0] is not None

    def size(self) -> tuple[int, int]:
        """Return (height, width) of the pictures; raise DatasetError if the file is damaged."""
        with _opened(self) as source:
            return int(source.streams.video[0].height), int(source.streams.video[0].width)


def write_clip(clip: Clip, target: Path, *, fps: int) -> None:
    """Write a clip as an MP4 file of its own, picture t shown at t / fps seconds.

    Raises:
        DatasetError: naming the file that is damaged, or that cannot be copied from there.
    """
    with _opened(clip) as source:
        packets, order = _packets(clip, source)
        if packets is None:
            raise DatasetError(f"{clip.path}: pictures {clip.first} and on need others to be decoded")
        template = source.streams.video[0]
        delay = int((np.arange(len(order)) - order).max())  # so no picture is shown before it is decoded
        time_base = Fraction(1, fps * TICKS_PER_FRAME)
        options = {"movflags": "faststart", "video_track_timescale": str(fps * TICKS_PER_FRAME)}
        with av.open(str(target), "w", format="mp4", options=options) as output:
            # opaque: also streams that this FFmpeg can decode and not encode, such as AV1
            stream = output.add_stream_from_template(template, opaque=True)
            stream.time_base = time_base
            for place, (packet, number) in enumerate(zip(packets, order, strict=True)):
                packet.time_base = time_base
                packet.pts = int(number) * TICKS_PER_FRAME
                packet.dts = (place - delay) * TICKS_PER_FRAME
                packet.duration = TICKS_PER_FRAME
                packet.stream = stream
                output.mux(packet)


def sample_images(path: Path) -> NDArray[np.uint8]:
    """Return images of a video for statistics, (n, H, W, 3): its keyframes, or all if these are few.

    Raises:
        DatasetError: naming the file that is damaged.
    """
    try:
        for skip in ("NONKEY", "DEFAULT"):
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                stream.codec_context.skip_frame = skip
                images = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            if len(images) >= ENOUGH_KEYFRAMES:
                break
        return np.stack(images)
    except DECODE_ERRORS as error:
        raise DatasetError(f"{path} cannot be read as a video: {error}") from error


@contextmanager
def _opened(clip: Clip) -> Iterator[Any]:
    try:
        with av.open(str(clip.path)) as source:
            yield source
    except DECODE_ERRORS as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{clip.path} cannot be read as a video: {error}") from error


def _packets(clip: Clip, source: Any) -> tuple[list[Any] | None, NDArray[np.int64]]:
    """Return the clip's packets as they are decoded, None if others are needed; and each one's picture."""
    packets = [p for p in source.demux(source.streams.video[0]) if p.pts is not None and p.size]
    found = [packet for packet in packets if not packet.is_discard]  # an edit list hides the others
    if clip.first + clip.count > len(found):
        needed = clip.first + clip.count
        raise DatasetError(f"{clip.path} holds {len(found)} pictures, the episode needs those up to {needed}")
    shown = np.argsort(np.argsort([packet.pts for packet in found], kind="stable"), kind="stable")
    own = np.flatnonzero((shown >= clip.first) & (shown < clip.first + clip.count))
    alone = bool((np.diff(own) == 1).all() and found[own[0]].is_keyframe and shown[own[0]] == clip.first)
    alone = alone and len(found) == len(packets)  # hidden pictures may be needed to decode those shown
    return [found[index] for index in own] if alone else None, shown[own] - clip.first
