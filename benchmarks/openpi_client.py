"""LIBERO episodes of the real openpi-client against `rdvla serve`, paired with in-process evaluation.

    python -m benchmarks.openpi_client policies/libero_goal --env libero_goal --episodes 3

Three ways play the same scenes from the same S_0: the policy in this process, openpi's
`WebsocketClientPolicy` behind its `ActionChunkBroker`, and `rdvla eval --server`. openpi's client sends a
key that other robots do not send, the seed of S_0; without it pairs would differ by chance. Stop rule and
number of executed actions are the policy's own in every way. Prints successes and discordant episodes, and
writes the results of each way.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_process import rdvla_server
from rdvla.control import parse_execution
from rdvla.evaluation import EvaluationConfig, Results, compare_runs, evaluate, load_results, resolve_suites
from rdvla.evaluation.players import Staging
from rdvla.evaluation.protocol import make_environment
from rdvla.evaluation.run import evaluate_player
from rdvla.evaluation.server import ServerUnderTest
from rdvla.policy import RDVLAPolicy
from rdvla.rollout import (
    Environment,
    EpisodeJob,
    EpisodeResult,
    MakeEnvironment,
    OpenEnvironment,
    Outcome,
    RemotePolicy,
    Reply,
    Schedule,
    run_episode_job,
    starting_seed,
)
from rdvla.types import Observation
from rdvla.workers import Finished, run_jobs
from rdvla.workers.transport import Ask

WAYS = ("in_process", "openpi_client", "rdvla_client")


class OpenPIRunner:
    """Runs a worker's episodes with openpi's client, a new connection for each."""

    def __init__(self, make: MakeEnvironment[Environment], server: RemotePolicy) -> None:
        self._simulator = OpenEnvironment(make)
        self._server = server

    def run(self, job: EpisodeJob, ask: Ask) -> tuple[EpisodeResult, list[int]]:  # noqa: ARG002
        """Run an episode; return how it ended and the depths of its queries."""
        from openpi_client.action_chunk_broker import ActionChunkBroker
        from openpi_client.websocket_client_policy import WebsocketClientPolicy

        steps = parse_execution(job.setting.execution).longest
        client = WebsocketClientPolicy(self._server.address)
        broker = ActionChunkBroker(client, action_horizon=steps)
        depths: list[int] = []

        def act(observation: Observation) -> Reply:
            seed = starting_seed(job.task, job.seed, len(depths))
            message = {**self._server.write(observation), "rdvla": {"seed": seed}}
            replies: list[dict[str, Any]] = [broker.infer(message) for _ in range(steps)]  # asks once
            depths.append(int(replies[0]["depth"]))
            return Reply(np.stack([reply["actions"] for reply in replies]), depths[-1])

        try:
            return run_episode_job(job, self._simulator.open(job.task_key), act), depths
        finally:
            client._ws.close()  # it has no public way to close

    def close(self) -> None:
        """Close the simulator."""
        self._simulator.close()


class OpenPIPlayer:
    """Plays an evaluation's episodes with openpi's client."""

    def __init__(self, server: RemotePolicy) -> None:
        self._server = server

    def play(self, jobs: Sequence[EpisodeJob], staging: Staging) -> Generator[Outcome, None, None]:
        """Run all jobs; see `rdvla.evaluation.players.Player`."""
        ends = run_jobs(
            OpenPIRunner(staging.make, self._server),
            Schedule(jobs).next_job,
            transport=staging.transport,
            workers=min(staging.workers, len(jobs)),
        )
        for end in ends:
            if isinstance(end, Finished):
                result, depths = end.result
                yield Outcome(Finished(end.job, result), depths)
            else:
                yield Outcome(end, [])

    def time(self, stops: Sequence[str], *, seconds: float) -> dict[str, Any] | None:  # noqa: ARG002
        """Measure nothing."""
        return None

    def placed(self) -> AbstractContextManager[None]:
        """Be where the server is."""
        return nullcontext()


def play(way: str, config: EvaluationConfig, address: str) -> Results:
    """Play all episodes in one way; an interrupted call goes on."""
    output = str(Path(config.output) / way)
    if way == "in_process":
        return load_results(evaluate(replace(config, output=output)))
    remote = replace(config, policy="", server=address, output=output)
    if way == "rdvla_client":
        return load_results(evaluate(remote))
    suites = resolve_suites(config)
    tested = ServerUnderTest.reach(remote, [suite.env for suite in suites])
    path = evaluate_player(
        OpenPIPlayer(tested.server),
        tested.config,
        suites=suites,
        make=_maker(tested, config),
        provenance=tested.provenance,
        fingerprint=tested.fingerprint,
        compared=tested.compared,
        fits=tested.check,
        console=None,
    )
    return load_results(path)


def _maker(tested: ServerUnderTest, config: EvaluationConfig) -> MakeEnvironment[Environment]:
    return functools.partial(
        make_environment,
        cameras=tested.cameras,
        image_size=tested.image_size,
        max_steps={suite.env: suite.max_steps for suite in resolve_suites(config)},
        rendering=config.rendering,
    )


def table(results: dict[str, Results]) -> Iterator[str]:
    """Format successes, depths and discordant episodes of every way against the first."""
    yield "| way | success | iterations per query | discordant with in_process | equal episodes |"
    yield "|---|---|---|---|---|"
    first = results["in_process"]
    for way, found in results.items():
        successes = sum(bool(episode.success) for episode in found.episodes)
        depths = [depth for episode in found.episodes for depth in episode.depths]
        pair = compare_runs(first, found).pairs[0].total
        equal = sum(_same(a, b) for a, b in zip(first.episodes, found.episodes, strict=True))
        yield (
            f"| {way} | {successes} of {len(found.episodes)} | {np.mean(depths):.2f} | "
            f"{pair.only_first + pair.only_second} | {equal} |"
        )


def _same(a: Any, b: Any) -> bool:
    """Whether two episodes went alike: success, steps and the depth of every query."""
    return (a.seed, a.task, a.success, a.steps, a.depths) == (b.seed, b.task, b.success, b.steps, b.depths)


def main(argv: Sequence[str] | None = None) -> None:
    """Play every way, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.openpi_client", description=__doc__)
    parser.add_argument("policy")
    parser.add_argument("--env", default="libero_goal")
    parser.add_argument("--tasks", nargs="*", default=[])
    parser.add_argument("--episodes", type=int, default=3, help="per task")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--output", type=Path, default=Path("runs/bench/openpi_client"))
    options = parser.parse_args(argv)
    policy = RDVLAPolicy.from_pretrained(options.policy)
    config = EvaluationConfig(
        policy=options.policy,
        output=str(options.output),
        env=options.env,
        tasks=tuple(options.tasks),
        episodes=options.episodes,
        stops=(policy.config.stop,),
        execution=(policy.config.execution,),
        workers=options.workers,
        videos=0,
        timing_seconds=0,
    )
    with rdvla_server(options.policy) as server:
        results = {way: play(way, config, server.address) for way in options.ways}
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
