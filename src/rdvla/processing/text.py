"""Instructions as encoders read them. Imports no torch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from rdvla.errors import InputError, UnknownInstructionWarning, nearest

REMEMBERED = 1000  # sentences


def instruction_bytes(sentence: str, *, longest: int) -> bytes:
    """Return an instruction as an encoder over bytes reads it: lower case, single spaces, UTF-8.

    Raises:
        InputError: it is empty, or has more than `longest` bytes.
    """
    data = plain(sentence).encode()
    if not 0 < len(data) <= longest:
        raise InputError(f"an instruction must have 1 to {longest} bytes, got {len(data)}: {sentence!r}")
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
                    f"the policy was not trained on the instruction {sentence!r}, so its actions may be "
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


def _some(sentences: Sequence[str]) -> str:
    more = len(sentences) - 1
    return f"{sentences[0]!r}" + (f" and {more} more" if more else "")
