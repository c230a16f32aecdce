"""What `rdvla data inspect` prints and writes is what the dataset holds."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdvla import cli
from rdvla.data import DatasetWriter, Episode, EpisodeDataset
from rdvla.data.formats.registry import open_reader
from rdvla.data.inspect.facts import gather, spread_over
from rdvla.data.inspect.terminal import bars
from tests.support.flawed_datasets import CAMERA, write_v21

JOINTS = ["waist", "elbow <b>", "gripper"]
LENGTHS = (20, 35, 50)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    features = {
        "action": {"dtype": "float32", "shape": (3,), "names": JOINTS},
        "observation.state": {"dtype": "float32", "shape": (3,), "names": JOINTS},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    }
    folder = tmp_path_factory.mktemp("inspect") / "six"
    writer = DatasetWriter.create(folder, fps=10, features=features, cameras=("front",), image_size=(48, 64))
    for number, length in enumerate(LENGTHS):
        rng = np.random.default_rng(number)
        values = {
            "action": rng.normal(size=(length, 3)).astype(np.float32),
            "observation.state": rng.uniform(size=(length, 3)).astype(np.float32),
            "next.reward": np.zeros(length, np.float32),
        }
        images = np.full((length, 48, 64, 3), 60 * number + 40, np.uint8)
        writer.add_episode(Episode(values, {"front": images}, task=f"task {number % 2}"))
    return writer.finalize()


def test_the_numbers_are_those_of_the_values(root: Path) -> None:
    facts = gather(open_reader(root))
    values = EpisodeDataset(root, chunk_size=1).column("action").astype(float)
    assert facts.features[0].name == "action"
    for index, number in enumerate(facts.features[0].numbers):
        column = values[:, index]
        assert JOINTS[index] in number.name
        expected = [column.min(), column.mean(), column.std(), column.max()]
        assert [number.low, number.mean, number.std, number.high] == pytest.approx(expected)
        assert (number.q01, number.q99) == pytest.approx(np.quantile(column, [0.01, 0.99]))
        assert sum(number.counts) == len(column)
        width = (column.max() - column.min()) / len(number.counts)
        assert number.counts[0] == (column < column.min() + width).sum()


def test_tasks_are_counted_and_sorted(root: Path) -> None:
    tasks = gather(open_reader(root)).tasks
    assert [(t.text, t.episodes, t.frames) for t in tasks] == [("task 0", 2, 70), ("task 1", 1, 35)]


def test_the_terminal_shows_lengths_tasks_and_joints(root: Path, capsys) -> None:
    assert cli.main(["data", "inspect", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "3 episodes, 105 frames at 10 Hz" in shown
    assert "front 48 x 64" in shown
    for words in ("task 0", "waist", "elbow <b>", "next.reward (1)"):
        assert words in shown
    assert "…" not in shown
    assert f"Next: rdvla train --dataset {root}" in shown


def test_the_page_needs_no_other_file_and_escapes_names(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert cli.main(["data", "inspect", str(root), "--output", str(page)]) == 0
    text = page.read_text()
    assert "elbow &lt;b&gt;" in text
    assert "elbow <b>" not in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert "http" not in text
    for part in ("Lengths of episodes", "Tasks", "Episodes over time", "Findings"):
        assert part in text


def test_the_contact_sheet_shows_the_episodes_images(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    cli.main(["data", "inspect", str(root), "--output", str(page)])
    urls = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page.read_text())
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url)))) for url in urls]
    sheet = pictures[: 3 * 8]  # augmented images follow
    assert {picture.shape for picture in sheet} == {(48, 64, 3)}
    for number in range(3):
        for picture in sheet[8 * number : 8 * number + 8]:
            assert np.abs(picture.astype(int) - (60 * number + 40)).max() <= 4


def test_augmented_images_stand_next_to_the_recorded_one(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    cli.main(["data", "inspect", str(root), "--output", str(page)])
    text = page.read_text()
    assert "crop_area: 0.9, brightness: 0.2" in text
    section = text[text.index('id="augmentation"') :]
    urls = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', section)
    recorded, *changed = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url)))) for url in urls]
    assert np.abs(recorded.astype(int) - 40).max() <= 4  # the first episode is grey
    levels = [int(picture.mean()) for picture in changed]
    assert len(set(levels)) > 1
    assert all(40 - 51 <= level <= 40 + 51 for level in levels)  # brightness 0.2 of white


def test_an_output_that_cannot_be_written_is_refused_first(root: Path, capsys) -> None:
    assert cli.main(["data", "inspect", str(root), "--output", str(root)]) == 2
    captured = capsys.readouterr()
    assert "--output" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("count", "total", "expected"), [(3, 101, [0, 50, 100]), (5, 2, [0, 1]), (4, 1, [0])]
)
def test_spread_over_includes_both_ends(count, total, expected) -> None:
    assert spread_over(count, total) == expected


def test_bars_show_every_bin_that_is_not_empty() -> None:
    assert bars([0, 1, 1000, 500]) == " ▁█▄"


def test_what_was_left_out_while_reading_is_shown(tmp_path: Path, capsys) -> None:
    dataset = write_v21(tmp_path / "d")
    (dataset / f"videos/chunk-000/{CAMERA}/episode_000002.mp4").unlink()
    page = tmp_path / "page.html"
    assert cli.main(["data", "inspect", str(dataset), "--output", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "3 episodes" in shown
    for text in (shown, page.read_text()):
        assert "1 of 4 episodes are left out" in text
