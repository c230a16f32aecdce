"""A published checkpoint folder: its location, its merged weights, and checks of values in its JSON files."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeGuard

from safetensors import SafetensorError, safe_open
from torch import Tensor

from rdvla.errors import RDVLAError
from rdvla.interop.published_head import find_published_files
from rdvla.policy.files import local_folder

NEEDED = ("*.json", "*.safetensors", "*.pt", "*.txt")  # to convert; code is not even downloaded
COPIED = (".json", ".txt", ".py", ".model", ".jinja", ".md")  # from a template, never run


def published_folder(name_or_path: str | Path, *, template: bool = False) -> Path:
    """Return the folder itself, or the local copy of a hub repository; it is never written to.

    Args:
        name_or_path: a folder, or an id on the hub ("user/name" or "user/name@revision").
        template: download its code too, as its files will be copied.

    Raises:
        RDVLAError: there is no such folder or id, or the folder holds weights of unknown modules.
    """
    copied = [f"*{suffix}" for suffix in COPIED] if template else []
    folder = local_folder(name_or_path, kind="checkpoint", files=(*NEEDED, *copied))
    files = find_published_files(folder)
    strays = sorted(
        path.name for path in folder.glob("*.pt") if path not in (files.head, files.proprio_projector)
    )
    if strays:
        raise RDVLAError(
            f"{folder} holds weights of parts that the method does not have: {', '.join(strays)}"
        )
    return folder


class MergedWeights:
    """The `model*.safetensors` of a checkpoint, opened together and read tensor by tensor.

    Raises:
        RDVLAError: there is none, one is damaged, or two hold a tensor of the same name.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("model*.safetensors"))
        if not self.paths:
            raise RDVLAError(f"{folder} holds no model*.safetensors: merged weights are needed")
        self._stack = ExitStack()
        self._file_of: dict[str, Any] = {}
        for path in self.paths:
            try:
                file = self._stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                self._stack.close()
                raise RDVLAError(f"{path} cannot be read as safetensors: {error}") from error
            twice = self._file_of.keys() & set(file.keys())
            if twice:
                self._stack.close()
                raise RDVLAError(f"{path} repeats {min(twice)!r}, which another file holds too")
            self._file_of |= dict.fromkeys(file.keys(), file)

    def __enter__(self) -> MergedWeights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading the tensor."""
        return tuple(self._file_of[name].get_slice(name).get_shape())

    def dtypes(self) -> set[str]:
        """Return the number formats that occur, such as BF16."""
        return {self._file_of[name].get_slice(name).get_dtype() for name in self._file_of}

    def tensor(self, name: str) -> Tensor:
        """Read a tensor."""
        value: Tensor = self._file_of[name].get_tensor(name)
        return value


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number; true and false are not."""
    return (is_whole(value) or isinstance(value, float)) and abs(value) <= sys.float_info.max


def are_numbers(values: object) -> TypeGuard[list[float]]:
    """Return whether a value is a list of finite numbers."""
    return isinstance(values, list) and all(is_number(value) for value in values)
