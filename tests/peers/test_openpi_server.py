"""Our client and `rdvla eval --server` with the server of openpi that the registry has."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rdvla_client")
pytest.importorskip("openpi_server")

from openpi_server import WebsocketPolicyServer

from rdvla_client import PolicyClient, ServerError, UnsupportedError
from tests.evaluation.test_server import config_for, evaluate_server

LIMIT = 60.0


class Walker:
    """A policy as openpi has them: walks to the toy's goal; state is the position and then the goal."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(observation)
        position, goal = np.split(np.asarray(observation["state"], dtype=np.float64), 2)
        actions = np.zeros((4, 4), dtype=np.float32)
        for action in actions:
            action[:2] = np.clip((goal - position) / 0.1, -1, 1)
            position = position + 0.1 * action[:2]
        return {"actions": actions}


@contextmanager
def openpi(policy: Any) -> Iterator[str]:
    """Run openpi's server in a thread, on a free port of this machine; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = WebsocketPolicyServer(policy, host="127.0.0.1", port=port, metadata={"name": "walker"})
    loop = asyncio.new_event_loop()
    running = loop.create_task(server.run())

    def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(running)
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(running.cancel)
        thread.join(LIMIT)


def test_our_client_asks_openpis_server():
    policy = Walker()
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    with openpi(policy) as address, PolicyClient(address) as client:
        assert client.metadata == {"name": "walker"}
        assert client.options == frozenset()
        first, second = (
            client.infer({"state": [0.0, 0.0, 0.25, 0.0], "image": image, "prompt": "walk"}) for _ in range(2)
        )
        with pytest.raises(UnsupportedError, match="max_depth"):
            client.infer({"state": [0.0] * 4}, max_depth=3)
    np.testing.assert_allclose(first["actions"][:, 0], [1.0, 1.0, 0.5, 0.0], atol=1e-6)
    assert set(second["server_timing"]) == {"infer_ms", "prev_total_ms"}
    assert [asked["prompt"] for asked in policy.asked] == ["walk", "walk"]
    np.testing.assert_array_equal(policy.asked[0]["image"], image)


def test_its_errors_arrive_and_the_next_query_connects_anew():
    with openpi(Walker()) as address, PolicyClient(address) as client:
        with pytest.raises(ServerError, match="KeyError: 'state'"):
            client.infer({"prompt": "walk"})
        reply = client.infer({"state": [0.0] * 4})
        assert (reply["actions"].shape, client.connections) == ((4, 4), 2)


def test_an_evaluation_plays_episodes_against_openpis_server(tmp_path):
    policy = Walker()
    with openpi(policy) as address:
        results = evaluate_server(config_for(tmp_path, server=address, layout="native", stops=("server",)))
    assert len(results.episodes) == 4
    assert all(episode.success for episode in results.episodes)
    assert {asked["prompt"] for asked in policy.asked} == {"walk to the left", "walk to the right"}
