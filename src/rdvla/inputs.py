"""The input contract of everything that predicts: what users hand in becomes arrays here, or one sentence.

Imports torch, numpy and PIL only if they are needed: robots that talk to a server need no torch.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from rdvla.errors import InputError

Array: TypeAlias = Any  # numpy.ndarray or torch.Tensor

IMAGE_FORMS = "(height, width, 3) or (3, height, width)"
GREY_LEVELS = "give whole grey levels 0..255 as uint8, such as (image * 255).round() of floats in 0..1"


def as_instructions(value: Any) -> list[str] | str:
    """Return one sentence as it is, several as a list.

    Raises:
        InputError: it is neither a text, nor a list, a tuple or an array of texts; or a text holds half a
            character.
    """
    if isinstance(value, str):
        return _text(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
        if isinstance(value, str):  # an array without dimensions
            return _text(value)
    if isinstance(value, bytes) or not isinstance(value, Sequence):
        raise InputError(
            "an instruction must be a text, or a list of texts for a batch, "
            f"got {_kind(value)}{_decode(value)}"
        )
    for sentence in value:
        if not isinstance(sentence, str):
            raise InputError(
                f"every instruction of a batch must be a text, got {_kind(sentence)}{_decode(sentence)}"
            )
    return [_text(sentence) for sentence in value]


def as_state(value: Any) -> Array:
    """Return proprioception as float32, (S,) or (B, S): a torch tensor stays one, all else becomes numpy's.

    Raises:
        InputError: it does not hold numbers, or has other dimensions.
    """
    array = as_numbers(value, name="state")
    if array.ndim not in (1, 2):
        raise InputError(f"state must be (S,), or (B, S) for a batch, got {tuple(array.shape)}")
    return array


def as_numbers(value: Any, *, name: str) -> Array:
    """Return an array or a list of numbers as float32: a torch tensor stays one, all else becomes numpy's.

    Raises:
        InputError: it does not hold numbers, or is ragged.
    """
    array = _as_array(value, name=name)
    if not any(kind in _dtype(array) for kind in ("int", "float")):
        raise InputError(f"{name} must hold numbers, got {_dtype(array)}")
    return to_float32(array)


def as_images(value: Any) -> dict[str, Array]:
    """Return camera -> (H, W, 3) or (B, H, W, 3) uint8; a torch tensor stays one, all else becomes numpy's.

    Images may be arrays with their colours last or first, PIL images, or lists of these.

    Raises:
        InputError: it is no mapping, or an image has another type, or dimensions that can be read two ways.
    """
    if not isinstance(value, Mapping):
        raise InputError(
            f"images must name their cameras, such as {{'front': image}}, got {_kind(value)}: "
            "use the names of the policy's cameras"
        )
    strays = [camera for camera in value if not isinstance(camera, str)]
    if strays:
        raise InputError(f"the cameras of images must be named by texts, got {strays[0]!r}")
    return {str(camera): _as_image(image, name=f"images[{camera!r}]") for camera, image in value.items()}


def as_initial_state(value: Any, *, shape: tuple[int, ...]) -> Array:
    """Return S_0 in float32, of torch or numpy as it was given.

    Args:
        value: of `shape`, or one without its first dimension if that is 1.
        shape: (B, K, D).

    Raises:
        InputError: it has another shape, or does not hold finite numbers.
    """
    array = as_numbers(value, name="initial_state")
    if shape[:1] == (1,) and tuple(array.shape) == shape[1:]:
        array = array[None]
    if tuple(array.shape) != shape:
        raise InputError(f"initial_state must be {shape}, got {tuple(array.shape)}")
    if not is_finite(array):
        raise InputError("initial_state holds NaN or infinite numbers")
    return array


def check_generator(generator: Any, kind: type, *, example: str) -> None:
    """Raise `InputError` if a source of random numbers is given that is not of a class."""
    if generator is not None and not isinstance(generator, kind):
        raise InputError(f"generator must be such as {example}, got {_kind(generator)}")


def whole_number(value: Any) -> int | None:
    """Return a whole number, also a numpy or torch scalar, as an int; None if it is none of 64 bits."""
    if isinstance(value, bool) or "bool" in _dtype(value):
        return None
    try:
        number = operator.index(value)
    except (TypeError, RuntimeError):
        return None
    return number if -(2**63) <= number < 2**63 else None


def as_seed(value: Any) -> int:
    """Return the seed of a random generator as an int.

    Raises:
        InputError: it is no whole number from 0 to 2^63 - 1.
    """
    seed = whole_number(value)
    if seed is None or seed < 0:
        raise InputError(f"a seed must be a whole number from 0 to 2^63 - 1, got {value!r}")
    return seed


def is_torch(array: Any) -> bool:
    """Whether it is a torch tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def is_finite(array: Array) -> bool:
    """Whether no number is NaN or infinite."""
    return bool((abs(array) < float("inf")).all())  # NaN is not below infinity either


def to_float32(array: Array) -> Array:
    """Return a float32 array of the same library; itself if it is one already."""
    if is_torch(array):
        return array.detach().float()
    import numpy as np

    return np.asarray(array, dtype=np.float32)


def to_torch(array: Array) -> Array:
    """Return a torch tensor that shares the array's memory if it can."""
    import torch

    if isinstance(array, torch.Tensor):
        return array
    import numpy as np

    # Torch warns of memory that must not be written, and cannot walk backwards.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def to_numpy(array: Array) -> Array:
    """Return a numpy array that shares the tensor's memory if it can; bfloat16, unknown there, as float32."""
    import numpy as np

    if not is_torch(array):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if "bfloat16" in _dtype(array) else array).numpy()


def concatenate(arrays: Sequence[Array]) -> Array:
    """Join arrays along their first dimension; with a tensor among them, into one on the same device."""
    return _join(arrays, "cat", "concatenate", axis=0)


def stack(arrays: Sequence[Array], *, axis: int = 0) -> Array:
    """Join arrays of one shape along a new dimension; with a tensor among them, into one on its device."""
    return _join(arrays, "stack", "stack", axis=axis)


def _join(arrays: Sequence[Array], torch_name: str, numpy_name: str, *, axis: int) -> Array:
    tensors = [array for array in arrays if is_torch(array)]
    if tensors:
        import torch

        moved = [to_torch(array).to(tensors[0].device) for array in arrays]
        return getattr(torch, torch_name)(moved, dim=axis)
    import numpy as np

    return getattr(np, numpy_name)(arrays, axis=axis)


def _text(sentence: str) -> str:
    """Return a plain text, of numpy's too; no encoder can read half a character (a lone surrogate)."""
    sentence = str(sentence)
    if not sentence.isascii():
        try:
            sentence.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"an instruction holds half a character at place {error.start}: {sentence[:80]!r}. Decode "
                "its bytes as UTF-8"
            ) from None
    return sentence


def _as_image(value: Any, *, name: str) -> Array:
    value = _open_pictures(value, name=name)
    image = _as_array(value, name=name)
    if isinstance(value, list | tuple) and not any(map(_has_shape, value)):
        image = _bytes_of_numbers(image, name=name)
    shape, dtype = tuple(image.shape), _dtype(image)
    if dtype != "uint8":
        raise InputError(f"{name} must be uint8, got {shape} {dtype}: {GREY_LEVELS}")
    if image.ndim not in (3, 4) or 3 not in (shape[-1], shape[-3]):
        raise InputError(
            f"{name} must be {IMAGE_FORMS} RGB, with a leading B for a batch, got {shape}"
            f"{_colour_advice(shape)}"
        )
    if shape[-1] == shape[-3] == 3:
        raise InputError(
            f"{name} has its three colours last or first, {shape} can be read both ways: "
            "give images that are not 3 pixels high or wide"
        )
    if 0 in shape[-3:]:
        raise InputError(f"{name} has no pixels, got {shape}")
    if shape[-1] == 3:
        return image
    return image.movedim(-3, -1) if is_torch(image) else _numpy_movedim(image)


def _numpy_movedim(image: Array) -> Array:
    import numpy as np

    return np.moveaxis(image, -3, -1)


def _open_pictures(value: Any, *, name: str) -> Any:
    """Replace PIL images, alone or in a list, by arrays."""
    if isinstance(value, list | tuple):
        return [_open_pictures(each, name=name) if not _is_plain(each) else each for each in value]
    pillow = sys.modules.get("PIL.Image")
    if pillow is None or not isinstance(value, pillow.Image):
        return value
    if value.mode != "RGB":
        raise InputError(
            f"{name} must be an RGB image, got mode {value.mode!r}: image.convert('RGB') gives one"
        )
    import numpy as np

    return np.asarray(value)


def _as_array(value: Any, *, name: str) -> Array:
    """Return a tensor or a numpy array of what may be a list of arrays, of numbers, or another library's."""
    if is_torch(value):
        return value.detach()
    import numpy as np

    if isinstance(value, str | bytes | Mapping) or value is None or not _is_arraylike(value):
        raise InputError(f"{name} must be an array, a tensor or a list, got {_kind(value)}")
    try:
        if isinstance(value, list | tuple) and any(map(_has_shape, value)):
            return stack([_as_array(each, name=name) for each in value])
        array = np.asarray(value)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError):  # ragged lists, arrays of unequal shapes
        raise InputError(f"{name} must be a regular array, got a {_kind(value)} of unequal shapes") from None
    if array.dtype.kind not in "buif":
        raise InputError(f"{name} must hold numbers, got {_kind(value)} of {array.dtype}")
    return array


def _bytes_of_numbers(image: Array, *, name: str) -> Array:
    """Return Python's whole numbers, which have no size in bits, as grey levels."""
    if image.dtype.kind != "i":
        return image
    if image.size and not 0 <= image.min() <= image.max() <= 255:
        raise InputError(f"{name} must hold whole numbers from 0 to 255, got {image.min()} to {image.max()}")
    return image.astype("uint8")


def _colour_advice(shape: tuple[int, ...]) -> str:
    if 4 in (shape[-1:] or (0,)):
        return ": drop the transparency, image[..., :3]"
    if len(shape) == 2 or 1 in shape[-1:]:
        return ": repeat a grey image three times, np.repeat(image.reshape(height, width, 1), 3, axis=-1)"
    return ""


def _is_arraylike(value: Any) -> bool:
    return isinstance(value, Iterable) or hasattr(value, "__array__")


def _has_shape(value: Any) -> bool:
    return hasattr(value, "shape")


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float)


def _dtype(value: Any) -> str:
    dtype = getattr(value, "dtype", "")
    return str(getattr(dtype, "name", dtype)).removeprefix("torch.")


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value)
    owner = kind.__module__.partition(".")[0]
    return kind.__qualname__ if owner == "builtins" else f"{owner}.{kind.__qualname__}"


def _decode(value: Any) -> str:
    return ": bytes become a text with .decode()" if isinstance(value, bytes) else ""
