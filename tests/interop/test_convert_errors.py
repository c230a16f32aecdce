"""Published folders that cannot be converted say why, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rdvla.errors import RDVLAError
from rdvla.interop import convert_published
from tests.support.converting import MERGED, OPTIONS, convert, edit, edit_merged
from tests.support.published_checkpoint import (
    ENCODERS,
    STATISTICS_KEY,
    WIDTH,
    Published,
)

QUANTILES = {"q01": [0.0] * 7, "q99": [1.0] * 7}


def scales(**changes: object) -> dict[str, object]:
    """A processor whose first encoder's scale is changed."""
    usual = {"mean": [0.5] * 3, "std": [0.5] * 3}
    return {"tvf_normalize_params": [usual | changes, usual]}


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
        ("dataset_statistics.json", {STATISTICS_KEY: {"action": QUANTILES}}, "lacks .* 'proprio'"),
        ("config.json", {"timm_model_ids": [["a"], "b"]}, r"image encoder \['a'\]"),
        ("config.json", {"timm_override_act_layers": 5}, "not supported"),
        ("config.json", {"image_sizes": ["224px", 28]}, "image_sizes must be two whole numbers"),
        ("config.json", {"image_sizes": [28.5, 28]}, "image_sizes must be two whole numbers"),
        ("config.json", {"image_sizes": [30, 30]}, "config.json.* impossible model: .*image_size"),
        ("preprocessor_config.json", scales(mean=None), "tvf_normalize_params must hold three means"),
        ("preprocessor_config.json", scales(mean=["a", "b", "c"]), "tvf_normalize_params must hold three"),
        ("preprocessor_config.json", scales(std=[0, 0, 0]), "std above 0"),
        ("preprocessor_config.json", {"tvf_normalize_params": [None, None]}, "tvf_normalize_params"),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": "many"}, "a number as vocab_size"),
        ({"hidden_size": 32.5}, "a number as hidden_size"),
        ({"num_attention_heads": 5}, r"backbone\.language\.width"),
        ({"rope_theta": "far"}, "a number as rope_theta"),
        ({"rope_parameters": [1]}, r"lacks \['rope_theta'\]"),
        ({"rms_norm_eps": None}, "a number as rms_norm_eps"),
    ],
)
def test_damaged_sizes_of_the_language_model_are_named(
    copy: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    edit(copy / "config.json", lambda entries: entries["text_config"].update(change))
    with pytest.raises(RDVLAError, match=rf"config\.json.*{message}"):
        convert(copy, tmp_path)


@pytest.mark.parametrize(
    ("feature", "change", "message"),
    [
        ("action", {"mask": None}, "'mask' of 7 times true or false, or none; got None"),
        ("action", {"mask": [True] * 5}, "'mask' of 7 times true or false"),
        ("action", {"mask": ["yes"] * 7}, "'mask' of 7 times true or false"),
        ("action", {"q01": ["low"] * 7}, "must hold 'q01' and 'q99'"),
        ("action", {"q99": [float("nan")] * 7}, "must hold 'q01' and 'q99'"),
        ("proprio", {"q99": [1.0] * 7}, "must hold 'q01' and 'q99'"),
        ("proprio", {"q01": [0.0] * 7, "q99": [1.0] * 7}, "must be 8 finite numbers"),
        ("proprio", {"mask": [True] * 7 + [False]}, "not supported for proprioception"),
    ],
)
def test_damaged_statistics_are_named(
    copy: Path, tmp_path: Path, feature: str, change: dict[str, object], message: str
) -> None:
    path = copy / "dataset_statistics.json"
    edit(path, lambda entries: entries[STATISTICS_KEY][feature].update(change))
    with pytest.raises(RDVLAError, match=rf"dataset_statistics\.json.*{message}"):
        convert(copy, tmp_path)


def test_a_statistic_that_no_policy_reads_may_be_anything(copy: Path, tmp_path: Path) -> None:
    path = copy / "dataset_statistics.json"
    unread = {"mean": None, "std": [float("nan")] * 7, "note": "lost"}
    edit(path, lambda entries: entries[STATISTICS_KEY]["action"].update(unread))
    assert convert(copy, tmp_path).policy.statistics["action"].keys() == {"q01", "q99", "min", "max"}


def test_a_gripper_that_no_mask_names_is_not_ignored(copy: Path, tmp_path: Path) -> None:
    """By LIBERO's default, too; raw asks for nothing."""
    edit(copy / "dataset_statistics.json", lambda entries: entries[STATISTICS_KEY]["action"].pop("mask"))
    for chosen in (None, "opening"):
        with pytest.raises(RDVLAError, match=r"no 'mask' of 'action' .* --gripper raw"):
            convert(copy, tmp_path, gripper=chosen)
    config = convert(copy, tmp_path, gripper="raw").policy.config
    assert config.unscaled_actions == config.gripper_opening == ()


def edit_head(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    (path,) = folder.glob("action_head--*.pt")
    weights = torch.load(path, weights_only=True)
    change(weights)
    torch.save(weights, path)


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        ({"k_self": (WIDTH, WIDTH + 1)}, "k_self"),  # another width than the pieces beside it
        ({"q_self": (WIDTH - 2, WIDTH), "v_self": (WIDTH + 2, WIDTH)}, "q_self"),  # the right sum
        ({"norm1": (WIDTH + 1,)}, "norm1"),
    ],
)
def test_a_piece_of_another_shape_is_named(
    copy: Path, tmp_path: Path, shapes: dict[str, tuple[int, ...]], named: str
) -> None:
    prefix = "module.model.coda.0."
    pieces = {f"{prefix}{name}.weight": torch.ones(shape) for name, shape in shapes.items()}
    edit_head(copy, lambda weights: weights.update(pieces))
    with pytest.raises(RDVLAError, match=rf"action_head--7_checkpoint\.pt .* coda\.0\.{named}\.weight has"):
        convert(copy, tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02}q\x00K\x01a.", b"\x80\x02.", b"\x80\x02h\x05.", b"\x80\x02NNb.", b"PK\x03\x04 cut off"],
)
def test_a_damaged_pickle_is_named(copy: Path, tmp_path: Path, content: bytes) -> None:
    (path,) = copy.glob("action_head--*.pt")
    path.write_bytes(content)
    with pytest.raises(RDVLAError, match=rf"{path.name} cannot be read as weights"):
        convert(copy, tmp_path)


def test_weights_without_names_are_refused(copy: Path, tmp_path: Path) -> None:
    (path,) = copy.glob("proprio_projector--*.pt")
    torch.save({1: torch.ones(2)}, path)
    with pytest.raises(RDVLAError, match=r"proprio_projector.* a dictionary of tensors by name"):
        convert(copy, tmp_path)


def test_an_impossible_head_is_named(copy: Path, tmp_path: Path) -> None:
    (path,) = copy.glob("action_head_config--*.json")
    edit(path, lambda entries: entries.update(num_heads=5))
    with pytest.raises(RDVLAError, match=rf"{path.name} describes an impossible head: .*num_heads"):
        convert(copy, tmp_path)


def test_latents_must_be_a_matrix(copy: Path, tmp_path: Path) -> None:
    edit_merged(copy, lambda weights: weights.update({"action_queries.weight": torch.tensor(1.0)}))
    with pytest.raises(RDVLAError, match=r"action_queries\.weight must be a matrix"):
        convert(copy, tmp_path)


def test_a_dimension_that_never_changed_is_refused(copy: Path, tmp_path: Path) -> None:
    path = copy / "dataset_statistics.json"
    edit(path, lambda entries: entries[STATISTICS_KEY]["proprio"]["q99"].__setitem__(0, -0.5))
    with pytest.raises(RDVLAError, match=r"'proprio' of .*: dimension 0 never changed"):
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
