"""Published checkpoints in and out, with every tensor accounted for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rdvla import cli
from rdvla.backbone import LoraSettings, PrismaticBackbone
from rdvla.errors import RDVLAError
from rdvla.interop import Conversion, load_published_head, write_published
from rdvla.interop.published_backbone import PUBLISHED_ENCODERS
from rdvla.policy import RDVLAPolicy
from tests.support import prismatic_reference as reference
from tests.support.converting import MERGED, contents, convert, edit_merged, observe
from tests.support.full_disk import full_disk
from tests.support.published_checkpoint import (
    DINOV2,
    DINOV2_SCALE,
    ENCODERS,
    HEADS,
    KV_HEADS,
    LAYERS,
    SIGLIP,
    STATISTICS_KEY,
    WIDTH,
    Published,
    make_published,
)


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
    # The scale that the published processor computes with.
    mean, std = tuple(DINOV2_SCALE["mean"]), tuple(DINOV2_SCALE["std"])
    rounded = replace(DINOV2, mean=mean, std=std)  # type: ignore[arg-type]
    head, projector = load_published_head(published.folder)
    entry = json.loads((published.folder / "dataset_statistics.json").read_text())[STATISTICS_KEY]["proprio"]
    low, high = (torch.tensor(entry[name]) for name in ("q01", "q99"))
    state = (2 * (observation.state - low) / (high - low + 1e-8) - 1).clamp(-1, 1)
    initial = policy.initial_state(2, torch.Generator().manual_seed(0)).detach()
    prediction = policy.predict(observation, stop=4, initial_state=initial)
    for row in range(2):
        patches = reference.encode_cameras(weights, pixels[row], encoders=(rounded, SIGLIP))
        pairs = reference.context(
            weights, patches, reference.prompt_of(policy.backbone, observation.instruction[row]),
            layers=LAYERS, heads=HEADS, key_value_heads=KV_HEADS, bidirectional=attention == "bidirectional",
        )  # fmt: skip
        context = head.context(
            vision={level: vision[None].float() for level, (vision, _) in enumerate(pairs)},
            latents={level: latents[None].float() for level, (_, latents) in enumerate(pairs)},
            proprio=projector(state[row : row + 1]).detach(),
        )
        expected = head.predict(context, stop=4, initial_state=initial[row : row + 1])
        torch.testing.assert_close(prediction.state[row], expected.state[0], atol=1e-4, rtol=1e-3)
        actions = policy.action_normalizer.unnormalize(expected.actions[0])
        torch.testing.assert_close(prediction.actions[row], actions, atol=1e-3, rtol=1e-3)


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


def test_a_template_on_the_hub_gives_its_code_too(
    converted: tuple[Conversion, Path], published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration of a published folder names the code that loads it."""

    def download(_: str, *, allow_patterns: list[str]) -> str:
        def left_out(_: str, names: list[str]) -> list[str]:
            return [name for name in names if not any(fnmatch(name, pattern) for pattern in allow_patterns)]

        return str(shutil.copytree(published.folder, tmp_path / "downloaded", ignore=left_out))

    monkeypatch.setattr("rdvla.policy.files.snapshot_download", download)
    write_published(converted[0].policy, tmp_path / "back", template="user/model", encoders=ENCODERS)
    assert contents(tmp_path / "back").keys() == contents(published.folder).keys()
    code = "modeling_prismatic.py"
    assert (tmp_path / "back" / code).read_text() == (published.folder / code).read_text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_gives_the_same_files(tmp_path: Path, dtype: torch.dtype) -> None:
    source = make_published(tmp_path / "source", dtype=dtype).folder
    policy = convert(source, tmp_path).policy
    assert policy.config.backbone.dtype == str(dtype).removeprefix("torch.")  # type: ignore[attr-defined]
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


def test_a_policy_may_have_been_trained_in_another_way(
    converted: tuple[Conversion, Path], published: Published, tmp_path: Path
) -> None:
    """Weights do not depend on training; the published configuration holds a few of its options."""
    base = converted[0].policy
    head = replace(
        base.config.head, mean_depth=16, backprop_depth=4, vision_gate_init=0.5, adapter_init="near_identity"
    )
    tuned = RDVLAPolicy(replace(base.config, head=head), base.statistics)
    tuned.load_state_dict(base.state_dict())
    write_published(tuned, tmp_path / "back", template=published.folder, encoders=ENCODERS)
    again = load_published_head(tmp_path / "back")[0]
    assert (again.config.mean_depth, again.config.backprop_depth) == (16, 4)
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in tuned.head.state_dict().items()
    )
    other = RDVLAPolicy(replace(base.config, head=replace(head, norm_eps=1e-5)), base.statistics)
    with pytest.raises(RDVLAError, match="has another head"):
        write_published(other, tmp_path / "other", template=published.folder, encoders=ENCODERS)


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


def test_writing_back_on_a_full_disk_is_one_sentence_and_leaves_nothing(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, sizes in ENCODERS.items():
        monkeypatch.setitem(PUBLISHED_ENCODERS, name, sizes)  # type: ignore[arg-type]
    policy, back = tmp_path / "policy", tmp_path / "back"
    assert cli.main(["convert", str(published.folder), str(policy), "--image-size", "40"]) == 0
    command = ["convert", str(policy), str(back), "--back", str(published.folder)]
    with full_disk():
        assert cli.main(command) == 2
    shown = capsys.readouterr().err
    assert "the file would be larger than this system allows" in shown and f"error: {back}" in shown
    assert "Traceback" not in shown and [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_command_line(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, sizes in ENCODERS.items():
        monkeypatch.setitem(PUBLISHED_ENCODERS, name, sizes)  # type: ignore[arg-type]
    policy, back = str(tmp_path / "policy"), str(tmp_path / "back")
    assert cli.main(["convert", str(published.folder), policy, "--image-size", "40"]) == 0
    shown = capsys.readouterr().out
    assert "no vocabulary logits are computed" in shown and "unexpected       0" in shown
    assert shown.splitlines()[-2:] == [
        f"written: {policy}",
        f"next: rdvla eval --policy {policy} --output RUN --env ENVIRONMENT",
    ]
    assert cli.main(["convert", policy, back, "--back", str(published.folder)]) == 0
    assert all(
        torch.equal(value, load_file(f"{back}/{MERGED}")[name]) for name, value in published.weights.items()
    )
    assert cli.main(["convert", str(published.folder)]) == 2
    assert "name the folder to write" in capsys.readouterr().err
