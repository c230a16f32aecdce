"""Everything in the runtime that needs no graph: descriptions, noise, missing packages."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rdvla.errors import MissingExtraError, RDVLAError
from rdvla.runtime import Description, OnnxPolicy
from rdvla.runtime.description import read_description
from rdvla.runtime.graph import Graph
from rdvla.runtime.solver import truncated_normal

DESCRIPTION = Description(
    part="policy",
    precision="fp32",
    chunk_size=4,
    action_dim=4,
    hidden_dim=16,
    initial_state_std=0.6,
    stop="cosine:0.0001:2:16",
    execution="linear:4,2,6",
    cameras=("front", "wrist"),
)


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, rdvla.runtime; print({'torch', 'onnxruntime', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


def test_initial_states_are_a_truncated_normal() -> None:
    drawn = truncated_normal((200, 8, 16), std=0.5, generator=np.random.default_rng(0))
    assert drawn.dtype == np.float32
    assert np.abs(drawn).max() <= 1.5
    # The standard deviation of a normal distribution cut at three of its own is 0.98658 of it.
    assert drawn.std() == pytest.approx(0.5 * 0.98658, rel=0.01)
    assert drawn.mean() == pytest.approx(0, abs=0.01)
    again = truncated_normal((200, 8, 16), std=0.5, generator=np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, again)


def test_a_description_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "policy.onnx").write_bytes(b"graph")
    DESCRIPTION.write(tmp_path)
    assert read_description(tmp_path) == DESCRIPTION


def without_checksum(path: Path) -> dict:
    """The content of a manifest as an older version wrote it."""
    content = json.loads(path.read_text())
    del content["crc32"]
    return content


def test_a_description_of_the_schema_before_is_read(tmp_path: Path) -> None:
    (tmp_path / "policy.onnx").write_bytes(b"graph")
    DESCRIPTION.write(tmp_path)
    path = tmp_path / "runtime.json"
    numbers = {"threshold": 1e-4, "coda_below": 0.1, "min_depth": 2, "max_depth": 16}
    older = {"schema": 2, "stop": {"kind": "cosine", **numbers}}
    path.write_text(json.dumps(without_checksum(path) | older))
    assert read_description(tmp_path) == replace(DESCRIPTION, stop_per_sample=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not of a policy made by `rdvla export`"),
        ({"schema": 1}, "has schema 1, this version of rdvla reads 2, 3"),
        ({"files": {}}, "must name the files"),
        ({"extra": 1}, "unknown entry 'extra'"),
        ({"stop": "fixed:0"}, "at least 1"),
        ({"stop": 3}, "is damaged"),
        ({"chunk_size": 4.0}, "chunk_size must be a whole number"),
        ({"hidden_dim": 10**30}, "hidden_dim must be a whole number from 0 to"),
        ({"initial_state_std": None}, "initial_state_std must be a number above 0"),
        ({"initial_state_std": -1.0}, "initial_state_std must be a number above 0"),
        ({"cameras": "front"}, "cameras must be a list of texts"),
        ({"execution": 3}, "execution must be a text"),
        ({"resize": {"front": "bend"}}, "resize must say crop, pad, stretch"),
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "policy.onnx").write_bytes(b"graph")
    DESCRIPTION.write(tmp_path)
    path = tmp_path / "runtime.json"
    path.write_text(json.dumps(without_checksum(path) | change))
    with pytest.raises(RDVLAError, match=message) as raised:
        read_description(tmp_path)
    assert "runtime.json" in str(raised.value)


def test_a_graph_that_onnxruntime_cannot_read(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "policy.onnx").write_bytes(b"graph")
    DESCRIPTION.write(tmp_path)
    with pytest.raises(RDVLAError, match=r"policy\.onnx cannot be opened by onnxruntime"):
        OnnxPolicy.load(tmp_path)


def test_a_missing_onnxruntime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '\.\[runtime\]'"):
        Graph(tmp_path / "policy.onnx")
