"""Instructions as encoders read them. Imports no torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from rdvla.errors import InputError, UnknownInstructionWarning, nearest

REMEMBERED = 1000  # sentences
SHOWN = 80  # characters of a sentence in a message

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")


class Remembered(Generic[Key, Made]):
    """What was made of about `REMEMBERED` sentences: a robot sends the same one in every query.

    Whoever answers strangers must not keep all that they say.
    """

    def __init__(self) -> None:
        self._made: dict[Key, Made] = {}

    def recall(self, key: Key, make: Callable[[Key], Made]) -> Made:
        """Return what `make` gives for a key; it is asked once unless the key has been forgotten."""
        if key in self._made:
            return self._made[key]
        made = make(key)
        if len(self._made) >= REMEMBERED:
            self._made.clear()
        self._made[key] = made
        return made


def instruction_bytes(sentence: str, *, longest: int) -> bytes:
    """Return an instruction as an encoder over bytes reads it: lower case, single spaces, UTF-8.

    Raises:
        InputError: it is empty, or has more than `longest` bytes.
    """
    data = plain(sentence).encode()
    if not 0 < len(data) <= longest:
        raise InputError(f"an instruction must have 1 to {longest} bytes, got {len(data)}: {shown(sentence)}")
    return data


class InstructionCheck:
    """Warns of instructions that a policy was not trained on, once each. Case and spacing do not count.

    Remembers `REMEMBERED` sentences: whoever answers strangers must not keep all that they say.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, sentences: Sequence[str], *, trained: Sequence[str], stacklevel: int = 3) -> None:
        """Warn of the sentences that are not among `trained`, with the nearest that is.

        Args:
            sentences: what the policy is told.
            trained: what it was trained on; nothing is said if that is unknown, which is to say empty.
            stacklevel: frames between the warning and whoever asked the policy.
        """
        if not trained or self._seen.issuperset(sentences):
            return
        known = {plain(sentence): sentence for sentence in trained}
        for sentence in dict.fromkeys(sentences):
            if sentence not in self._seen and plain(sentence) not in known:
                guess = nearest(plain(sentence), known)
                warnings.warn(
                    f"the policy was not trained on the instruction {shown(sentence)}, so its actions may be "
                    f"arbitrary.{guess or f' It was trained on {_some(trained)}.'}",
                    UnknownInstructionWarning,
                    stacklevel=stacklevel,
                )
        if len(self._seen) > REMEMBERED:
            self._seen.clear()
        self._seen.update(sentences)


def plain(sentence: str) -> str:
    """Return a sentence in lower case with single spaces: what counts when two are compared."""
    return " ".join(sentence.lower().split())


def shown(sentence: str) -> str:
    """Return a sentence in quotes as messages show it; of a long one the beginning."""
    return repr(sentence if len(sentence) <= SHOWN else f"{sentence[:SHOWN]}...")


def _some(sentences: Sequence[str]) -> str:
    more = len(sentences) - 1
    return f"{sentences[0]!r}" + (f" and {more} more" if more else "")
