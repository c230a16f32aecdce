"""Generating datasets: interruption, resumption, parallel processes, and errors that say what to do."""

import dataclasses
import json

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from rdvla.errors import ConfigError, DatasetError, RDVLAError
from rdvla.simulation.demonstrations import DemonstrationConfig, generate
from rdvla.simulation.demonstrations.attempts import AttemptRunner

pytest.importorskip("metaworld")


def config(root, **changes):
    base = DemonstrationConfig(
        output=root,
        tasks=("reach-v3", "drawer-close-v3"),
        episodes_per_task=1,
        cameras=("side",),
        image_size=32,
        camera_stride=20,
        steps_after_success=2,
        noise_levels=(0.2,),
        workers=1,
    )
    return dataclasses.replace(base, **changes)


def rows(root):
    return pq.read_table(root / "data/chunk-000/file-000.parquet")


def frames(root):
    with av.open(str(root / "videos/observation.images.side/chunk-000/file-000.mp4")) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    root = tmp_path_factory.mktemp("demos") / "whole"
    return generate(config(root), show_progress=False)


def test_writes_a_dataset_with_its_configuration(uninterrupted):
    root = uninterrupted.root
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 80 and info["robot_type"] == "sawyer"
    assert info["total_episodes"] == 2
    assert info["features"]["observation.images.side"]["rendering"] == "fast"
    assert info["features"]["action"]["names"] == ["x", "y", "z", "gripper"]
    observations = {name for name in info["features"] if name.startswith("observation")}
    assert observations == {"observation.images.side", "observation.state"}
    table = rows(root)
    assert {"observation.state", "privileged.environment_state", "action", "next.success"} <= set(
        table.column_names
    )
    assert np.stack(table["observation.state"].to_numpy()).shape[1] == 4
    record = json.loads((root / "demonstrations.json").read_text())
    assert record["config"]["tasks"] == ["reach-v3", "drawer-close-v3"]
    assert [task["episodes"] for task in record["tasks"]] == [1, 1]
    assert not list(root.parent.glob(".whole*"))


def test_an_interrupted_generation_resumes_to_the_same_dataset(uninterrupted, tmp_path, monkeypatch):
    root = tmp_path / "resumed"
    once = AttemptRunner.run
    ran = []

    def interrupted(self, attempt, ask):
        if ran:
            raise KeyboardInterrupt
        ran.append(attempt)
        return once(self, attempt, ask)

    monkeypatch.setattr(AttemptRunner, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(config(root), show_progress=False)
    assert not root.exists()
    with pytest.raises(ConfigError, match=r"camera_stride = 20, now it is 10"):
        generate(config(root, camera_stride=10), show_progress=False)

    def counted(self, attempt, ask):
        ran.append(attempt)
        return once(self, attempt, ask)

    monkeypatch.setattr(AttemptRunner, "run", counted)
    generate(config(root), show_progress=False)
    assert len(ran) == len(set(ran))  # nothing was done twice
    assert rows(root).equals(rows(uninterrupted.root))
    np.testing.assert_array_equal(frames(root), frames(uninterrupted.root))


@pytest.mark.slow
def test_worker_processes_write_the_same_dataset(uninterrupted, tmp_path):
    report = generate(config(tmp_path / "parallel", workers=2), show_progress=False)
    assert report.tasks == uninterrupted.tasks
    assert rows(report.root).equals(rows(uninterrupted.root))


def test_a_finished_dataset_is_reported_and_another_is_not_overwritten(uninterrupted):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.root.rglob("*")}
    again = generate(config(uninterrupted.root), show_progress=False)
    assert (again.root, again.tasks) == (uninterrupted.root, uninterrupted.tasks)
    with pytest.raises(DatasetError, match="exists already"):
        generate(config(uninterrupted.root, seed=1), show_progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in uninterrupted.root.rglob("*")}


def test_a_damaged_staged_episode_is_named(tmp_path, monkeypatch):
    root = tmp_path / "damaged"
    once = AttemptRunner.run

    def interrupted(self, attempt, ask):
        if attempt.task_index == 1:
            raise KeyboardInterrupt
        return once(self, attempt, ask)

    monkeypatch.setattr(AttemptRunner, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(config(root), show_progress=False)
    (record,) = tmp_path.glob(".damaged.staging/episodes/*/episode.json")
    record.write_text("{")
    with pytest.raises(DatasetError, match=r"episode\.json is damaged: delete"):
        generate(config(root), show_progress=False)


def test_an_exception_in_an_attempt_names_the_attempt(tmp_path, monkeypatch):
    def broken(self, attempt, ask):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(AttemptRunner, "run", broken)
    expected = r"reach-v3, attempt 0 \(scene seed \d+\) raised ZeroDivisionError: oops"
    with pytest.raises(RDVLAError, match=expected):
        generate(config(tmp_path / "broken"), show_progress=False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"episodes_per_task": 0}, "episodes_per_task must be at least 1"),
        ({"camera_stride": 0}, "camera_stride must be at least 1"),
        ({"noise_levels": (0.1, -0.1)}, "noise_levels"),
        ({"burst_probability": 1.5}, "burst_probability"),
        ({"workers": 0}, "workers"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"episodes_per_task": 5000}, "at most 10000"),
    ],
)
def test_impossible_settings_are_named(tmp_path, changes, expected):
    with pytest.raises(ConfigError, match=expected):
        config(tmp_path / "never", **changes)


def test_an_unknown_task_or_camera_leaves_nothing_behind(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'reach-v3'"):
        generate(config(tmp_path / "never", tasks=("reech-v3",)), show_progress=False)
    with pytest.raises(ConfigError, match="unknown camera 'wrst'"):
        generate(config(tmp_path / "never", cameras=("wrst",)), show_progress=False)
    assert not list(tmp_path.iterdir())
