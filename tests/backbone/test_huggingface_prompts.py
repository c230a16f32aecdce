"""Each family's prompt, against transformers' own processors and the published chat templates."""

from __future__ import annotations

from typing import Any

import jinja2
import numpy as np
import pytest

from rdvla.backbone.base import PADDING
from rdvla.backbone.huggingface.families import make_family
from rdvla.backbone.huggingface.prompt import PromptWriter
from tests.support.tiny_vlms import VOCABULARY, tiny_tokenizer

SENTENCE = "Push  the Red button"
QUESTION = "What now? To push the red button!"
IMAGE_TOKENS = 4  # image tokens of an image
IMAGES = [np.zeros((32, 32, 3), dtype=np.uint8)] * 3


def written(name: str, *, images: int, image_token: str) -> list[int]:
    """The prompt's token ids, as this package writes them."""
    writer = PromptWriter(
        make_family(name),
        tiny_tokenizer(name),
        question="What now? To {instruction}!",
        image_token=VOCABULARY[image_token],
        image_tokens=IMAGE_TOKENS,
        max_text_tokens=200,
    )
    row = writer.rows([SENTENCE], images=images)[0]
    ids: list[int] = row[row != PADDING].tolist()
    return ids


def read(name: str, text: str) -> list[int]:
    """The token ids of a whole prompt; every one of its letters is known."""
    ids: list[int] = tiny_tokenizer(name)(text, add_special_tokens=False).input_ids
    assert VOCABULARY["<unk>"] not in ids
    return ids


@pytest.mark.parametrize("images", [1, 2, 3])
def test_idefics3_is_written_as_its_processor_does(images: int) -> None:
    """The chat template of Idefics3-8B-Llama3, which puts all images in front of the question."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    pixels = Idefics3ImageProcessorPil(
        do_image_splitting=False, do_resize=False, max_image_size={"longest_edge": 32}
    )
    processor = Idefics3Processor(pixels, tiny_tokenizer("idefics3"), image_seq_len=IMAGE_TOKENS)
    text = f"<bos>User:{'<image>' * images}{QUESTION}<end_of_utterance>\nAssistant:"
    theirs = processor(images=IMAGES[:images], text=text, add_special_tokens=False)["input_ids"][0]
    assert written("idefics3", images=images, image_token="<image>") == theirs
    assert VOCABULARY["<unk>"] not in theirs


@pytest.mark.parametrize("images", [1, 2, 3])
def test_smolvlm_is_written_as_its_processor_does(images: int) -> None:
    """The processor itself needs torchvision; its chat template and how it expands an image do not."""
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE, get_image_prompt_string

    content = [{"type": "image"}] * images + [{"type": "text", "text": QUESTION}]
    text = (
        jinja2.Environment()
        .from_string(DEFAULT_CHAT_TEMPLATE)
        .render(messages=[{"role": "user", "content": content}], add_generation_prompt=True)
    )
    assert text.startswith("<|im_start|>User:<image>")
    image = get_image_prompt_string(
        0, 0, IMAGE_TOKENS, fake_token_around_image="<fake_token_around_image>", image_token="<image>",
        global_image_token="<global-img>",
    )  # fmt: skip
    # <|im_start|> is the first token (bos_token) of SmolVLM's tokenizer.
    text = text.replace("<image>", image).replace("<|im_start|>", "<bos>")
    assert written("smolvlm", images=images, image_token="<image>") == read("smolvlm", text)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_paligemma_is_written_as_its_processor_does(images: int) -> None:
    from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    pixels = SiglipImageProcessorPil(do_resize=False)
    pixels.image_seq_length = IMAGE_TOKENS
    processor: Any = PaliGemmaProcessor(pixels, tiny_tokenizer("paligemma"))
    text = "<image>" * images + QUESTION
    theirs = processor(images=[IMAGES[:images]], text=text, add_special_tokens=False)["input_ids"][0]
    assert written("paligemma", images=images, image_token="<image>") == theirs
    assert VOCABULARY["<unk>"] not in theirs


# What the published chat templates make of images and a question, before image tokens are repeated.
QWEN2_PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{images}What now? To push the red button!<|im_end|>\n"
    "<|im_start|>assistant\n"
)
QWEN3_PROMPT = (
    "<|im_start|>user\n{images}What now? To push the red button!<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "prompt"),
    [("qwen2_vl", QWEN2_PROMPT), ("qwen2_5_vl", QWEN2_PROMPT), ("qwen3_vl", QWEN3_PROMPT)],
)
def test_qwen_is_written_as_its_chat_template_does(name: str, prompt: str, images: int) -> None:
    image = "<|vision_start|>" + "<|image_pad|>" * IMAGE_TOKENS + "<|vision_end|>"
    expected = read(name, prompt.format(images=image * images))
    assert written(name, images=images, image_token="<|image_pad|>") == expected
