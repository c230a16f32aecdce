"""MP4 of an episode with the depth of the current query written on each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rdvla.files import write_atomically
from rdvla.rollout.episode import Decision, Environment, TimeStep

SIZE = 256  # pixels of the video's shorter side; small camera images are enlarged to it
BANNER = 28  # pixels of the strip under the image that holds the text


@dataclass(frozen=True)
class Frame:
    """A frame of an episode's video."""

    image: NDArray[np.uint8]  # (H, W, 3)
    depth: int  # iterations of the query whose actions are being executed
    step: int
    success: bool


class Film:
    """Records an episode's video: frames of the steps that come closest to `fps` per simulated second."""

    def __init__(self, control_hz: float, *, fps: int) -> None:
        self.stride = max(1, round(control_hz / fps))  # environment steps between frames
        self._frames: list[Frame] = []
        self._rate = Fraction(control_hz).limit_denominator(1000) / self.stride
        self._depth = 0

    def before_step(self, now: TimeStep[Environment], decision: Decision, index: int) -> None:  # noqa: ARG002
        """Take a frame if one is due."""
        self._depth = decision.depth
        if now.step % self.stride == 0:
            self._take(now)

    def after_step(self, now: TimeStep[Environment], *, ended: bool) -> None:
        """Take the last frame."""
        if ended:
            self._take(now)

    def write(self, path: Path) -> None:
        """Write the video, at the speed of simulated time."""
        write_video(path, self._frames, fps=self._rate)

    def _take(self, now: TimeStep[Environment]) -> None:
        image = next(iter(now.images.values()))
        self._frames.append(Frame(image=image, depth=self._depth, step=now.step, success=now.success))


def draw_frame(frame: Frame) -> NDArray[np.uint8]:
    """Return the image, enlarged, over a strip with depth and step; sides are even, as yuv420p needs."""
    height, width = frame.image.shape[:2]
    scale = SIZE / min(height, width)
    size = (round(width * scale) // 2 * 2, round(height * scale) // 2 * 2)
    canvas = Image.new("RGB", (size[0], size[1] + BANNER), (18, 22, 28))
    canvas.paste(Image.fromarray(frame.image).resize(size, Image.Resampling.LANCZOS), (0, 0))
    draw = ImageDraw.Draw(canvas)
    middle = size[1] + BANNER // 2
    draw.text((8, middle), f"depth {frame.depth}", fill=(255, 255, 255), font=_font(15), anchor="lm")
    note, colour = ("success", (110, 231, 160)) if frame.success else (f"step {frame.step}", (160, 170, 182))
    draw.text((size[0] - 8, middle), note, fill=colour, font=_font(13), anchor="rm")
    return np.asarray(canvas)


def write_video(path: Path, frames: Sequence[Frame], *, fps: Fraction | int) -> None:
    """Write `frames` as H.264, yuv420p, with the index in front, so every browser plays it.

    Raises:
        ValueError: there is no frame.
    """
    if not frames:
        raise ValueError(f"cannot write {path}: a video needs at least one frame")
    pictures = [draw_frame(frame) for frame in frames]
    options = {"movflags": "faststart"}
    with write_atomically(path) as temporary, av.open(str(temporary), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "27", "preset": "fast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def read_frames(path: Path, indices: Sequence[int]) -> list[Image.Image]:
    """Decode the frames at `indices` (from 0) without the text strip; those past the end are left out."""
    wanted = set(indices)
    with av.open(str(path)) as container:
        pictures = [
            Image.fromarray(frame.to_ndarray(format="rgb24"))
            for index, frame in enumerate(container.decode(video=0))
            if index in wanted
        ]
    return [picture.crop((0, 0, picture.width, picture.height - BANNER)) for picture in pictures]


@cache  # reading the font takes longer than drawing the text
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
