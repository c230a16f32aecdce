"""Pictures of a dataset for the page: episodes over time, and what augmentation does to images."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rdvla.data.decoding import ImageConverter
from rdvla.data.formats.base import CameraReader, DatasetReader
from rdvla.data.inspect.facts import DatasetFacts, spread_over
from rdvla.errors import DatasetError
from rdvla.processing.augmentation import Augmentation

EPISODES = 6
FRAMES = 8  # of an episode
HEIGHT = 120  # pixels of a thumbnail
VARIATIONS = 7  # of an augmented image


@dataclass(frozen=True)
class Strip:
    """One camera's images of an episode, in time.

    Attributes:
        camera: its name.
        images: data URLs; empty if they cannot be read.
        problem: why they cannot be read.
    """

    camera: str
    images: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True)
class EpisodeStrips:
    """Some images of one episode, from every camera.

    Attributes:
        number: of the episode in the dataset.
        length: frames.
        seconds: its duration.
        task: the instruction.
        times: of the images, in seconds.
        strips: one per camera.
    """

    number: int
    length: int
    seconds: float
    task: str
    times: tuple[float, ...]
    strips: tuple[Strip, ...]


def contact_sheet(reader: DatasetReader, facts: DatasetFacts) -> list[EpisodeStrips]:
    """Return images of a few episodes, evenly spread over the dataset and over each episode."""
    cameras = {name: reader.open_camera(name, ImageConverter()) for name in facts.cameras}
    starts = np.cumsum(facts.lengths) - facts.lengths
    found = []
    for episode in spread_over(EPISODES, len(facts.lengths)):
        length = int(facts.lengths[episode])
        steps = np.asarray(spread_over(FRAMES, length), dtype=np.int64)
        strips = tuple(_strip(name, camera, starts[episode] + steps) for name, camera in cameras.items())
        times = tuple((steps / facts.fps).tolist())
        number = int(reader.numbers[episode])
        task = facts.tasks[facts.task_of_episode[episode]].text
        found.append(EpisodeStrips(number, length, length / facts.fps, task, times, strips))
    return found


def _strip(name: str, camera: CameraReader, frames: NDArray[np.int64]) -> Strip:
    try:
        images = camera.read(frames)
    except DatasetError as error:
        return Strip(name, (), str(error))
    return Strip(name, tuple(data_url(image) for image in images))


def data_url(image: NDArray[np.uint8], *, height: int = HEIGHT) -> str:
    """Return an image (H, W, 3) as the data URL of a JPEG of at most `height` pixels."""
    picture = Image.fromarray(image)
    if picture.height > height:
        picture = picture.resize(
            (round(picture.width * height / picture.height), height), Image.Resampling.BOX
        )
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def augmented(reader: DatasetReader, facts: DatasetFacts, *, augmentation: Augmentation) -> list[Strip]:
    """Return an image of each camera with what augmentation makes of it, the unchanged image first.

    The changes are drawn with one seed, so the page is the same each time.
    """
    generator = torch.Generator().manual_seed(0)
    frame = np.asarray([int(facts.lengths[0]) // 2])
    found = []
    for name in facts.cameras:
        strip = _strip(name, camera := reader.open_camera(name, ImageConverter()), frame)
        if strip.images:
            images = torch.from_numpy(np.repeat(camera.read(frame), VARIATIONS, axis=0))
            changed = augmentation.draw(VARIATIONS, generator=generator).apply(images).numpy()
            strip = Strip(name, (*strip.images, *(data_url(image) for image in changed)))
        found.append(strip)
    return found
