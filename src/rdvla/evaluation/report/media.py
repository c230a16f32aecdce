"""Videos and film strips of episodes, embedded in the page as base64."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from rdvla.evaluation.profile import DepthProfile, pictures_at, video_path
from rdvla.evaluation.records import Episode
from rdvla.evaluation.report.charts import depth_chart

THUMBNAILS = 9
THUMBNAIL_SIZE = 132  # pixels


@dataclass(frozen=True)
class Clip:
    """A video in the page."""

    caption: str
    outcome: str  # "success", "failure" or "exception"
    source: str  # data URL


@dataclass(frozen=True)
class FilmStrip:
    """An episode as pictures in time, with the depth of its queries drawn under them."""

    task: str
    caption: str
    thumbnails: list[str]  # data URLs
    chart: str  # SVG


def clip(episode: Episode, folder: Path) -> Clip | None:
    """Return the episode's video; None if it has none or the file is gone."""
    path = video_path(episode, folder)
    if path is None:
        return None
    depths = episode.depths
    used = f"{sum(depths) / len(depths):.1f} iterations" if episode.setting.depth is None and depths else ""
    speed = f"{episode.video_speed:g}x speed" if episode.video_speed not in (None, 1.0) else ""
    helped = "with a person's help" if episode.driven_steps else ""
    caption = " · ".join(text for text in (episode.setting.describe(), used, speed, helped) if text)
    return Clip(caption=caption, outcome=outcome(episode), source=_data_url(path.read_bytes(), "video/mp4"))


def film_strip(episode: Episode, folder: Path, *, profile: DepthProfile | None) -> FilmStrip | None:
    """Return the episode's film strip, with the profile of its task behind it; None without a video."""
    path = video_path(episode, folder)
    if path is None or not episode.depths or episode.driven_steps:  # a person leaves gaps between queries
        return None
    steps = [round(episode.steps * i / (THUMBNAILS - 1)) for i in range(THUMBNAILS)]
    ending = f"{outcome(episode)} after {episode.steps} steps"
    return FilmStrip(
        task=episode.task,
        caption=f"{episode.env}, {episode.setting.describe()}, seed {episode.seed}, {ending}",
        thumbnails=[_thumbnail(picture) for picture in pictures_at(episode, path, steps)],
        chart=depth_chart(episode.depths, episode.executed, profile=profile, size=(9.5, 1.35)),
    )


def outcome(episode: Episode) -> str:
    """Say in a word how the episode ended."""
    if episode.error is not None:
        return "exception"
    return "success" if episode.success else "failure"


def _thumbnail(picture: Image.Image) -> str:
    picture = picture.copy()  # a short episode shows a picture more than once
    picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80)
    return _data_url(buffer.getvalue(), "image/jpeg")


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
