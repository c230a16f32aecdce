"""The benchmark of a whole query on a tiny policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import query
from rdvla.files import read_json
from tests.support.tiny_models import make_policy


def test_a_whole_query_and_its_halves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_policy().save_pretrained(tmp_path / "policy")
    output = tmp_path / "query.json"
    query.main(
        [
            str(tmp_path / "policy"),
            "--ways",
            "torch",
            "--rounds",
            "2",
            "--warmup",
            "1",
            "--output",
            str(output),
        ]
    )
    rows = read_json(output)["policies"][0]["rows"]
    assert [row["what"] for row in rows] == ["torch", "torch: frames to features", "torch: head"]
    assert rows[0]["ratio"] == 1 and rows[0]["depth"][0] >= 1
    assert all(row["ms"] > 0 for row in rows)
    assert "depth" in capsys.readouterr().out
