"""Evaluations on a real Ray cluster of several node processes on this machine; some of them are killed."""

import dataclasses
import functools
import io
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from rich.console import Console

from rdvla.errors import ConfigError, RDVLAError
from rdvla.evaluation import EvaluationConfig, Suite, evaluate_policy, load_results
from rdvla.evaluation.placing import policy_place
from rdvla.rollout import Call
from rdvla.workers import parse_workers, run_jobs
from rdvla.workers.ray import RayWorkers
from tests.support.line_task import TASKS, make_line, make_once_dying
from tests.support.ray_cluster import LIMIT, local_cluster
from tests.support.rollout_doubles import BatchPolicy, StepPolicy
from tests.support.tiny_models import make_observation, make_policy

pytest.importorskip("ray")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """A head without room for workers, and a node for two that is said to have a GPU."""
    with local_cluster({"num_cpus": 2, "num_gpus": 1}) as found:
        yield found


def run(folder, policy, *, make=make_line, **changes):
    options = {
        "policy": "runs/walker",
        "output": str(folder),
        "tasks": tuple(TASKS),
        "episodes": 4,
        "stops": ("4", "action_change:1e-3"),
        "execution": ("fixed:2",),
        "max_steps": 60,
        "videos": 1,
        "timing_seconds": 0,
    }
    config = EvaluationConfig(**{**options, **changes})
    path = evaluate_policy(
        policy,
        config,
        suites=[Suite(env="metaworld", tasks=config.tasks, max_steps=config.max_steps)],
        make=make,
        provenance={"path": "walker"},
        fingerprint="abc",
        console=Console(file=io.StringIO(), width=300),
    )
    return load_results(path)


class Watched(BatchPolicy):
    """Calls back once, at some query."""

    def __init__(self, at, callback):
        self.at, self.callback, self.queries = at, callback, 0

    def predict(self, observation, *, stop=None, initial_state=None):
        self.queries += 1
        if self.queries == self.at:
            self.callback()
        return super().predict(observation, stop=stop, initial_state=initial_state)


def test_a_node_killed_in_the_middle_leaves_the_results_of_an_undisturbed_local_run(cluster, tmp_path):
    local = run(tmp_path / "local", BatchPolicy(), workers=1)
    second = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    kill = functools.partial(cluster.kill_node, second)
    policy = Watched(100, kill)
    on_ray = run(tmp_path / "ray", policy, workers="ray", ray=cluster.address, ray_gpus=0.0, max_steps=60)
    assert policy.queries > 100
    assert on_ray.episodes == local.episodes
    assert len((tmp_path / "ray" / "episodes.jsonl").read_text().splitlines()) == len(local.episodes)
    videos = [episode.video for episode in on_ray.episodes if episode.video is not None]
    assert len(videos) == 4
    for video in videos:  # they came back as files, though no disk need be shared
        assert (tmp_path / "ray" / video).read_bytes() == (tmp_path / "local" / video).read_bytes()


def test_workers_that_die_or_are_stopped_are_replaced_on_the_cluster(cluster, tmp_path):
    calm = run(tmp_path / "calm", StepPolicy(), tasks=("near",))
    make = functools.partial(make_once_dying, folder=tmp_path)
    shaken = run(
        tmp_path / "ray", StepPolicy(), make=make, tasks=("near",), workers="ray:3", ray=cluster.address,
        ray_gpus=0.0,
    )  # fmt: skip
    assert len(list(tmp_path.glob("died-*"))) == 4
    assert shaken.episodes == calm.episodes


@dataclasses.dataclass(frozen=True)
class Job:
    number: int

    def describe(self):
        return f"doing job {self.number}"


class StopsOnce:
    """Stops its process at its first job, as nothing in it notices."""

    def __init__(self, mark):
        self.mark = mark

    def run(self, job, ask):
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return ask(job.number)

    def close(self):
        pass


def do_jobs(runner, transport, *, count, workers, silence_seconds=None):
    jobs = [Job(number) for number in range(count)]
    ends = run_jobs(
        runner,
        lambda last: jobs.pop() if jobs else None,
        transport=transport,
        workers=workers,
        answer=lambda questions: [np.full(3, question.content) for question in questions],
        retries=1,
        silence_seconds=silence_seconds,
    )
    return {end.job.number: end.result for end in ends}


def test_a_stopped_worker_is_killed_and_its_room_is_used_again(cluster, tmp_path):
    with parse_workers("ray", ray=cluster.address).transport() as (transport, _):
        done = do_jobs(StopsOnce(tmp_path / "mark"), transport, count=4, workers=2, silence_seconds=15)
    assert sorted(done) == [0, 1, 2, 3]


class Adds:
    def run(self, job, ask):
        answer = ask(job.number)
        answer += 1  # as in a local process, what arrives may be changed
        return int(answer.sum())

    def close(self):
        pass


def test_more_workers_than_the_cluster_has_room_for_do_all_jobs(cluster):
    with parse_workers("ray:6", ray=cluster.address).transport() as (transport, count):
        done = do_jobs(Adds(), transport, count=9, workers=count)
    assert done == {number: 3 * number + 3 for number in range(9)}


def test_a_cluster_without_room_ends_the_run_with_a_sentence_and_a_node_that_joins_is_used(cluster):
    with parse_workers("ray", ray=cluster.address).transport():
        no_room = RayWorkers(cpus=5.0, room_seconds=3.0)
        with pytest.raises(RDVLAError, match=r"no room for a worker for .* 5 CPUs .*same command goes on"):
            do_jobs(Adds(), no_room, count=1, workers=1)
        with ThreadPoolExecutor(1) as pool:
            patient = RayWorkers(cpus=5.0, room_seconds=LIMIT)
            doing = pool.submit(do_jobs, Adds(), patient, count=2, workers=2)
            cluster.add_node(num_cpus=5)
            done = doing.result(timeout=LIMIT)
    assert done == {0: 3, 1: 6}


class DiesOnce(BatchPolicy):
    """Takes its process down with it at its first query."""

    def __init__(self, mark):
        self.mark = mark

    def predict(self, observation, *, stop=None, initial_state=None):
        if not self.mark.exists():
            self.mark.touch()
            os._exit(9)
        return super().predict(observation, stop=stop, initial_state=initial_state)


def queries(policy, stops):
    return [
        Call(
            make_observation(1, seed=seed).torch(),
            stop,
            policy.initial_state(1, generator=torch.Generator().manual_seed(seed)),
        )
        for seed, stop in enumerate(stops)
    ]


def check_answers(there, policy, calls):
    for answer, call in zip(there.predict_each(calls), calls, strict=True):
        here = policy.predict(call.observation, stop=call.stop, initial_state=call.initial_state)
        torch.testing.assert_close(answer.actions, here.actions, rtol=1e-5, atol=1e-6)
        assert torch.equal(answer.depth, here.depth)


def test_a_policy_on_the_node_with_the_gpu_answers_as_it_does_here_also_after_its_death(cluster, tmp_path):
    config = EvaluationConfig(policy="p", output="o", workers="ray", ray=cluster.address, ray_gpus=1.0)
    place = policy_place(config)
    assert place is not None
    with config.worker_choice.transport():
        for policy in (make_policy(), DiesOnce(tmp_path / "mark")):
            with place(policy) as there:
                check_answers(there, policy, queries(policy, ("fixed:3", "action_change:0.001", "fixed:1")))


def test_an_evaluation_whose_policy_is_on_the_cluster_gives_the_local_results(cluster, tmp_path):
    local = run(tmp_path / "local", BatchPolicy(), workers=2, episodes=2, tasks=("near",))
    options = {"workers": "ray:2", "ray": cluster.address, "episodes": 2, "tasks": ("near",)}
    there = run(tmp_path / "ray", BatchPolicy(), ray_gpus=1.0, **options)
    assert there.episodes == local.episodes
    with pytest.raises(
        ConfigError, match=r"ray_policies 90 take 90 processors .* leave some for the workers"
    ):
        run(tmp_path / "all", BatchPolicy(), ray_gpus=0.0, ray_policies=90, **options)
    cluster.add_node(num_cpus=3)
    cluster.wait_for_nodes()
    copies = run(tmp_path / "copies", BatchPolicy(), ray_gpus=0.0, ray_policies=3, **options)
    assert copies.episodes == local.episodes
