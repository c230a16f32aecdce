"""Published checkpoints in and out: a test for each thing that is easily got wrong, and the round trip."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rdvla import cli
from rdvla.backbone import LoraSettings, PrismaticBackbone, PrismaticConfig
from rdvla.errors import RDVLAError
from rdvla.interop import Conversion, ConvertOptions, convert_published, load_published_head, write_published
from rdvla.interop.published_backbone import PUBLISHED_ENCODERS
from rdvla.policy import RDVLAPolicy
from rdvla.processing import Observation
from tests.backbone import prismatic_reference as reference
from tests.backbone.test_prismatic import expected_patches, prompt_of
from tests.published_checkpoint import (
    DINOV2,
    DINOV2_SCALE,
    ENCODERS,
    HEADS,
    KV_HEADS,
    LATENTS,
    LAYERS,
    STATISTICS_KEY,
    WIDTH,
    Published,
    make_published,
)

OPTIONS = ConvertOptions(image_size=40)
MERGED = "model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return make_published(tmp_path_factory.mktemp("published") / "Spatial_40k")


@pytest.fixture(scope="module")
def converted(published: Published, tmp_path_factory: pytest.TempPathFactory) -> tuple[Conversion, Path]:
    output = tmp_path_factory.mktemp("converted") / "policy"
    return convert_published(published.folder, output, options=OPTIONS, encoders=ENCODERS), output


@pytest.fixture
def copy(published: Published, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published.folder, tmp_path / "copy"))


def observe(batch: int = 2, *, seed: int = 0) -> Observation:
    generator = torch.Generator().manual_seed(seed)

    def image() -> torch.Tensor:
        return torch.randint(0, 256, (batch, 40, 40, 3), dtype=torch.uint8, generator=generator)

    return Observation(
        images={"agentview": image(), "wrist": image()},
        state=torch.rand(batch, 8, generator=generator) * 2 - 1,
        instruction=["Pick up the Black Bowl", "turn on the stove and wait"][:batch],
    )


def convert(folder: Path, tmp_path: Path, **options: Any) -> Conversion:
    output = tmp_path / "policy"
    return convert_published(folder, output, options=replace(OPTIONS, **options), encoders=ENCODERS)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_merged(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / MERGED)
    change(weights)
    save_file(weights, folder / MERGED, metadata={"format": "pt"})


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


# --- the whole way ---


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_actions_are_those_of_an_independent_computation(
    published: Published, tmp_path: Path, attention: str
) -> None:
    """From camera images to normalised actions: reference features into the head that is tested elsewhere."""
    policy = convert(published.folder, tmp_path, attention=attention).policy
    assert isinstance(policy.backbone, PrismaticBackbone)
    weights = {name: value.double() for name, value in published.weights.items()}
    observation = observe()
    images = torch.stack([observation.images[camera] for camera in ("agentview", "wrist")], dim=1)
    pixels = policy.backbone.image_transform(images.flatten(0, 1)).unflatten(0, (2, 2))  # type: ignore[no-untyped-call]
    head, projector = load_published_head(published.folder)
    entry = json.loads((published.folder / "dataset_statistics.json").read_text())[STATISTICS_KEY]["proprio"]
    low, high = (torch.tensor(entry[name]) for name in ("q01", "q99"))
    state = (2 * (observation.state - low) / (high - low + 1e-8) - 1).clamp(-1, 1)
    initial = policy.initial_state(2, torch.Generator().manual_seed(0)).detach()
    prediction = policy.predict(observation, depth=4, initial_state=initial)
    for row in range(2):
        patches = published_patches(weights, pixels[row])
        pairs = reference.context(
            weights, patches, prompt_of(policy.backbone, observation.instruction[row]), layers=LAYERS,
            heads=HEADS, key_value_heads=KV_HEADS, bidirectional=attention == "bidirectional",
        )  # fmt: skip
        context = head.context(
            vision={level: vision[None].float() for level, (vision, _) in enumerate(pairs)},
            latents={level: latents[None].float() for level, (_, latents) in enumerate(pairs)},
            proprio=projector(state[row : row + 1]).detach(),
        )
        expected = head(context, depth=4, initial_state=initial[row : row + 1])
        torch.testing.assert_close(prediction.state[row], expected.state[0], atol=1e-4, rtol=1e-3)
        actions = policy.action_normalizer.unnormalize(expected.actions[0])
        torch.testing.assert_close(prediction.actions[row], actions, atol=1e-3, rtol=1e-3)


def published_patches(weights: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """As in `test_prismatic`, with the scale that the published processor computes with."""
    import tests.backbone.test_prismatic as backbone_test

    rounded = replace(DINOV2, mean=tuple(DINOV2_SCALE["mean"]), std=tuple(DINOV2_SCALE["std"]))  # type: ignore[arg-type]
    before, backbone_test.DINOV2 = backbone_test.DINOV2, rounded
    try:
        return expected_patches(weights, images)
    finally:
        backbone_test.DINOV2 = before


def test_a_saved_policy_loads_and_acts_the_same(converted: tuple[Conversion, Path]) -> None:
    conversion, folder = converted
    loaded = RDVLAPolicy.from_pretrained(folder)
    assert loaded.config == conversion.policy.config
    for row in (0, 1):
        generators = [torch.Generator().manual_seed(row) for _ in range(2)]
        ours, again = (
            policy.predict(observe(), generator=generator).actions
            for policy, generator in zip((conversion.policy, loaded), generators, strict=True)
        )
        assert torch.equal(ours, again)


def test_the_checkpoint_is_only_read_and_its_code_never_run(copy: Path, tmp_path: Path) -> None:
    before = contents(copy)
    convert(copy, tmp_path)  # the folder's code would leave the interpreter
    assert contents(copy) == before
    assert not list((tmp_path / "policy").rglob("*.py"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_gives_the_same_files(tmp_path: Path, dtype: torch.dtype) -> None:
    source = make_published(tmp_path / "source", dtype=dtype).folder
    policy = convert(source, tmp_path).policy
    assert policy.config.backbone.precision == str(dtype).removeprefix("torch.")  # type: ignore[attr-defined]
    write_published(policy, tmp_path / "back", template=source, encoders=ENCODERS)
    assert contents(source).keys() == contents(tmp_path / "back").keys()
    before, after = load_file(source / MERGED), load_file(tmp_path / "back" / MERGED)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].dtype == value.dtype and torch.equal(after[name], value), name
    for path in source.glob("*.pt"):
        old, new = (
            torch.load(folder / path.name, weights_only=True) for folder in (source, tmp_path / "back")
        )
        assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    for path in source.glob("*.json"):
        assert json.loads(path.read_text()) == json.loads((tmp_path / "back" / path.name).read_text())


def test_lora_is_merged_on_the_way_back(
    converted: tuple[Conversion, Path], published: Published, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    base = converted[0].policy
    lora = LoraSettings(where="all", rank=2, alpha=4)
    config = replace(base.config, backbone=replace(base.config.backbone, lora=lora))  # type: ignore[type-var]
    tuned = RDVLAPolicy(config, base.statistics).eval()
    tuned.backbone.take_over(base.backbone)
    tuned.head.load_state_dict(base.head.state_dict())
    tuned.proprio_projector.load_state_dict(base.proprio_projector.state_dict())
    with torch.no_grad():
        for name, parameter in tuned.backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    write_published(tuned, tmp_path / "back", template=published.folder, encoders=ENCODERS)
    again = convert(tmp_path / "back", tmp_path).policy
    first, second, untuned = (
        policy.predict(observe(), generator=torch.Generator().manual_seed(0)).state
        for policy in (tuned, again, base)
    )
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
    assert (first - untuned).abs().max() > 1e-2


def test_a_template_of_another_model_is_refused(converted: tuple[Conversion, Path], tmp_path: Path) -> None:
    other = make_published(tmp_path / "other", levels=(1, 2)).folder
    with pytest.raises(RDVLAError, match="has another"):
        write_published(converted[0].policy, tmp_path / "back", template=other, encoders=ENCODERS)
    assert not (tmp_path / "back").exists()


# --- every tensor is accounted for ---


def test_every_tensor_is_reported(converted: tuple[Conversion, Path], published: Published) -> None:
    conversion, folder = converted
    names = conversion.names
    assert set(names.mapped.values()) | names.left_out.keys() == published.weights.keys()
    assert not set(names.mapped.values()) & names.left_out.keys()
    assert names.mapped.keys() == {f"backbone.{name}" for name in conversion.policy.backbone.state_dict()}
    report = json.loads((folder / "conversion.json").read_text())
    assert report["mapped"] == names.mapped and report["left_out"] == names.left_out
    head = torch.load(next(published.folder.glob("action_head--*.pt")), weights_only=True)
    told = [name for names in report["head"].values() for name in names]
    assert sorted(told) == sorted(name.removeprefix("module.model.") for name in head)


def test_what_is_left_out_is_what_nobody_reads(converted: tuple[Conversion, Path]) -> None:
    groups = {name.split(".mlp.")[0].split(".self_attn")[0] for name in converted[0].names.left_out}
    for expected in (
        "language_model.lm_head.weight", "language_model.model.norm.weight", "language_model.model.layers.3",
        "vision_backbone.featurizer.blocks.2", "vision_backbone.fused_featurizer.attn_pool.latent",
    ):  # fmt: skip
        assert expected in groups
    assert not any("layers.2" in name or "blocks.1" in name for name in groups)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("language_model.model.layers.0.self_attn.q_norm.weight", torch.ones(8)),
        ("vision_backbone.featurizer.blocks.3.norm1.weight", torch.ones(16)),
        ("film.scale.weight", torch.ones(2)),
        ("language_model.model.layers.0.self_attn.q_proj.lora_A.weight", torch.ones(2, WIDTH)),
    ],
)
def test_an_unexpected_tensor_is_an_error(
    copy: Path, tmp_path: Path, name: str, tensor: torch.Tensor
) -> None:
    edit_merged(copy, lambda weights: weights.update({name: tensor}))
    with pytest.raises(RDVLAError, match=rf"1 tensors are unexpected: {name}"):
        convert(copy, tmp_path)
    assert not (tmp_path / "policy").exists() and not list(tmp_path.glob(".policy*"))


@pytest.mark.parametrize(
    "name",
    [
        "projector.fc2.bias",
        "vision_backbone.featurizer.reg_token",
        "language_model.model.layers.2.mlp.up_proj.weight",
    ],
)
def test_a_missing_tensor_is_an_error(copy: Path, tmp_path: Path, name: str) -> None:
    edit_merged(copy, lambda weights: weights.pop(name))
    with pytest.raises(RDVLAError, match=rf"1 tensors are missing: {name}"):
        convert(copy, tmp_path)


def test_a_tensor_of_another_shape_is_an_error(copy: Path, tmp_path: Path) -> None:
    edit_merged(copy, lambda weights: weights.update({"projector.fc3.bias": torch.ones(3)}))
    with pytest.raises(RDVLAError, match=r"projector\.fc3\.bias has the shape \(3,\)"):
        convert(copy, tmp_path)


def test_weights_of_other_parts_are_refused(copy: Path, tmp_path: Path) -> None:
    torch.save({}, copy / "vision_backbone--7_checkpoint.pt")
    with pytest.raises(RDVLAError, match=r"vision_backbone--7_checkpoint\.pt"):
        convert(copy, tmp_path)


# --- the traps, one by one ---


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
    """Level n is what layer n - 1 (from 0) yields; the model's own last layer is normalised, no other one."""
    middle = convert(make_published(tmp_path / "a", levels=(1, 3)).folder, tmp_path / "m").policy
    late = convert(make_published(tmp_path / "b", levels=(1, LAYERS)).folder, tmp_path / "l").policy
    layers = [len(policy.backbone.published.language_model.layers) for policy in (middle, late)]  # type: ignore[union-attr]
    assert layers == [3, LAYERS]
    names = [
        {n for n in policy.state_dict() if n.endswith("language_model.norm.weight")}
        for policy in (middle, late)
    ]
    assert [len(found) for found in names] == [0, 1]


def test_trap_slices_are_one_place_early(converted: tuple[Conversion, Path]) -> None:
    """At level 0, the embeddings, what the slices hold can be read off."""
    policy = converted[0].policy
    backbone = policy.backbone
    assert isinstance(backbone, PrismaticBackbone) and isinstance(policy.config.backbone, PrismaticConfig)
    backbone.config = replace(backbone.config, levels=(0, 3))
    try:
        prepared = backbone.prepare(*frozen(observe()))
        out = backbone.transform(prepared)
    finally:
        backbone.config = policy.config.backbone
    words = backbone.published.language_model.embed_tokens.weight
    prompt = prompt_of(backbone, observe().instruction[0])
    assert torch.equal(out.vision[0][0, 0], words[prompt[0]])
    assert torch.equal(out.vision[0][0, 1:], prepared["patches"][0, :-1])
    assert torch.equal(out.latents[0][0, 0], words[prompt[-1]])
    assert torch.equal(out.latents[0][0, 1:], backbone.latents[:-1])


def frozen(observation: Observation) -> tuple[torch.Tensor, list[str]]:
    images = torch.stack([observation.images[camera] for camera in ("agentview", "wrist")], dim=1)
    return images, list(observation.instruction)


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
    """Not ImageNet's exact numbers: the published processor computes with what lies beside them, rounded."""
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
    taken = policy.predict(observe(), depth=2).actions[..., 6]
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


# --- what does not fit is explained ---


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

    monkeypatch.setattr("rdvla.interop.published_folder.snapshot_download", refuse)
    with pytest.raises(RDVLAError, match="is no folder, and no checkpoint that the hub gives"):
        convert(Path("nobody/nothing"), tmp_path)


def test_hub_ids_are_downloaded_without_code(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(published.folder)

    monkeypatch.setattr("rdvla.interop.published_folder.snapshot_download", download)
    convert_published("user/model@v2", tmp_path / "policy", options=OPTIONS, encoders=ENCODERS)
    ((name, revision, patterns),) = asked
    assert (name, revision) == ("user/model", "v2") and not any("py" in pattern for pattern in patterns)


# --- the command line ---


def test_command_line(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, sizes in ENCODERS.items():
        monkeypatch.setitem(PUBLISHED_ENCODERS, name, sizes)  # type: ignore[arg-type]
    policy, back = str(tmp_path / "policy"), str(tmp_path / "back")
    assert cli.main(["convert", str(published.folder), policy, "--image-size", "40"]) == 0
    shown = capsys.readouterr().out
    assert "no vocabulary logits are computed" in shown and "unexpected       0" in shown
    assert cli.main(["convert", policy, back, "--back", str(published.folder)]) == 0
    assert all(
        torch.equal(value, load_file(f"{back}/{MERGED}")[name]) for name, value in published.weights.items()
    )
    assert cli.main(["convert", str(published.folder)]) == 2
    assert "name the folder to write" in capsys.readouterr().err
