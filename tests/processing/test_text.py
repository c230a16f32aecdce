"""Instructions that a policy was not trained on."""

from __future__ import annotations

import warnings

import pytest

from rdvla.errors import UnknownInstructionWarning
from rdvla.processing.text import REMEMBERED, InstructionCheck, Remembered, shown

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


def test_what_strangers_say_is_not_kept_for_ever():
    known, made = Remembered[str, object](), []

    def make(sentence: str) -> object:
        made.append(sentence)
        return sentence.upper()

    assert known.recall("a", make) is known.recall("a", make)
    assert made == ["a"]
    for number in range(REMEMBERED):
        assert known.recall(f"push {number}", make) == f"PUSH {number}"
    assert known.recall("a", make) == "A"
    assert made.count("a") == 2  # it had been forgotten


def test_messages_show_the_beginning_of_a_long_instruction():
    assert shown("push") == "'push'"
    assert shown("push " * 900) == repr("push " * 16 + "...")
