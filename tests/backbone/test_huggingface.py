"""Vision-language models as backbones: against the published models' own forward pass and generation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rdvla.backbone import HuggingFaceBackbone, HuggingFaceConfig, LoraSettings
from rdvla.backbone.huggingface.families import IMAGE, Qwen2VL
from rdvla.errors import ConfigError
from tests.support.closeness import assert_clear_winner, assert_same_up_to_rounding
from tests.support.tiny_models import make_images
from tests.support.tiny_vlms import (
    IMAGE_MEAN,
    IMAGE_SIZE,
    IMAGE_STD,
    LAYERS,
    MAKERS,
    VOCABULARY,
    save_tiny_vlm,
    vlm_config,
)

pytest.importorskip("peft")
NO_LORA = LoraSettings(where="none")
SENTENCES = ["Open the  drawer", "push"]
FAMILIES = sorted(MAKERS)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: save_tiny_vlm(tmp_path_factory.mktemp(name), name) for name in FAMILIES}


def build(folder: str, **changes: Any) -> HuggingFaceBackbone:
    torch.manual_seed(0)
    return HuggingFaceBackbone(vlm_config(folder, **({"lora": NO_LORA} | changes))).eval()


def published(folder: str) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def own_inputs(
    backbone: HuggingFaceBackbone, images: Tensor, sentence: str, suffix: Tensor
) -> dict[str, Any]:
    """Inputs of the published model's own forward for a sample: [prompt ; suffix], no padding."""
    tokens = backbone.prompts.rows([sentence], images=images.shape[1])
    tokens = tokens[tokens >= 0]
    ids = torch.cat([tokens, suffix]).unsqueeze(0)
    pixels = (images[0].permute(0, 3, 1, 2) / 255 - torch.tensor(IMAGE_MEAN)[:, None, None]) / torch.tensor(
        IMAGE_STD
    )[:, None, None]
    kind = backbone.model.config.model_type
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind.startswith("qwen"):
        processor = qwen_processor()
        seen = processor(images=list(images[0].permute(0, 3, 1, 2)), do_resize=False, return_tensors="pt")
        is_image = (ids == VOCABULARY["<|image_pad|>"]).int()
        return inputs | {
            "pixel_values": torch.as_tensor(seen["pixel_values"]),
            "image_grid_thw": torch.as_tensor(seen["image_grid_thw"]),
            "mm_token_type_ids": is_image,
        }
    if kind == "paligemma":
        types = torch.cat([torch.zeros(len(tokens)), torch.ones(len(suffix))]).long().unsqueeze(0)
        return inputs | {"pixel_values": pixels, "token_type_ids": types}
    return inputs | {"pixel_values": pixels.unsqueeze(0)}


def qwen_processor() -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, temporal_patch_size=2, image_mean=IMAGE_MEAN, image_std=IMAGE_STD
    )


# --- the sequence is the published model's ---


@pytest.mark.parametrize("levels", [(0, 1, LAYERS), (1, 2), (1,)])
@pytest.mark.parametrize("name", FAMILIES)
def test_states_are_the_published_models_own(
    folders: dict[str, str], name: str, levels: tuple[int, ...]
) -> None:
    """With embeddings of known words as latents, the model itself can run the sequence."""
    backbone = build(folders[name], levels=levels)
    suffix = torch.tensor([VOCABULARY[letter] for letter in "grab"])
    with torch.no_grad():
        backbone.latents.copy_(backbone.reader.embed(suffix))
        images = make_images(2)
        ours = backbone.transform(backbone.prepare(images, SENTENCES))
        model = published(folders[name])
        for row, sentence in enumerate(SENTENCES):
            inputs = own_inputs(backbone, images[row : row + 1], sentence, suffix)
            states = model.model(**inputs, output_hidden_states=True).hidden_states
            is_image = inputs["input_ids"][0] == backbone.published.image_token
            for level in backbone.levels:
                torch.testing.assert_close(
                    ours.latents[level][row], states[level][0, -4:], atol=1e-4, rtol=1e-4
                )
                seen = states[level][0][is_image]
                torch.testing.assert_close(ours.vision[level][row], seen, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_of_different_length_are_read_as_alone(folders: dict[str, str], name: str) -> None:
    backbone, images = build(folders[name], reasoning_tokens=3), make_images(2)
    with torch.no_grad():
        together = backbone.transform(backbone.prepare(images, SENTENCES))
        for row, sentence in enumerate(SENTENCES):
            alone = backbone.transform(backbone.prepare(images[row : row + 1], [sentence]))
            for level in backbone.levels:
                for ours, theirs in ((together.vision, alone.vision), (together.latents, alone.latents)):
                    torch.testing.assert_close(ours[level][row], theirs[level][0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_image_and_instruction_reach_the_latents(folders: dict[str, str], name: str) -> None:
    backbone, images = build(folders[name]), make_images(1)
    other_camera = images.clone()
    other_camera[:, 1] = 255 - other_camera[:, 1]
    with torch.no_grad():
        before, *changed = (
            backbone.transform(backbone.prepare(shown, [sentence])).latents[2]
            for shown, sentence in ((images, "push"), (other_camera, "push"), (images, "pull"))
        )
    assert all((before - after).abs().max() > 1e-2 for after in changed)


def test_layers_behind_the_last_one_are_dropped(folders: dict[str, str]) -> None:
    backbone = build(folders["smolvlm"], levels=(1, 2))
    assert len(backbone.published.language.layers) == 2
    assert backbone.vocabulary is None  # no logits without text
    assert not any("lm_head" in name for name in backbone.state_dict())


def test_images_are_scaled_to_the_models_size(folders: dict[str, str]) -> None:
    backbone = build(folders["paligemma"])
    large = make_images(1).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # 64 pixels
    fitted = backbone.published.fit(large.flatten(0, 1))
    assert fitted.shape == (2, 3, IMAGE_SIZE, IMAGE_SIZE)
    grey = backbone.published.fit(torch.full((1, 7, 9, 3), 102, dtype=torch.uint8))  # 0.4
    torch.testing.assert_close(grey[0, :, 3, 3], torch.tensor([0.0, -0.4, -2 / 3]), atol=1e-5, rtol=1e-5)


def test_image_positions_have_rows_and_columns() -> None:
    # text, text, an image of 2 x 2 tokens, text, with two places of padding in front
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1]]).bool()
    is_image = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 0]]).bool()
    time, row, column = Qwen2VL().positions(mask, is_image, 2)[:, 0, 2:].tolist()
    assert time == [0, 1, 2, 2, 2, 2, 4]
    assert row == [0, 1, 2, 2, 3, 3, 4]
    assert column == [0, 1, 2, 3, 2, 3, 4]


# --- reasoning ---


def unending(backbone: HuggingFaceBackbone) -> HuggingFaceBackbone:
    backbone.reader.ends = ()
    return backbone


@pytest.mark.parametrize("name", FAMILIES)
def test_the_words_are_those_of_greedy_generation(folders: dict[str, str], name: str) -> None:
    backbone, images = unending(build(folders[name], reasoning_tokens=5)), make_images(2)
    with torch.no_grad():
        prompt = backbone.embed_prompt(backbone.prepare(images, SENTENCES))
        tokens = backbone.reader.reason(prompt, at_most=5).tokens
    model = published(folders[name])
    for row, sentence in enumerate(SENTENCES):
        inputs = own_inputs(backbone, images[row : row + 1], sentence, torch.zeros(0, dtype=torch.int64))
        generated = model.generate(
            **inputs, do_sample=False, max_new_tokens=5, min_new_tokens=5, eos_token_id=None, pad_token_id=0,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        given = inputs["input_ids"].shape[1]
        assert_clear_winner(torch.cat(generated.logits), terms=given + 5, products=6 * LAYERS + 1)
        assert tokens[row].tolist() == generated.sequences[0, given:].tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_reading_with_gradient_gives_what_the_cache_gave(folders: dict[str, str], name: str) -> None:
    backbone = build(folders[name], reasoning_tokens=4)
    prepared = {key: value.detach() for key, value in backbone.prepare(make_images(2), SENTENCES).items()}
    at_once = backbone.transform(prepared)
    with torch.no_grad():
        step_by_step = backbone.transform(prepared)
    for level in backbone.levels:
        assert at_once.latents[level].requires_grad and at_once.latents[level].shape == (2, 4 + 4, 16)
        torch.testing.assert_close(
            at_once.latents[level].detach(), step_by_step.latents[level], atol=2e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            at_once.vision[level].detach(), step_by_step.vision[level], atol=2e-5, rtol=1e-4
        )


def test_a_sample_that_has_said_enough_is_silent(folders: dict[str, str]) -> None:
    """The second sample's first word ends its text: it goes on as if there were no reasoning."""
    backbone, images = unending(build(folders["smolvlm"], reasoning_tokens=3)), make_images(2)
    with torch.no_grad():
        prompt = backbone.embed_prompt(backbone.prepare(images, SENTENCES))
        first, second = backbone.reader.reason(prompt, at_most=3).tokens.tolist()
        if second[0] in first:
            pytest.fail("the two samples must say different things for this test to mean something")
        backbone.reader.ends = (second[0],)
        backbone.silence.copy_(torch.tensor([[5.0], [7.0]]).expand(2, 16))  # type: ignore[union-attr]
        assert backbone.reader.reason(prompt, at_most=3).tokens.tolist() == [first, [-1, -1, -1]]
        features = backbone.transform(backbone.prepare(images, SENTENCES))
        quiet = build(folders["smolvlm"])
        quiet.latents.copy_(backbone.latents)
        expected = quiet.transform(quiet.prepare(images[1:], SENTENCES[1:]))
    for level, value in ((1, 5.0), (2, 7.0)):
        assert bool((features.latents[level][1, :3] == value).all())
        assert not bool((features.latents[level][0, :3] == value).any())
        torch.testing.assert_close(
            features.latents[level][1, 3:], expected.latents[level][0], atol=2e-5, rtol=1e-4
        )


def test_reasoning_can_be_read(folders: dict[str, str]) -> None:
    backbone = unending(build(folders["qwen2_5_vl"], reasoning_tokens=3))
    said = backbone.reasoning(make_images(2), SENTENCES)
    assert len(said) == 2 and all(isinstance(text, str) for text in said)
    with pytest.raises(ConfigError, match="reasoning_tokens is 0"):
        build(folders["qwen2_5_vl"]).reasoning(make_images(1), ["push"])


# --- what is trained, and what is constant ---


def gradients(backbone: HuggingFaceBackbone, prepared: dict[str, Tensor]) -> dict[str, Tensor]:
    features = backbone.transform(prepared)
    sum(value.square().mean() for value in (*features.latents.values(), *features.vision.values())).backward()  # type: ignore[union-attr]
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


def awake(backbone: HuggingFaceBackbone) -> HuggingFaceBackbone:
    """Draw the matrices of low-rank pairs that start at zero, so both get a gradient."""
    torch.manual_seed(1)
    for name, parameter in backbone.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return backbone


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("where", ["language", "all"])
def test_what_is_trained_gets_a_gradient_and_nothing_else(
    folders: dict[str, str], name: str, where: Any
) -> None:
    backbone = awake(build(folders[name], lora=LoraSettings(where=where, rank=2))).train()
    with torch.no_grad():
        prepared = backbone.prepare(make_images(2), SENTENCES)
    assert ("images" in prepared) == (where == "all") and (IMAGE in prepared) == (where != "all")
    found = gradients(backbone, prepared)
    assert found.keys() == {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert "latents" in found and all(".lora_" in name for name in found.keys() - {"latents"})
    assert any("vision" in name or "visual" in name for name in found) == (where == "all")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("where", ["language", "all"])
def test_checkpointing_computes_twice_and_the_same(folders: dict[str, str], name: str, where: Any) -> None:
    calls = {False: 0, True: 0}
    found: dict[bool, dict[str, Tensor]] = {}
    for checkpointing in (False, True):
        backbone = awake(
            build(folders[name], lora=LoraSettings(where=where, rank=2), gradient_checkpointing=checkpointing)
        ).train()

        def count(*_: Any, checkpointing: bool = checkpointing) -> None:
            calls[checkpointing] += 1

        backbone.published.language.layers[0].mlp.register_forward_pre_hook(count)
        with torch.no_grad():
            prepared = backbone.prepare(make_images(2), SENTENCES)
        found[checkpointing] = gradients(backbone, prepared)
    assert calls == {False: 1, True: 2}
    assert found[False].keys() == found[True].keys()
    for parameter, gradient in found[False].items():
        torch.testing.assert_close(found[True][parameter], gradient, atol=1e-5, rtol=1e-3)


def test_checkpointing_and_reasoning_go_together(folders: dict[str, str]) -> None:
    backbone = build(
        folders["qwen3_vl"], lora=LoraSettings(rank=2), gradient_checkpointing=True, reasoning_tokens=2
    )
    prepared = backbone.prepare(make_images(2), SENTENCES)
    with torch.no_grad():
        expected = backbone.transform(prepared).latents[2]
    backbone.train()
    assert backbone.published.language.training
    torch.testing.assert_close(
        backbone.transform(prepared).latents[2].detach(), expected, atol=2e-5, rtol=1e-4
    )
    assert backbone.published.language.training


def test_bfloat16_is_close_and_what_is_trained_is_float32(folders: dict[str, str]) -> None:
    exact, half = (
        build(folders["smolvlm"], dtype=dtype, lora=LoraSettings(rank=2)) for dtype in ("float32", "bfloat16")
    )
    assert {p.dtype for p in half.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in half.parameters() if not p.requires_grad} == {torch.bfloat16}
    with torch.no_grad():
        ours, theirs = (
            each.transform(each.prepare(make_images(2), SENTENCES)).latents[2] for each in (half, exact)
        )
    assert ours.dtype == torch.float32
    assert (ours - theirs).norm() / theirs.norm() < 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_mixed_precision_reads_padded_prompts(folders: dict[str, str], name: str) -> None:
    backbone = awake(build(folders[name], lora=LoraSettings(rank=2), reasoning_tokens=2)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(
            backbone, {k: v.detach() for k, v in backbone.prepare(make_images(2), SENTENCES).items()}
        )
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())


def test_freezing_yields_constant_features(folders: dict[str, str]) -> None:
    backbone = build(folders["smolvlm"], lora=LoraSettings(rank=2, dropout=0.5))
    with torch.no_grad():
        expected = backbone.transform(backbone.prepare(make_images(2), SENTENCES)).flatten()
    backbone.freeze()
    backbone.train()
    assert not any(module.training for module in backbone.model.modules())
    with torch.no_grad():
        found = backbone.frozen_inputs(make_images(2), SENTENCES)
    assert found.keys() == {"vision/1", "vision/2", "latents/1", "latents/2"}
    # A weight without gradient lets torch group the same products in another way. Six follow each other in
    # each layer (queries and keys, scores, values, output, two of the feed-forward layers), and LoRA adds two
    # to four of them. The longest sum is attention over the sequence.
    longest = backbone.config.max_text_tokens + sum(
        expected[f"{kind}/2"].shape[1] for kind in ("vision", "latents")
    )
    for name, value in found.items():
        assert_same_up_to_rounding(value, expected[name], terms=longest, products=LAYERS * (6 + 2 * 4))
    assert torch.equal(backbone.features(found).latents[2], found["latents/2"])


def test_new_tokens_are_of_the_size_of_words(folders: dict[str, str]) -> None:
    """Gemma scales its embeddings, others do not: both must get latents of the size of their words."""
    for name in ("paligemma", "smolvlm"):
        backbone = build(folders[name], latents=200)
        words = backbone.reader.embed(torch.arange(len(VOCABULARY)).unsqueeze(0)).detach()
        assert float(backbone.latents.detach().std() / words.std()) == pytest.approx(1, abs=0.1)


# --- what is wrong is named ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name_or_path": ""}, "name_or_path is empty"),
        ({"name_or_path": "/nowhere"}, "/nowhere"),
        ({"levels": (1, 9)}, "hidden state 9, but the model has 3 layers"),
        ({"image_size": 40}, "multiple of 2 patches of 7 pixels .* got 40 with 5 patches"),
        ({"image_size": 6}, "got 6 with 0 patches"),
    ],
)
def test_settings_that_do_not_fit_the_model(folders: dict[str, str], changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(folders["smolvlm"], **changes)


def test_paligemma_has_one_image_size(folders: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="must be 32 for this PaliGemma"):
        build(folders["paligemma"], image_size=64)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    from tests.support.tiny_models import save_tiny_dinov2

    with pytest.raises(ConfigError, match=r"'dinov2' are not supported.*qwen3_vl"):
        build(save_tiny_dinov2(tmp_path))


def test_a_tokenizer_of_another_model_is_refused(folders: dict[str, str], tmp_path: Path) -> None:
    folder = save_tiny_vlm(tmp_path, "smolvlm")
    text = (tmp_path / "tokenizer.json").read_text().replace("<end_of_utterance>", "<end_of_turn>")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigError, match="lacks the token '<end_of_utterance>'"):
        build(folder)


def test_a_model_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_vlm(tmp_path, "smolvlm")
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if "q_proj" in name)
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 of the model's weights, such as .*q_proj"):
        build(folder)


def test_an_instruction_cannot_pass_for_an_image(folders: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="own token for images"):
        build(folders["smolvlm"]).prepare(make_images(1), ["push <image>"])


def test_a_prompt_that_is_too_long_is_refused(folders: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="max_text_tokens is 120"):
        build(folders["smolvlm"]).prepare(make_images(1), ["push " * 40])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": ()}, "backbone.levels"),
        ({"levels": (0,)}, "at least 1"),
        ({"levels": (2, 2)}, "each level once"),
        ({"latents": 0}, "backbone.latents"),
        ({"reasoning_tokens": -1}, "must not be negative"),
        ({"question": "act!"}, r"must hold \{instruction\}"),
        ({"dtype": "float16"}, "backbone.dtype"),
        ({"image_size": 0}, "backbone.image_size"),
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(HuggingFaceConfig(name_or_path="x"), **changes)
