"""The GEMV kernel's benchmark times only products that agree."""

from __future__ import annotations

import shutil

import pytest
import torch

from benchmarks import gemv, markdown
from tests.support.heads import SMALL

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="the kernel needs a C++ compiler")


def test_the_products_are_those_of_an_iteration() -> None:
    from benchmarks.roofline import iteration

    matrices = gemv.weights(SMALL)
    keys_and_values = 2 * len(SMALL.core) * 10 * SMALL.hidden_dim
    assert sum(m.numel() for m in matrices) + keys_and_values == iteration(SMALL, tokens=10).bytes / 4


@pytest.mark.slow
def test_both_are_timed_and_lie_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    lines = gemv.measure(SMALL, rows=(3, 6), rounds=2)
    assert [(line["dtype"], line["rows"]) for line in lines] == [
        ("float32", 3), ("float32", 6), ("bfloat16", 3), ("bfloat16", 6)
    ]  # fmt: skip
    for line in lines:
        assert line["ratio_spread"][0] <= line["ratio"] <= line["ratio_spread"][1]
        assert line["rounds"] == 2 and line["ms"].keys() == {"torch", "kernel"}
    assert capsys.readouterr().out.count("GiB/s") == 4
    table = list(markdown.tables({"rows": lines}))
    assert len(table) == 2 + 4 and table[2].startswith("| float32 | 3 | ")


@pytest.mark.slow
def test_products_that_disagree_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemv.GEMVLinear, "forward", lambda self, x: torch.zeros(len(x), self.out_features))
    with pytest.raises(RuntimeError, match="disagrees"):
        gemv.measure(SMALL, rows=(3,), rounds=1)
