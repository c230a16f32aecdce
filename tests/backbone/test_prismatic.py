"""The paper's backbone against an independent computation, and its batches against single samples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rdvla.backbone import LoraSettings, PrismaticBackbone, PrismaticConfig
from rdvla.backbone.prismatic.prompt import PADDING
from rdvla.errors import ConfigError
from rdvla.heads import RecurrentConfig
from rdvla.policy import PolicyConfig
from tests.support import prismatic_reference as reference
from tests.support.closeness import assert_same_up_to_rounding
from tests.support.published_checkpoint import (
    BACKBONE,
    DINOV2,
    HEADS,
    KV_HEADS,
    LATENTS,
    LAYERS,
    SIGLIP,
    VOCABULARY,
    WIDTH,
    merged_shapes,
    save_qwen_tokenizer,
)
from tests.support.tiny_models import make_images, save_tiny_bert

SIZE = DINOV2.image_size
SENTENCES = (
    "Pick up the black bowl",
    "open the top drawer of the cabinet and put the bowl inside",
    "push it",
)
# Products that follow each other: six in each block of the image encoders and of the language model (queries
# and keys, scores, values, output, two of the feed-forward layers), three of the projector. The longest sums
# are the projector's, over four times the width of both encoders, and attention over the sequence.
PRODUCTS = 6 * (max(DINOV2.depth, SIGLIP.depth) - 1 + LAYERS) + 3
LONGEST_SUM = max(
    4 * (DINOV2.width + SIGLIP.width), BACKBONE.max_prompt_tokens + 2 * DINOV2.patches + LATENTS
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_qwen_tokenizer(folder)
    return folder


def build(tokenizer: Path, config: PrismaticConfig = BACKBONE) -> PrismaticBackbone:
    """With large random weights: small ones would hide mistakes behind the residual stream."""
    torch.manual_seed(0)
    backbone = config.make()
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_" not in name:
                spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.2
                parameter.copy_(torch.randn(parameter.shape) * spread + (parameter.ndim == 1))
    backbone.load_tokenizer_from(tokenizer)
    return backbone.eval()


def published_weights(backbone: PrismaticBackbone) -> dict[str, Tensor]:
    """Under the published names, in float64."""
    weights = {}
    for name, value in backbone.state_dict().items():
        name = name.removeprefix("published.").replace(".gamma", ".scale_factor")
        name = name.replace("language_model.", "language_model.model.")
        weights["action_queries.weight" if name == "latents" else name] = value.double()
    return weights


def features(backbone: PrismaticBackbone, images: Tensor, sentences: Sequence[str]) -> dict[str, Tensor]:
    with torch.no_grad():
        return backbone.features(backbone.frozen_inputs(images, sentences)).flatten()


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("cameras", [1, 2])
def test_features_are_those_of_an_independent_computation(
    tokenizer: Path, attention: str, cameras: int
) -> None:
    """Encoders, projector, sequence, language model and both slices, for prompts of different lengths."""
    backbone = build(tokenizer, replace(BACKBONE, attention=attention))  # type: ignore[arg-type]
    weights = published_weights(backbone)
    images = make_images(3, cameras=cameras, size=SIZE)
    out = features(backbone, images, SENTENCES)
    assert len({len(reference.prompt_of(backbone, sentence)) for sentence in SENTENCES}) == 3
    for row, sentence in enumerate(SENTENCES):
        patches = reference.encode_cameras(weights, images[row], encoders=(DINOV2, SIGLIP))
        expected = reference.context(
            weights, patches, reference.prompt_of(backbone, sentence),
            layers=LAYERS, heads=HEADS, key_value_heads=KV_HEADS, bidirectional=attention == "bidirectional",
        )  # fmt: skip
        for level in BACKBONE.levels:
            for name, value in zip(("vision", "latents"), expected[level], strict=True):
                actual = out[f"{name}/{level}"][row]
                torch.testing.assert_close(actual, value.float(), atol=2e-5, rtol=2e-4)


def test_layers_above_the_last_level_do_not_exist_and_are_not_missed(tokenizer: Path) -> None:
    whole = build(tokenizer)
    short = replace(BACKBONE, levels=(2,)).make()
    kept = {name: value for name, value in whole.state_dict().items() if name in short.state_dict()}
    short.load_state_dict(kept)
    short.load_tokenizer_from(tokenizer)  # type: ignore[attr-defined]
    gone = whole.state_dict().keys() - short.state_dict().keys()
    assert gone and all(
        ".layers.2." in n or ".layers.3." in n or n.endswith("model.norm.weight") for n in gone
    )
    images = make_images(2, size=SIZE)
    expected = features(whole, images, SENTENCES[:2])
    for name, value in features(short, images, SENTENCES[:2]).items():  # type: ignore[arg-type]
        torch.testing.assert_close(value, expected[name])


def test_nothing_of_a_vocabularys_size_but_the_embeddings() -> None:
    shapes = {name: parameter.shape for name, parameter in BACKBONE.make().named_parameters()}
    assert [name for name, shape in shapes.items() if VOCABULARY in shape] == [
        "published.language_model.embed_tokens.weight"
    ]


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_a_sample_does_not_see_its_batch(tokenizer: Path, attention: str) -> None:
    backbone = build(tokenizer, replace(BACKBONE, attention=attention))  # type: ignore[arg-type]
    images = make_images(3, size=SIZE)
    together = features(backbone, images, SENTENCES)
    for row, sentence in enumerate(SENTENCES):
        for name, value in features(backbone, images[row : row + 1], [sentence]).items():
            torch.testing.assert_close(value[0], together[name][row], atol=1e-5, rtol=1e-5)


def test_bidirectional_attention_is_another_model(tokenizer: Path) -> None:
    images = make_images(1, size=SIZE)
    causal, both = (
        features(build(tokenizer, replace(BACKBONE, attention=kind)), images, SENTENCES[:1])  # type: ignore[arg-type]
        for kind in ("causal", "bidirectional")
    )
    assert torch.equal(causal["vision/0"], both["vision/0"])
    assert all((causal[f"{part}/2"] - both[f"{part}/2"]).abs().max() > 1e-2 for part in ("vision", "latents"))


def test_causal_vision_tokens_do_not_know_the_instruction_but_latents_do(tokenizer: Path) -> None:
    images = make_images(1, size=SIZE).expand(2, -1, -1, -1, -1)
    out = features(build(tokenizer), images, ["open the drawer", "close the drawer"])
    first, second = out["vision/4"]  # a kernel may treat a batch's last rows apart
    assert_same_up_to_rounding(first, second, terms=LONGEST_SUM, products=PRODUCTS)
    assert (out["latents/4"][0] - out["latents/4"][1]).abs().max() > 1e-3


def test_image_features_are_prepared_and_only_latents_are_trained(tokenizer: Path) -> None:
    backbone = build(tokenizer).train()
    prepared = backbone.frozen_inputs(make_images(2, size=SIZE), SENTENCES[:2])
    assert prepared["patches"].shape == (2, 2 * DINOV2.patches, WIDTH)
    assert prepared["prompt"].shape == (2, 128) and (prepared["prompt"][:, -1] == PADDING).all()
    loss = torch.stack([value.sum() for value in backbone.features(prepared).flatten().values()]).sum()
    loss.backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is not None] == ["latents"]


@pytest.mark.parametrize("where", ["language", "all"])
def test_lora_starts_from_the_published_model(tokenizer: Path, where: str) -> None:
    pytest.importorskip("peft")
    base = build(tokenizer)
    tuned = PrismaticBackbone(replace(BACKBONE, lora=LoraSettings(where=where, rank=2, alpha=4)))  # type: ignore[arg-type]
    tuned.take_over(base)
    images = make_images(2, size=SIZE)
    expected = features(base, images, SENTENCES[:2])
    for name, value in features(tuned.eval(), images, SENTENCES[:2]).items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)
    prepared = tuned.frozen_inputs(images, SENTENCES[:2])
    assert ("images" in prepared) == (where == "all")
    assert bool(tuned.constant_prefixes()) == (where == "language")
    tuned.train().features(prepared).latents[LAYERS].sum().backward()
    trained = {name for name, p in tuned.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert any(".vision_backbone." in name for name in trained) == (where == "all")


def count_forwards(backbone: PrismaticBackbone) -> Counter[str]:
    """Count the runs of each module's first block from now on, second forward passes included."""
    calls: Counter[str] = Counter()
    encoders = backbone.published.vision_backbone
    for name, block in (
        ("dinov2", encoders.featurizer.blocks[0]),
        ("siglip", encoders.fused_featurizer.blocks[0]),
        ("language", backbone.published.language_model.layers[0].mlp),
    ):
        block.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    return calls


def test_gradient_checkpointing_changes_no_gradient(tokenizer: Path) -> None:
    pytest.importorskip("peft")
    lora = LoraSettings(where="all", rank=2, alpha=4)
    gradients = []
    plain = build(tokenizer, replace(BACKBONE, lora=lora))
    for active in (False, True):
        backbone = PrismaticBackbone(replace(BACKBONE, lora=lora, gradient_checkpointing=active))
        backbone.take_over(plain)
        calls = count_forwards(backbone)
        prepared = backbone.frozen_inputs(make_images(2, size=SIZE), SENTENCES[:2])
        backbone.train().features(prepared).latents[LAYERS].square().sum().backward()
        assert calls == dict.fromkeys(("dinov2", "siglip", "language"), 2 if active else 1)
        gradients.append({n: p.grad for n, p in backbone.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


def test_bfloat16_is_close_and_keeps_the_latents_precise(tokenizer: Path) -> None:
    exact = build(tokenizer)
    half = PrismaticBackbone(replace(BACKBONE, dtype="bfloat16"))
    half.take_over(exact)
    assert half.latents.dtype == torch.float32
    assert half.published.language_model.rotary_emb.inv_freq.dtype == torch.float32
    assert {p.dtype for p in half.published.parameters()} == {torch.bfloat16}
    images = make_images(2, size=SIZE)
    expected = features(exact, images, SENTENCES[:2])
    for name, value in features(half.eval(), images, SENTENCES[:2]).items():
        assert value.dtype == torch.float32
        error = (value - expected[name]).square().mean().sqrt() / expected[name].square().mean().sqrt()
        assert error < 0.05, (name, error)


def test_encoders_are_transformers_own(tokenizer: Path) -> None:
    """Published names mapped onto transformers' classes give the same numbers."""
    from tests.support.transformers_encoders import dinov2_features, siglip_features

    backbone = build(tokenizer)
    pixels = make_images(1, cameras=2, size=SIZE)[0]
    encoders = backbone.published.vision_backbone
    with torch.no_grad():
        for encoder, theirs in (
            (encoders.featurizer, dinov2_features),
            (encoders.fused_featurizer, siglip_features),
        ):
            torch.testing.assert_close(encoder(pixels), theirs(encoder, pixels), atol=1e-4, rtol=1e-4)


def test_language_model_is_transformers_own(tokenizer: Path) -> None:
    """Also with padding on the left, as in transformers; ours comes last, and nothing attends to it."""
    from transformers import Qwen2ForCausalLM

    backbone = build(tokenizer)
    ours = backbone.published.language_model
    assert ours.config._attn_implementation == "sdpa"
    theirs = Qwen2ForCausalLM(ours.config).eval()
    theirs.model.load_state_dict(ours.state_dict())
    x = torch.randn(2, 9, WIDTH, generator=torch.Generator().manual_seed(0))
    padding = [3, 0]
    mask = torch.tensor([[place >= skipped for place in range(9)] for skipped in padding])
    with torch.no_grad():
        expected = theirs(
            inputs_embeds=x, attention_mask=mask.long(), position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            output_hidden_states=True,
        ).hidden_states  # fmt: skip
        for row, skipped in enumerate(padding):
            states = backbone.published.hidden_states(x[row : row + 1, skipped:], None)
            assert len(states) == len(expected)
            for state, other in zip(states, expected, strict=True):
                torch.testing.assert_close(state[0], other[row, skipped:], atol=1e-5, rtol=1e-5)


def test_every_published_tensor_that_is_read_has_a_place(tokenizer: Path) -> None:
    names = published_weights(build(tokenizer))
    published = dict(merged_shapes())
    assert names.keys() <= published.keys()
    assert all(tuple(value.shape) == published[name] for name, value in names.items())


def test_without_a_tokenizer_the_message_says_what_to_do(tmp_path: Path) -> None:
    backbone = PrismaticBackbone(BACKBONE)
    with pytest.raises(ConfigError, match="has no tokenizer: load a policy folder"):
        backbone.prepare(make_images(1, size=SIZE), ["push it"])
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        backbone.load_files(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    small = replace(BACKBONE, language=replace(BACKBONE.language, vocab_size=100))
    with pytest.raises(ConfigError, match="knows 100 tokens"):
        PrismaticBackbone(small).load_tokenizer_from(tokenizer)
    save_tiny_bert(tmp_path)
    with pytest.raises(ConfigError, match="splits texts in another way"):
        PrismaticBackbone(BACKBONE).load_tokenizer_from(tmp_path)


def edited_tokenizer(source: Path, target: Path, **changes: object) -> Path:
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    stored = json.loads((target / "tokenizer.json").read_text())
    (target / "tokenizer.json").write_text(json.dumps(stored | changes))
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "splits texts in another way"),
        ({"model": {"type": "BPE"}}, "cannot be read"),
    ],
)
def test_a_tokenizer_that_transformers_would_change_or_cannot_read_is_refused(
    tokenizer: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PrismaticBackbone(BACKBONE).load_tokenizer_from(edited_tokenizer(tokenizer, tmp_path, **changes))


def test_a_tokenizer_without_chat_tokens_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    folder = edited_tokenizer(tokenizer, tmp_path, added_tokens=[])
    config = json.loads((folder / "tokenizer_config.json").read_text())
    kept = {name: value for name, value in config.items() if "special" not in name and "added" not in name}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match=r"splits '<\|im_start\|>' into \d+ tokens"):
        PrismaticBackbone(BACKBONE).load_tokenizer_from(folder)


@pytest.mark.parametrize("sentence", ["", "  ", "put it there " * 40])
def test_instructions_of_impossible_length_are_refused(tokenizer: Path, sentence: str) -> None:
    with pytest.raises(ValueError, match="an instruction"):
        build(tokenizer).prepare(make_images(1, size=SIZE), [sentence])


def test_a_head_must_read_levels_that_the_backbone_yields() -> None:
    head = RecurrentConfig(hidden_dim=WIDTH, num_heads=2, prelude=(1,), core=(2,), coda=())
    with pytest.raises(ConfigError, match=r"the head reads the level 1, backbone\.levels are \[0, 2, 4\]"):
        PolicyConfig(backbone=BACKBONE, head=head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": ()}, "backbone.levels"),
        ({"levels": (0,)}, "one of them at least 1"),
        ({"levels": (LAYERS + 1,)}, "hidden state 5, but the model has 4 layers"),
        ({"levels": (2, 2)}, "each level once"),
        ({"latents": 0}, "backbone.latents"),
        ({"attention": "both"}, "'causal', 'bidirectional'"),
        ({"dtype": "float16"}, "backbone.dtype"),
        ({"crop_area": 0.0}, "backbone.crop_area"),
        ({"jpeg_quality": 0}, "backbone.jpeg_quality"),
        ({"max_prompt_tokens": 0}, "backbone.max_prompt_tokens"),
        ({"siglip": replace(SIGLIP, image_size=42)}, "same image_size"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BACKBONE, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 1}, "at least 2"),
        ({"heads": 3}, "multiple of its heads"),
        ({"image_size": 30}, "multiple of its patch_size"),
        ({"registers": -1}, "registers"),
        ({"std": (0.0, 1.0, 1.0)}, "std above 0"),
        ({"width": 0}, "width must be at least 1"),
    ],
)
def test_impossible_encoders_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(DINOV2, **change)  # type: ignore[arg-type]
