"""Published folders that cannot be converted say why, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdvla.errors import RDVLAError
from rdvla.interop import convert_published
from tests.converting import MERGED, OPTIONS, convert, edit
from tests.published_checkpoint import (
    ENCODERS,
    STATISTICS_KEY,
    Published,
)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"timm_model_ids": ["vit_tiny_patch14_reg2_dinov3", "x"]}, "Did you mean"),
        ("config.json", {"use_fused_vision_backbone": False}, "use_fused_vision_backbone must be True"),
        ("config.json", {"timm_override_act_layers": ["quick_gelu", None]}, "not supported"),
        ("config.json", {"text_config": None}, "lacks 'text_config'"),
        ("config.json", {"text_config": {"model_type": "llama"}}, "Qwen2"),
        ("config.json", {"text_config": {"model_type": "qwen2"}}, "lacks .*vocab_size"),
        ("preprocessor_config.json", {"image_resize_strategy": "letterbox"}, "resize-naive"),
        ("dataset_statistics.json", {"libero_goal_no_noops": {}}, "choose one with --statistics"),
        ("dataset_statistics.json", {STATISTICS_KEY: {"action": {}}}, "lacks the statistics of 'proprio'"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit_is_explained(
    copy: Path, tmp_path: Path, file: str, change: dict[str, object], message: str
) -> None:
    edit(copy / file, lambda entries: entries.update(change))
    with pytest.raises(RDVLAError, match=message):
        convert(copy, tmp_path)
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize(
    "file",
    [MERGED, "config.json", "preprocessor_config.json", "dataset_statistics.json", "tokenizer_config.json"],
)
def test_a_missing_file_is_named(copy: Path, tmp_path: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(RDVLAError, match=file.replace("model.", r"model\*?\.")):
        convert(copy, tmp_path)


def test_a_dimension_that_never_changed_is_refused(copy: Path, tmp_path: Path) -> None:
    path = copy / "dataset_statistics.json"
    edit(path, lambda entries: entries[STATISTICS_KEY]["proprio"]["q99"].__setitem__(0, -0.5))
    with pytest.raises(RDVLAError, match="dimension 0 of 'proprio' never changed"):
        convert(copy, tmp_path)


def test_an_existing_output_is_not_overwritten(published: Published, tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    with pytest.raises(RDVLAError, match="exists: name a new folder"):
        convert(published.folder, tmp_path)


def test_a_name_that_is_neither_folder_nor_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError("no such repository")

    monkeypatch.setattr("rdvla.policy.files.snapshot_download", refuse)
    with pytest.raises(RDVLAError, match="is no folder, and no checkpoint that the hub gives"):
        convert(Path("nobody/nothing"), tmp_path)


def test_hub_ids_are_downloaded_without_code(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(published.folder)

    monkeypatch.setattr("rdvla.policy.files.snapshot_download", download)
    convert_published("user/model@v2", tmp_path / "policy", options=OPTIONS, encoders=ENCODERS)
    ((name, revision, patterns),) = asked
    assert (name, revision) == ("user/model", "v2") and not any("py" in pattern for pattern in patterns)
