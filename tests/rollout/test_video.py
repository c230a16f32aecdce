"""Videos of episodes: playable in browsers, at a watchable speed, with the depth on every frame."""

import itertools

import av
import numpy as np
import pytest

from rdvla.rollout.video import BANNER, SIZE, Frame, draw_frame, playback_speed, read_frames, write_video

DEPTHS = [3, 12, 6]


def test_a_video_plays_in_browsers_and_comes_back(tmp_path):
    path = tmp_path / "v.mp4"
    frames = [
        Frame(np.full((48, 48, 3), 25 * i, dtype=np.uint8), query=i // 4, step=4 * i, success=i == 9)
        for i in range(10)
    ]
    write_video(path, frames, fps=20, depths=DEPTHS)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.frames == 10
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # the index comes first
    (third, last) = read_frames(path, [2, 9, 99])
    assert third.size == (SIZE, SIZE)
    assert abs(np.asarray(third).mean() - 50) < 4
    assert abs(np.asarray(last).mean() - 225) < 4


def strip(query, *, depths=DEPTHS, size=(20, 30), **options):
    """The strip under a black image."""
    image = np.zeros((*size, 3), dtype=np.uint8)
    drawn = draw_frame(Frame(image, query=query, step=0, success=False), depths=depths, **options)
    assert drawn.shape[0] % 2 == 0 and drawn.shape[1] % 2 == 0
    return drawn[-BANNER:]


def test_the_depth_is_written_on_a_frame():
    assert not np.array_equal(strip(0), strip(1))
    assert not np.array_equal(strip(0), strip(0, speed=2.0))


def test_a_bar_for_every_query_shows_its_depth_and_the_present_one_stands_out():
    def bars(query):
        """Column sums of what is bright in orange: the bar of the present query."""
        pixels = strip(query, size=(20, 20)).astype(int)
        return ((pixels[..., 0] > 230) & (pixels[..., 2] < 120)).sum(axis=0)

    columns = [np.flatnonzero(bars(query)) for query in range(3)]
    assert all(after.min() > before.max() for before, after in itertools.pairwise(columns))
    heights = [bars(query).max() for query in range(3)]
    assert heights[1] > heights[2] > heights[0]
    assert heights[2] / heights[1] == pytest.approx(6 / 12, abs=0.1)


@pytest.mark.parametrize("count", [1, 40, 500])
def test_any_number_of_queries_fits(count):
    drawn = strip(count - 1, depths=[4] * count, size=(20, 20))
    assert drawn[:, :6].max() < 60 and drawn[:, -6:].max() < 60  # nothing runs over the edge


@pytest.mark.parametrize(
    ("seconds", "speed"), [(0.5, 0.5), (2.5, 0.5), (6.25, 1), (14, 1), (26, 2), (60, 4), (1000, 16)]
)
def test_a_video_is_near_real_time_and_neither_a_flash_nor_a_lecture(seconds, speed):
    assert playback_speed(seconds) == speed


def test_an_empty_video_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "v.mp4", [], fps=20, depths=DEPTHS)
