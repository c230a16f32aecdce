"""Products of few rows in the kernel are torch's products, and a head that uses them acts as before."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla.control import Stop
from rdvla.engine import Engine
from rdvla.engine.gemv import build, gemv_copy, register
from rdvla.engine.gemv import library as gemv_library
from rdvla.engine.gemv.library import kernels_of, pack
from rdvla.engine.gemv.linear import GEMVLinear
from tests.support.closeness import assert_stops_clearly
from tests.support.heads import make_context, make_head

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="the kernel needs a C++ compiler")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module", autouse=True)
def kernel() -> None:
    register(build())


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(0, 21), inner=st.integers(1, 300), outer=st.integers(1, 130), seed=st.integers(0, 2**20)
)
def test_a_product_is_the_exact_one(dtype: torch.dtype, rows: int, inner: int, outer: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inner, generator=generator)
    weight = torch.randn(outer, inner, generator=generator)
    exact = x.double() @ weight.to(dtype).double().T  # bfloat16 rounds the weights, and nothing else
    found = GEMVLinear(weight, dtype)(x)
    assert found.dtype == torch.float32 and found.shape == (rows, outer)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_layout_and_number_of_dimensions_will_do(dtype: torch.dtype) -> None:
    weight = torch.randn(64, 32)
    x = torch.randn(2, 32, 3).transpose(1, 2)
    torch.testing.assert_close(
        GEMVLinear(weight, dtype)(x), x @ weight.to(dtype).float().T, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_share_the_work_and_change_nothing(threads: int) -> None:
    layer, x = GEMVLinear(torch.randn(256, 64), torch.float32), torch.randn(8, 64)
    before, expected = torch.get_num_threads(), layer(x)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(layer(x), expected)
    finally:
        torch.set_num_threads(before)


def test_infinity_and_nan_stay_in_their_row() -> None:
    x = torch.randn(3, 32)
    x[0, 5], x[2, 7] = torch.inf, torch.nan
    found = GEMVLinear(torch.rand(32, 32) + 1, torch.float32)(x)
    assert found[0].isposinf().all() and found[1].isfinite().all() and found[2].isnan().all()


RULES = [
    Stop.fixed(1),
    Stop.fixed(5),
    Stop("action_change", threshold=2e-3),
    Stop("deferred_action_change", threshold=2e-3, coda_below=0.1),
]


@pytest.mark.parametrize("rule", RULES, ids=Stop.describe)
@pytest.mark.parametrize("batch", [1, 2])
def test_a_head_with_the_kernel_acts_as_without(batch: int, rule: Stop) -> None:
    head = make_head().eval()
    twin = gemv_copy(head, torch.float32)
    assert sum(isinstance(module, GEMVLinear) for module in twin.modules()) == 3 * 6 + 2 + 1
    context = make_context(head, batch=batch)
    state = head.initial_state(batch, torch.Generator().manual_seed(0)).detach()
    assert_stops_clearly(head, context, stop=rule, initial_state=state, tolerance=3e-5)
    expected, found = (Engine(each).predict(context, stop=rule, initial_state=state) for each in (head, twin))
    assert found.depth.tolist() == expected.depth.tolist()
    torch.testing.assert_close(found.actions, expected.actions, atol=1e-5, rtol=1e-5)


def test_a_copy_shares_what_it_does_not_pack_and_leaves_the_head_alone() -> None:
    head = make_head()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    kinds = [type(module) for module in head.modules()]
    twin = gemv_copy(head, torch.bfloat16)
    assert twin.action_queries is head.action_queries
    assert kinds == [type(module) for module in head.modules()]
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())


@pytest.mark.parametrize(
    ("x", "packed"),
    [
        (torch.randn(2, 8, dtype=torch.float64), torch.randn(1, 8, 32)),
        (torch.randn(2, 8, dtype=torch.bfloat16), torch.randn(1, 8, 32)),
        (torch.randn(2, 5), torch.randn(1, 8, 32)),
        (torch.randn(2, 8), torch.randn(1, 32, 8).transpose(1, 2)),
    ],
    ids=["double", "bfloat16", "another width", "not contiguous"],
)
def test_what_the_kernel_cannot_read_is_refused(x: torch.Tensor, packed: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="takes x in float32 and contiguous weights"):
        torch.ops.rdvla.gemv(x, packed)


def test_a_library_of_something_else_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.so"
    (tmp_path / "other.cpp").write_text('extern "C" void other() {}')
    subprocess.run(["g++", "-shared", "-fPIC", str(tmp_path / "other.cpp"), "-o", str(other)], check=True)
    with pytest.raises(OSError, match="is no library of this kernel"):
        kernels_of(other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_processors_with_narrower_vectors_get_the_same(tmp_path: Path, dtype: torch.dtype) -> None:
    source, library = Path(gemv_library.__file__).with_name("kernel.cpp"), tmp_path / "plain.so"
    subprocess.run(["g++", "-O2", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    x, weight = torch.randn(11, 50), torch.randn(64, 50)
    packed, out = pack(weight, dtype), torch.empty(11, 64)
    kernels_of(library)[dtype](x.data_ptr(), packed.data_ptr(), out.data_ptr(), 11, 50, 64, 1)
    torch.testing.assert_close(out, x @ weight.to(dtype).float().T, atol=1e-4, rtol=1e-4)
