"""The shipped policy in the real simulator, from the command line to the report."""

import av
import pytest

from rdvla.cli import main
from rdvla.evaluation import load_results
from rdvla.rollout.video import BANNER, SIZE

pytest.importorskip("metaworld")
pytest.importorskip("jinja2")


@pytest.mark.slow
def test_an_evaluation_in_metaworld_is_played_filmed_timed_and_reported(tmp_path, capsys):
    options = ["--tasks", "[reach-v3]", "--episodes", "1", "--stops", "[8, action_change:1e-3]"]
    command = ["eval", "--policy", "metaworld", "--output", str(tmp_path), *options, "--timing_seconds", "1"]
    assert main(command) == 0
    assert f"next: rdvla report {tmp_path}" in capsys.readouterr().out
    results = load_results(tmp_path)
    assert results.labels == ["metaworld"]
    assert [(row.episodes, row.errors) for row in results.rows] == [(1, 0), (1, 0)]
    assert list(results.query_ms) == ["fixed:8", "action_change:0.001"]
    for episode in results.episodes:
        assert (episode.video_stride, episode.video_speed) == (2, 0.5)  # at most 200 steps at 80 Hz
        with av.open(str(tmp_path / episode.video)) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.average_rate) == (SIZE, SIZE + BANNER, 20)
            assert stream.frames == len(range(0, episode.steps, 2)) + 1
    assert main(["report", f"shipped={tmp_path}"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "shipped" in page and "0.5x speed" in page and "With 1 episode per setting" in page


@pytest.mark.slow
def test_a_simulator_that_cannot_render_is_one_sentence(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    assert (
        main(["eval", "--policy", "metaworld", "--output", str(tmp_path / "run"), "--tasks", "[reach-v3]"])
        == 2
    )
    said = capfd.readouterr().err.strip()
    assert said.startswith("rdvla: error: metaworld does not open (reach-v3):") and "nonsense" in said
    assert "\n" not in said
    assert not (tmp_path / "run" / "evaluation.json").exists()
