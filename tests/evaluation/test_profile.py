"""Depth along an episode, and the picture of it."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rdvla.cli import main
from rdvla.evaluation import ResultsError, Setting, draw_profiles, load_results
from rdvla.evaluation.profile import deepest_queries, depth_profile, pictures_at, query_steps, video_path
from rdvla.evaluation.profile_picture import shown_queries
from rdvla.rollout.video import SIZE
from tests.support.results_sample import make_results

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    def brighter(count):
        return (np.full((32, 32, 3), min(255, 8 * index), dtype=np.uint8) for index in range(count))

    folder = tmp_path_factory.mktemp("profile")
    return make_results(folder, depths=(8,), envs=("libero_goal",), images=brighter)


def adaptive(results, task="push"):
    return [one for one in results.episodes if one.setting.depth is None and one.task == task]


def played(results, depths, *, success=True, last=8):
    executed = [8] * (len(depths) - 1) + [last]
    return dataclasses.replace(
        results.episodes[0], depths=depths, executed=executed, steps=sum(executed), success=success
    )


def test_a_profile_is_the_depth_over_the_share_of_the_episode(results):
    profile = depth_profile([played(results, [2, 9, 5, 5])])
    for time, depth in zip(profile.time, profile.median, strict=True):
        assert depth == (2 if time < 0.25 else 9 if time < 0.5 else 5)
    assert np.array_equal(profile.low, profile.high)


def test_failures_count_only_if_nothing_else_is_there(results):
    good, bad = played(results, [2, 4]), played(results, [9, 9], success=False)
    assert depth_profile([bad, good]).episodes == 1
    assert depth_profile([bad, good]).high.max() == 4
    alone = depth_profile([bad])
    assert (alone.episodes, alone.successful) == (1, False)
    assert depth_profile([]) is None


@given(depths=st.lists(st.integers(1, 30), min_size=1, max_size=30), count=st.integers(1, 5))
def test_the_deepest_queries(results, depths, count):
    episode = played(results, depths, last=3)
    found = deepest_queries(episode, count)
    assert 1 <= len(found) <= count
    assert max(depths[one] for one in found) == max(depths)
    assert min(depths[one] for one in found) >= np.mean(depths) - 1e-9
    assert all(after - before > 1 for before, after in itertools.pairwise(found))
    shown = shown_queries(episode, found, 9)
    assert len(shown) == len(set(shown)) == min(9, len(depths))
    assert set(found) <= set(shown)
    assert query_steps(episode) == [8 * query for query in range(len(depths))]


def test_pictures_are_of_their_steps(results):
    episode = next(one for one in adaptive(results) if one.video is not None)
    path = video_path(episode, results.folder)
    steps = [0, 8, 16, 16, episode.steps]
    pictures = pictures_at(episode, path, steps)
    for step, picture in zip(steps[:4], pictures, strict=False):
        assert picture.size == (SIZE, SIZE)
        assert abs(np.asarray(picture).mean() - 8 * (step // 4)) < 4
    assert np.asarray(pictures[-1]).mean() > np.asarray(pictures[2]).mean()


def test_the_picture_shows_each_task(results, tmp_path):
    both = Image.open(draw_profiles(results, tmp_path / "both.png"))
    one = Image.open(draw_profiles(results, tmp_path / "one.png", tasks=["reach"]))
    assert both.width == one.width
    assert both.height == pytest.approx(2 * one.height, abs=2)
    assert np.asarray(one.convert("L")).std() > 10


def test_the_command_writes_next_to_the_results(results, capsys):
    assert main(["profile", str(results.folder), "--tasks", "push", "--stop", "action_change:1e-3"]) == 0
    assert (results.folder / "profile.png").stat().st_size > 0
    assert f"written: {results.folder / 'profile.png'}" in capsys.readouterr().out


def test_what_is_missing_is_named(results, tmp_path):
    with pytest.raises(ResultsError, match=r"no task 'puch'\. Did you mean 'push'"):
        draw_profiles(results, tmp_path / "a.png", tasks=["puch"])
    with pytest.raises(ResultsError, match=r"no episode was played under depth 3.*rules: 8, action_change"):
        draw_profiles(results, tmp_path / "a.png", setting=Setting("fixed:3", "fixed:8"))
    fixed = make_results(tmp_path / "fixed", adaptive=False, depths=(8,), videos=0, tasks=("push",))
    with pytest.raises(ResultsError, match="no adaptive rule"):
        draw_profiles(fixed, tmp_path / "a.png")
    unfilmed = make_results(tmp_path / "unfilmed", depths=(8,), videos=0, tasks=("push",))
    with pytest.raises(ResultsError, match="--videos 1"):
        draw_profiles(load_results(unfilmed.folder), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
