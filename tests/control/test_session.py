"""What robots carry between queries: chunks in flight, last states, and episodes that begin anew."""

import numpy as np
import pytest
import torch

from rdvla.control import BinaryHorizon, FixedHorizon, Session, WarmStart
from rdvla.errors import InputError
from rdvla.types import Observation, Prediction


def numbered(*starts: int, depth: list[int] | None = None) -> Prediction:
    """Chunks of four actions, (B, 4, 1), that count from the given numbers; states hold the same numbers."""
    actions = torch.tensor([[[float(start + i)] for i in range(4)] for start in starts])
    depths = torch.tensor(depth or [1] * len(starts))
    return Prediction(actions, depths, depths > 0, actions.clone())


def of(actions: list) -> list[int]:
    return [int(action) for action in actions]


def test_every_robot_runs_out_on_its_own() -> None:
    session = Session(BinaryHorizon(long=3, short=1, depth_limit=5))
    assert session.due(2) == [0, 1]
    assert session.accept([0, 1], numbered(0, 10, depth=[9, 2])) == [1, 3]
    assert of(session.next_actions()) == [0, 10]
    assert session.due(2) == [0]
    session.accept([0], numbered(100))
    assert of(session.next_actions()) == [100, 11]
    assert of(session.next_actions()) == [101, 12]
    assert session.due(2) == [1]


def test_a_horizon_beyond_the_chunk_takes_the_whole_chunk() -> None:
    session = Session(FixedHorizon(9))
    session.accept(session.due(1), numbered(0))
    assert [of(session.next_actions())[0] for _ in range(4)] == [0, 1, 2, 3]
    assert session.due(1) == [0]


def test_another_batch_size_needs_a_reset() -> None:
    session = Session(FixedHorizon(4))
    session.due(2)
    with pytest.raises(ValueError, match=r"had 2 samples and now has 3: reset\(\)"):
        session.due(3)
    session.reset()
    assert session.due(3) == [0, 1, 2]


def test_as_many_chunks_as_robots() -> None:
    session = Session(FixedHorizon(1))
    with pytest.raises(ValueError, match="zip"):
        session.accept(session.due(2), numbered(0))


def test_a_robot_without_actions_is_named() -> None:
    session = Session(FixedHorizon(1))
    session.due(2)
    session.accept([0], numbered(0))
    with pytest.raises(InputError, match="robot 1 has no action left"):
        session.next_actions()


def test_a_robot_that_begins_anew_drops_its_chunk_and_its_state_and_no_others() -> None:
    session = Session(FixedHorizon(3), WarmStart("final"))
    session.accept(session.due(2), numbered(0, 10))
    session.next_actions()
    session.reset([0])
    assert session.due(2) == [0]
    noise = torch.full((1, 4, 1), -1.0)
    assert session.initial_state([0], noise).flatten().tolist() == [-1] * 4
    session.accept([0], numbered(50))
    assert of(session.next_actions()) == [50, 11]
    assert session.initial_state([1], noise).flatten().tolist() == [10, 11, 12, 13]
    with pytest.raises(InputError, match="no robot 2"):
        session.reset([2])


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_every_robot_starts_from_its_own_last_state(library: str) -> None:
    def array(values: torch.Tensor) -> object:
        return values.numpy() if library == "numpy" else values

    session = Session(FixedHorizon(2), WarmStart("shifted"))
    noise = array(torch.zeros(3, 4, 1))
    assert session.due(3) == [0, 1, 2]
    assert not session.initial_state([0, 1, 2], noise).any()
    ended = numbered(1, 11, 21)
    numpy_or_torch = Prediction(*map(array, (ended.actions, ended.depth, ended.converged, ended.state)))
    session.accept([0, 1, 2], numpy_or_torch)
    session.next_actions()  # one executed: states move up by one
    assert session.initial_state([1], noise[:1]).flatten().tolist() == [12, 13, 14, 0]
    session.next_actions()
    assert session.initial_state([2, 0], noise[:2])[:, :, 0].tolist() == [[23, 24, 0, 0], [3, 4, 0, 0]]
    assert not np.asarray(noise).any()


@pytest.mark.parametrize(
    ("executed", "left"), [(None, [3, 4, 0, 0]), (0, [1, 2, 3, 4]), (1, [2, 3, 4, 0]), (4, [0, 0, 0, 0])]
)
def test_actions_that_were_executed_elsewhere_can_be_reported(executed: int | None, left: list[int]) -> None:
    session = Session(FixedHorizon(2), WarmStart("shifted"))
    session.accept(session.due(1), numbered(1))
    session.report(0, executed)
    assert session.due(1) == [0]
    assert session.initial_state([0], torch.zeros(1, 4, 1)).flatten().tolist() == left


class Counting:
    """A policy that counts its queries and answers with the robot's own number."""

    def __init__(self) -> None:
        self.queries: list[list[str]] = []

    def initial_state(self, batch_size: int, generator: object = None) -> torch.Tensor:
        del generator
        return torch.zeros(batch_size, 4, 1)

    def predict(self, observation: Observation, *, initial_state: object = None) -> Prediction:
        del initial_state
        self.queries.append(list(observation.instruction))
        return numbered(*(int(state) for state in observation.state[:, 0]))


def test_act_queries_only_the_robots_that_need_it() -> None:
    session, policy = Session(FixedHorizon(2)), Counting()

    def observe(*numbers: int) -> Observation:
        return Observation({}, torch.tensor([[float(n)] for n in numbers]), [f"robot {n}" for n in numbers])

    assert of(session.act(policy, observe(0, 10))) == [0, 10]
    session.reset([1])
    assert of(session.act(policy, observe(5, 70))) == [1, 70]
    assert of(session.act(policy, observe(30, 40))) == [30, 71]
    assert policy.queries == [["robot 0", "robot 10"], ["robot 70"], ["robot 30"]]
