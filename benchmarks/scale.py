"""What more machines bring to an evaluation: simulators, policy and driver measured apart, then computed.

    python -m benchmarks.scale --output runs/bench/scale.json

Measures the simulation of a step and the images of a query in one worker, the policy by batch size, and the
driver's processor time and latency per message, for processes here and on Ray (started here). From these it
computes episode steps per second for 1, 10 and 100 nodes, and what limits them.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import hardware, interleave
from rdvla.files import write_json
from rdvla.policy import RDVLAPolicy, choose_device
from rdvla.rollout import Reply
from rdvla.simulation.registry import make
from rdvla.types import Observation
from rdvla.workers import Finished, parse_workers, run_jobs
from rdvla.workers.transport import Ask, Asked

NODES = 1, 10, 100


@dataclass(frozen=True)
class Costs:
    """What an evaluation's parts cost; milliseconds."""

    step: float  # environment step in a worker
    images: float  # of a query, in a worker
    steps_per_query: int
    latency: float  # of a message there and back, without a policy
    driver: float  # processor time of the driver per query
    policy: float  # per query, in the batches that it computes
    copies: int = 1  # of the policy, on as many processors or GPUs

    @property
    def worker(self) -> float:
        """Of a worker per query, if nothing is in its way."""
        return self.step * self.steps_per_query + self.images + self.latency

    def queries_per_second(self, workers: int) -> tuple[float, str]:
        """Return the largest rate, and what limits it."""
        rates = {
            "simulators": workers / (self.worker + self.policy + self.driver),
            "policy": self.copies / self.policy,
            "driver": 1 / self.driver,
        }
        limit = min(rates, key=lambda name: rates[name])
        return 1000 * rates[limit], limit


@dataclass(frozen=True)
class Talk:
    """A job that asks a number of questions."""

    questions: int

    def describe(self) -> str:
        """Say what it does."""
        return "talking"


class Talker:
    """Asks with an observation, and returns the median milliseconds until an answer."""

    def __init__(self, observation: Observation) -> None:
        self._observation = observation

    def run(self, job: Talk, ask: Ask) -> float:
        """Ask."""
        times = []
        for _ in range(job.questions):
            begun = time.perf_counter()
            ask(self._observation)
            times.append(1000 * (time.perf_counter() - begun))
        return statistics.median(times)

    def close(self) -> None:
        """Nothing is open."""


def simulation(env: str, task: str, *, steps: int) -> tuple[dict[str, float], Observation]:
    """Measure a simulator in this process; return milliseconds, and an observation."""
    started = time.perf_counter()
    simulator = make(env, task)
    opened = time.perf_counter()
    observation, _ = simulator.reset(seed=1_000_000)
    times: dict[str, list[float]] = {"step": [], "images": []}
    rng = np.random.default_rng(0)
    for _ in range(steps):
        action = rng.uniform(-1, 1, simulator.action_space.shape).astype(np.float32)
        begun = time.perf_counter()
        observation, *_ = simulator.step(action)
        stepped = time.perf_counter()
        images = simulator.render_cameras()
        times["step"].append(1000 * (stepped - begun))
        times["images"].append(1000 * (time.perf_counter() - stepped))
    single = Observation(images, np.asarray(observation["state"], dtype=np.float32), simulator.instruction)
    simulator.close()
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"open": 1000 * (opened - started), **medians}, single


def policy_times(
    policy: RDVLAPolicy, observation: Observation, *, stop: str, batches: Sequence[int], rounds: int
) -> dict[int, float]:
    """Measure milliseconds per query by batch size."""

    def predict(count: int) -> None:
        batch = Observation.collate([observation] * count).torch()
        policy.predict(batch, stop=stop, initial_state=policy.initial_state(count)).actions.cpu()

    samples = interleave({str(count): partial(predict, count) for count in batches}, rounds=rounds)
    return {int(name): statistics.median(values) / int(name) for name, values in samples.items()}


class Answers:
    """Answers without a policy, and measures this process's time once every worker has been answered."""

    def __init__(self, reply: Reply, workers: int) -> None:
        self._reply, self._workers = reply, workers
        self._answered, self._measured, self._begun = 0, 0, 0.0

    def __call__(self, asked: Sequence[Any]) -> list[Reply]:
        """Answer all."""
        if self._answered >= self._workers:
            self._begun = self._begun or time.process_time()
            self._measured += len(asked)
        self._answered += len(asked)
        return [self._reply] * len(asked)

    def milliseconds(self) -> float:
        """Return the processor time per answer."""
        return 1000 * (time.process_time() - self._begun) / self._measured


def messages(workers: str, observation: Observation, reply: Reply, *, questions: int) -> dict[str, float]:
    """Measure exchanges without a policy: latency with one worker, the driver's time with all."""
    choice = parse_workers(workers, ray="local" if workers.startswith("ray") else "auto")
    with choice.transport() as (transport, count):
        times = {}
        for number in (1, count):
            jobs = iter([Talk(1)] * number + [Talk(questions)] * number)  # the first opens the workers

            def next_job(last: Talk | None, jobs: Iterator[Talk] = jobs) -> Talk | None:  # noqa: ARG001
                return next(jobs, None)

            answers = Answers(reply, number)
            ends = list(
                run_jobs(Talker(observation), next_job, transport=transport, workers=number, answer=answers)
            )
            latencies = [end.result for end in ends if isinstance(end, Finished)]
            times[number] = (latencies[-1], answers.milliseconds())
    return {"latency": times[1][0], "driver": times[count][1]}


def computed(result: Mapping[str, Any], *, workers_per_node: int, largest: int) -> list[dict[str, Any]]:
    """Compute what nodes bring: one policy whose queries are alone or together, or a copy on each node."""
    rows = []
    for name, batch, everywhere in (
        ("one policy, single", 1, False),
        (f"one policy, together, {largest} at a time", largest, False),
        ("a copy of the policy on each node, single", 1, True),
        ("a copy of the policy for each worker, single", 1, None),
    ):
        for nodes in NODES:
            workers = nodes * workers_per_node
            costs = Costs(
                step=result["simulation"]["step"],
                images=result["simulation"]["images"],
                steps_per_query=result["steps_per_query"],
                latency=result["messages"]["ray"]["latency"],
                driver=result["messages"]["ray"]["driver"],
                policy=result["policy"][batch],
                copies=workers if everywhere is None else nodes if everywhere else 1,
            )
            rate, limit = costs.queries_per_second(workers)
            steps = rate * costs.steps_per_query
            rows.append({"how": name, "nodes": nodes, "steps_per_second": steps, "limit": limit})
    return rows


def tables(result: Mapping[str, Any]) -> Iterator[str]:
    """Format the measurements and what follows from them."""
    simulated, sent = result["simulation"], result["messages"]
    yield "| measured | ms |"
    yield "|---|---:|"
    yield f"| environment step | {simulated['step']:.2f} |"
    yield f"| images of a query | {simulated['images']:.2f} |"
    for batch, each in result["policy"].items():
        yield f"| policy per query, in batches of {batch} | {each:.2f} |"
    for kind, found in sent.items():
        yield f"| message there and back, {kind} | {found['latency']:.2f} |"
        yield f"| driver's processor time per query, {kind} | {found['driver']:.2f} |"
    yield ""
    yield "| how | nodes | environment steps per second | limit |"
    yield "|---|---:|---:|---|"
    for row in result["computed"]:
        yield f"| {row['how']} | {row['nodes']} | {row['steps_per_second']:.0f} | {row['limit']} |"


def main() -> None:
    """Measure, compute, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--policy", default="metaworld")
    parser.add_argument("--env", default="metaworld")
    parser.add_argument("--task", default="drawer-close-v3")
    parser.add_argument("--stop", default="fixed:8")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps-per-query", type=int, default=8)
    parser.add_argument("--workers-per-node", type=int, default=16)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = RDVLAPolicy.from_pretrained(options.policy).to(choose_device("auto"))
    simulated, observation = simulation(options.env, options.task, steps=options.steps)
    actions = np.zeros((options.steps_per_query, policy.config.head.action_dim), dtype=np.float32)
    reply = Reply(actions, depth=8)
    result: dict[str, Any] = {
        "hardware": hardware(),
        "device": str(next(policy.parameters()).device),
        "options": {**vars(options), "output": options.output.name},
        "simulation": simulated,
        "steps_per_query": options.steps_per_query,
        "bytes": {"query": len(pickle.dumps(Asked(observation))), "reply": len(pickle.dumps(reply))},
        "policy": policy_times(
            policy, observation, stop=options.stop, batches=options.batches, rounds=options.rounds
        ),
        "messages": {
            "processes": messages("2", observation, reply, questions=options.questions),
            "ray": messages("ray:2", observation, reply, questions=options.questions),
        },
    }
    result["computed"] = computed(
        result, workers_per_node=options.workers_per_node, largest=max(options.batches)
    )
    write_json(options.output, result)
    print("\n".join(tables(result)))


if __name__ == "__main__":
    main()
