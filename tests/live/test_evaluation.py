"""`rdvla eval --live`: the episodes of an evaluation are on the page, and its results are the same."""

import dataclasses
import io
import json
import re
import threading
import time

import pytest
from rich.console import Console

from rdvla.errors import ConfigError
from rdvla.evaluation import EvaluationConfig, Suite, evaluate_policy, load_results
from tests.support.line_task import TASKS, make_line, make_raising
from tests.support.rollout_doubles import StepPolicy

pytest.importorskip("websockets")


class Watched(StepPolicy):
    """Answers its first query only after somebody has had a look at the page."""

    def __init__(self):
        super().__init__()
        self.open = threading.Event()

    def predict(self, observation, **options):
        assert self.open.wait(60)
        return super().predict(observation, **options)


def evaluate(folder, policy, *, make=make_line, console=None, **changes):
    options = {
        "policy": "runs/walker",
        "output": str(folder),
        "tasks": tuple(TASKS),
        "episodes": 3,
        "stops": ("4", "action_change:1e-3"),
        "execution": ("fixed:8",),
        "max_steps": 30,
        "videos": 0,
        "timing_seconds": 0,
        "workers": 2,
    }
    config = EvaluationConfig(**{**options, **changes})
    path = evaluate_policy(
        policy,
        config,
        suites=[Suite(env="metaworld", tasks=config.tasks, max_steps=30)],
        make=make,
        provenance={"path": "walker"},
        fingerprint="abc",
        console=console or Console(file=io.StringIO()),
    )
    return load_results(path)


def listen(address, seen, *, until):
    """Collect what a watcher is told until it has seen enough or the server closes."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with connect(f"ws{address.removeprefix('http')}/socket", proxy=None) as socket:
        try:
            while not until(seen):
                message = json.loads(socket.recv(timeout=60))
                seen.append(message)
                if message["type"] == "news" and message["robots"] and "shown" not in message:
                    socket.send(json.dumps({"watch": message["robots"][-1]["robot"]}))
        except ConnectionClosed as closed:
            seen.append({"type": "closed", "code": closed.rcvd.code, "reason": closed.rcvd.reason})


def test_the_page_shows_every_episode_and_says_when_the_evaluation_has_ended(tmp_path):
    output, policy, seen = io.StringIO(), Watched(), []

    def watch():
        deadline = time.monotonic() + 60
        while not (found := re.search(r"http://\S+", output.getvalue())) and time.monotonic() < deadline:
            time.sleep(0.05)
        policy.open.set()
        listen(found[0], seen, until=lambda _: False)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    evaluate(tmp_path / "run", policy, console=Console(file=output, width=200), live=0)
    watching.join(60)
    assert seen[0]["title"] == "evaluation of walker"
    assert seen[-1] == {"type": "closed", "code": 1001, "reason": "this evaluation has ended"}
    told = [robot for message in seen if message["type"] == "news" for robot in message["robots"]]
    ended = {robot["robot"]: robot["note"] for robot in told if not robot["connected"]}
    assert ended
    assert all(re.fullmatch(r"(success after|no success in) \d+ steps", note) for note in ended.values())
    assert all(re.fullmatch(r"metaworld (near|far), \S+, seed 100000\d", name) for name in ended)


@pytest.mark.parametrize("make", [make_line, make_raising])
def test_results_are_the_same_with_and_without_the_page(tmp_path, make):
    few = {"tasks": ("near",), "episodes": 2, "stops": ("4",), "workers": 1}
    shown = evaluate(tmp_path / "shown", StepPolicy(), make=make, live=0, **few)
    hidden = evaluate(tmp_path / "hidden", StepPolicy(), make=make, **few)

    def without_traceback(episode):
        return dataclasses.replace(episode, error=episode.error and episode.error.type)

    def episodes(results):
        return [without_traceback(episode) for episode in results.episodes]

    assert episodes(shown) == episodes(hidden)
    assert shown.rows == hidden.rows


def test_an_evaluation_goes_on_with_or_without_the_page(tmp_path):
    evaluate(tmp_path / "run", StepPolicy(), episodes=1)
    results = evaluate(tmp_path / "run", StepPolicy(), episodes=2, live=0)
    assert len(results.episodes) == 8


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(tmp_path, port):
    with pytest.raises(ConfigError, match=f"live must be true, false or a port up to 65535, got {port}"):
        EvaluationConfig(policy="runs/walker", output=str(tmp_path), live=port)


def test_a_port_that_is_taken_is_named(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"the live page cannot listen on 127.0.0.1 port {port}"):
            evaluate(tmp_path / "run", StepPolicy(), live=port)
