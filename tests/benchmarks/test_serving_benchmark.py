"""The benchmarks of the policy server on a tiny policy: few queries, every figure there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import serving, serving_soak
from benchmarks.serving_load import ask
from benchmarks.serving_robots import robot_message, robot_observation
from benchmarks.serving_sequential import SequentialServer
from benchmarks.serving_soak import TOLERANCE, Seen, memory_growth, robots, smallest_difference
from rdvla.files import read_json
from rdvla.policy import RDVLAPolicy
from tests.support.serving import ACTIONS, CHUNK, DoublePolicy, running_server
from tests.support.tiny_models import make_policy

wire = pytest.importorskip("rdvla_client.wire")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policies") / "tiny"
    make_policy().save_pretrained(path)
    return path


def test_robots_hear_answers_to_their_own_questions() -> None:
    double = DoublePolicy()
    with running_server(double) as address:
        heard = asyncio.run(ask(address, clients=3, seconds=0.3, warmup=0.0))
    assert len(heard.milliseconds) == len(heard.depths) == len(heard.ended_by) == len(heard.batch_sizes)
    assert 3 <= len(heard.milliseconds) <= len(double.asked)
    assert {query.observation.instruction for query in double.asked} == {"push the puck"}
    assert all(
        0 < own <= seen for own, seen in zip(heard.server_milliseconds, heard.milliseconds, strict=True)
    )


def test_robots_with_a_period_ask_no_more_often_and_send_their_deadline() -> None:
    double = DoublePolicy()
    with running_server(double) as address:
        heard = asyncio.run(ask(address, clients=2, seconds=0.5, warmup=0.0, period=0.25, deadline_ms=5000.0))
    assert 2 <= len(heard.milliseconds) <= 2 * 3
    assert all(query.deadline is not None for query in double.asked[1:])  # the first one warms it up


def test_messages_are_repeatable_and_differ_between_robots() -> None:
    told = {
        "keys": {"images": {"front": "images/front"}, "state": ["state"], "instruction": "prompt"},
        "cameras": ["front"],
        "image_sizes": {"front": [4, 6]},
        "state_dim": 2,
    }
    first, again = robot_message(told, 1, 0), robot_message(told, 1, 0, options={"stop": "4"})
    assert first["images"]["front"].shape == (4, 6, 3)
    assert np.array_equal(first["state"], again["state"]) and again["rdvla"] == {"stop": "4"}
    assert not np.array_equal(first["state"], robot_message(told, 2, 0)["state"])


def test_the_sequential_server_answers_as_its_policy_does(folder: Path) -> None:
    server, policy = SequentialServer(str(folder)), RDVLAPolicy.from_pretrained(folder)
    told = wire.unpack(server.metadata)
    observation = robot_observation(told, 3, 0)
    torch.manual_seed(5)
    reply = wire.unpack(server.answer(wire.pack(robot_message(told, 3, 0))))
    torch.manual_seed(5)
    expected = policy.predict(observation.batched().torch())
    assert np.allclose(reply["actions"], expected.actions[0].numpy(), atol=1e-5)
    assert reply["depth"] == int(expected.depth[0])


@pytest.mark.slow
def test_both_servers_are_measured_in_processes_of_their_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "serving.json"
    arguments = ["--clients", "1", "3", "--rounds", "2", "--seconds", "0.5", "--deadlines", "1000"]
    serving.main(["--policy", str(folder), "--output", str(output), *arguments])
    result = read_json(output)
    rows = {(row["clients"], row["server"]): row for row in result["throughput"]}
    assert len(rows) == 4
    assert all(row["requests_per_second"] > 0 and row["queries"] > 0 for row in rows.values())
    assert rows[3, serving.OURS]["ratio"] > 0 and "ratio" not in rows[3, serving.PLAIN]
    (deadline,) = result["deadlines"]
    assert 0 <= deadline["kept"] <= deadline["kept_at_server"] <= 1
    assert {"cpu", "cores"} <= result["hardware"].keys()
    said = capsys.readouterr().out
    assert "| clients | server |" in said and "| 1000 |" in said


def test_robots_find_answers_that_are_not_their_own() -> None:
    expected = np.zeros((3, 2, CHUNK, ACTIONS), dtype=np.float32)
    double = DoublePolicy()

    def play(expected: np.ndarray) -> Seen:
        with running_server(double) as address:
            return asyncio.run(robots(address, expected, seconds=0.5, vanishing=0.0))

    seen = play(expected)
    assert seen.answers == seen.wrong >= 3 and seen.refused == {}
    told = {"image_sizes": {"front": [8, 8], "wrist": [8, 8]}, "cameras": ["front", "wrist"], "state_dim": 2}
    told["instructions"] = ["push the puck"]
    steps = np.arange(CHUNK, dtype=np.float32)[:, None]  # of the double: the sum of the state, plus k
    for robot in range(3):
        for number in range(2):
            expected[robot, number] = robot_observation(told, robot, number).state.sum() + steps
    seen = play(expected)
    assert seen.wrong == 0 and seen.answers >= 3
    assert smallest_difference(expected) > TOLERANCE


def test_robots_that_vanish_come_back() -> None:
    expected = np.zeros((2, 2, CHUNK, ACTIONS), dtype=np.float32)
    with running_server(DoublePolicy()) as address:
        seen = asyncio.run(robots(address, expected, seconds=1.5, vanishing=0.5))
        assert asyncio.run(robots(address, expected, seconds=0.2, vanishing=0.0)).answers > 0
    assert seen.connections > 2 and sum(seen.vanished.values()) >= 2


def test_memory_that_grows_has_a_slope() -> None:
    flat = memory_growth([(second, 100.0) for second in range(0, 600, 5)])
    assert flat["slope_mib_per_minute"] == pytest.approx(0, abs=1e-6)
    assert flat["early_mib"] == flat["late_mib"] == flat["highest_mib"] == 100
    growing = memory_growth([(second, 100 + second / 60) for second in range(0, 600, 5)])
    assert growing["slope_mib_per_minute"] == pytest.approx(1)
    assert growing["late_mib"] > growing["early_mib"] + 7


@pytest.mark.slow
def test_a_soak_checks_every_answer_of_a_real_policy(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    serving_soak.main(
        ["--policy", str(folder), "--clients", "4", "--minutes", "0.08", "--output", str(output)]
    )
    result = read_json(output)
    assert result["wrong"] == 0 < result["answers"] and result["alive"]
    assert result["largest_difference"] < result["tolerance"] < result["smallest_difference_of_two_answers"]
    assert len(result["memory_mib"]) >= 2
