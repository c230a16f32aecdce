"""Whatever users hand to a policy is taken as it is meant, or refused in one sentence."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rdvla.errors import InputError
from rdvla.inputs import as_initial_state, as_seed, to_torch, whole_number
from rdvla.types import Observation

HEIGHT, WIDTH = 5, 7
PIXELS = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
STATE = np.array([0.5, -2.0, 3.0], dtype=np.float32)


def observe(image: Any = PIXELS, state: Any = STATE, instruction: Any = "push") -> Observation:
    return Observation({"front": image}, state, instruction)


def read_only() -> Any:
    array = PIXELS.copy()
    array.setflags(write=False)
    return array


SINGLE_IMAGES = {
    "numpy": PIXELS,
    "torch": torch.from_numpy(PIXELS.copy()),
    "PIL": Image.fromarray(PIXELS),
    "lists": PIXELS.tolist(),
    "read-only": read_only(),
    "channels first": PIXELS.transpose(2, 0, 1).copy(),
    "torch, channels first": torch.from_numpy(PIXELS.transpose(2, 0, 1).copy()),
    "backwards": PIXELS[::-1].copy()[::-1],
    "every second": np.repeat(PIXELS, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("image", SINGLE_IMAGES.values(), ids=SINGLE_IMAGES.keys())
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_every_form_of_an_image_gives_the_same_pixels(image: Any, library: str) -> None:
    batches = [image[None]] if hasattr(image, "shape") else []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = getattr(observe(image), library)()
        for several in ([image], (image,), *batches):
            batch = getattr(observe(several, [STATE.tolist()], ["push"]), library)()
            assert batch.is_batch and np.array_equal(batch.images["front"], PIXELS[None])
    assert not single.is_batch and np.array_equal(single.images["front"], PIXELS)


def test_an_image_may_have_four_rows_or_columns() -> None:
    image = PIXELS[:4]
    assert np.array_equal(observe(image).images["front"], image)
    first = np.moveaxis(PIXELS[:, :4], -1, 0)
    assert np.array_equal(observe(first).images["front"], PIXELS[:, :4])


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((3, 5, 3), np.uint8), r"\(3, 5, 3\) can be read both ways"),
        (np.zeros((5, 7, 4), np.uint8), r"got \(5, 7, 4\): drop the transparency"),
        (np.zeros((5, 7, 1), np.uint8), "repeat a grey image three times"),
        (np.zeros((5, 7), np.uint8), "repeat a grey image three times"),
        (np.zeros((5, 0, 3), np.uint8), "no pixels"),
        (np.zeros((2, 2, 5, 7, 3), np.uint8), r"must be \(height, width, 3\)"),
        (PIXELS / 255, r"must be uint8, got \(5, 7, 3\) float64: .*\(image \* 255\)\.round\(\)"),
        (torch.from_numpy(PIXELS).float(), "must be uint8, got .*float32"),
        (PIXELS.astype(np.int64), "must be uint8"),
        (torch.zeros(5, 7, 3, dtype=torch.bool), "must be uint8, got .*bool"),
        ((PIXELS.astype(int) * 0 + 256).tolist(), "whole numbers from 0 to 255, got 256 to 256"),
        (Image.fromarray(PIXELS).convert("L"), r"mode 'L': image\.convert"),
        ([Image.fromarray(PIXELS).convert("RGBA")], "mode 'RGBA'"),
        ([PIXELS, PIXELS[:4]], "unequal shapes"),
        ([torch.zeros(5, 7, 3), torch.zeros(5, 6, 3)], "unequal shapes"),
        ([[1, 2], [3]], "unequal shapes"),
        ("front.png", "must be an array, a tensor or a list, got str"),
        (None, "got None"),
        ({"rgb": PIXELS}, "got dict"),
        (np.array([None]), "must hold numbers"),
    ],
)
def test_other_images_are_refused_in_one_sentence(image: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=r"^images\['front'\].*" + sentence) as caught:
        observe(image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("images", [PIXELS, [PIXELS], None, {0: PIXELS}])
def test_images_must_name_their_cameras(images: Any) -> None:
    with pytest.raises(InputError, match=r"must name their cameras|must be named by texts"):
        Observation(images, STATE, "push")


STATES = {
    "float64": STATE.astype(np.float64),
    "float16": STATE.astype(np.float16),
    "big-endian": STATE.astype(">f4"),
    "list": STATE.tolist(),
    "tuple": tuple(STATE.tolist()),
    "numpy numbers": list(STATE),
    "torch numbers": list(torch.from_numpy(STATE)),
    "bfloat16": torch.from_numpy(STATE).bfloat16(),
    "gradient": torch.from_numpy(STATE).requires_grad_(),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_every_form_of_a_state_gives_the_same_float32_numbers(state: Any, library: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = getattr(observe(state=state), library)().state
        several = getattr(observe([PIXELS] * 2, [state] * 2, ["a", "b"]), library)().state
    for found, wanted in ((single, STATE), (several, np.stack([STATE, STATE]))):
        assert "float32" in str(found.dtype) and np.array_equal(found, wanted)
        assert not getattr(found, "requires_grad", False)


def test_whole_numbers_are_a_state_too() -> None:
    for state in ([1, 2], np.array([1, 2]), torch.tensor([1, 2])):
        assert observe(state=state).numpy().state.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (np.array([True, False]), "must hold numbers, got bool"),
        (torch.ones(2, dtype=torch.bool), "must hold numbers, got bool"),
        (torch.ones(2, dtype=torch.complex64), "must hold numbers, got complex64"),
        (np.array([1j]), "must hold numbers"),
        (["a"], "must hold numbers"),
        ({1.0}, "must hold numbers, got set"),
        (None, "got None"),
        (3.0, "got float"),
        (np.float32(3), r"must be \(S,\), or \(B, S\)"),
        (np.zeros((1, 1, 3)), r"got \(1, 1, 3\)"),
        ([[1.0], [1.0, 2.0]], "unequal shapes"),
        ({"joints": [1.0]}, "got dict"),
    ],
)
def test_other_states_are_refused_in_one_sentence(state: Any, sentence: str) -> None:
    with pytest.raises(InputError, match="^state .*" + sentence):
        observe(state=state)


@pytest.mark.parametrize(
    "instruction", [np.str_("push"), np.array("push"), "push"], ids=["numpy", "array", "text"]
)
def test_one_text_is_one_instruction(instruction: Any) -> None:
    found = observe(instruction=instruction).instruction
    assert found == "push" and type(found) is str


@pytest.mark.parametrize(
    "instructions",
    [("a", "b"), np.array(["a", "b"]), np.array(["a", "b"], dtype=object), [np.str_("a"), "b"]],
)
def test_several_texts_are_a_list(instructions: Any) -> None:
    found = observe([PIXELS, PIXELS], [STATE, STATE], instructions).instruction
    assert found == ["a", "b"] and {type(sentence) for sentence in found} == {str}


@pytest.mark.parametrize(
    ("instruction", "sentence"),
    [
        (b"push", r"got bytes: bytes become a text with \.decode"),
        ([b"push"], "got bytes"),
        (None, "got None"),
        ([None], "got None"),
        (3, "got int"),
        ([3], "got int"),
        (np.array([3]), "got int"),
        ([["push"]], "got list"),
        ({"push"}, "got set"),
    ],
)
def test_other_instructions_are_refused_in_one_sentence(instruction: Any, sentence: str) -> None:
    with pytest.raises(InputError, match="instruction.*" + sentence):
        observe(instruction=instruction)


@pytest.mark.parametrize("image", [PIXELS, PIXELS[None]], ids=["image", "images"])
@pytest.mark.parametrize("state", [STATE, STATE[None]], ids=["state", "states"])
@pytest.mark.parametrize("instruction", ["push", ["push"]], ids=["instruction", "instructions"])
def test_a_batch_of_one_may_lack_dimensions(image: Any, state: Any, instruction: Any) -> None:
    found = observe(image, state, instruction)
    several = image.ndim == 4 or state.ndim == 2 or isinstance(instruction, list)
    assert found.is_batch == several and found.batch_size == 1
    assert found.images["front"].shape == ((1,) if several else ()) + PIXELS.shape
    assert found.state.shape == ((1,) if several else ()) + STATE.shape
    assert found.instruction == (["push"] if several else "push")


def test_what_is_given_is_not_changed_and_not_copied_without_need() -> None:
    images, instructions = {"front": torch.from_numpy(PIXELS.copy())[None]}, ["push"]
    made = Observation(images, torch.from_numpy(STATE)[None], instructions)
    assert made.images["front"].data_ptr() == images["front"].data_ptr()
    assert made.instruction == instructions and made.instruction is not instructions


def test_initial_states_are_taken_from_both_libraries() -> None:
    state = np.arange(6.0).reshape(1, 2, 3)
    for given in (state, torch.from_numpy(state), state.tolist(), state[0], torch.from_numpy(state)[0]):
        found = to_torch(as_initial_state(given, shape=(1, 2, 3)))
        assert found.dtype == torch.float32 and np.array_equal(found, state)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (np.zeros((2, 2, 3)), r"must be \(1, 2, 3\), got \(2, 2, 3\)"),
        (torch.zeros(1, 3, 2), r"got \(1, 3, 2\)"),
        (torch.full((1, 2, 3), torch.nan), "NaN or infinite"),
        (np.full((1, 2, 3), np.inf), "NaN or infinite"),
        (np.zeros((1, 2, 3), bool), "must hold numbers, got bool"),
        ("noise", "got str"),
    ],
)
def test_other_initial_states_are_refused(state: Any, sentence: str) -> None:
    with pytest.raises(InputError, match="^initial_state .*" + sentence):
        as_initial_state(state, shape=(1, 2, 3))


def test_whole_numbers_come_from_every_library() -> None:
    for value in (8, np.int64(8), np.uint8(8), np.array(8), torch.tensor(8), torch.tensor(8).to(torch.uint8)):
        assert whole_number(value) == 8 and as_seed(value) == 8
    for value in (True, np.True_, torch.tensor(True), 8.0, np.float32(8), float("nan"), "8", None, 2**63):
        assert whole_number(value) is None
        with pytest.raises(InputError, match="a seed must be a whole number from 0"):
            as_seed(value)
    with pytest.raises(InputError, match="got -1"):
        as_seed(-1)


def test_arrays_and_lists_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from rdvla.types import Observation\n"
        "seen = Observation({'front': np.zeros((3, 4, 5), np.uint8)}, [1, 2], 'push')\n"
        "batch = Observation.collate([seen, seen]).numpy()\n"
        "assert batch.images['front'].shape == (2, 4, 5, 3)\n"
        "assert 'PIL' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
