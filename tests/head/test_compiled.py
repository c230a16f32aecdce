"""A head as compiled code acts as it did, and training brings the original back."""

from __future__ import annotations

import copy
import pickle
import shutil

import pytest
import torch

from rdvla.control import Stop
from rdvla.errors import RDVLAError
from rdvla.heads import RecurrentDepthHead
from tests.support.heads import make_context, make_head

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU"),
]


def case(batch: int) -> tuple[RecurrentDepthHead, dict[str, object]]:
    head = make_head().eval()
    state = head.initial_state(batch, torch.Generator().manual_seed(0)).detach()
    state = state * torch.linspace(0.2, 6, batch)[:, None, None]
    return head, {"context": make_context(head, batch=batch), "initial_state": state}


@pytest.mark.parametrize("batch", [2, 7])  # 6 rows, for the kernel; 21, which it gets as samples stop
def test_compiled_code_gives_the_same_at_any_depth_until_training_drops_it(batch: int) -> None:
    head, inputs = case(batch)
    rules = (1, 4, 9, Stop("action_change", threshold=1e-3))
    expected = [head(**inputs, depth=rule) for rule in rules]
    assert len(set(expected[-1].depth.tolist())) > 1
    head.optimize()
    head(**inputs, depth=2)
    torch._dynamo.utils.counters.clear()
    for rule, before in zip(rules, expected, strict=True):
        if rule == rules[-1]:  # up to here no depth has compiled anything again; a smaller batch may
            assert not torch._dynamo.utils.counters["stats"].get("unique_graphs")
        actual = head(**inputs, depth=rule)
        assert actual.depth.tolist() == before.depth.tolist()
        torch.testing.assert_close(actual.actions, before.actions, atol=1e-5, rtol=1e-5)
    head.train()
    with torch.no_grad():
        head.output.weight.mul_(2)
    doubled = head.eval()(**inputs, depth=4).actions - head.output.bias
    torch.testing.assert_close(doubled, 2 * (expected[1].actions - head.output.bias), atol=1e-5, rtol=1e-5)


def test_code_holds_the_weights_of_its_time_and_no_others() -> None:
    head, inputs = case(1)
    head.optimize()
    before = head(**inputs, depth=2).actions
    with torch.no_grad():
        head.output.weight.mul_(2)
    assert torch.equal(head(**inputs, depth=2).actions, before)  # constants: that is what packs them
    head.train().eval()
    changed = head(**inputs, depth=2).actions
    assert not torch.allclose(changed, before, atol=1e-3)
    head.optimize()
    torch.testing.assert_close(head(**inputs, depth=2).actions, changed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["train", "move", "load", "load into what holds it"])
def test_compiled_code_is_dropped_when_weights_change(change: str) -> None:
    head, _ = case(1)
    holder = torch.nn.ModuleDict({"head": head})
    head.optimize()
    assert head._optimized is not None
    if change == "train":
        holder.train()
    elif change == "move":
        holder.to(torch.float64)
    elif change == "load":
        head.load_state_dict(head.state_dict())
    else:
        holder.load_state_dict(holder.state_dict())
    assert head._optimized is None


def test_weights_that_are_trained_are_not_compiled() -> None:
    head, _ = case(1)
    with pytest.raises(RDVLAError, match=r"call eval\(\) first"):
        head.train().optimize()


def test_a_copy_has_no_code_yet() -> None:
    head, _ = case(1)
    head.compile()  # of torch itself, which cannot be pickled either
    head.optimize()
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert other._optimized is None
    assert head._optimized is not None


@pytest.mark.parametrize("batch", [1, 7])
def test_bfloat16_products_leave_states_and_actions_in_float32(batch: int) -> None:
    head, inputs = case(batch)
    expected = head(**inputs, depth=4)
    head.optimize(precision="bf16")
    actual = head(**inputs, depth=4)
    assert actual.actions.dtype == actual.state.dtype == torch.float32
    assert not torch.equal(actual.actions, expected.actions)
    torch.testing.assert_close(actual.actions, expected.actions, atol=3e-2, rtol=3e-2)


def test_without_a_compiler_the_error_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    head, inputs = case(2)
    head.optimize()
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with torch._inductor.config.patch(force_disable_caches=True), pytest.raises(RDVLAError, match="C\\+\\+"):
        head(**inputs, depth=2)
