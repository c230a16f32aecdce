"""Typed functions called with the arguments of a command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from rdvla.config import More, Number, Pairs, call
from rdvla.errors import ConfigError


def everything(
    first: str,
    second: Path | None = None,
    *,
    count: int = 3,
    ratio: float = 0.5,
    flag: bool = False,
    kind: Literal["a", "b"] | None = None,
    names: tuple[str, ...] = ("x", "y"),
    paths: list[Path] | None = None,
    long_pairs: Annotated[dict[str, str], Pairs("NAME=CAMERA", "image=agentview")] | None = None,
) -> dict[str, Any]:
    """Do everything.

    By 100 % of the rules,
    in two lines.

    Args:
        first: what comes first.
        second: what comes
            second.
        count: how many.
    """
    return dict(locals())


DEFAULTS = everything("one")


@pytest.mark.parametrize(
    ("argv", "changes"),
    [
        ([], {}),
        (["two"], {"second": Path("two")}),
        (["--count", "4", "--ratio=0.25", "--flag"], {"count": 4, "ratio": 0.25, "flag": True}),
        (["--kind", "b"], {"kind": "b"}),
        (["--names", "p", "q", "r"], {"names": ("p", "q", "r")}),
        (["--paths", "p", "q"], {"paths": [Path("p"), Path("q")]}),
        (["--long-pairs", "a=b", "c=d=e"], {"long_pairs": {"a": "b", "c": "d=e"}}),
    ],
)
def test_arguments_arrive_as_the_signature_declares_them(argv, changes):
    given = call(everything, ["one", *argv], prog="do")
    assert given == DEFAULTS | changes
    assert {name: type(value) for name, value in given.items()} == {
        name: type(value) for name, value in (DEFAULTS | changes).items()
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: first"),
        (["one", "--kind", "c"], "invalid choice: 'c'"),
        (["one", "--count", "few"], "argument --count: invalid int value: 'few'"),
        (["one", "--nothing"], "unrecognized arguments: --nothing"),
    ],
)
def test_what_is_wrong_is_said(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        call(everything, argv, prog="do")
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("pair", ["image", "=front", "image="])
def test_half_a_pair_is_refused(pair):
    with pytest.raises(ConfigError, match=f"--long-pairs takes NAME=CAMERA, such as .*, got '{pair}'"):
        call(everything, ["one", "--long-pairs", pair], prog="do")


def test_the_docstring_is_the_help(capsys):
    with pytest.raises(SystemExit) as stop:
        call(everything, ["--help"], prog="do")
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "usage: do",
        "Do everything. By 100 % of the rules, in two lines.",
        "what comes second.",
        "how many (default: 3)",
        "(default: x y)",
        "--long-pairs NAME=CAMERA",
    ):
        assert text in shown
    assert "Args" not in shown


def test_words_are_handed_on_as_they_are():
    def outer(*arguments: str) -> tuple[str, ...]:
        return arguments

    assert call(outer, ["--help", "x"], prog="do") == ("--help", "x")


@dataclass(frozen=True)
class Options:
    """Options."""

    steps: int = 1  # how often


def configured(options: Options) -> Options:
    """Do it step by step."""
    return options


def test_a_dataclass_is_read_as_a_configuration(tmp_path: Path, capsys):
    (tmp_path / "c.yaml").write_text("steps: 3")
    assert call(configured, [], prog="do") == Options()
    assert call(configured, ["--config", str(tmp_path / "c.yaml")], prog="do") == Options(3)
    with pytest.raises(SystemExit):
        call(configured, ["--help"], prog="do")
    shown = capsys.readouterr().out
    assert "Do it step by step." in shown and "how often" in shown


def numbers(
    first: Annotated[int, Number(at_least=1)] = 1,
    *,
    share: Annotated[float, Number(above=0, below=1)] | None = None,
    most: Annotated[int, Number(at_least=2, at_most=5)] = 3,
    plain: float = 0.5,
    several: tuple[Annotated[int, Number(at_least=1), More("Any of 1 to 9.")], ...] = (),
) -> tuple[Any, ...]:
    """Take numbers.

    Args:
        several: how many of each.
    """
    return first, share, most, plain, several


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["0"], "first must be at least 1, got 0"),
        (["-7"], "first must be at least 1, got -7"),
        (["--share", "1"], "--share must be above 0 and below 1, got 1.0"),
        (["--share", "0"], "--share must be above 0 and below 1, got 0.0"),
        (["--share", "nan"], "--share must be above 0 and below 1, got nan"),
        (["--most=1"], "--most must be at least 2 and at most 5, got 1"),
        (["--most=6"], "--most must be at least 2 and at most 5, got 6"),
        (["--plain=inf"], "--plain must be a finite number, got inf"),
        (["--several", "3", "0"], "--several must be at least 1, got 0"),
        (["--plain=nan"], "--plain must be a finite number, got nan"),
    ],
)
def test_a_number_out_of_range_is_refused_before_the_call(argv, message):
    with pytest.raises(ConfigError) as caught:
        call(numbers, argv, prog="do")
    assert str(caught.value) == message


def test_numbers_within_their_range_arrive():
    assert call(numbers, [], prog="do") == (1, None, 3, 0.5, ())
    given = ["9", "--share=0.5", "--most=5", "--plain=-3", "--several", "4", "5"]
    assert call(numbers, given, prog="do") == (9, 0.5, 5, -3.0, (4, 5))


def test_the_help_of_a_lists_items_follows_the_lists(capsys):
    with pytest.raises(SystemExit):
        call(numbers, ["--help"], prog="do")
    assert "how many of each. Any of 1 to 9." in " ".join(capsys.readouterr().out.split())
