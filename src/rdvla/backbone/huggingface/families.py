"""What differs between transformers' families of vision-language models, one small class each.

A family knows how to write its prompt around the images, how its image encoder takes pixels, the positions of
its tokens, and which token may attend to which. Everything else is common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rdvla.errors import ConfigError, nearest

IMAGE = "image"  # name of the image features that replace the image tokens


class Family:
    """Defaults: one dimension of positions, causal attention, pixels as a batch of square images."""

    language: ClassVar[str] = "language_model"  # attribute of the model that is its language model
    # The prompt as the family was trained to read it; {bos} stands for the tokenizer's first token.
    before: ClassVar[str] = ""  # opens the prompt
    image_before: ClassVar[str] = ""  # in front of every image's tokens
    image_after: ClassVar[str] = ""  # after them
    text_before: ClassVar[str] = ""  # in front of the question
    after: ClassVar[str] = ""  # after the question, before the answer
    special: ClassVar[tuple[str, ...]] = ()  # tokens in these texts that the tokenizer must not split

    @property
    def uses_bos(self) -> bool:
        """Return whether the prompt holds the tokenizer's first token."""
        return "{bos}" in self.before + self.text_before

    def texts(self, question: str, *, images: int, bos: str) -> list[str]:
        """Return the images + 1 texts of the prompt; the tokens of an image stand between two of them."""
        first = self.before + self.image_before
        between = [self.image_after + self.image_before] * (images - 1)
        last = self.image_after + self.text_before.replace("{bos}", bos) + question + self.after
        return [first.replace("{bos}", bos), *between, last]

    def image_size(self, config: Any) -> int:
        """Return the pixels along one side of the square images of the encoder's training."""
        return int(config.vision_config.image_size)

    def check_image_size(self, config: Any, size: int) -> None:
        """Raise `ConfigError` if the image encoder cannot take a square image of `size` pixels."""
        unit = self.token_pixels(config)
        if size % unit:
            raise ConfigError(
                f"backbone.image_size must be a multiple of {unit} for {config.model_type}, got {size}"
            )

    def token_pixels(self, config: Any) -> int:
        """Return the pixels along one side of the square that an image token stands for."""
        return int(config.vision_config.patch_size)

    def cut(self, model: Any, last: int) -> None:
        """Drop the layers after hidden state `last`, and the norm that follows the published last layer."""
        language = getattr(model, self.language)
        language.layers = language.layers[:last]
        language.norm = nn.Identity()

    def encode(self, model: Any, pixels: Tensor) -> dict[str, Tensor]:
        """(N, 3, S, S) normalised pixels -> name -> (N, image tokens, D); `IMAGE` is among the names."""
        features = model.get_image_features(pixel_values=pixels).pooler_output
        return {IMAGE: stack_images(features, len(pixels))}

    def positions(self, mask: Tensor, is_image: Tensor, grid: int) -> Tensor:
        """Return the positions of a sequence's tokens, (B, T) or (3, B, T), as if there were no padding.

        Args:
            mask: (B, T) bool, False for padding.
            is_image: (B, T) bool.
            grid: image tokens along one side of an image.
        """
        del is_image, grid  # here image tokens count like text
        return (mask.cumsum(dim=1) - 1).clamp(min=0)

    def attention(self, mask: Tensor, *, prefix: int, queries: int, language: Any, dtype: torch.dtype) -> Any:
        """Make the attention mask that the language model takes.

        Args:
            mask: (B, T) bool, False for padding.
            prefix: tokens of the prompt, padding included.
            queries: the last tokens of the sequence, which run now.
            language: the language model.
            dtype: of its activations.
        """
        del prefix, queries, language, dtype
        return mask.long()

    def inputs(self, features: Mapping[str, Tensor], is_image: Tensor) -> dict[str, Any]:
        """Return further inputs of the language model; `is_image`, (B, T), marks the image tokens."""
        del features, is_image
        return {}


class Idefics3(Family):
    """Idefics3, SmolVLM and SmolVLM2; every image as a whole, without the tiles for fine print."""

    language = "text_model"
    before = "{bos}User:"
    image_before = "<fake_token_around_image><global-img>"
    image_after = "<fake_token_around_image>"
    after = "<end_of_utterance>\nAssistant:"
    # Not <global-img>: for Idefics3-8B and the first SmolVLM it is ordinary text.
    special = ("<fake_token_around_image>", "<end_of_utterance>")

    def check_image_size(self, config: Any, size: int) -> None:
        """Allow pixels after the last whole patch; published models leave them out (384 = 27 x 14 + 6)."""
        patch, scale = config.vision_config.patch_size, config.scale_factor
        patches = size // patch
        if patches == 0 or patches % scale:
            raise ConfigError(
                f"backbone.image_size must hold a multiple of {scale} patches of {patch} pixels along a side "
                f"for {config.model_type}, got {size} with {patches} patches"
            )

    def token_pixels(self, config: Any) -> int:
        """A token stands for scale_factor x scale_factor patches."""
        return int(config.vision_config.patch_size * config.scale_factor)

    def encode(self, model: Any, pixels: Tensor) -> dict[str, Tensor]:
        """See `Family.encode`; the encoder takes (N, images, 3, S, S), here with a single image each."""
        return super().encode(model, pixels.unsqueeze(1))


class Qwen2VL(Family):
    """Qwen2-VL and Qwen2.5-VL: pixels come as a list of patches, image tokens have rows and columns."""

    before = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    image_before = "<|vision_start|>"
    image_after = "<|vision_end|>"
    after = "<|im_end|>\n<|im_start|>assistant\n"
    special = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")

    def image_size(self, config: Any) -> int:
        """Return 224 of any size: 8 x 8 tokens with patches of 14 pixels."""
        del config
        return 224

    def token_pixels(self, config: Any) -> int:
        """A token stands for spatial_merge_size x spatial_merge_size patches."""
        return int(config.vision_config.patch_size * config.vision_config.spatial_merge_size)

    def encode(self, model: Any, pixels: Tensor) -> dict[str, Tensor]:
        """See `Family.encode`."""
        output = self._encoded(model, pixels)
        return {IMAGE: stack_images(output.pooler_output, len(pixels))}

    def positions(self, mask: Tensor, is_image: Tensor, grid: int) -> Tensor:
        """(3, B, T): time, row and column. Text counts on along all three; an image uses `grid` numbers."""
        index = is_image.cumsum(dim=1) - 1  # among the image tokens
        index = torch.where(is_image, index % grid**2, 0)
        ends_image = is_image & (index == grid**2 - 1)
        taken = torch.where(is_image, ends_image * grid, mask.long())  # numbers used up after a token
        start = taken.cumsum(dim=1) - taken
        return torch.stack([start, start + index // grid, start + index % grid])

    def _encoded(self, model: Any, pixels: Tensor) -> Any:
        vision = model.config.vision_config
        patches = to_patches(
            pixels,
            size=vision.patch_size,
            merge=vision.spatial_merge_size,
            frames=vision.temporal_patch_size,
        )
        side = pixels.shape[-1] // vision.patch_size
        shape = torch.tensor([[1, side, side]], device=pixels.device).expand(len(pixels), -1)
        return model.get_image_features(pixel_values=patches, image_grid_thw=shape)


class Qwen3VL(Qwen2VL):
    """Qwen3-VL: image features of several depths are added after the first layers (DeepStack)."""

    before = "<|im_start|>user\n"

    def image_size(self, config: Any) -> int:
        """Return the smallest size of its processor (65,536 pixels): 8 x 8 tokens, patches of 16 pixels."""
        del config
        return 256

    def cut(self, model: Any, last: int) -> None:
        """See `Family.cut`. A hidden state is a layer's output before image features are added."""
        super().cut(model, last)
        vision = model.visual
        vision.deepstack_visual_indexes = vision.deepstack_visual_indexes[: last - 1]
        vision.deepstack_merger_list = vision.deepstack_merger_list[: last - 1]

    def encode(self, model: Any, pixels: Tensor) -> dict[str, Tensor]:
        """See `Family.encode`; ``deepstack/<i>`` is added after layer i."""
        output = self._encoded(model, pixels)
        deep = {
            f"deepstack/{layer}": stack_images(features, len(pixels))
            for layer, features in enumerate(output.deepstack_features)
        }
        return {IMAGE: stack_images(output.pooler_output, len(pixels))} | deep

    def inputs(self, features: Mapping[str, Tensor], is_image: Tensor) -> dict[str, Any]:
        """See `Family.inputs`."""
        deep = [features[f"deepstack/{layer}"].flatten(0, 1) for layer in range(len(features) - 1)]
        return {"visual_pos_masks": is_image, "deepstack_visual_embeds": deep}


class PaliGemma(Family):
    """PaliGemma 1 and 2: images and question attend both ways, causal attention after."""

    text_before = "{bos}"
    after = "\n"

    def check_image_size(self, config: Any, size: int) -> None:
        """Allow only the trained size, as the position embeddings have one size."""
        if size != self.image_size(config):
            raise ConfigError(
                f"backbone.image_size must be {self.image_size(config)} for this PaliGemma, got {size}"
            )

    def positions(self, mask: Tensor, is_image: Tensor, grid: int) -> Tensor:
        """See `Family.positions`; they count from 1."""
        return super().positions(mask, is_image, grid) + 1

    def attention(self, mask: Tensor, *, prefix: int, queries: int, language: Any, dtype: torch.dtype) -> Any:
        """(B, 1, queries, T), 0 if a token may attend to another, else the smallest number."""
        length = mask.shape[1]
        key = torch.arange(length, device=mask.device)
        query = key[length - queries :, None]
        allowed = (key <= query) | ((key < prefix) & (query < prefix))
        # Padding attends to itself: softmax over nothing would be NaN.
        allowed = (allowed & mask[:, None, None, :]) | (key == query)
        additive = torch.zeros(allowed.shape, dtype=dtype, device=mask.device)
        additive = additive.masked_fill(~allowed, torch.finfo(dtype).min)
        window = getattr(language.config, "sliding_window", None)  # of every other layer of Gemma 2
        if window is None:
            return additive
        if length > window:
            raise ConfigError(f"the prompt has {length} tokens; this language model looks back {window}")
        return {"full_attention": additive, "sliding_attention": additive}


FAMILIES: dict[str, type[Family]] = {
    "idefics3": Idefics3,
    "smolvlm": Idefics3,
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen2VL,
    "qwen3_vl": Qwen3VL,
    "paligemma": PaliGemma,
}


def make_family(model_type: str) -> Family:
    """Make the family of a published model's ``model_type``.

    Raises:
        ConfigError: the family is not supported.
    """
    if model_type not in FAMILIES:
        raise ConfigError(
            f"backbone.name_or_path: models of type {model_type!r} are not supported."
            f"{nearest(model_type, FAMILIES)} Supported: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]()


def stack_images(features: Any, images: int) -> Tensor:
    """Return image features as (N, tokens, D), from one tensor or a list with one per image."""
    stacked = features if isinstance(features, Tensor) else torch.cat(list(features))
    return stacked.reshape(images, -1, stacked.shape[-1])


def to_patches(pixels: Tensor, *, size: int, merge: int, frames: int) -> Tensor:
    """(N, 3, S, S) -> (N x patches, 3 x frames x size x size), patches of a token in sequence.

    A still image counts as a film of `frames` equal frames.
    """
    count = pixels.shape[-1] // (size * merge)
    x = pixels.reshape(len(pixels), 3, count, merge, size, count, merge, size)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)  # (N, rows, columns, merge, merge, 3, 1, size, size)
    return x.expand(*x.shape[:6], frames, size, size).flatten(5).flatten(0, 4)
