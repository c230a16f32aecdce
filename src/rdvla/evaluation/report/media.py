"""Videos and film strips of episodes, embedded in the page as base64."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from rdvla.evaluation.report.charts import depth_chart
from rdvla.evaluation.results import Episode
from rdvla.evaluation.video import read_frames
from rdvla.evaluation.worker import VIDEO_STRIDE

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
    """The episode's video; None when it has none or the file is gone."""
    path = _video(episode, folder)
    if path is None:
        return None
    depths = episode.depths
    used = f"{sum(depths) / len(depths):.1f} iterations" if episode.depth is None and depths else ""
    caption = " · ".join(part for part in (episode.setting.describe(), used) if part)
    return Clip(caption=caption, outcome=outcome(episode), source=_data_url(path.read_bytes(), "video/mp4"))


def film_strip(episode: Episode, folder: Path) -> FilmStrip | None:
    """The episode's film strip; None without a video."""
    path = _video(episode, folder)
    if path is None or not episode.depths:
        return None
    last = episode.steps // VIDEO_STRIDE
    indices = sorted({round(last * i / (THUMBNAILS - 1)) for i in range(THUMBNAILS)})
    ending = f"{outcome(episode)} after {episode.steps} steps"
    return FilmStrip(
        task=episode.task,
        caption=f"{episode.setting.describe()}, seed {episode.seed}, {ending}",
        thumbnails=[_thumbnail(picture) for picture in read_frames(path, indices)],
        chart=depth_chart(episode.depths, episode.executed, size=(9.5, 1.35)),
    )


def outcome(episode: Episode) -> str:
    """How the episode ended, in a word."""
    if episode.error is not None:
        return "exception"
    return "success" if episode.success else "failure"


def _video(episode: Episode, folder: Path) -> Path | None:
    if episode.video is None:
        return None
    path = (folder / episode.video).resolve()
    # A results file may come from elsewhere: only what lies beside it is embedded.
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def _thumbnail(picture: Image.Image) -> str:
    picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80)
    return _data_url(buffer.getvalue(), "image/jpeg")


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
