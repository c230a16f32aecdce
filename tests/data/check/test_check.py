"""Each fault of a dataset is found, with its severity, place and fix; a sound dataset has none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdvla import cli
from rdvla.data.check.check import check_dataset
from rdvla.data.check.findings import Finding
from rdvla.errors import DatasetError
from tests.support.flawed_datasets import CAMERA, FPS, Columns, moving, write_lines, write_v21, write_video
from tests.support.published_datasets import KEYS, write_published
from tests.support.shared_data import shared_data

PUBLISHED_KEY = KEYS[0]


def found(root: Path, check: str, *, decode_all: bool = False) -> list[Finding]:
    report = check_dataset(root, decode_all=decode_all)
    return [finding for finding in report.findings if finding.check == check]


def the_only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def test_a_sound_dataset_has_neither_errors_nor_warnings(tmp_path: Path) -> None:
    report = check_dataset(write_v21(tmp_path / "d"))
    assert (report.episodes, report.frames, report.version) == (4, 120, "v2.1")
    assert [f for f in report.findings if f.severity != "note"] == []


def test_what_our_writer_writes_is_sound(dataset_root: Path) -> None:
    report = check_dataset(dataset_root, decode_all=True)
    assert report.count("error") == 0
    assert report.version == "v3.0"


def test_values_that_are_not_finite_are_placed(tmp_path: Path) -> None:
    def spoil(index: int, columns: Columns) -> None:
        if index == 2:
            columns["action"][7, 1] = np.nan

    finding = the_only(found(write_v21(tmp_path / "d", change=spoil), "not-finite"))
    assert (finding.severity, finding.feature, finding.episodes) == ("error", "action", (2,))
    assert "1 values" in finding.message
    assert "frame 7 of episode 2" in finding.message
    assert finding.fix


def test_joints_that_never_move_and_that_stop_are_named(tmp_path: Path) -> None:
    def spoil(index: int, columns: Columns) -> None:
        columns["observation.state"][:, 0] = 1.5
        if index == 3:
            columns["observation.state"][:, 1] = 0.2

    root = write_v21(tmp_path / "d", episodes=6, change=spoil)
    constant = the_only(found(root, "constant"))
    assert "1 of 3 never change: 0 (waist)" in constant.message
    stopped = the_only(found(root, "stuck"))
    assert (stopped.feature, stopped.episodes) == ("observation.state", (3,))
    assert "1 (elbow) does not move at all" in stopped.message


def test_frozen_actions_jumps_and_copies_are_found(tmp_path: Path) -> None:
    def spoil(index: int, columns: Columns) -> None:
        if index == 1:
            columns["action"][10:14] = columns["action"][10]
        if index == 2:
            columns["action"][15] += 100
        if index == 5:
            columns["action"] = columns["action"] * 0 + np.float32(1) * np.arange(30)[:, None]
        if index == 6:
            columns["action"] = np.float32(1) * np.arange(30)[:, None].repeat(3, axis=1)

    root = write_v21(tmp_path / "d", episodes=12, change=spoil)
    assert the_only(found(root, "frozen")).episodes == (1,)
    assert "10% of episode 1" in the_only(found(root, "frozen")).message
    assert the_only(found(root, "jumps")).episodes == (2,)
    assert the_only(found(root, "repeated")).episodes == (6,)


def test_drift_over_the_recording_is_measured(tmp_path: Path) -> None:
    def spoil(index: int, columns: Columns) -> None:
        columns["action"][:, 2] += 0.5 * index

    finding = the_only(found(write_v21(tmp_path / "d", episodes=20, change=spoil), "drift"))
    assert finding.feature == "action"
    assert "2 (gripper) by" in finding.message


@pytest.mark.parametrize(
    ("times", "check", "severity", "message"),
    [
        (np.arange(30) / 25, "fps", "error", "says 10 Hz, the times of the frames say 25 Hz"),
        (np.arange(30) / FPS + 1e4, "timestamps", "note", "do not start at 0"),
        (np.arange(30)[::-1] / FPS, "timestamps", "error", "do not rise"),
        (np.arange(30) / FPS + (np.arange(30) > 9) * 0.3, "timestamps", "warning", "frame is missing"),
        (np.arange(30) / FPS * 1.019, "timestamps", "warning", "drift"),
    ],
)
def test_times_that_do_not_fit_the_frequency(tmp_path: Path, times, check, severity, message) -> None:
    def spoil(_index: int, columns: Columns) -> None:
        columns["timestamp"] = times

    finding = the_only(found(write_v21(tmp_path / "d", change=spoil), check))
    assert finding.severity == severity
    assert message in finding.message


def test_short_episodes_and_lost_frames(tmp_path: Path) -> None:
    def spoil(index: int, columns: Columns) -> None:
        if index == 0:
            columns.update({name: values[:4] for name, values in columns.items()})
        if index == 1:
            columns["frame_index"] = columns["frame_index"][::-1]

    root = write_v21(tmp_path / "d", change=spoil)
    assert next(f for f in found(root, "length") if f.severity == "warning").episodes == (0,)
    assert next(f for f in found(root, "frame-numbers") if f.severity == "error").episodes == (1,)


def test_missing_damaged_short_and_blank_videos(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "d", episodes=6)
    folder = root / f"videos/chunk-000/{CAMERA}"
    (folder / "episode_000001.mp4").unlink()
    (folder / "episode_000002.mp4").write_bytes(b"no video")
    write_video(folder / "episode_000003.mp4", moving(20))
    write_video(folder / "episode_000004.mp4", moving(30) * 0)
    write_video(folder / "episode_000005.mp4", moving(30), fps=25)
    for check, episode in (
        ("missing-videos", 1), ("damaged-video", 2), ("video-length", 3), ("blank-video", 4), ("fps", 5),
    ):  # fmt: skip
        finding = the_only(found(root, check))
        assert finding.episodes == (episode,)
        assert finding.feature == CAMERA
        assert finding.fix
    assert "20 frames, its episodes have 30" in the_only(found(root, "video-length")).message


def test_damage_inside_a_video_is_found_by_decoding_all(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "d", episodes=1)
    path = root / f"videos/chunk-000/{CAMERA}/episode_000000.mp4"
    rng = np.random.default_rng(0)
    write_video(path, rng.integers(0, 255, (30, 32, 32, 3)).astype(np.uint8))
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + len(content) // 3
    content[start : start + 4000] = bytes(4000)
    path.write_bytes(content)
    assert found(root, "damaged-video", decode_all=True)


def test_a_camera_without_any_video_is_one_finding(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "d")
    shutil.rmtree(root / "videos")
    finding = the_only(found(root, "missing-videos"))
    assert "no episode has a video of this camera" in finding.message


def test_episodes_that_are_said_to_begin_elsewhere_in_a_shared_video(tmp_path: Path) -> None:
    root = write_published(tmp_path / "d", kind="video")
    assert found(root, "video-times") == []
    path = next((root / "meta/episodes").rglob("*.parquet"))
    table = pq.read_table(path)
    column = f"videos/{PUBLISHED_KEY}/from_timestamp"
    shifted = [value + 0.1 * (row == 1) for row, value in enumerate(table.column(column).to_pylist())]
    table = table.set_column(table.column_names.index(column), column, pa.array(shifted, pa.float64()))
    pq.write_table(table, path)
    finding = the_only(found(root, "video-times"))
    assert (finding.episodes, finding.feature) == ((1,), PUBLISHED_KEY)


def test_pictures_that_cannot_be_decoded_are_found(tmp_path: Path) -> None:
    root = write_published(tmp_path / "d", kind="image")
    assert found(root, "damaged-images") == []
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        pictures = [{"bytes": b"\x89PNG no picture", "path": None}] * len(table)
        place = table.column_names.index(PUBLISHED_KEY)
        broken = pa.array(pictures, table.schema.field(PUBLISHED_KEY).type)
        pq.write_table(table.set_column(place, PUBLISHED_KEY, broken), path)
    assert the_only(found(root, "damaged-images")).feature == PUBLISHED_KEY
    assert any("is left out" in finding.message for finding in found(root, "reading"))


def test_a_folder_called_video_is_explained(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "d")
    (root / "videos").rename(root / "video")
    assert "in video/, LeRobot looks in videos/" in the_only(found(root, "paths")).message


@pytest.mark.parametrize(
    ("info", "check", "message"),
    [
        ({"total_episodes": 9}, "totals", "total_episodes is 9, but 4 episodes"),
        ({"total_frames": "many"}, "totals", "'many', no number"),
        ({"total_frames": 7}, "totals", "total_frames is 7, but 120 frames"),
        ({"splits": {"train": "0:100"}}, "splits", "0:100, but there are 4 episodes"),
        ({"fps": -3}, "fps", "-3, no frequency"),
        ({"data_path": "/home/me/data"}, "paths", "leads out of the dataset"),
        ({"data_path": "data/chunk-{episode_index:03d}/x.parquet"}, "paths", "leads to another data file"),
        ({"codebase_version": "v9"}, "metadata", "'v9' is none of"),
    ],
)
def test_metadata_that_contradicts_itself_or_the_data(tmp_path: Path, info, check, message) -> None:
    findings = found(write_v21(tmp_path / "d", info=info), check)
    assert any(message in finding.message and finding.fix for finding in findings), findings


def test_metadata_and_data_of_episodes_are_compared(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "d")
    (root / "data/chunk-000/episode_000003.parquet").unlink()
    lines = [{"episode_index": i, "tasks": ["wave"], "length": 30 + i} for i in range(4)]
    write_lines(root / "meta/episodes.jsonl", lines)
    places = {finding.message: finding.episodes for finding in found(root, "episodes")}
    assert places["the metadata describes episodes that have no data"] == (3,)
    assert places["the metadata gives another number of frames than the data has"] == (1, 2)


def test_statistics_that_are_not_those_of_the_values(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "d")
    wrong = {"action": {"mean": [40.0, 40.0, 40.0], "min": [None] * 3}, "observation.state": {}}
    (root / "meta/stats.json").write_text(json.dumps(wrong))
    finding = next(f for f in found(root, "statistics") if f.severity == "warning")
    assert finding.feature == "action"
    assert "min, mean are recorded otherwise" in finding.message


def test_actions_under_another_name_are_suggested(tmp_path: Path) -> None:
    def spoil(_index: int, columns: Columns) -> None:
        columns["actions"] = columns.pop("action") if "action" in columns else columns["actions"]
        columns["action"] = columns["actions"]  # the writer measures the length by it

    root = write_v21(tmp_path / "d", change=spoil)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["actions"] = info["features"].pop("action")
    (root / "meta/info.json").write_text(json.dumps(info))
    for path in (root / "data").rglob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns("action"), path)
    messages = [finding.message for finding in found(root, "features")]
    assert "there is no feature 'action'. Did you mean 'actions'?" in messages


def test_damaged_files_become_findings_not_errors(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "d")
    (root / "data/chunk-000/episode_000002.parquet").write_bytes(b"PAR1 no parquet")
    (root / "meta/info.json").write_text("{")
    (root / "meta/tasks.jsonl").write_text("nonsense\n")
    checks = {finding.check for finding in check_dataset(root).findings if finding.severity == "error"}
    assert {"damaged-file", "metadata", "tasks", "unreadable"} <= checks


def test_the_exit_code_and_json_say_whether_there_are_errors(tmp_path: Path, capsys) -> None:
    def spoil(index: int, columns: Columns) -> None:
        columns["action"][3] = np.inf * (index + 1)

    root = write_v21(tmp_path / "bad", change=spoil)
    assert cli.main(["data", "check", str(root), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["errors"] >= 1
    assert any(f["check"] == "not-finite" and f["episodes"] == [0, 1, 2, 3] for f in report["findings"])
    assert cli.main(["data", "check", str(root)]) == 1
    shown = capsys.readouterr().out
    assert "not-finite: action, 4 episodes (0, 1, 2, 3):" in shown
    assert "fix:" in shown
    assert cli.main(["data", "check", str(tmp_path / "nothing")]) == 2


def test_a_sound_dataset_gives_exit_code_0(dataset_root: Path, capsys) -> None:
    assert cli.main(["data", "check", str(dataset_root)]) == 0
    assert "0 errors" in capsys.readouterr().out


def test_no_folder_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        check_dataset(tmp_path / "nothing")


def test_the_real_g1_dataset(tmp_path: Path) -> None:
    report = check_dataset(shared_data("g1_v21"))
    missing = next(f for f in report.findings if f.check == "missing-videos")
    assert len(missing.episodes) == 95
    assert not {29, 30, 31, 59, 82} & set(missing.episodes)
    assert {f.feature for f in report.findings if f.check == "drift"} == {"action", "observation.state"}


def test_the_real_gr1_dataset(tmp_path: Path) -> None:
    report = check_dataset(shared_data("gr1_v20") / "robot_sim.PickNPlace")
    by_check = {(f.check, f.feature): f for f in report.findings}
    assert ("missing-videos", "observation.images.egoview") in by_check
    assert ("missing-videos", "observation.images.ego_view") not in by_check
    assert "0:100, but there are 5 episodes" in by_check["splits", None].message
    assert by_check["constant", "action"].message.startswith("25 of 44 never change")


def test_a_data_file_without_frames_is_named(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "d")
    path = root / "data/chunk-000/episode_000002.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    finding = the_only(found(root, "empty-file"))
    assert finding.file == "data/chunk-000/episode_000002.parquet" and finding.severity == "warning"


def test_a_number_of_episodes_in_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "d", info={"chunks_size": "many"})
    assert "chunks_size is 'many', no number" in the_only(found(root, "metadata")).message
