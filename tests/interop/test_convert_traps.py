"""Mistakes that published checkpoints invite, a test for each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rdvla.backbone import PrismaticBackbone, PrismaticConfig
from rdvla.errors import RDVLAError
from rdvla.interop import Conversion, write_published
from tests.support.converting import MERGED, backbone_inputs, contents, convert, edit, edit_merged, observe
from tests.support.prismatic_reference import prompt_of
from tests.support.published_checkpoint import (
    DINOV2_SCALE,
    ENCODERS,
    LATENTS,
    LAYERS,
    STATISTICS_KEY,
    Published,
    make_published,
)


def test_trap_keys_may_carry_a_prefix_and_a_step_may_be_latest(
    published: Published, copy: Path, tmp_path: Path
) -> None:
    for path in list(copy.glob("*--7_checkpoint*")):
        if path.suffix == ".pt":
            weights = torch.load(path, weights_only=True)
            torch.save({name.removeprefix("module."): value for name, value in weights.items()}, path)
        path.rename(path.with_name(path.name.replace("--7", "--latest")))
    with_prefix, without = convert(published.folder, tmp_path / "a"), convert(copy, tmp_path / "b")
    for name, value in with_prefix.policy.state_dict().items():
        assert torch.equal(value, without.policy.state_dict()[name]), name


def test_trap_levels_count_the_embeddings(tmp_path: Path) -> None:
    """Level n is the state after n layers; only the output of the model's own last layer is normalised."""
    middle = convert(make_published(tmp_path / "a", levels=(1, 3)).folder, tmp_path / "m").policy
    late = convert(make_published(tmp_path / "b", levels=(1, LAYERS)).folder, tmp_path / "l").policy
    layers = [len(policy.backbone.published.language_model.layers) for policy in (middle, late)]  # type: ignore[union-attr]
    assert layers == [3, LAYERS]
    names = [
        {n for n in policy.state_dict() if n.endswith("language_model.norm.weight")}
        for policy in (middle, late)
    ]
    assert [len(found) for found in names] == [0, 1]


def test_trap_slices_start_one_position_early(converted: tuple[Conversion, Path]) -> None:
    """At level 0, the embeddings, the slices hold known tokens."""
    policy = converted[0].policy
    backbone = policy.backbone
    assert isinstance(backbone, PrismaticBackbone) and isinstance(policy.config.backbone, PrismaticConfig)
    backbone.config = replace(backbone.config, levels=(0, 3))
    try:
        prepared = backbone.prepare(*backbone_inputs(observe()))
        out = backbone.transform(prepared)
    finally:
        backbone.config = policy.config.backbone
    words = backbone.published.language_model.embed_tokens.weight
    prompt = prompt_of(backbone, observe().instruction[0])
    assert torch.equal(out.vision[0][0, 0], words[prompt[0]])
    assert torch.equal(out.vision[0][0, 1:], prepared["patches"][0, :-1])
    assert torch.equal(out.latents[0][0, 0], words[prompt[-1]])
    assert torch.equal(out.latents[0][0, 1:], backbone.latents[:-1])


def test_trap_rotary_pairs_are_neighbours(converted: tuple[Conversion, Path]) -> None:
    assert converted[0].policy.config.head.rotary == "neighbour_pairs"


def test_trap_latents_are_in_the_merged_weights_only(
    converted: tuple[Conversion, Path], published: Published, copy: Path, tmp_path: Path
) -> None:
    latents = converted[0].policy.backbone.latents
    assert torch.equal(latents, published.weights["action_queries.weight"]) and len(latents) == LATENTS  # type: ignore[arg-type]
    edit_merged(copy, lambda weights: weights.pop("action_queries.weight"))
    with pytest.raises(RDVLAError, match=r"lack 'action_queries\.weight'"):
        convert(copy, tmp_path)


def test_trap_prompt_is_qwens_chat_in_lower_case(converted: tuple[Conversion, Path]) -> None:
    backbone = converted[0].policy.backbone
    assert isinstance(backbone, PrismaticBackbone) and backbone.prompt_tokenizer is not None
    row = backbone.prompt_tokenizer(["Pick up the Black Bowl"])[0]
    text = backbone.prompt_tokenizer.tokenizer.decode(row[row >= 0])
    assert text == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat action should the robot take to pick up the black bowl?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_trap_image_scale_is_the_processors_own(
    converted: tuple[Conversion, Path], copy: Path, tmp_path: Path
) -> None:
    """Not ImageNet's exact numbers: the published processor uses the rounded ones next to them."""
    config = converted[0].policy.config.backbone
    assert isinstance(config, PrismaticConfig)
    assert list(config.dinov2.mean) == DINOV2_SCALE["mean"] and list(config.dinov2.std) == DINOV2_SCALE["std"]
    assert config.siglip.mean == config.siglip.std == (0.5, 0.5, 0.5)
    assert (config.crop_area, config.jpeg_quality) == (0.9, 95)
    path = copy / "preprocessor_config.json"
    edit(path, lambda entries: entries.pop("tvf_normalize_params"))
    with pytest.raises(RDVLAError, match="does not say how pixels are scaled"):
        convert(copy, tmp_path)
    half = [0.5, 0.5, 0.5]
    edit(
        path,
        lambda entries: entries.update(means=[[0.485, 0.456, 0.406], half], stds=[[0.2, 0.2, 0.2], half]),
    )
    assert convert(copy, tmp_path).policy.config.backbone.dinov2.mean == (0.485, 0.456, 0.406)  # type: ignore[attr-defined]


def test_trap_proprioception_is_clipped(converted: tuple[Conversion, Path]) -> None:
    policy = converted[0].policy
    far = observe(1).state + 100
    assert (policy.normalize_state(far) == 1).all() and (policy.normalize_state(-far) == -1).all()


def test_trap_gripper_is_an_opening(converted: tuple[Conversion, Path], copy: Path, tmp_path: Path) -> None:
    policy = converted[0].policy
    assert policy.config.unscaled_actions == policy.config.gripper_opening == (6,)
    taken = policy.predict(observe(), stop=2).actions[..., 6]
    assert set(taken.flatten().tolist()) <= {-1.0, 1.0}
    raw = convert(copy, tmp_path, gripper="raw").policy
    assert raw.config.gripper_opening == () and raw.config.unscaled_actions == (6,)


def test_trap_a_grippers_meaning_is_not_guessed_outside_libero(copy: Path, tmp_path: Path) -> None:
    path = copy / "dataset_statistics.json"
    edit(path, lambda entries: entries.update(bridge=entries.pop(STATISTICS_KEY)))
    with pytest.raises(RDVLAError, match="say --gripper"):
        convert(copy, tmp_path)


def test_trap_layer_scale_has_two_names(published: Published, copy: Path, tmp_path: Path) -> None:
    def rename(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if name.endswith("scale_factor")]:
            weights[name.replace("scale_factor", "gamma")] = weights.pop(name)

    edit_merged(copy, rename)
    first, second = convert(published.folder, tmp_path / "a").policy, convert(copy, tmp_path / "b").policy
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_trap_tied_embeddings_may_be_stored_under_the_other_name(
    published: Published, copy: Path, tmp_path: Path
) -> None:
    def leave_one(weights: dict[str, torch.Tensor]) -> None:
        weights["language_model.lm_head.weight"] = weights.pop("language_model.model.embed_tokens.weight")

    edit_merged(copy, leave_one)
    conversion = convert(copy, tmp_path)
    embeddings = conversion.policy.backbone.published.language_model.embed_tokens.weight  # type: ignore[union-attr]
    assert torch.equal(embeddings, published.weights["language_model.model.embed_tokens.weight"])  # type: ignore[arg-type]
    edit(copy / "config.json", lambda entries: entries["text_config"].update(tie_word_embeddings=False))
    with pytest.raises(RDVLAError, match=r"missing: language_model\.model\.embed_tokens"):
        convert(copy, tmp_path / "b")


def test_merged_weights_may_come_in_several_files(published: Published, copy: Path, tmp_path: Path) -> None:
    weights = load_file(copy / MERGED)
    (copy / MERGED).unlink()
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        path = copy / f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, path)
    first, second = convert(published.folder, tmp_path / "a").policy, convert(copy, tmp_path / "b").policy
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    write_published(second, tmp_path / "back", template=copy, encoders=ENCODERS)
    assert contents(tmp_path / "back").keys() == contents(copy).keys()


@pytest.mark.parametrize("kind", ["ActionHeadRecurrent", "ActionHeadRecurrentPro", None])
def test_trap_one_head_has_two_names(copy: Path, tmp_path: Path, kind: str | None) -> None:
    def rename(entries: dict[str, Any]) -> None:
        entries.pop("_type")
        entries.update({} if kind is None else {"_type": kind})

    edit(copy / "action_head_config--7_checkpoint.json", rename)
    assert convert(copy, tmp_path).policy.config.head.core == (3, 3)


def test_trap_a_tokenizer_may_come_with_code(copy: Path, tmp_path: Path) -> None:
    (copy / "evil.py").write_text("raise SystemExit('code of a checkpoint was run')\n")
    automatic = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"], "AutoConfig": "evil.Config"}
    edit(copy / "tokenizer_config.json", lambda entries: entries.update(auto_map=automatic))
    backbone = convert(copy, tmp_path).policy.backbone
    assert isinstance(backbone, PrismaticBackbone) and backbone.prompt_tokenizer is not None
    assert not type(backbone.prompt_tokenizer.tokenizer).__module__.startswith("evil")
