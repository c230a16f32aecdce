"""Episodes that a person attends: paused, driven and given back, while others go on."""

import numpy as np
import pytest
import torch

from rdvla.control import Desk, Judgement
from rdvla.rollout import Attendance, EpisodeJob, Setting, roll_out, starting_seed
from rdvla.rollout.attended import hold_still
from rdvla.workers import Failed, LocalProcesses
from tests.support.line_task import make_line
from tests.support.rollout_doubles import BatchPolicy, StepPolicy
from tests.support.scripted_person import EchoPolicy, Stage
from tests.support.thread_workers import Death, ThreadWorkers


def job(*, task="far", seed=0, stop="fixed:1", execution="fixed:8", max_steps=30):
    return EpisodeJob(env="line", task=task, setting=Setting(stop, execution), seed=seed, max_steps=max_steps)


def results(outcomes):
    return {
        outcome.end.job.seed: (outcome.end.result.success, outcome.end.result.steps,
                               outcome.end.result.executed, outcome.depths)
        for outcome in outcomes
    }  # fmt: skip


@pytest.mark.parametrize("stop", ["fixed:4", "fixed:1@final", "action_change:1e-3@shifted"])
def test_an_episode_in_which_nobody_steps_in_plays_as_if_it_were_not_attended(stop):
    jobs = [job(seed=seed, stop=stop, execution="fixed:3") for seed in range(3)]
    alone, attended, stage = StepPolicy(), StepPolicy(), Stage()
    expected = roll_out(alone, jobs, make=make_line, workers=1, transport=ThreadWorkers())
    found = stage.play(attended, jobs)
    assert results(found.values()) == results(expected)
    assert len(alone.queries) == len(attended.queries) > 3
    for (_, one), (_, other) in zip(alone.queries, attended.queries, strict=True):
        assert torch.equal(one, other)
    assert all(o.end.result.driven_steps == o.end.result.interventions == 0 for o in found.values())
    assert {frame.origin.intervention for frame in stage.frames} == {False}
    assert {frame.origin.recorded_as for frame in stage.frames} == {None}


def test_attended_episodes_run_in_processes_too():
    jobs = [job(seed=seed, stop="fixed:4") for seed in range(3)]
    expected = results(roll_out(StepPolicy(), jobs, make=make_line, workers=1, transport=ThreadWorkers()))
    attendance = Attendance(Desk())
    assert results(roll_out(StepPolicy(), jobs, make=make_line, workers=2, attendance=attendance)) == expected
    assert attendance.desk.robots() == ()


@pytest.mark.parametrize("autonomous", [False, True])
def test_an_attended_episode_begins_anew_on_a_fresh_worker_and_nothing_counts_twice(autonomous):
    jobs = [job(seed=seed, stop="fixed:4", execution="fixed:3", max_steps=60) for seed in range(2)]
    calm, shaken, deaths = Stage(), Stage(), []

    def die_once(robot):
        if robot == jobs[0].robot and len(deaths) < 2:
            deaths.append(robot)
            raise Death

    shaken.script = {7: die_once, 10: die_once}
    expected = calm.play(BatchPolicy(), jobs, autonomous=autonomous)
    found = shaken.play(BatchPolicy(), jobs, autonomous=autonomous)
    assert len(deaths) == 2
    assert results(found.values()) == results(expected.values())
    recorded = {frame.origin.recorded_as for frame in shaken.frames if frame.seed == 0}
    assert len(recorded) == (3 if autonomous else 1)  # no episode of a dataset holds frames of two attempts


def test_pausing_an_episode_changes_nothing_and_holds_up_no_other():
    jobs = [job(seed=seed, stop="fixed:4", execution="fixed:3") for seed in range(2)]
    expected = results(roll_out(StepPolicy(), jobs, make=make_line, workers=1, transport=ThreadWorkers()))
    stage, ended = Stage(), []
    paused, other = jobs[0].robot, jobs[1].robot

    def pause(robot):
        if robot == paused:
            stage.desk.change(robot, "paused")

    def go_on(end):
        ended.append(end.job.robot)
        if end.job.robot == other:
            stage.desk.change(paused, "autonomous")

    stage.script[4], stage.at_end = pause, go_on  # in the middle of a chunk
    found = stage.play(StepPolicy(), jobs, workers=2)
    assert ended == [other, paused]
    assert results(found.values()) == expected


def test_a_person_takes_over_in_the_middle_of_a_chunk_and_gives_back():
    stage = Stage()
    stage.script = {
        3: stage.change("correcting", steer=0.4),
        9: stage.steer(0.25),
        13: stage.change("autonomous"),
    }
    outcome = stage.play(StepPolicy(), [job()])[0]
    result = outcome.end.result
    executed = [frame.action for frame in stage.frames]
    assert executed == pytest.approx([0.1] * 3 + [0.4] * 6 + [0.25] * 4 + [0.1] * 17)
    assert [frame.origin.intervention for frame in stage.frames] == [False] * 3 + [True] * 10 + [False] * 17
    assert (result.driven_steps, result.interventions, result.steps) == (10, 1, 30)
    assert result.executed == [3, 8, 8, 1]
    assert outcome.depths == [1] * 4  # the queries whose actions were executed
    driven = [frame for frame in stage.frames if frame.origin.intervention]
    assert {frame.origin.cause for frame in driven} == {"person"}
    assert {frame.origin.recorded_as for frame in driven} == {0}
    assert all(frame.origin.cause is None for frame in stage.frames if not frame.origin.intervention)
    assert [frame.wanted for frame in stage.frames] == pytest.approx([0.1] * 30)
    assert stage.driven_positions == [frame.position for frame in driven]


def test_an_episode_succeeds_with_help_where_the_policy_alone_fails():
    assert not Stage().play(StepPolicy(), [job()])[0].end.result.success
    stage = Stage(script={2: None})
    stage.script = {2: stage.change("correcting", steer=1.0), 6: stage.change("autonomous")}
    result = stage.play(StepPolicy(), [job()])[0].end.result
    assert (result.success, result.driven_steps, result.interventions) == (True, 4, 1)


def test_the_policy_goes_on_saying_what_it_wants_while_a_person_drives():
    stage = Stage()
    stage.script = {2: stage.change("correcting", steer=0.1)}
    stage.play(EchoPolicy(), [job(max_steps=60)])
    assert len(stage.frames) == 60 or stage.frames[-1].position >= 5.5
    positions = [frame.position for frame in stage.frames]
    ages = set()
    for frame in stage.frames:
        fits = [
            age
            for age in range(min(8, frame.step + 1))
            if frame.wanted == pytest.approx(0.01 * positions[frame.step - age] + 0.001 * age, abs=1e-7)
        ]
        assert fits, frame  # its chunk began at one of the last eight steps
        ages.update(fits)
    assert len(stage.seen) > 5
    assert 0 in ages


def test_after_a_person_the_policy_starts_afresh_from_what_is_seen_then():
    stage, policy = Stage(), StepPolicy()
    stage.script = {4: stage.change("correcting", steer=0.2), 10: stage.change("autonomous")}
    stage.play(policy, [job(stop="fixed:1@final", execution="fixed:4")])
    begun = [query.number for query in stage.seen if query.observation.state[0] == stage.frames[10].position]
    assert begun  # a query looked at what the person left behind

    def noise(number):
        seed = starting_seed("far", 0, number)
        return policy.initial_state(1, generator=torch.Generator().manual_seed(seed))

    states = [state for _, state in policy.queries]
    fresh = begun[-1]
    assert torch.equal(states[fresh], noise(fresh))
    assert all(torch.equal(state, states[fresh]) for state in states[fresh + 1 :])  # warm again from there on
    assert len(states) > fresh + 1


def test_without_a_command_the_robot_holds_still():
    stage = Stage()
    stage.script = {3: stage.change("correcting"), 8: stage.steer(0.3), 10: stage.change("paused")}
    stage.script[10] = lambda robot: (
        stage.desk.change(robot, "paused"),
        stage.desk.change(robot, "correcting"),
    )
    stage.play(StepPolicy(), [job(max_steps=14)])
    executed = [frame.action for frame in stage.frames]
    assert executed == pytest.approx([0.1] * 3 + [0.0] * 5 + [0.3] * 2 + [0.0] * 4)
    assert stage.frames[-1].origin.recorded_as == 0  # a pause does not end a correction


def test_holding_still_keeps_the_gripper():
    last = np.array([0.5, -0.2, 1.0, -1.0], dtype=np.float32)
    names = ("x", "y", "gripper", "left_gripper")
    assert hold_still(last, names).tolist() == [0, 0, 1, -1]
    assert hold_still(last, ()).tolist() == [0, 0, 0, 0]


class Doubter:
    """Asks for help at every query."""

    def judge(self, prediction, *, max_depth):
        return Judgement(uncertainty=0.75, band=0.5, help_requested=True)

    def reset(self):
        pass


def test_whoever_sees_the_judgement_may_call_a_person_before_anything_is_executed():
    stage = Stage()

    def ask_for_help(robot):
        assert stage.seen[-1].judgement.help_requested
        stage.desk.change(robot, "paused", cause="gate")
        stage.desk.change(robot, "correcting")  # the person comes
        stage.desk.steer(robot, [0.5])

    stage.at_query[0] = ask_for_help
    stage.script = {4: stage.change("autonomous")}
    stage.play(StepPolicy(), [job(max_steps=12)], make_judge=Doubter)
    driven = [frame for frame in stage.frames if frame.origin.intervention]
    assert [frame.step for frame in driven] == [0, 1, 2, 3]
    assert {frame.origin.cause for frame in driven} == {"gate"}
    assert {(frame.origin.uncertainty, frame.origin.help_requested) for frame in stage.frames} == {
        (0.75, True)
    }


def test_each_correction_is_an_episode_of_its_own_unless_all_is_recorded():
    for autonomous, expected in ((False, [7, 8]), (True, [7])):
        stage = Stage()
        stage.script = {
            2: stage.change("correcting", steer=0.1),
            4: stage.change("autonomous"),
            12: stage.change("correcting", steer=0.1),
        }
        outcome = stage.play(StepPolicy(), [job(max_steps=14)], autonomous=autonomous, numbers=range(7, 20))[
            0
        ]
        assert outcome.end.result.interventions == 2
        recorded = [frame.origin.recorded_as for frame in stage.frames]
        if autonomous:
            assert recorded == [7] * 14
        else:
            assert recorded == [None] * 2 + [7] * 2 + [None] * 8 + [8] * 2
        assert sorted({number for number in recorded if number is not None}) == expected


def test_a_driven_episode_holds_up_no_other():
    jobs = [job(seed=seed, stop="fixed:4", max_steps=40) for seed in range(2)]
    stage, ended = Stage(), []
    driven, other = jobs[0].robot, jobs[1].robot

    def take_over(robot):
        if robot == driven:
            stage.desk.change(robot, "correcting")

    def give_back(end):
        ended.append(end.job.robot)
        if end.job.robot == other and driven in stage.desk.robots():
            stage.desk.change(driven, "autonomous")

    stage.script[4], stage.at_end = take_over, give_back
    found = stage.play(StepPolicy(), jobs, workers=2)
    assert sorted(ended) == sorted([driven, other])
    assert found[1].end.result.success and found[1].end.result.driven_steps == 0
    assert found[0].end.result.driven_steps > 0


def test_an_action_that_the_robot_cannot_take_never_reaches_it():
    stage, refused = Stage(), []

    def drive_wrongly(robot):
        stage.desk.change(robot, "correcting")
        with pytest.raises(Exception, match="takes 1 numbers per action, got 2") as caught:
            stage.desk.steer(robot, [0.1, 0.2])
        refused.append(caught)

    stage.script[2] = drive_wrongly
    outcome = stage.play(StepPolicy(), [job(max_steps=4)])[0]
    assert refused and not isinstance(outcome.end, Failed)


def test_an_exception_of_the_policy_ends_an_attended_rollout():
    jobs = [job(seed=seed) for seed in range(2)]
    rollout = roll_out(
        StepPolicy(fail_after=1), jobs, make=make_line, workers=1,
        transport=LocalProcesses(), attendance=Attendance(Desk()),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        list(rollout)
