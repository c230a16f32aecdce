"""openpi's real client plays episodes of a line to walk, and their outcomes are compared."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from benchmarks.openpi_client import OpenPIPlayer, table
from rdvla.evaluation import Episode, EvaluationConfig, Results, Suite, load_results
from rdvla.evaluation.players import Staging
from rdvla.evaluation.run import evaluate_player
from rdvla.evaluation.summaries import summarise
from rdvla.rollout import EpisodeJob, RemotePolicy, Setting, starting_seed
from rdvla.workers import LocalProcesses
from tests.support.line_task import make_line
from tests.support.policy_server import policy_server

pytest.importorskip("openpi_client")


def write(observation):
    return {"state": np.asarray(observation.state), "prompt": observation.instruction}


def test_openpis_client_asks_once_per_chunk_with_the_seed_of_its_query():
    def walk(message):
        return {"actions": np.full((4, 1), 0.5, np.float32), "depth": 3, "execute_steps": 2}

    setting = Setting.parse("action_change:1e-3", 2)
    job = EpisodeJob(env="line", task="near", setting=setting, seed=7, max_steps=30)
    with policy_server(walk) as served:
        player = OpenPIPlayer(RemotePolicy(f"ws://{served.address}", write))
        (outcome,) = player.play([job], Staging(make_line, workers=1, transport=LocalProcesses()))
    executed = outcome.end.result.executed
    assert outcome.end.result.success and sum(executed) == outcome.end.result.steps
    assert outcome.depths == [3] * len(executed)
    assert served.options == [{"seed": starting_seed("near", 7, each)} for each in range(len(executed))]


def test_an_evaluation_plays_with_openpis_client(tmp_path):
    def walk(_):
        return {"actions": np.full((4, 1), 0.5, np.float32), "depth": 3, "execute_steps": 2}

    config = EvaluationConfig(
        server="ws://there",
        output=str(tmp_path),
        env="line",
        tasks=("near",),
        episodes=1,
        stops=("8",),
        execution=("2",),
        videos=0,
    )
    with policy_server(walk) as served:
        path = evaluate_player(
            OpenPIPlayer(RemotePolicy(f"ws://{served.address}", write)),
            config,
            suites=[Suite("line", ("near",), 30)],
            make=make_line,
            provenance={},
            fingerprint="abc",
            fits=None,
            console=Console(file=io.StringIO()),
        )
    (episode,) = load_results(path).episodes
    assert episode.success and set(episode.depths) == {3}


def results(successes):
    episodes = [
        Episode("libero_goal", "stove", "p", "fixed:4", "fixed:8", seed, success, 5, [4], [5])
        for seed, success in enumerate(successes)
    ]
    return Results(rows=summarise(episodes), episodes=episodes, meta={})


def test_the_table_counts_discordant_episodes_in_both_directions():
    found = {
        "in_process": results([True, True, False, False]),
        "openpi_client": results([True, False, True, False]),
    }
    first, second = list(table(found))[2:]
    assert first == "| in_process | 2 of 4 | 4.00 | 0 | 4 |"
    assert second == "| openpi_client | 2 of 4 | 4.00 | 2 | 2 |"
