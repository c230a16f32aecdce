"""Which features make up the action and the state, and what the dataset says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdvla.data import EpisodeDataset
from rdvla.errors import DatasetError
from tests.support.published_datasets import LENGTHS, numbers, write_published

FRAMES = sum(LENGTHS)
DATA, INFO = "data/chunk-000/file-000.parquet", "meta/info.json"


def changed(
    root: Path, *, rename: dict[str, str] | None = None, add: dict[str, tuple[dict[str, Any], pa.Array]]
) -> Path:
    """Write a dataset of others, rename features, and add some: name -> (declaration, column)."""
    write_published(root, kind="image")
    info = json.loads((root / INFO).read_text())
    table = pq.read_table(root / DATA)
    names = rename or {}
    table = table.rename_columns([names.get(name, name) for name in table.column_names])
    info["features"] = {names.get(name, name): feature for name, feature in info["features"].items()}
    for name, (feature, column) in add.items():
        info["features"][name] = feature
        table = table.append_column(name, column) if column is not None else table
    pq.write_table(table, root / DATA)
    (root / INFO).write_text(json.dumps(info))
    return root


def feature(size: int, dtype: str = "float32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [size], "names": None} | more


def lists(values: np.ndarray) -> pa.Array:
    return pa.array(values.tolist(), pa.list_(pa.from_numpy_dtype(values.dtype)))


def test_features_are_joined_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    arm, gripper = numbers(3), numbers(1)[:, 0]
    root = changed(
        tmp_path / "d",
        rename={"action": "raw"},
        add={
            "action.gripper": (feature(1, names=["open"], units=["m"]), pa.array(gripper)),
            "action.arm": (feature(3, names={"axes": ["x", "y", "z"]}, units=["rad"] * 3), lists(arm)),
        },
    )
    dataset = EpisodeDataset(root, chunk_size=2, action=["action.arm", "action.gripper"])
    assert dataset.action_dim == 4 and dataset.names("action") == ["x", "y", "z", "open"]
    assert dataset.units("action") == ["rad", "rad", "rad", "m"]
    expected = np.concatenate([arm, gripper[:, None]], axis=1)
    np.testing.assert_array_equal(dataset.column("action"), expected)
    np.testing.assert_array_equal(dataset.actions([3])[0], expected[3:5])
    np.testing.assert_allclose(dataset.statistics["action"]["q99"], np.quantile(expected, 0.99, axis=0))
    turned = EpisodeDataset(root, chunk_size=2, action=["action.gripper", "action.arm"])
    np.testing.assert_array_equal(turned.column("action"), expected[:, [3, 0, 1, 2]])


def test_other_names_are_suggested_and_then_read(tmp_path: Path) -> None:
    root = changed(tmp_path / "d", rename={"action": "actions", "observation.state": "state"}, add={})
    with pytest.raises(DatasetError) as error:
        EpisodeDataset(root, chunk_size=2)
    assert "--data.action '[actions]' --data.state '[state]'" in str(error.value)
    dataset = EpisodeDataset(root, chunk_size=2, action=["actions"], state=["state"])
    np.testing.assert_array_equal(dataset.column("action"), numbers(7))
    np.testing.assert_array_equal(dataset.state(range(FRAMES)), numbers(8))
    assert set(dataset.statistics) == {"action", "observation.state"} and dataset.state_dim == 8
    with pytest.raises(DatasetError, match="no feature 'stat'"):
        EpisodeDataset(root, chunk_size=2, action=["actions"], state=["stat"])


def test_a_state_is_not_needed(tmp_path: Path) -> None:
    root = changed(tmp_path / "d", rename={"observation.state": "qpos"}, add={})
    dataset = EpisodeDataset(root, chunk_size=2)
    assert dataset.state_dim == 0 and dataset.state([0, 1]).shape == (2, 0)
    assert any("--data.state '[qpos]'" in note for note in dataset.notes)
    np.testing.assert_array_equal(dataset.column("qpos"), numbers(8))


@pytest.mark.parametrize(
    ("declaration", "column"),
    [
        (feature(3), lists(np.where(np.arange(FRAMES * 3).reshape(-1, 3) == 20, np.nan, 1.0))),
        (feature(1), pa.array([0.0] * (FRAMES - 1) + [None])),
        (feature(3), pa.array([[1.0] * (1 + t % 3) for t in range(FRAMES)])),
        (feature(2), None),
        (feature(1, "string"), pa.array(["a"] * FRAMES)),
    ],
    ids=["NaN", "null", "ragged", "no column", "text"],
)
def test_a_fault_in_a_feature_that_nobody_reads_stops_nothing(
    tmp_path: Path, declaration: dict[str, Any], column: pa.Array
) -> None:
    dataset = EpisodeDataset(changed(tmp_path / "d", add={"extra": (declaration, column)}), chunk_size=2)
    np.testing.assert_array_equal(dataset.column("action"), numbers(7))
    with pytest.raises(DatasetError, match="extra"):
        dataset.column("extra")


def test_a_value_that_is_not_finite_is_named_by_file_row_and_episode(tmp_path: Path) -> None:
    values = numbers(2)
    values[9, 1] = np.inf
    root = changed(tmp_path / "d", rename={"action": "old"}, add={"action": (feature(2), lists(values))})
    with pytest.raises(DatasetError, match=rf"{DATA}: 'action' .* inf in row 9 \(episode 1, frame 2\)"):
        EpisodeDataset(root, chunk_size=2)


@pytest.mark.parametrize("fault", ["a missing value", "a missing list", "a short list"])
def test_a_row_without_its_values_is_named_by_row_and_episode(tmp_path: Path, fault: str) -> None:
    rows: list[Any] = numbers(2).tolist()
    rows[9] = {"a missing value": [1.0, None], "a missing list": None, "a short list": [1.0]}[fault]
    column = pa.array(rows, pa.list_(pa.float32()))
    root = changed(tmp_path / "d", rename={"action": "old"}, add={"action": (feature(2), column)})
    with pytest.raises(DatasetError, match=rf"{DATA}: column 'action' .* row 9 \(episode 1, frame 2\)"):
        EpisodeDataset(root, chunk_size=2)


def test_quantiles_of_the_file_are_not_believed(tmp_path: Path) -> None:
    root = write_published(tmp_path / "d", kind="image")
    wrong = {kind: [5.0] * 7 for kind in ("min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99")}
    for text in (json.dumps({"action": wrong | {"count": [9]}}), '{"action": {"std": [NaN]}}', "not JSON"):
        (root / "meta/stats.json").write_text(text)
        found = EpisodeDataset(root, chunk_size=2).statistics["action"]
        np.testing.assert_allclose(found["q01"], np.quantile(numbers(7).astype(float), 0.01, axis=0))
        np.testing.assert_allclose(found["std"], numbers(7).astype(float).std(axis=0))
    (root / "meta/stats.json").unlink()
    assert EpisodeDataset(root, chunk_size=2).statistics["action"] == found
