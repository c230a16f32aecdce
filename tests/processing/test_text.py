"""Instructions that a policy was not trained on."""

from __future__ import annotations

import warnings

import pytest

from rdvla.errors import UnknownInstructionWarning
from rdvla.processing.text import REMEMBERED, InstructionCheck

TRAINED = ("open the drawer", "close the drawer")


def warned(check: InstructionCheck, *sentences: str) -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(sentences, trained=TRAINED)
    return len(caught)


def test_an_unknown_instruction_is_warned_of_once_with_the_nearest():
    check = InstructionCheck()
    with pytest.warns(UnknownInstructionWarning, match=r"Did you mean 'open the drawer'\?"):
        check(["open the drawers"], trained=TRAINED)
    assert warned(check, "open the drawers") == 0
    assert warned(check, "Open  the DRAWER") == 0
    assert warned(check, "sing", "dance", "sing") == 2


def test_sentences_of_strangers_are_forgotten_after_many_others():
    """Who serves strangers cannot remember all that they say; a second warning shows that it does not."""
    check = InstructionCheck()
    assert warned(check, "sing") == 1
    for number in range(2 * REMEMBERED):
        warned(check, f"sentence {number}")
    assert warned(check, "sing") == 1
