"""MP4 of an episode, with the depth of the current query written under each frame, between all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rdvla.errors import RDVLAError
from rdvla.files import write_atomically
from rdvla.rollout.episode import Decision, Environment, TimeStep

SIZE = 256  # pixels of the video's shorter side; small camera images are enlarged to it
BANNER = 28  # pixels of the strip under the image that holds the depths
LEFT, RIGHT = 84, 98  # pixels of the strip's ends that hold text; the bars of the queries are between

# Times the robot's own speed, the first at which the longest possible episode lasts at most so many seconds.
SPEEDS = {0.5: 6.0, 1.0: 15.0, 2.0: 15.0, 4.0: 15.0, 8.0: 15.0, 16.0: math.inf}
DARK, DIM, LIGHT, ACCENT = (18, 22, 28), (62, 72, 84), (160, 170, 182), (255, 183, 77)


@dataclass(frozen=True)
class Frame:
    """A frame of an episode's video."""

    image: NDArray[np.uint8]  # (H, W, 3)
    query: int  # whose actions are being executed, from 0
    step: int
    success: bool


def playback_speed(seconds: float) -> float:
    """Return how many times faster than the robot a video plays, if an episode may take so many seconds.

    All episodes of an environment play at one speed, so they can be watched next to each other.
    """
    return next(speed for speed, longest in SPEEDS.items() if seconds / speed <= longest)


class Film:
    """Records an episode's video: frames of the steps that come closest to `fps` per second of watching."""

    def __init__(self, control_hz: float, *, fps: int, max_steps: int) -> None:
        """Choose the speed by the length that an episode may have at most."""
        self.speed = playback_speed(max_steps / control_hz)
        self.stride = max(1, round(self.speed * control_hz / fps))  # environment steps between frames
        self._rate = Fraction(self.speed * control_hz).limit_denominator(1000) / self.stride
        self._frames: list[Frame] = []
        self._depths: list[int] = []

    def before_step(self, now: TimeStep[Environment], decision: Decision, index: int) -> None:
        """Take a frame if one is due."""
        if index == 0:
            self._depths.append(decision.depth)
        if now.step % self.stride == 0:
            self._take(now)

    def after_step(self, now: TimeStep[Environment], *, ended: bool) -> None:
        """Take the last frame."""
        if ended:
            self._take(now)

    def write(self, path: Path) -> None:
        """Write the video."""
        write_video(path, self._frames, fps=self._rate, depths=self._depths, speed=self.speed)

    def _take(self, now: TimeStep[Environment]) -> None:
        image = next(iter(now.images.values()))
        self._frames.append(Frame(image, query=len(self._depths) - 1, step=now.step, success=now.success))


def draw_frame(frame: Frame, *, depths: Sequence[int], speed: float = 1.0) -> NDArray[np.uint8]:
    """Return the image, enlarged, over a strip: the depth, a bar for every query, the step.

    The bar of the present query is bright, those to come are dim. Sides are even, as yuv420p needs.
    """
    height, width = frame.image.shape[:2]
    scale = SIZE / min(height, width)
    size = (round(width * scale) // 2 * 2, round(height * scale) // 2 * 2)
    canvas = Image.new("RGB", (size[0], size[1] + BANNER), DARK)
    canvas.paste(Image.fromarray(frame.image).resize(size, Image.Resampling.LANCZOS), (0, 0))
    draw = ImageDraw.Draw(canvas)
    middle = size[1] + BANNER // 2
    draw.text((6, middle), f"depth {depths[frame.query]}", fill=(255, 255, 255), font=_font(17), anchor="lm")
    _draw_bars(draw, frame.query, depths, box=(LEFT, size[1] + 4, size[0] - RIGHT, size[1] + BANNER - 3))
    at = "" if speed == 1 else f" · {speed:g}x"
    note, colour = ("success", (110, 231, 160)) if frame.success else (f"step {frame.step}", LIGHT)
    draw.text((size[0] - 6, middle), note + at, fill=colour, font=_font(13), anchor="rm")
    return np.asarray(canvas)


def _draw_bars(
    draw: ImageDraw.ImageDraw, query: int, depths: Sequence[int], *, box: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = box
    step = min(8.0, (right - left) / len(depths))
    tallest = max(*depths, 1)
    for number, depth in enumerate(depths):
        colour = ACCENT if number == query else LIGHT if number < query else DIM
        x, y = left + number * step, bottom - (bottom - top) * depth / tallest
        draw.rectangle((x, y, x + max(step - 1.5, 0.5), bottom), fill=colour)


def write_video(
    path: Path, frames: Sequence[Frame], *, fps: Fraction | int, depths: Sequence[int], speed: float = 1.0
) -> None:
    """Write `frames` as H.264, yuv420p, with the index in front, so every browser plays it.

    Args:
        path: the file.
        frames: in order of time.
        fps: frames per second of watching.
        depths: iterations of each query of the episode.
        speed: times the robot's own, which is written on the frames unless it is 1.

    Raises:
        ValueError: there is no frame.
    """
    if not frames:
        raise ValueError(f"cannot write {path}: a video needs at least one frame")
    pictures = [draw_frame(frame, depths=depths, speed=speed) for frame in frames]
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
    """Decode the frames at `indices` (from 0) without the text strip; those past the end are left out.

    Raises:
        RDVLAError: the video is damaged, or has none of these frames.
    """
    wanted, pictures = set(indices), []
    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    pictures.append(Image.fromarray(frame.to_ndarray(format="rgb24")))
    except (av.error.FFmpegError, OSError, ValueError, IndexError, MemoryError) as error:
        raise RDVLAError(f"{path} cannot be decoded: it is truncated or damaged ({error})") from error
    if wanted and not pictures:
        raise RDVLAError(f"{path} has no frames: it is truncated or damaged")
    return [picture.crop((0, 0, picture.width, picture.height - BANNER)) for picture in pictures]


@cache  # reading the font takes longer than drawing the text
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
