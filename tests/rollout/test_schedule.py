"""Which worker plays what next."""

from hypothesis import given
from hypothesis import strategies as st

from rdvla.rollout import EpisodeJob, Schedule, Setting


def jobs(counts):
    return [
        EpisodeJob(env=env, task=task, setting=Setting(f"fixed:{depth}", "fixed:8"), seed=seed, max_steps=9)
        for depth in (1, 8)
        for (env, task), count in counts.items()
        for seed in range(count)
    ]


def test_a_worker_plays_its_task_under_all_settings_first():
    schedule = Schedule(jobs({("a", "x"): 2, ("b", "x"): 1}))
    first = schedule.next_job(None)
    assert (first.task_key, first.setting.depth) == (("a", "x"), 1)
    own = [schedule.next_job(first) for _ in range(3)]
    assert [job.task_key for job in own] == [("a", "x")] * 3
    assert [job.setting.depth for job in own] == [1, 8, 8]
    assert schedule.next_job(own[-1]).task_key == ("b", "x")


def test_then_a_fresh_task_and_then_the_one_with_most_left():
    schedule = Schedule(jobs({("a", "x"): 2, ("a", "y"): 3, ("a", "z"): 1}))
    assert schedule.next_job(None).task == "x"
    assert schedule.next_job(None).task == "y"
    last = schedule.next_job(None)
    assert last.task == "z"
    last = schedule.next_job(last)
    assert last.task == "z"
    last = schedule.next_job(last)
    assert last.task == "y"  # 5 left there, 3 of x
    assert schedule.next_job(last).task == "y"


@given(
    counts=st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), st.integers(1, 5), min_size=1
    ),
    turns=st.lists(st.integers(0, 3), min_size=61),
    workers=st.integers(1, 4),
)
def test_every_episode_is_given_out_once_and_environments_are_rarely_opened(counts, turns, workers):
    """Every place is opened once. Then only those are left that others are at; a helper opens each once."""
    wanted = jobs(counts)
    schedule, last, given_out, opened = Schedule(wanted), [None] * workers, [], 0
    for turn in turns:
        worker = turn % workers
        job = schedule.next_job(last[worker])
        if job is not None:
            opened += last[worker] is None or job.task_key != last[worker].task_key
            last[worker] = job
            given_out.append(job)
    for job in iter(lambda: schedule.next_job(None), None):
        given_out.append(job)
    assert sorted(given_out, key=str) == sorted(wanted, key=str)
    assert opened <= len(counts) + (workers - 1) ** 2
