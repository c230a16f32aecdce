"""The compact backbone: what its features depend on, and what they do not depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rdvla.backbone import BackboneConfig, CompactBackbone, CompactConfig, Features
from rdvla.errors import ConfigError
from tests.support.closeness import assert_same_up_to_rounding
from tests.support.tiny_models import BACKBONE, SENTENCES, SIZE, make_images

LONGEST_SUM = 4 * BACKBONE.width  # of the second product of a layer's feed-forward layers
# Products that follow each other in a layer: four of each attention (queries and keys, scores, values,
# output), two of the feed-forward layers.
PRODUCTS = 10 * BACKBONE.layers


def make_backbone_of(config: CompactConfig = BACKBONE) -> CompactBackbone:
    torch.manual_seed(0)
    return CompactBackbone(config).eval()


def features(
    backbone: CompactBackbone, images: torch.Tensor, sentences: list[str]
) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return backbone.features(backbone.frozen_inputs(images, sentences)).flatten()


@pytest.mark.parametrize("change", [{}, {"layers": 3}, {"conv_bfloat16": True}, {"image_size": 48}])
def test_shapes(change: dict[str, int]) -> None:
    config = replace(BACKBONE, **change)  # type: ignore[arg-type]
    out = features(make_backbone_of(config), make_images(3, size=config.image_size), list(SENTENCES[:3]))
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "vision/middle": (3, 2 * 3, 16), "vision/late": (3, 2 * 3, 16),
        "latents/middle": (3, 5, 16), "latents/late": (3, 5, 16),  # four learned, and the instruction
    }  # fmt: skip
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in out.values())
    assert not torch.equal(out["latents/middle"], out["latents/late"])


def test_every_parameter_is_trained_by_features_and_read_out() -> None:
    backbone = make_backbone_of().train()
    prepared = backbone.frozen_inputs(make_images(3), list(SENTENCES[:3]))
    out = backbone.features(prepared)
    state = backbone.predict_environment_state(out)
    assert state.shape == (3, 5)
    loss = state.square().sum()
    for value in out.flatten().values():
        loss = loss + (value * torch.randn_like(value)).sum()
    loss.backward()
    untouched = [
        name
        for name, parameter in backbone.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert untouched == []


def test_frozen_features_are_the_transformed_ones() -> None:
    backbone = make_backbone_of()
    images, sentences = make_images(2), list(SENTENCES[:2])
    before = features(backbone, images, sentences)
    backbone.freeze()
    inputs = backbone.frozen_inputs(images, sentences)
    assert inputs.keys() == before.keys()
    after = backbone.features(inputs)
    assert isinstance(after, Features)
    # A weight without gradient lets torch group the same products in another way.
    for name, value in after.flatten().items():
        assert_same_up_to_rounding(value, before[name], terms=LONGEST_SUM, products=PRODUCTS)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_sample_does_not_see_its_batch(bfloat16: bool) -> None:
    backbone = make_backbone_of(replace(BACKBONE, conv_bfloat16=bfloat16))
    images, sentences = make_images(4), list(SENTENCES)
    together = features(backbone, images, sentences)
    tolerance = 5e-2 if bfloat16 else 1e-5
    for row in range(4):
        alone = features(backbone, images[row : row + 1], sentences[row : row + 1])
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][row], atol=tolerance, rtol=tolerance)


def test_the_instruction_matters() -> None:
    backbone = make_backbone_of()
    images = make_images(1).expand(2, -1, -1, -1, -1)
    out = features(backbone, images, ["open the drawer", "close the door"])
    for name, value in out.items():
        assert (value[0] - value[1]).abs().max() > 1e-3, name


def test_case_and_spaces_do_not_matter() -> None:
    backbone = make_backbone_of()
    images = make_images(1).expand(2, -1, -1, -1, -1)
    sentences = ["open the drawer", "  Open the\nDrawer "]
    tokens = backbone.prepare(images, sentences)["text_bytes"]
    assert torch.equal(tokens[0], tokens[1])
    for value in features(
        backbone, images, sentences
    ).values():  # a kernel may treat a batch's last rows apart
        assert_same_up_to_rounding(value[0], value[1], terms=LONGEST_SUM, products=PRODUCTS)


def test_the_position_of_a_thing_matters_in_every_camera() -> None:
    backbone = make_backbone_of()
    images = torch.zeros(5, 2, SIZE, SIZE, 3, dtype=torch.uint8)
    for row, (camera, y, x) in enumerate([(0, 2, 2), (0, 2, 20), (0, 20, 2), (1, 2, 2)]):
        images[row, camera, y : y + 8, x : x + 8] = 255  # the fifth image is empty
    out = features(backbone, images, ["push the puck"] * 5)
    for name, value in out.items():
        for row in range(5):
            for other in range(row):
                assert (value[row] - value[other]).abs().max() > 1e-3, (name, row, other)


@pytest.mark.parametrize("sentence", ["", "   ", "a" * 25, "ü" * 13])
def test_instructions_of_impossible_length_are_refused(sentence: str) -> None:
    with pytest.raises(ValueError, match="1 to 24 bytes"):
        make_backbone_of().prepare(make_images(1), [sentence])


def test_without_a_read_out_perception_cannot_be_trained() -> None:
    backbone = make_backbone_of(replace(BACKBONE, environment_state_dim=0))
    out = backbone.features(backbone.frozen_inputs(make_images(1), ["push the puck"]))
    with pytest.raises(ConfigError, match="environment_state_dim is 0"):
        backbone.predict_environment_state(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": 0}, "backbone.slots must be at least 1"),
        ({"layers": 1}, "backbone.layers must be at least 2"),
        ({"width": 15}, "multiple of backbone.heads"),
        ({"image_size": 40}, "multiple of 16"),
        ({"environment_state_dim": -1}, "must not be negative"),
        ({"conv_width": 0}, "backbone.conv_width"),
        ({"text_width": 18}, "backbone.text_width must be a multiple of 4"),
        ({"max_instruction_bytes": 0}, "backbone.max_instruction_bytes must be at least 1"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BACKBONE, **change)  # type: ignore[arg-type]


def test_a_configuration_makes_its_backbone() -> None:
    assert isinstance(BACKBONE.make(), CompactBackbone)
    with pytest.raises(TypeError, match="abstract class BackboneConfig"):
        BackboneConfig()  # type: ignore[abstract]
