"""The benchmark of acceleration: its plain iteration is the head's, and a fixed point stays where it is."""

from __future__ import annotations

import torch

from benchmarks.acceleration import UPDATES, anderson, plain, run
from rdvla.control import Stop
from tests.support.closeness import assert_stops_clearly
from tests.support.heads import make_context, make_head


def test_the_plain_update_is_the_heads_iteration() -> None:
    head = make_head()
    context = make_context(head, batch=4)
    state = head.initial_state(4, torch.Generator().manual_seed(0)).detach()
    with torch.no_grad():
        actions, depth = run(head, head.encode(context), state, plain)
    stop = Stop("action_change", threshold=1e-3)
    assert_stops_clearly(head, context, stop=stop, initial_state=state, tolerance=3e-5)
    expected = head.predict(context, stop=stop, initial_state=state)
    assert depth.tolist() == expected.depth.tolist()
    torch.testing.assert_close(actions, expected.actions, atol=1e-6, rtol=1e-5)


def test_no_update_leaves_a_fixed_point() -> None:
    fixed = torch.randn(2, 3, 4)
    for update in UPDATES.values():
        torch.testing.assert_close(update([fixed] * 3, [fixed] * 3), fixed, atol=1e-4, rtol=1e-4)


def test_anderson_solves_a_line_in_two_steps() -> None:
    """f(s) = a + m s with one slope m: two residuals say where the fixed point a / (1 - m) is."""
    a, m = torch.randn(1, 2, 3), 0.7
    states = [torch.zeros(1, 2, 3)]
    images = [a + m * states[0]]
    states.append(images[0])
    images.append(a + m * states[1])
    torch.testing.assert_close(anderson(1)(states, images), a / (1 - m), atol=2e-2, rtol=2e-2)
