"""Read `features.json` of TensorFlow Datasets: what the features of an episode are.

Source: TensorFlow Datasets, `core/features/feature.py` (`to_json`) and `feature.proto`. An RLDS dataset is a
dictionary with the nested dataset `steps`; a record holds the values of all steps of a feature behind each
other, under the feature's path with slashes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rdvla.data.convert.tfrecord import Values
from rdvla.errors import DatasetError
from rdvla.files import read_object

STEPS = "steps/"
Kind = Literal["number", "image", "text"]


@dataclass(frozen=True)
class Leaf:
    """One feature of an episode or of its steps.

    Attributes:
        kind: what its values are.
        shape: of one value; None stands for a size that differs between episodes.
        dtype: numpy's name of the type of its numbers.
        encoding: of numbers: "none", "bytes" or "zlib"; of images: "png", "jpeg", or "" if unknown.
    """

    kind: Kind
    shape: tuple[int | None, ...] = ()
    dtype: str = ""
    encoding: str = "none"

    def numbers(self, values: Values) -> NDArray[Any]:
        """Return the numbers of T steps, (T, *shape).

        Raises:
            ValueError: their count does not fit the shape.
        """
        if isinstance(values, list):
            raw = b"".join(zlib.decompress(each) if self.encoding == "zlib" else each for each in values)
            values = np.frombuffer(raw, dtype=self.dtype)
        shape = [-1 if size is None else size for size in self.shape]
        steps = -1 if -1 not in shape else 1
        return values.astype(self.dtype).reshape(steps, *shape)


def read_features(path: Path) -> dict[str, Leaf]:
    """Return the features of an episode: path with slashes -> feature. Those of steps start with `steps/`.

    Features of other kinds (audio, bfloat16, sequences of varying length within a step) are left out.

    Raises:
        DatasetError: the file is missing, damaged, or describes no episodes with steps.
    """
    content = read_object(path)
    try:
        leaves = dict(_leaves(content, "", in_steps=False))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"{path} is no description of features by TensorFlow Datasets: {error!r}"
        ) from error
    if not any(name.startswith(STEPS) for name in leaves):
        raise DatasetError(f"{path} describes no episodes: an RLDS dataset has a nested dataset 'steps'")
    return leaves


def _leaves(node: Mapping[str, Any], name: str, *, in_steps: bool) -> Iterator[tuple[str, Leaf]]:
    if "featuresDict" in node:
        for inner, child in node["featuresDict"]["features"].items():
            yield from _leaves(child, f"{name}/{inner}".lstrip("/"), in_steps=in_steps)
    elif "sequence" in node:
        if name + "/" == STEPS and not in_steps:
            yield from _leaves(node["sequence"]["feature"], name, in_steps=True)
    elif "text" in node:
        yield name, Leaf("text")
    elif "image" in node:
        image = node["image"]
        yield (
            name,
            Leaf("image", _shape(image), str(image.get("dtype")), str(image.get("encodingFormat", ""))),
        )
    elif "tensor" in node:
        tensor = node["tensor"]
        dtype = str(tensor["dtype"])
        if dtype == "string":
            yield name, Leaf("text")
        else:
            with suppress(TypeError):  # a type that numpy has not, such as bfloat16
                np.dtype(dtype)
                yield name, Leaf("number", _shape(tensor), dtype, str(tensor.get("encoding", "none")))


def _shape(node: Mapping[str, Any]) -> tuple[int | None, ...]:
    sizes: Sequence[Any] = node.get("shape", {}).get("dimensions", ())
    return tuple(int(size) if int(size) >= 0 else None for size in sizes)
