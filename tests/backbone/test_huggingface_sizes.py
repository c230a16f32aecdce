"""Image sizes and tokens of published vision-language models, from their configurations alone."""

from __future__ import annotations

import pytest

from benchmarks.published_sizes import MODELS
from rdvla.backbone.huggingface.families import make_family
from rdvla.errors import ConfigError

# As published: `image_seq_len` of a processor, or the pixels that it makes of a small image.
SIDES = {
    "SmolVLM2-500M": (512, 8), "SmolVLM2-2.2B": (384, 9), "Qwen3-VL-2B": (256, 8), "Qwen3-VL-4B": (256, 8),
    "Qwen2.5-VL-3B": (224, 8), "Qwen2.5-VL-7B": (224, 8), "PaliGemma-3B-224": (224, 16),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_published_models_own_size_is_the_default(name: str) -> None:
    from transformers import AutoConfig

    model_type, values = MODELS[name]
    family, config = make_family(model_type), AutoConfig.for_model(model_type, **values)
    size = family.image_size(config)
    family.check_image_size(config, size)
    assert (size, size // family.token_pixels(config)) == SIDES[name]


@pytest.mark.parametrize(("size", "fits"), [(378, True), (391, True), (392, False), (42, True), (41, False)])
def test_patches_that_are_joined_must_be_whole(size: int, fits: bool) -> None:
    """Patches of 14 pixels are joined 3 by 3; pixels behind the last patch do not count."""
    from transformers import AutoConfig

    model_type, values = MODELS["SmolVLM2-2.2B"]
    family, config = make_family(model_type), AutoConfig.for_model(model_type, **values)
    if fits:
        return family.check_image_size(config, size)
    with pytest.raises(ConfigError, match="multiple of 3 patches of 14 pixels"):
        family.check_image_size(config, size)
    return None
