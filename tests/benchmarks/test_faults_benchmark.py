"""The benchmark of kills: it sees what differs, goes on from its log, and passes with a few real kills."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

psutil = pytest.importorskip("psutil")

from benchmarks.faults.comparison import contents, differences  # noqa: E402  after what they need
from benchmarks.faults.kills import PHASES, WAYS, draw  # noqa: E402
from benchmarks.faults.processes import MARK, processes_of, wait_for_none  # noqa: E402
from benchmarks.faults.record import Record  # noqa: E402
from benchmarks.faults.tables import row, table  # noqa: E402

LIMIT = 60.0  # seconds


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder as a run leaves it."""
    folder = tmp_path / "run"
    (folder / "out" / "tensorboard").mkdir(parents=True)
    (folder / "out" / "tensorboard" / "events.1").write_bytes(b"1")
    (folder / "out" / "weights.safetensors").write_bytes(bytes(100))
    (folder / "out" / "results.json").write_text(json.dumps({"seconds": 3.5, "rows": [{"success": True}, 2]}))
    steps = [json.dumps({"step": step, "ms_per_step": 0.1 * step}) for step in range(3)]
    (folder / "out" / "metrics.jsonl").write_text("\n".join(steps) + "\n")
    episodes = [json.dumps({"seed": seed, "steps": 10}) for seed in range(3)]
    (folder / "out" / "episodes.jsonl").write_text("\n".join(episodes) + "\n")
    return folder


def test_times_and_the_order_of_episodes_are_no_differences(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    (other / "out" / "tensorboard" / "events.1").rename(other / "out" / "tensorboard" / "events.2")
    results = (other / "out" / "results.json").read_text()
    (other / "out" / "results.json").write_text(results.replace("3.5", "4.5"))
    lines = (other / "out" / "episodes.jsonl").read_text().splitlines()
    (other / "out" / "episodes.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    metrics = (other / "out" / "metrics.jsonl").read_text()
    (other / "out" / "metrics.jsonl").write_text(metrics.replace("0.1", "0.3"))
    assert differences(contents(run), contents(other)) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("weights.safetensors", "\x00" * 100, "\x00" * 99 + "\x01", "out/weights.safetensors differs"),
        (
            "results.json",
            "true",
            "false",
            "out/results.json differs: rows[0].success is False, was True",
        ),
        (
            "metrics.jsonl",
            '{"step": 1, "ms_per_step": 0.1}\n',
            "",
            "out/metrics.jsonl differs: it has 2 entries, had 3",
        ),
        ("episodes.jsonl", '"seed": 2', '"seed": 1', "out/episodes.jsonl differs: [2].seed is 1, was 2"),
    ],
)
def test_a_planted_difference_is_found(
    run: Path, tmp_path: Path, name: str, old: str, new: str, said: str
) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    text = (other / "out" / name).read_text()
    assert old in text
    (other / "out" / name).write_text(text.replace(old, new, 1))
    assert differences(contents(run), contents(other)) == [said]


def test_files_left_behind_and_missing_files_are_found(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    (other / "tmp").mkdir()
    (other / "tmp" / ".results.1.tmp.json").touch()
    (other / "out" / "metrics.jsonl").unlink()
    assert differences(contents(run), contents(other)) == [
        "out/metrics.jsonl is missing",
        "tmp/.results.1.tmp.json was left behind",
    ]


def start_line(run: int, start: int, signal: str | None) -> dict[str, object]:
    kill = {"signal": signal, "target": "main", "second": 2.0, "phase": "work"}
    return {
        "kind": "start", "case": "training-local", "run": run, "start": start,
        "kills": [kill] if signal else [], "exit_code": -9 if signal else 0,
        "seconds": 4.0, "said": "",
    }  # fmt: skip


def fill(path: Path) -> Record:
    """Two runs that ended, one of them badly, and one that did not end."""
    record = Record(path)
    for seconds in (5.0, 7.0):
        record.add({"kind": "undisturbed", "case": "training-local", "seconds": seconds})
    for run, wrong in enumerate(([], ["step 3 is missing"])):
        record.add(start_line(run, 0, "SIGKILL"))
        record.add(start_line(run, 1, None))
        end = {"kind": "run", "case": "training-local", "run": run, "kills": 1, "wrong": wrong}
        record.add(end | {"seconds": 8.0})
    record.add(start_line(2, 0, "SIGTERM"))
    return record


def test_a_log_goes_on_without_the_run_that_did_not_end(tmp_path: Path) -> None:
    fill(tmp_path / "log.jsonl")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "start", "ca')  # cut by a kill
    again = Record(tmp_path / "log.jsonl")
    assert again.kills("training-local") == 2
    assert len(again.of("training-local", "run")) == 2
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == again.lines
    again.add(start_line(2, 0, "SIGKILL"))
    assert again.kills("training-local") == 3


def test_the_table_counts_kills_and_what_each_costs(tmp_path: Path) -> None:
    fill(tmp_path / "log.jsonl")
    found = row(Record(tmp_path / "log.jsonl"), "training-local")
    assert found["wrong"] == ["run 1: step 3 is missing"]
    # 8 s instead of the 6 that undisturbed runs take on average, with one kill each
    assert (found["kills"], found["cost_seconds"]) == (2, 2.0)
    assert list(table([found]))[2] == "| training-local | 2 | 0, 2, 0 | 2 | 1 | 2.0 | 6.0 |"


def test_draws_follow_from_the_seed_and_cover_every_way() -> None:
    first, second = ([draw(random.Random(seed)) for seed in range(500)] for _ in range(2))
    assert first == second
    assert {(kill.signal, kill.target) for kill in first} == set(WAYS)
    counts = Counter(kill.phase for kill in first)
    for phase, share in PHASES.items():  # within five standard deviations
        assert abs(counts[phase] - 500 * share) < 5 * (500 * share * (1 - share)) ** 0.5


def test_a_process_that_stays_is_found_and_killed() -> None:
    token = f"test {os.getpid()}"
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"],
        env=os.environ | {MARK: token}, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert sleeper.stdout is not None and sleeper.stdout.readline() == b"here\n"
        assert [process.pid for process in processes_of(token)] == [sleeper.pid]
        (said,) = wait_for_none(token, session=sleeper.pid, seconds=0.2)
        assert said.startswith(f"process {sleeper.pid} was left behind")
        assert sleeper.wait(timeout=LIMIT) != 0
    finally:
        sleeper.kill()
        sleeper.communicate(timeout=LIMIT)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_few_real_kills_change_nothing(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    command = [
        sys.executable,
        "-m",
        "benchmarks.faults",
        "--where",
        "local",
        "--kills",
        "3",
        "--output",
        str(tmp_path),
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "faults.json").read_text())
    assert len(found["rows"]) == 4
    assert all(each["kills"] >= 3 and each["wrong"] == [] for each in found["rows"])
    # Given again, everything is in the log already.
    assert main_is_quick(command, root) == found["rows"]


def main_is_quick(command: list[str], root: Path) -> object:
    output = Path(command[-1])
    lines = (output / "log.jsonl").read_text()
    subprocess.run(command, cwd=root, capture_output=True, timeout=600, check=True)
    assert (output / "log.jsonl").read_text() == lines
    return json.loads((output / "faults.json").read_text())["rows"]
