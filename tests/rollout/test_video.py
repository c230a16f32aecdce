"""Videos of episodes: playable in browsers, with the depth on every frame."""

import av
import numpy as np
import pytest

from rdvla.rollout.video import SIZE, Frame, draw_frame, read_frames, write_video


def test_a_video_plays_in_browsers_and_comes_back(tmp_path):
    path = tmp_path / "v.mp4"
    frames = [
        Frame(np.full((48, 48, 3), 25 * i, dtype=np.uint8), depth=i, step=4 * i, success=i == 9)
        for i in range(10)
    ]
    write_video(path, frames, fps=20)
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


def test_the_depth_is_written_on_a_frame():
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    drawn = [draw_frame(Frame(image, depth=depth, step=0, success=False)) for depth in (3, 12)]
    assert drawn[0].shape[0] % 2 == 0 and drawn[0].shape[1] % 2 == 0
    assert not np.array_equal(drawn[0], drawn[1])


def test_an_empty_video_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "v.mp4", [], fps=20)
