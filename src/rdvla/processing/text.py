"""Instructions as encoders read them. Imports no torch."""

from __future__ import annotations

from rdvla.errors import InputError


def instruction_bytes(sentence: str, *, longest: int) -> bytes:
    """Return an instruction as an encoder over bytes reads it: lower case, single spaces, UTF-8.

    Raises:
        InputError: it is empty, or has more than `longest` bytes.
    """
    data = " ".join(sentence.lower().split()).encode()
    if not 0 < len(data) <= longest:
        raise InputError(f"an instruction must have 1 to {longest} bytes, got {len(data)}: {sentence!r}")
    return data
