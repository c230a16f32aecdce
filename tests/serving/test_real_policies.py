"""Served predictions are the policy's own, whoever asks at the same time."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

pytest.importorskip("openpi_client")

from openpi_client.websocket_client_policy import WebsocketClientPolicy

from rdvla.policy import RDVLAPolicy
from rdvla.types import Observation
from tests.support.serving import running_server

TASKS = ("push the puck to the goal", "open the drawer", "close the drawer")


def observation(number: int) -> Observation:
    random = np.random.default_rng(number)
    images = {
        camera: random.integers(256, size=(128, 128, 3), dtype=np.uint8)
        for camera in ("front", "side", "wrist")
    }
    return Observation(images, random.random(4, dtype=np.float32), TASKS[number % len(TASKS)])


def message_of(asked: Observation, **options) -> dict:
    images = {f"images/{camera}": image for camera, image in asked.images.items()}
    return {**images, "state": asked.state, "prompt": asked.instruction, "rdvla": options}


@pytest.fixture(scope="module")
def policy() -> RDVLAPolicy:
    return RDVLAPolicy.from_pretrained("metaworld")


@pytest.mark.filterwarnings("ignore::rdvla.errors.UnknownInstructionWarning")
def test_many_clients_each_get_what_the_policy_would_have_told_them_alone(policy):
    """Batches change sums in their last digits only; a stop rule could turn on them, a fixed depth cannot."""
    clients, queries = 4, 5
    replies: dict[tuple[int, int], dict] = {}

    def ask(address: str, client: int) -> None:
        connection = WebsocketClientPolicy(address)
        for query in range(queries):
            number = client * queries + query
            asked = message_of(observation(number), seed=number, stop="6")
            replies[client, query] = connection.infer(asked)

    with running_server("metaworld") as address:
        threads = [threading.Thread(target=ask, args=(address, client)) for client in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert len(replies) == clients * queries
    for (client, query), reply in replies.items():
        number = client * queries + query
        alone = policy.predict(
            observation(number),
            stop=6,
            initial_state=policy.initial_state(1, torch.Generator().manual_seed(number)),
        )
        assert reply["depth"] == 6
        np.testing.assert_allclose(reply["actions"], alone.actions, atol=2e-3)


@pytest.mark.filterwarnings("ignore::rdvla.errors.UnknownInstructionWarning")
def test_an_instruction_that_is_too_long_fails_alone(policy):
    with running_server("metaworld") as address:
        one, other = WebsocketClientPolicy(address), WebsocketClientPolicy(address)
        with pytest.raises(RuntimeError, match="an instruction must have 1 to 96 bytes"):
            one.infer(message_of(observation(0)) | {"prompt": "push " * 100})
        assert other.infer(message_of(observation(0)))["actions"].shape == (8, 4)
