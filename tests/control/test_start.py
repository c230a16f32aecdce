"""Where iterations start, and that a start near the answer needs fewer of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rdvla.control import Stop, WarmStart, split_start
from rdvla.control.start import KINDS
from rdvla.errors import ConfigError
from tests.support.heads import make_context, make_head


def test_starts_are_what_their_names_say() -> None:
    noise = torch.zeros(2, 4, 3)
    previous = torch.arange(1.0, 5.0)[None, :, None].expand(2, 4, 3)
    executed = [3, 1]
    rows = {
        kind: WarmStart(kind).start(noise, previous, executed)[:, :, 0].tolist()
        for kind in ("noise", "final", "midpoint", "shifted")
    }
    assert rows["noise"] == [[0, 0, 0, 0]] * 2
    assert rows["final"] == [[1, 2, 3, 4]] * 2
    assert rows["midpoint"] == [[0.5, 1, 1.5, 2]] * 2
    assert rows["shifted"] == [[4, 0, 0, 0], [2, 3, 4, 0]]


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_numpy_start_as_tensors_do(kind: str) -> None:
    noise, previous = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    started = WarmStart(kind).start(noise, previous, [2, 9])
    as_numpy = WarmStart(kind).start(noise.numpy(), previous.numpy(), [2, 9])
    assert as_numpy.dtype == np.float32
    np.testing.assert_array_equal(as_numpy, started)


def test_the_same_query_again_ends_where_it_was() -> None:
    head = make_head()
    context = make_context(head)
    state = head.initial_state(2, torch.Generator().manual_seed(0)).detach()
    rule = Stop("latent_change", threshold=0.2, max_depth=64)
    first = head.predict(context, stop=rule, initial_state=state)
    again = WarmStart("final").start(state, first.state, [1, 1])
    second = head.predict(context, stop=rule, initial_state=again)
    assert first.converged.all() and (second.depth <= first.depth).all()
    assert int(second.depth.sum()) < int(first.depth.sum())


@pytest.mark.parametrize("text", ["8", "action_change:1e-3"])
def test_a_start_is_written_behind_a_rule(text: str) -> None:
    assert split_start(text) == (text, WarmStart("noise"))
    assert split_start(f"{text}@shifted") == (text, WarmStart("shifted"))
    with pytest.raises(ConfigError, match="Did you mean 'shifted'"):
        split_start(f"{text}@shited")
    with pytest.raises(ConfigError, match="unknown start ''"):
        split_start(f"{text}@")
