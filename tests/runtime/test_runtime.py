"""What the runtime decides by itself, without a graph."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rdvla.errors import ConfigError, MissingExtraError, RDVLAError
from rdvla.runtime import Description, OnnxPolicy, Stop
from rdvla.runtime.description import read_description
from rdvla.runtime.noise import truncated_normal
from rdvla.runtime.session import Session

DESCRIPTION = Description(
    part="policy",
    precision="fp32",
    chunk_size=4,
    action_dim=4,
    hidden_dim=16,
    initial_state_std=0.6,
    stop=Stop("cosine", threshold=1e-4, max_depth=16),
    execution="linear:4,2,6",
    cameras=("front", "wrist"),
)


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, rdvla.runtime; print({'torch', 'onnxruntime', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "action_chang"}, "Did you mean 'action_change'"),
        ({"kind": "cosine", "min_depth": 1}, "need 2 <= min_depth"),
        ({"kind": "cosine", "max_depth": 1}, "need 2 <= min_depth <= max_depth"),
        ({"kind": "latent_change", "threshold": 0.0}, "threshold must be positive"),
        ({"kind": "deferred_action_change", "coda_below": 0.0}, "coda_below must be positive"),
        ({"kind": "fixed", "min_depth": 0, "max_depth": 0}, "need 1 <= min_depth"),
        ({"kind": "fixed", "max_depth": 8}, "write Stop.fixed"),
    ],
)
def test_impossible_rules_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Stop(**arguments)


@pytest.mark.parametrize(
    "text",
    [
        *("8", "action_change", "deferred_action_change", "latent_change", "cosine"),
        *("action_change:1e-4", "latent_change:0.02:3:9", "deferred_action_change:1e-4:0.2"),
    ],
)
def test_rules_are_read_from_text_as_the_head_reads_them(text: str) -> None:
    from rdvla.control import parse_stop
    from rdvla.export.verify import as_stop

    assert Stop.of(text) == as_stop(parse_stop(text))


@pytest.mark.parametrize("text", ["deferred_action_change:1e-3", "acton_change", "0", "cosine:1e-3:4"])
def test_text_that_the_graph_cannot_follow_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"(unknown|cannot read the) stop rule|need 1 <= min_depth"):
        Stop.of(text)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not of a policy made by `rdvla export`"),
        ({"schema": 1}, "has schema 1, this version of rdvla reads 2"),
        ({"files": {}}, "must name the files"),
        ({"extra": 1}, "unknown entry 'extra'"),
        ({"stop": {"kind": "fixed", "min_depth": 0}}, "min_depth"),
        ({"stop": 3}, "is damaged"),
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "policy.onnx").write_bytes(b"graph")
    DESCRIPTION.write(tmp_path)
    path = tmp_path / "runtime.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
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
    with pytest.raises(MissingExtraError, match=r"pip install 'rdvla\[onnx\]'"):
        Session(tmp_path / "policy.onnx")
