"""One episode, with an environment that counts what is asked of it."""

import av
import numpy as np
import pytest

from rdvla.errors import RDVLAError
from rdvla.rollout import Decision, EpisodeJob, Reply, Setting, run_episode, run_episode_job
from tests.support.line_task import LineTask


class CountingTask(LineTask):
    renderings = 0

    def render_cameras(self):
        self.renderings += 1
        return super().render_cameras()


def episode(environment, *, speed=0.1, actions=8, max_steps=20, video=None, fps=20):
    setting = Setting("fixed:8", f"fixed:{actions}")
    job = EpisodeJob(
        env="line", task="near", setting=setting, seed=3, max_steps=max_steps, video=video, video_fps=fps
    )
    reply = Reply(np.full((actions, 1), speed, dtype=np.float32), depth=8)
    return run_episode_job(job, environment, lambda observation: reply)


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
    ("control_hz", "fps", "limit", "speed", "stride", "rate"),
    [
        (80, 20, 20, 0.5, 2, 20),  # a quarter of a second: at half speed
        (80, 20, 400, 1, 4, 20),
        (20, 5, 200, 1, 4, 5),
        (20, 20, 520, 2, 2, 20),
        (20, 60, 200, 1, 1, 20),
    ],
)
def test_a_video_plays_at_a_speed_that_the_longest_episode_gives(
    tmp_path, control_hz, fps, limit, speed, stride, rate
):
    environment = CountingTask("near")
    environment.control_hz = control_hz
    end = episode(environment, speed=0.16, max_steps=limit, video=tmp_path / "v.mp4", fps=fps)
    assert (end.video_stride, end.video_speed) == (stride, speed)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == rate == speed * control_hz / stride
        assert stream.frames == len(range(0, end.steps, stride)) + 1
        # A frame at the moment of a query is the query's image.
        queries_between_frames = sum(step % stride != 0 for step in range(0, end.steps, 8))
        assert environment.renderings == stream.frames + queries_between_frames


class Idler:
    def act(self, now):
        return Decision(np.zeros((0, 1), dtype=np.float32))


class Walker:
    """Intends to walk and stumbles; switches to another speed on its way."""

    def act(self, now):
        speed = 0.5 if now.step < 4 else 1.0
        return Decision(np.array([[speed / 2], [speed / 2]]), intended=np.array([[speed], [speed]]))


class Notes:
    def __init__(self):
        self.before, self.after = [], []

    def before_step(self, now, decision, index):
        self.before.append((now.step, float(decision.intended[index, 0])))

    def after_step(self, now, *, ended):
        self.after.append((now.step, now.success, ended))


def test_recorders_see_every_step_and_some_after_success():
    notes = Notes()
    end = run_episode(LineTask("near"), Walker(), seed=0, steps_after_success=3, recorders=[notes])
    first = next(step for step, success, _ in notes.after if success)
    assert (end.success, end.steps) == (True, first + 3)
    assert [step for step, _ in notes.before] == list(range(end.steps))
    assert [step for step, *_ in notes.after] == list(range(1, end.steps + 1))
    assert [intended for _, intended in notes.before] == [0.5] * 4 + [1.0] * (end.steps - 4)
    assert [ended for *_, ended in notes.after] == [False] * (end.steps - 1) + [True]
    assert sum(end.executed) == end.steps


def test_an_actor_without_an_action_is_named():
    with pytest.raises(RDVLAError, match="Idler gave no action"):
        run_episode(LineTask("near"), Idler(), seed=0)
