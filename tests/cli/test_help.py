"""Help lists every rule wherever one is asked for."""

from __future__ import annotations

import pytest

from rdvla import cli
from rdvla.control import EXECUTION_RULES, STOP_RULES
from rdvla.control.start import KINDS

ASKS = {  # verb -> (options for a stop rule, options for an execution rule)
    "train": (("--policy.stop",), ("--policy.execution",)),
    "eval": (("--stops",), ("--execution",)),
    "openloop": (("--stops",), ()),
    "profile": (("--stop",), ()),
    "compare": (("--a-setting",), ("--a-setting",)),
    "serve": (("--stop",), ("--execution",)),
}


def help_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main([verb, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def text_of(option: str, shown: str) -> str:
    """The help of one option, in one line."""
    lines = shown.splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip().split(" ")[0] == option)
    rest = lines[start + 1 :]
    end = next((i for i, line in enumerate(rest) if not line.startswith(" " * 8)), len(rest))
    return " ".join(line.strip() for line in lines[start : start + 1 + end])


@pytest.mark.parametrize("verb", ASKS)
def test_help_lists_stop_rules_and_execution_rules(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(verb, capsys)
    stops, executions = ASKS[verb]
    for option in stops:
        text = text_of(option, shown)
        for name, rule in STOP_RULES.items():
            assert ":".join([name, *(limit.parameter.upper() for limit in rule.limits)]) in text
        assert "N or fixed:N" in text
    for option in executions:
        text = text_of(option, shown)
        assert all(f"{name}:" in text for name in EXECUTION_RULES)


def test_no_other_option_asks_for_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    """An option for a rule that is added must list them too."""
    rules = {"stop", "stops", "execution", "setting"}
    for verb in cli.verbs():
        if verb in ("bench", "data"):
            continue
        for line in help_of(verb, capsys).splitlines():
            option = line.strip().split(" ")[0]
            if option.startswith("--") and option.strip("-").split(".")[-1].split("-")[-1] in rules:
                listed = {each for group in ASKS.get(verb, ((), ())) for each in group}
                assert option in listed | {"--b-setting"}, f"{verb} {option}"


def test_help_names_every_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(kind in text_of("--policy.start", help_of("train", capsys)) for kind in KINDS)
    stops = text_of("--stops", help_of("eval", capsys))
    assert all(f"@{kind}" in stops for kind in KINDS if kind != "noise")
