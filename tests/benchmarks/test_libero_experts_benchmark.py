"""The measurement of LIBERO's experts goes on where it stopped; its tables count what it measured."""

import json

import pytest

from benchmarks import libero_experts, libero_experts_tables
from benchmarks.libero_experts import TaskResult
from rdvla.files import read_json, write_json

SETTINGS = {"noise": 0.1, "bursts": 0.01, "seed": 0}
ALWAYS = TaskResult("libero_goal", "easy", 300, steps=[80, 90])
SOMETIMES = TaskResult("libero_goal", "hard", 300, steps=[200], failed=[7])
NEVER = TaskResult("libero_90", "impossible", 400, failed=[1, 2])


@pytest.fixture
def measured(monkeypatch):
    """The names of the tasks that were measured, without a simulator."""
    names = []

    def measure(env, task, *, episodes, seed, noise, max_steps):
        names.append(task)
        return TaskResult(env, task, max_steps, steps=[100] * episodes)

    monkeypatch.setattr(libero_experts, "measure", measure)
    return names


def test_a_measurement_goes_on_and_refuses_other_settings(tmp_path, measured):
    output = ["--output", str(tmp_path / "out.json"), "--env", "libero_goal"]
    libero_experts.main([*output, "--tasks", "0"])
    libero_experts.main([*output, "--tasks", "0", "1", "2"])
    assert len(measured) == len(set(measured)) == 3
    rows = read_json(tmp_path / "out.json")["tasks"]
    assert [row["task"] for row in rows] == measured
    assert all(row["max_steps"] == 300 and row["solved"] == 10 for row in rows)
    with pytest.raises(SystemExit, match="another output"):
        libero_experts.main([*output, "--seed", "1"])


def test_tables_and_the_merged_file(tmp_path, capsys):
    for name, results in {"a": [ALWAYS, SOMETIMES], "b": [NEVER]}.items():
        write_json(tmp_path / f"{name}.json", {**SETTINGS, "tasks": [result.row() for result in results]})
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    libero_experts_tables.main([*files, "--output", str(tmp_path / "all.json")])
    table = capsys.readouterr().out
    assert "| goal | 3 of 4 | 30 to 95% | 1 / 1 / 0 | 123 |" in table
    assert "| 90 | 0 of 2 | 0 to 66% | 0 / 0 / 1 | - |" in table
    assert "`hard` | 1 of 2" in table and "`impossible`" in table and "`easy`" not in table
    merged = json.loads((tmp_path / "all.json").read_text())
    assert merged["seed"] == 0 and [row["task"] for row in merged["tasks"]] == ["easy", "hard", "impossible"]
    libero_experts_tables.main([str(tmp_path / "all.json")])
    assert capsys.readouterr().out == table
