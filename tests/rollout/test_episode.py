"""One episode, with an environment that counts what is asked of it."""

import av
import numpy as np
import pytest

from rdvla.rollout import EpisodeJob, Reply, Setting, play_job
from tests.support.line_task import LineTask


class CountingTask(LineTask):
    renderings = 0

    def render_cameras(self):
        self.renderings += 1
        return super().render_cameras()


def episode(environment, *, speed=0.1, actions=8, max_steps=20, video=None, fps=20):
    setting = Setting("fixed", 8, f"fixed:{actions}")
    job = EpisodeJob(
        env="line", task="near", setting=setting, seed=3, max_steps=max_steps, video=video, video_fps=fps
    )
    reply = Reply(np.full((actions, 1), speed, dtype=np.float32), depth=8)
    return play_job(job, environment, lambda query: reply)


def test_images_are_rendered_for_queries_only():
    environment = CountingTask("near")
    end = episode(environment)
    assert (end.success, end.steps, end.executed, end.video_stride) == (False, 20, [8, 8, 4], None)
    assert environment.renderings == 3


def test_success_ends_the_episode():
    end = episode(LineTask("near"), speed=0.7)
    assert end.success
    assert end.steps == sum(end.executed) < 8


@pytest.mark.parametrize(
    ("control_hz", "fps", "stride", "rate"),
    [(80, 20, 4, 20), (20, 5, 4, 5), (20, 20, 1, 20), (20, 60, 1, 20)],
)
def test_a_video_runs_at_the_speed_of_simulated_time(tmp_path, control_hz, fps, stride, rate):
    environment = CountingTask("near")
    environment.control_hz = control_hz
    end = episode(environment, video=tmp_path / "v.mp4", fps=fps)
    assert end.video_stride == stride
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == rate
        assert stream.frames == len(range(0, 20, stride)) + 1
        # A frame at the moment of a query is the query's image.
        queries_between_frames = sum(step % stride != 0 for step in (0, 8, 16))
        assert environment.renderings == stream.frames + queries_between_frames
