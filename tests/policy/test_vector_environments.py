"""Robots of a vector environment begin anew at different times, and each drops its old chunk then."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rdvla.policy import RDVLAPolicy
from rdvla.simulation import make
from rdvla.types import Observation, Prediction
from tests.support.tiny_training import tiny_policy
from tests.support.toy_simulator import SUITE

HORIZON = 3
LENGTHS = dict(zip(SUITE.tasks, (4, 5), strict=True))  # control steps: both end in the middle of a chunk


class Recorder:
    """Keeps the queries of a policy."""

    def __init__(self, policy: RDVLAPolicy) -> None:
        self.predict = policy.predict
        self.made: list[tuple[torch.Tensor, Prediction]] = []  # S_0 and prediction of each robot's query

    def __call__(self, observation: Observation, *, initial_state: torch.Tensor, **options: Any) -> Any:
        prediction = self.predict(observation, initial_state=initial_state, **options)
        self.made += [(start, prediction.sample(row)) for row, start in enumerate(initial_state)]
        return prediction


def observe(envs: SyncVectorEnv, state: np.ndarray) -> Observation:
    images = [images["front"] for images in envs.call("render_cameras")]
    return Observation({"front": np.stack(images)}, state, list(envs.get_attr("instruction")))


@pytest.mark.parametrize(
    "mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP], ids=lambda mode: mode.name
)
def test_a_row_that_begins_anew_drops_its_old_chunk(
    mode: AutoresetMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_policy()
    config = replace(plain.config, execution=f"fixed:{HORIZON}", start="final", stop="3")
    policy = RDVLAPolicy(config, plain.statistics).eval()
    queries = Recorder(policy)
    monkeypatch.setattr(policy, "predict", queries)
    envs = SyncVectorEnv(
        [partial(make, "toy", task, image_size=32, max_steps=steps) for task, steps in LENGTHS.items()],
        autoreset_mode=mode,
    )
    state = envs.reset(seed=[1, 2])[0]["state"]
    policy.reset(seed=0)
    begins, ended = np.array([True, True]), np.array([False, False])
    chunks: list[list[torch.Tensor]] = [[], []]
    final: list[torch.Tensor | None] = [None, None]  # the state that a robot's last query ended with
    episodes, dropped = np.zeros(2, dtype=int), 0
    for _ in range(20):
        queries.made.clear()
        actions = policy.select_action(observe(envs, state))
        for row in range(2):
            if begins[row]:
                episodes[row] += 1
                dropped += len(chunks[row])
                chunks[row].clear()
            if not chunks[row]:
                start, prediction = queries.made.pop(0)  # in the order of the rows
                if final[row] is not None:  # a later query goes on from there, a new episode from noise
                    assert torch.equal(start, final[row]) != begins[row]
                chunks[row], final[row] = list(prediction.actions[:HORIZON]), prediction.state
            assert torch.equal(actions[row], chunks[row].pop(0))
        assert not queries.made  # nobody else needed a query
        before = ended
        observations, _, terminated, truncated, _ = envs.step(actions.numpy())
        state, ended = observations["state"], terminated | truncated
        begins = ended if mode is AutoresetMode.SAME_STEP else before  # when the first observation comes
        policy.reset(robots=np.flatnonzero(begins).tolist())
    assert (episodes >= 3).all() and dropped > 0
