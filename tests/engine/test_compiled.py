"""A head as compiled code acts as it did, and never with other weights than its own."""

from __future__ import annotations

import copy
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rdvla.control import Stop
from rdvla.engine import Engine, compile
from rdvla.errors import ConfigError, RDVLAError
from rdvla.heads import RecurrentDepthHead
from tests.support.closeness import assert_stops_clearly
from tests.support.heads import make_context, make_head
from tests.support.processes import without_a_compiler

NEEDS_COMPILER = pytest.mark.skipif(
    not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU"
)


def case(batch: int) -> tuple[RecurrentDepthHead, dict[str, object]]:
    head = make_head().eval()
    state = head.initial_state(batch, torch.Generator().manual_seed(0)).detach()
    state = state * torch.linspace(0.2, 6, batch)[:, None, None]
    return head, {"context": make_context(head, batch=batch), "initial_state": state}


@NEEDS_COMPILER
@pytest.mark.slow
@pytest.mark.parametrize("batch", [2, 7])  # 6 rows, for the kernel; 21, which it gets as samples stop
def test_compiled_code_gives_the_same_at_any_depth(batch: int) -> None:
    head, inputs = case(batch)
    stops = (1, 4, 9, Stop("action_change", threshold=1e-3))
    expected = [head.predict(**inputs, stop=stop) for stop in stops]
    assert len(set(expected[-1].depth.tolist())) > 1
    assert_stops_clearly(head, **inputs, stop=stops[-1], tolerance=3e-5)
    engine = compile(head)
    engine.predict(**inputs, stop=2)
    for stop, before in zip(stops, expected, strict=True):
        # No depth compiles anything again; a batch that shrinks, as samples stop, may.
        compiles = "default" if stop == stops[-1] else "fail_on_recompile"
        with torch.compiler.set_stance(compiles):
            actual = engine.predict(**inputs, stop=stop)
        assert actual.depth.tolist() == before.depth.tolist()
        torch.testing.assert_close(actual.actions, before.actions, atol=1e-5, rtol=1e-5)
    assert engine.is_compiled


@NEEDS_COMPILER
@pytest.mark.slow
def test_changed_weights_drop_the_code_and_are_used() -> None:
    head, inputs = case(1)
    engine = compile(head)
    before = engine.predict(**inputs, stop=2).actions
    with torch.no_grad():
        head.output.weight.mul_(2)
    with pytest.warns(UserWarning, match="weights have changed since it was compiled"):
        doubled = engine.predict(**inputs, stop=2).actions - head.output.bias
    torch.testing.assert_close(doubled, 2 * (before - head.output.bias), atol=1e-5, rtol=1e-5)
    again = compile(head)
    torch.testing.assert_close(
        again.predict(**inputs, stop=2).actions - head.output.bias, doubled, atol=1e-5, rtol=1e-5
    )


def in_place(head: RecurrentDepthHead) -> None:
    with torch.no_grad():
        head.core[0].feedforward.down.weight.add_(1e-3)


def behind_torchs_back(head: RecurrentDepthHead) -> None:
    head.core[0].feedforward.down.weight.data.mul_(1.001)


def through_numpy(head: RecurrentDepthHead) -> None:
    array = head.output.weight.detach().numpy()
    np.multiply(array, 1.001, out=array)


def optimizer_step_in_eval_mode(head: RecurrentDepthHead) -> None:
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.output.weight.grad = torch.ones_like(head.output.weight)
    optimizer.step()


def replaced_parameter(head: RecurrentDepthHead) -> None:
    head.gamma_adapt = torch.nn.Parameter(head.gamma_adapt.detach().clone())


def replaced_module(head: RecurrentDepthHead) -> None:
    head.core[0].feedforward.down = copy.deepcopy(head.core[0].feedforward.down)


def load(head: RecurrentDepthHead) -> None:
    head.load_state_dict(head.state_dict())


def load_a_child(head: RecurrentDepthHead) -> None:
    head.core[0].load_state_dict(head.core[0].state_dict())


def load_into_what_holds_it(head: RecurrentDepthHead) -> None:
    holder = torch.nn.ModuleDict({"head": head})
    holder.load_state_dict(holder.state_dict())


def move(head: RecurrentDepthHead) -> None:
    head.to(torch.float64)


@pytest.mark.parametrize(
    "change",
    [
        in_place, behind_torchs_back, through_numpy, optimizer_step_in_eval_mode, replaced_parameter,
        replaced_module, load, load_a_child, load_into_what_holds_it, move,
    ],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_code_is_never_older_than_the_weights(change: Callable[[RecurrentDepthHead], None]) -> None:
    head, _ = case(1)
    engine = compile(head)  # nothing is compiled before the first prediction
    assert engine.is_compiled
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # reading and predicting as it is are no changes
        head.state_dict()
        Engine(head).predict(make_context(head, batch=1), stop=1)
        assert engine.is_compiled
    change(head)
    with pytest.warns(UserWarning, match="compile it again"):
        assert not engine.is_compiled


def test_weights_that_are_trained_are_not_compiled() -> None:
    head, _ = case(1)
    with pytest.raises(RDVLAError, match=r"call eval\(\) first"):
        compile(head.train())


def test_a_copy_has_no_code_yet() -> None:
    head, _ = case(1)
    head.compile()  # of torch itself, which cannot be pickled either
    engine = compile(head)
    for other in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert not other.is_compiled and other.head is not head
    assert engine.is_compiled


def test_an_unknown_dtype_is_refused() -> None:
    head, _ = case(1)
    with pytest.raises(ConfigError, match=r"torch\.float32, torch\.bfloat16, got torch\.float16"):
        compile(head, dtype=torch.float16)


@NEEDS_COMPILER
@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 7])
def test_bfloat16_products_leave_states_and_actions_in_float32(batch: int) -> None:
    head, inputs = case(batch)
    expected = head.predict(**inputs, stop=4)
    actual = compile(head, dtype=torch.bfloat16).predict(**inputs, stop=4)
    assert actual.actions.dtype == actual.state.dtype == torch.float32
    assert not torch.equal(actual.actions, expected.actions)
    torch.testing.assert_close(actual.actions, expected.actions, atol=3e-2, rtol=3e-2)


@NEEDS_COMPILER
@pytest.mark.slow
def test_without_a_compiler_the_error_says_what_is_missing(tmp_path: Path) -> None:
    code = (
        "from rdvla.engine import compile; from tests.support.heads import make_context, make_head\n"
        "head = make_head().eval()\n"
        "compile(head).predict(make_context(head), stop=2)"
    )
    found = without_a_compiler(code, tmp_path)
    assert found.returncode != 0
    assert "RDVLAError: torch could not compile the head" in found.stderr and "C++ compiler" in found.stderr
