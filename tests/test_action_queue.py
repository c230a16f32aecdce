"""The queue of actions in flight."""

import pytest
import torch

from rdvla.action_queue import ActionQueue

Queue = ActionQueue[torch.Tensor]


def numbered(*starts: int) -> torch.Tensor:
    """Chunks of four actions, (B, 4, 1), that count from the given numbers."""
    return torch.tensor([[[start + i] for i in range(4)] for start in starts])


def test_every_sample_runs_out_on_its_own() -> None:
    queue = Queue()
    assert queue.empty_rows(2) == [0, 1]
    queue.refill([0, 1], numbered(0, 10), [1, 3])
    assert [int(action) for action in queue.pop()] == [0, 10]
    assert queue.empty_rows(2) == [0]
    queue.refill([0], numbered(100), [4])
    assert [int(action) for action in queue.pop()] == [100, 11]
    assert [int(action) for action in queue.pop()] == [101, 12]
    assert queue.empty_rows(2) == [1]


def test_a_horizon_beyond_the_chunk_takes_the_whole_chunk() -> None:
    queue = Queue()
    queue.refill(queue.empty_rows(1), numbered(0), [9])
    assert [int(queue.pop()[0]) for _ in range(4)] == [0, 1, 2, 3]
    assert queue.empty_rows(1) == [0]


def test_another_batch_size_needs_a_reset() -> None:
    queue = Queue()
    queue.empty_rows(2)
    with pytest.raises(ValueError, match=r"had 2 samples and now has 3: reset\(\)"):
        queue.empty_rows(3)


def test_as_many_chunks_as_samples() -> None:
    queue = Queue()
    with pytest.raises(ValueError, match="zip"):
        queue.refill(queue.empty_rows(2), numbered(0), [1])
