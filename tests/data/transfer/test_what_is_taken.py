"""Which episodes and features are taken over, and that an interruption mixes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rdvla import cli
from rdvla.data import EpisodeDataset
from rdvla.data.formats.registry import open_reader
from rdvla.data.inspect.facts import gather
from rdvla.data.inspect.pictures import contact_sheet
from rdvla.data.transfer.transfer import transfer
from rdvla.errors import DatasetError
from tests.support.datasets_strangers import KEY, LENGTHS, Draft, frames, shown


def without_video(root: Path, episode: int) -> Path:
    Draft(one_video_each=True).write_v2(root)
    (root / f"videos/chunk-000/{KEY}/episode_{episode:06d}.mp4").unlink()
    return root


def test_numbers_of_episodes_are_the_datasets_own(tmp_path: Path, capsys) -> None:
    root = without_video(tmp_path / "in", 1)
    parts = [tmp_path / "a", tmp_path / "b"]
    words = ["data", "split", str(root), *map(str, parts), "--episodes"]
    assert cli.main([*words, "1"]) == 2
    assert "1 of which are left out" in capsys.readouterr().err
    assert cli.main([*words, "2"]) == 0
    found = [EpisodeDataset(part, chunk_size=8) for part in parts]
    assert [shown(part) for part in found] == [frames(LENGTHS, [2]), frames(LENGTHS, [0, 3])]
    assert [[s["episode"] for s in part.sources] for part in found] == [[2], [0, 3]]


def test_the_contact_sheet_names_episodes_by_their_numbers(tmp_path: Path) -> None:
    reader = open_reader(without_video(tmp_path / "in", 1)).with_cameras(None)
    assert [strips.number for strips in contact_sheet(reader, gather(reader))] == [0, 2, 3]


def test_a_dataset_of_the_same_name_elsewhere_does_not_go_on(tmp_path: Path) -> None:
    roots = [Draft().write_v3(tmp_path / folder / "demos") for folder in "ab"]

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer([(roots[0], None)], tmp_path / "out", progress=stop)
    with pytest.raises(DatasetError, match="another source"):
        transfer([(roots[1], None)], tmp_path / "out")
    assert transfer([(roots[0], None)], tmp_path / "out").episodes == len(LENGTHS)


def test_an_episode_whose_instruction_changes_is_refused_and_others_are_taken(tmp_path: Path) -> None:
    draft = Draft()
    draft.columns["task_index"][5:12] = 1
    root = draft.write_v3(tmp_path / "in")
    with pytest.raises(DatasetError, match="episode 0 changes at frame 5 from 'push' to 'pull'"):
        transfer([(root, None)], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert transfer([(root, [1, 2, 3])], tmp_path / "out").episodes == 3


def test_what_cannot_be_taken_over_is_said(tmp_path: Path) -> None:
    draft = Draft()
    draft.features["note"] = {"dtype": "string", "shape": [1], "names": None}
    depth = {"dtype": "video", "shape": [32, 32, 1], "info": {"video.is_depth_map": True}}
    draft.features["observation.images.depth"] = depth
    draft.add("observation.contact", np.zeros(sum(LENGTHS), dtype=bool))
    draft.add("image_quality", np.zeros(sum(LENGTHS), dtype=np.float32))
    done = transfer([(draft.write_v3(tmp_path / "in"), None)], tmp_path / "out")
    for name in ("note", "observation.images.depth", "observation.contact", "image_quality"):
        assert any(f"{name!r} is left out" in note for note in done.notes), name
    assert set(EpisodeDataset(tmp_path / "out", chunk_size=1).features) == {
        "action", "observation.state", "camera_is_new",
    }  # fmt: skip


def test_chunks_of_actions_are_refused(tmp_path: Path) -> None:
    draft = Draft()
    draft.add("action", np.zeros((sum(LENGTHS), 2, 2), dtype=np.float32))
    with pytest.raises(DatasetError, match=r"'action' has the shape \[2, 2\]"):
        transfer([(draft.write_v3(tmp_path / "in"), None)], tmp_path / "out")


def test_a_share_of_episodes_that_each_have_their_own_instruction(tmp_path: Path) -> None:
    draft = Draft(tasks=("a", "b", "c", "d"))
    draft.columns["task_index"] = draft.columns["episode_index"].copy()
    root = draft.write_v3(tmp_path / "in")
    parts = [tmp_path / "a", tmp_path / "b"]
    assert cli.main(["data", "split", str(root), *map(str, parts), "--fraction", "0.25"]) == 0
    held = [json.loads((part / "meta/info.json").read_text())["total_episodes"] for part in parts]
    assert held == [1, 3]
