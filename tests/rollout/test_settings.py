"""How a policy is run, as text: stop rule, start, deadline and execution rule."""

import pytest

from rdvla.control import WarmStart
from rdvla.errors import ConfigError
from rdvla.rollout import Setting


@pytest.mark.parametrize(
    ("text", "stop", "rule", "start", "deadline"),
    [
        ("8", "fixed:8", "fixed:8", "noise", None),
        ("8@final", "fixed:8@final", "fixed:8", "final", None),
        ("action_change:1e-3@20ms", "action_change:0.001@20ms", "action_change:0.001", "noise", 20),
        ("8@shifted@2.5ms", "fixed:8@shifted@2.5ms", "fixed:8", "shifted", 2.5),
        ("server", "server", "server", "noise", None),
        ("server@1e3ms", "server@1000ms", "server", "noise", 1000),
    ],
)
def test_a_setting_says_rule_start_and_deadline(text, stop, rule, start, deadline):
    setting = Setting.parse(text, 4)
    assert setting == Setting(stop, "fixed:4")
    assert (setting.rule, setting.start, setting.deadline_ms) == (rule, WarmStart(start), deadline)
    assert Setting.parse(setting.stop, setting.execution) == setting
    assert Setting.parse(setting.short_stop, 4) == setting


@pytest.mark.parametrize("text", ["8@0ms", "8@-1ms", "8@nanms", "8@infms", "8@soonms", "8@ms"])
def test_a_deadline_is_a_positive_time(text):
    with pytest.raises(ConfigError, match="write milliseconds, such as 8@20ms"):
        Setting.parse(text, 4)


def test_only_a_depth_without_a_deadline_is_fixed():
    assert [Setting.parse(text, 1).depth for text in ("8", "8@final", "8@20ms", "server")] == [
        8,
        8,
        None,
        None,
    ]
    assert Setting.parse("8@20ms", 1).describe() == "fixed:8@20ms"
    assert Setting.parse("server", 1).describe() == "server"


def test_a_server_that_decides_its_rule_decides_its_starts():
    with pytest.raises(ConfigError, match="decides its starts as well"):
        Setting.parse("server@final", 4)
