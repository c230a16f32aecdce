"""Published LIBERO data opens by folder or hub id; what it lacks is filled in or named."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rdvla.data import EpisodeDataset
from rdvla.data.decoding import ImageConverter, decode_picture
from rdvla.errors import DatasetError
from rdvla.processing.fit import ImageFit
from tests.support.datasets_strangers import Draft, frames, shown
from tests.support.loopback_hub import serve_hub
from tests.support.published_datasets import (
    FPS,
    KEYS,
    LENGTHS,
    SIZE,
    TASKS,
    numbers,
    pictures,
    write_published,
)

CAMERAS = {"image": "agentview", "image2": "wrist"}


@pytest.fixture(scope="module", params=["video", "image"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("hub") / request.param, kind=request.param)


def opened(root: Path | str, **options: Any) -> EpisodeDataset:
    return EpisodeDataset(root, chunk_size=4, cameras=["agentview", "wrist"], camera_names=CAMERAS, **options)


def test_everything_is_read(published: Path) -> None:
    dataset = opened(published)
    assert (dataset.fps, dataset.num_frames, dataset.num_episodes) == (FPS, sum(LENGTHS), len(LENGTHS))
    assert (dataset.state_dim, dataset.action_dim, dataset.tasks) == (8, 7, list(TASKS))
    np.testing.assert_array_equal(dataset.state(range(dataset.num_frames)), numbers(8))
    np.testing.assert_array_equal(dataset.actions([3])[0], numbers(7)[3:7])
    images = dataset.images(range(dataset.num_frames))
    for number, camera in enumerate(("agentview", "wrist")):
        difference = np.abs(images[camera].numpy().astype(int) - pictures(number))
        assert difference.mean() < (0.01 if published.name == "image" else 3)


def test_what_is_missing(published: Path) -> None:
    dataset = opened(published)
    assert len(dataset) == dataset.num_frames  # every image is new
    assert dataset.environment_state([0]) is None
    assert dataset.instructions([0, LENGTHS[0]]) == list(TASKS)
    # stats.json has no quantiles, and nothing of the state: both come from the values
    values = {"action": numbers(7), "observation.state": numbers(8)}
    for name, expected in values.items():
        entry = dataset.statistics[name]
        np.testing.assert_allclose(entry["q01"], np.quantile(expected.astype(float), 0.01, axis=0))
        np.testing.assert_allclose(entry["mean"], expected.astype(float).mean(axis=0))


def test_fewer_samples(published: Path) -> None:
    dataset = opened(published, sample_every=3)
    starts = np.cumsum([0, *LENGTHS])
    expected = [r for e in range(len(LENGTHS)) for r in range(starts[e], starts[e + 1], 3)]
    assert dataset.sample_index.tolist() == expected
    assert dataset.subset([1]).sample_index.tolist() == [7, 10]


def test_one_camera_alone(published: Path, tmp_path: Path) -> None:
    root = tmp_path / "half"
    shutil.copytree(published, root)
    shutil.rmtree(root / f"videos/{KEYS[1]}", ignore_errors=True)
    dataset = EpisodeDataset(root, chunk_size=4, cameras=["agentview"], camera_names=CAMERAS)
    assert list(dataset.images([2])) == ["agentview"]


def test_fitted_images_are_those_that_the_policy_would_make(published: Path) -> None:
    fit = ImageFit(SIZE // 2, "crop")
    full, half = opened(published), opened(published, fits={"wrist": fit})
    images, fitted = (d.images([4, 9])["wrist"].numpy() for d in (full, half))
    np.testing.assert_array_equal(fitted, [fit(image) for image in images])
    as_it_is = opened(published, fits={"wrist": ImageFit(SIZE, "crop")})
    assert torch.equal(as_it_is.images([4])["wrist"], full.images([4])["wrist"])


def test_the_size_of_images_is_that_of_the_images(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "wide")
    info = tmp_path / "wide/meta/info.json"
    info.write_text(info.read_text().replace(f"[{SIZE}, {SIZE}, 3]", f"[{SIZE}, {2 * SIZE}, 3]"))
    dataset = opened(tmp_path / "wide")
    assert dataset.recorded_image_size("agentview") == (SIZE, SIZE)
    assert "32x32, though info.json says 64x32" in dataset.notes[0]


def test_unknown_versions_are_named(tmp_path: Path) -> None:
    old = write_published(tmp_path / "old", kind="image", version="v1.6")
    with pytest.raises(DatasetError, match=r"Not LeRobot v3\.0 or .*v2\.0: .*'v1\.6'"):
        opened(old)


@pytest.mark.parametrize("version", ["v3.0.0", "v3.1"])
def test_later_versions_are_read_with_a_note(tmp_path: Path, version: str) -> None:
    dataset = opened(write_published(tmp_path / "new", kind="image", version=version))
    assert dataset.num_frames == sum(LENGTHS) and version in dataset.notes[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pictures_against_pillow(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pictures(0)[0]).save(buffer, kind)
    found = ImageConverter()(decode_picture(buffer.getvalue())).astype(int)
    assert np.abs(found - np.asarray(Image.open(buffer))).mean() <= (0 if kind == "PNG" else 2)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_damaged_pictures_are_refused(content: bytes) -> None:
    with pytest.raises((ValueError, OSError)):
        decode_picture(content)


# --- the hub ---

Download = Callable[..., str]


class Hub:
    """Stands in for the hub: datasets by id and revision, and a record of what was asked for."""

    def __init__(self, datasets: dict[tuple[str, str | None], Path]) -> None:
        self.datasets = datasets
        self.asked: list[tuple[str | None, tuple[str, ...]]] = []
        self.error: Exception | None = None
        self.tag_error: Exception | None = None  # for the default tag alone

    def snapshot_download(
        self, repository: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]
    ) -> str:
        from huggingface_hub.errors import RevisionNotFoundError

        assert repo_type == "dataset"
        self.asked.append((revision, tuple(allow_patterns)))
        error = self.tag_error if revision == "v3.0" and self.tag_error else self.error
        if error is not None:
            raise error
        if (repository, revision) not in self.datasets:
            raise http_error(RevisionNotFoundError)
        return str(self.datasets[repository, revision])


def http_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "said by the hub")
    return error


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    standing_in = Hub({})
    monkeypatch.setattr("huggingface_hub.snapshot_download", standing_in.snapshot_download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # whatever the tests are run with
    return standing_in


def test_a_hub_id_takes_the_tag_or_the_main_branch(published: Path, hub: Hub, tmp_path: Path) -> None:
    hub.datasets = {("lerobot/libero", None): published}
    assert opened("lerobot/libero").num_frames == sum(LENGTHS)
    assert [revision for revision, _ in hub.asked] == ["v3.0", "v2.1", "v2.0", None, None]
    hub.datasets = {("lerobot/libero", "v3.0"): published}
    assert opened("lerobot/libero").num_frames == sum(LENGTHS)
    hub.datasets = {("lerobot/libero", "fixed/labels"): published}
    joint = opened(f"lerobot/libero@fixed/labels,{published}")
    assert joint.num_frames == 2 * sum(LENGTHS)


def test_a_hub_id_may_have_the_tag_of_an_older_version(hub: Hub, tmp_path: Path) -> None:
    hub.datasets = {("user/old", "v2.1"): Draft(one_video_each=True).write_v2(tmp_path / "old")}
    assert shown(EpisodeDataset("user/old", chunk_size=2)) == frames()
    assert [revision for revision, _ in hub.asked] == ["v3.0", "v2.1", "v2.1", "v2.1"]


def test_a_hub_id_is_opened_over_http(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_hub(tmp_path, monkeypatch) as served:
        folder = served.folder("lerobot/libero", "datasets")
        shutil.copytree(published, folder)
        (folder / "script.py").write_text("raise SystemExit")
        assert opened("lerobot/libero").num_frames == sum(LENGTHS)
        assert any("v3.0" in line for line in served.asked)  # it has no such tag
        served.branches.add("v3.0")
        assert opened("lerobot/libero").num_frames == sum(LENGTHS)
        assert not any("script.py" in line for line in served.asked)
        with pytest.raises(DatasetError, match="no such dataset, or it is private"):
            opened("lerobot/nothing")


@pytest.mark.parametrize("name", ["LocalEntryNotFoundError", "HfHubHTTPError", "TimeoutError"])
def test_a_failure_at_the_tag_does_not_choose_the_main_branch(published: Path, hub: Hub, name: str) -> None:
    """The client makes a LocalEntryNotFoundError of a timeout where the cache lacks the tag."""
    from huggingface_hub import errors

    hub.datasets = {("lerobot/libero", None): published}
    hub.tag_error = TimeoutError() if name == "TimeoutError" else http_error(getattr(errors, name))
    with pytest.raises(DatasetError, match="lerobot/libero is no local folder and cannot be downloaded"):
        opened("lerobot/libero")
    assert [revision for revision, _ in hub.asked] == ["v3.0"]


def test_an_old_version_is_noticed_before_it_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    hub.datasets = {("user/old", None): write_published(tmp_path / "old", kind="video", version="v1.6")}
    with pytest.raises(DatasetError, match=r"user/old.*'v1\.6'"):
        opened("user/old")
    assert {files for _, files in hub.asked} == {("meta/info.json",)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GatedRepoError", "grants access.*https://huggingface.co/datasets/user/name"),
        ("RepositoryNotFoundError", "no such dataset, or it is private"),
        ("LocalEntryNotFoundError", "cannot be reached"),
        ("RevisionNotFoundError", "no revision 'v9'"),
        ("HfHubHTTPError", "said by the hub"),
    ],
)
def test_why_a_download_failed(hub: Hub, name: str, message: str) -> None:
    from huggingface_hub import errors

    hub.error = http_error(getattr(errors, name))
    with pytest.raises(DatasetError, match=f"user/name is no local folder.*{message}"):
        opened("user/name@v9")


def test_a_downloaded_dataset_opens_offline(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the hub's own client: a cache folder as a download leaves it, and no connection."""
    from huggingface_hub import constants

    commit = "0" * 40
    stored = tmp_path / "datasets--lerobot--libero"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs/main").write_text(commit)
    shutil.copytree(published, stored / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # whatever the tests are run with
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    with pytest.raises(DatasetError, match="cannot be downloaded"):  # is there a tag by now?
        opened("lerobot/libero")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert opened("lerobot/libero").num_frames == sum(LENGTHS)
    with pytest.raises(DatasetError, match="cannot be reached"):
        opened("lerobot/another")
