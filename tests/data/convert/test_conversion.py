"""Datasets in foreign formats keep their numbers, images, instructions and order when they are converted."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rdvla import cli
from rdvla.data import DatasetWriter, EpisodeDataset
from rdvla.data.convert.choose import Choices
from rdvla.data.convert.conversion import convert
from rdvla.data.convert.sources import open_source
from rdvla.errors import ConfigError, DatasetError
from tests.support.foreign_datasets import LENGTHS, SIZE, TASKS, content, tensor, write_hdf5, write_rlds

pytest.importorskip("google.protobuf")
pytest.importorskip("google_crc32c")
h5py = pytest.importorskip("h5py")

SPLIT_ACTION = Choices(fps=5, action=("action/position", "action/gripper"))


def joined_action(number: int) -> np.ndarray:
    held = content(number)
    return np.concatenate([held["position"], held["gripper"][:, None]], axis=1)


def assert_holds_the_content(root: Path, *, camera: str, numbers: tuple[int, ...] = (0, 1, 2)) -> None:
    dataset = EpisodeDataset(root, chunk_size=1)
    actions = np.concatenate([joined_action(number) for number in numbers])
    states = np.concatenate([content(number)["state"] for number in numbers])
    np.testing.assert_array_equal(dataset.column("action"), actions)
    np.testing.assert_array_equal(dataset.column("observation.state"), states)
    assert dataset.cameras == [camera]
    assert dataset.recorded_image_size(camera) == SIZE
    images = np.concatenate([content(number)["image"] for number in numbers]).astype(int)
    shown = dataset.images(range(len(images)))[camera].numpy()
    assert np.abs(shown - images).mean() < 3


def test_rlds_keeps_numbers_images_and_instructions(tmp_path: Path) -> None:
    write_rlds(tmp_path / "source")
    source = open_source(tmp_path / "source")
    done = convert(source, tmp_path / "out", choices=SPLIT_ACTION)
    assert (done.episodes, done.frames, set(done.tasks)) == (3, sum(LENGTHS), set(TASKS))
    assert_holds_the_content(tmp_path / "out", camera="image")
    dataset = EpisodeDataset(tmp_path / "out", chunk_size=1)
    assert dataset.fps == 5
    assert dataset.instructions([0, LENGTHS[0], sum(LENGTHS) - 1]) == list(TASKS)
    assert dataset.features["action"]["names"] == ["position_0", "position_1", "position_2", "gripper"]
    assert dataset.sources[2]["file"] == "toy-train.tfrecord-00001-of-00002"


def test_integers_of_every_length_are_read(tmp_path: Path) -> None:
    write_rlds(tmp_path)
    episodes = [read() for _, read in open_source(tmp_path).episodes(skip=())]
    for number, episode in enumerate(episodes):
        np.testing.assert_array_equal(episode.features["observation/counter"], content(number)["counter"])
        assert episode.features["is_last"].tolist() == [False] * (LENGTHS[number] - 1) + [True]


def test_cameras_that_show_nothing_and_depth_maps_are_left_out_and_said(tmp_path: Path) -> None:
    write_rlds(tmp_path)
    facts = open_source(tmp_path).facts
    assert facts.cameras == ("observation/image",)
    assert any("'observation/dark' shows one colour only" in note for note in facts.notes)


@pytest.mark.parametrize("kind", ["libero", "robomimic"])
def test_hdf5_keeps_numbers_images_and_order(tmp_path: Path, kind: str) -> None:
    write_hdf5(tmp_path / "in" / "lift.hdf5", kind=kind)
    task = None if kind == "libero" else "lift the cube"
    cameras = {"agentview_rgb" if kind == "libero" else "agentview_image": "front"}
    flip = "vertical" if kind == "libero" else None
    choices = Choices(cameras=cameras, task=task, flip=flip)
    done = convert(open_source(tmp_path / "in"), tmp_path / "out", choices=choices)
    assert (done.plan.fps, done.plan.robot_type, done.tasks) == (20, "Panda", ("lift the cube",))
    assert_holds_the_content(tmp_path / "out", camera="front")


def test_libero_is_rotated_as_its_published_datasets_are(tmp_path: Path) -> None:
    file = write_hdf5(tmp_path / "lift.hdf5", kind="libero")
    convert(open_source(file), tmp_path / "out", choices=Choices())
    shown = EpisodeDataset(tmp_path / "out", chunk_size=1).images([0])["agentview_rgb"][0].numpy()
    mirrored = content(0)["image"][0][:, ::-1].astype(int)  # stored upside down, so rotating mirrors it
    assert np.abs(shown - mirrored).mean() < 3


def test_libero_files_say_whether_their_images_are_upright(tmp_path: Path) -> None:
    file = write_hdf5(tmp_path / "lift.hdf5", kind="libero")
    with h5py.File(file, "r+") as opened:
        opened["data"].attrs["macros_image_convention"] = "opencv"
    facts = open_source(file).facts
    assert facts.flip == "none"
    assert any("stored upright" in note for note in facts.notes)


def test_an_instruction_may_stand_with_the_environment(tmp_path: Path) -> None:
    file = write_hdf5(tmp_path / "lift.hdf5", kind="robomimic")
    with h5py.File(file, "r+") as opened:
        arguments = json.loads(opened["data"].attrs["env_args"])
        opened["data"].attrs["env_args"] = json.dumps(arguments | {"lang": "lift it"})
        opened["data/demo_2"].attrs["ep_meta"] = json.dumps({"lang": "lift it gently"})
    tasks = [read().task for _, read in open_source(file).episodes(skip=())]
    assert tasks == ["lift it", "lift it gently", "lift it"]


def test_a_mask_chooses_demonstrations(tmp_path: Path) -> None:
    file = write_hdf5(tmp_path / "lift.hdf5", kind="robomimic")
    choices = Choices(task="lift", cameras={"agentview_image": "front"})
    convert(open_source(file, split="valid"), tmp_path / "out", choices=choices)
    assert_holds_the_content(tmp_path / "out", camera="front", numbers=(1, 2))
    with pytest.raises(DatasetError, match="no mask/test: its splits are valid"):
        open_source(file, split="test")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (Choices(action=("action/position",)), "give it with --fps"),
        (Choices(fps=5), r"Give --action NAME .*action/gripper \[\]"),
        (Choices(fps=5, action=("action/positon",)), "Did you mean 'action/position'"),
        (Choices(fps=5, action=("action/position",), state=("states",)), "Did you mean"),
        (Choices(fps=5, action=("action/position",), cameras={"imag": "a"}), "Did you mean 'image'"),
        (Choices(fps=12.5, action=("action/position",)), "integer"),
    ],
)
def test_what_the_source_does_not_tell_is_asked_for(tmp_path: Path, choices: Choices, message: str) -> None:
    write_rlds(tmp_path / "in")
    with pytest.raises(ConfigError, match=message):
        convert(open_source(tmp_path / "in"), tmp_path / "out", choices=choices)
    assert not (tmp_path / "out").exists()


def test_robomimic_has_no_instruction_so_one_is_asked_for(tmp_path: Path) -> None:
    file = write_hdf5(tmp_path / "lift.hdf5", kind="robomimic")
    with pytest.raises(DatasetError, match=r"no instruction \(--task gives one"):
        convert(open_source(file), tmp_path / "out", choices=Choices())


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def test_a_damaged_record_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "in")
    damage(folder / "toy-train.tfrecord-00000-of-00002", at=200)
    source = open_source(folder)
    with pytest.raises(DatasetError, match=r"00000-of-00002: record 0 is damaged .*--skip-damaged"):
        convert(source, tmp_path / "out", choices=SPLIT_ACTION)
    done = convert(source, tmp_path / "out", choices=SPLIT_ACTION, skip_damaged=True)
    assert (done.episodes, len(done.left_out)) == (2, 1)
    assert_holds_the_content(tmp_path / "out", camera="image", numbers=(1, 2))


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "in")
    path = folder / "toy-train.tfrecord-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DatasetError, match=r"00001-of-00002: record 0 is cut off"):
        convert(open_source(folder), tmp_path / "out", choices=SPLIT_ACTION)


def test_an_interrupted_conversion_goes_on(tmp_path: Path) -> None:
    source = open_source(write_rlds(tmp_path / "in"))

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", choices=SPLIT_ACTION, progress=stop)
    assert not (tmp_path / "out").exists()
    counts: list[int] = []
    convert(source, tmp_path / "out", choices=SPLIT_ACTION, progress=lambda done, _total: counts.append(done))
    assert counts == [2, 3]
    assert_holds_the_content(tmp_path / "out", camera="image")


def test_the_command_says_what_was_written_and_what_comes_next(tmp_path: Path, capsys) -> None:
    write_rlds(tmp_path / "in", action="whole")
    out = tmp_path / "out"
    assert cli.main(["data", "convert", str(tmp_path / "in"), str(out), "--fps", "5"]) == 0
    shown = capsys.readouterr().out
    assert "3 episodes, 13 frames at 5 Hz, 2 tasks" in shown
    assert f"Next: rdvla train --dataset {out}" in shown
    assert cli.main(["data", "convert", str(tmp_path / "in"), str(out), "--fps", "6"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(("package", "kind"), [("h5py", "hdf5"), ("google_crc32c", "rlds")])
def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch, capsys, package, kind) -> None:
    if kind == "hdf5":
        write_hdf5(tmp_path / "in" / "lift.hdf5", kind="libero")
    else:
        write_rlds(tmp_path / "in")
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["data", "convert", str(tmp_path / "in"), str(tmp_path / "out"), "--fps", "5"]) == 2
    shown = capsys.readouterr().err
    assert package in shown
    assert "[convert]" in shown


def test_a_finished_conversion_is_known_by_its_command_and_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_rlds(tmp_path / "in")
    damage(folder / "toy-train.tfrecord-00000-of-00002", at=200)
    out = tmp_path / "out"

    def killed(_writer: DatasetWriter) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DatasetWriter, "discard", killed)
        convert(open_source(folder), out, choices=SPLIT_ACTION, skip_damaged=True)
    again = convert(open_source(folder), out, choices=SPLIT_ACTION, skip_damaged=True)
    assert not again.is_new and again.episodes == 2 and len(again.left_out) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    with pytest.raises(DatasetError, match="exists already"):
        convert(open_source(folder), out, choices=SPLIT_ACTION)
    changed = folder / "features.json"
    changed.write_text(changed.read_text() + " ")
    with pytest.raises(DatasetError, match="exists already"):
        convert(open_source(folder), out, choices=SPLIT_ACTION, skip_damaged=True)


def test_an_interrupted_conversion_does_not_go_on_with_other_options(tmp_path: Path) -> None:
    source = open_source(write_rlds(tmp_path / "in"))

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", choices=SPLIT_ACTION, progress=stop)
    turned = replace(SPLIT_ACTION, flip="vertical")
    train = open_source(tmp_path / "in", split="train")
    elsewhere = open_source(write_rlds(tmp_path / "elsewhere/in"))
    for other, choices in ((source, turned), (train, SPLIT_ACTION), (elsewhere, SPLIT_ACTION)):
        with pytest.raises(DatasetError, match="another source, or other options"):
            convert(other, tmp_path / "out", choices=choices)
    assert convert(source, tmp_path / "out", choices=SPLIT_ACTION).episodes == 3


def test_a_fault_in_what_is_not_taken_stops_no_conversion_of_rlds(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "in")
    described = json.loads((folder / "features.json").read_text())
    steps = described["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    observed = steps["observation"]["featuresDict"]["features"]
    observed["counter"] = tensor([7], "int64")  # there are two numbers a step
    observed["embedding"] = tensor([4], "bfloat16")
    (folder / "features.json").write_text(json.dumps(described))
    convert(open_source(tmp_path / "in"), tmp_path / "out", choices=SPLIT_ACTION)
    assert_holds_the_content(tmp_path / "out", camera="image")
    needed = replace(SPLIT_ACTION, state=("counter",))
    with pytest.raises(DatasetError, match=r"'observation/counter' does not fit features\.json"):
        convert(open_source(tmp_path / "in"), tmp_path / "other", choices=needed)


def test_a_demonstration_without_what_is_not_taken_is_converted(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "demos.hdf5", kind="robomimic")
    with h5py.File(path, "r+") as file:
        del file["data/demo_2/states"]
    assert convert(open_source(path), tmp_path / "out", choices=Choices(task="lift")).episodes == 3
    needed = Choices(task="lift", state=("states",))
    with pytest.raises(DatasetError, match="data/demo_2 lacks 'states'"):
        convert(open_source(path), tmp_path / "other", choices=needed)
    done = convert(open_source(path), tmp_path / "other", choices=needed, skip_damaged=True)
    assert done.episodes == 2 and "lacks 'states'" in done.left_out[0]
