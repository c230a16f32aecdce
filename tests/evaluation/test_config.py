import pytest

from rdvla.errors import ConfigError
from rdvla.evaluation import EvaluationConfig, Setting


def test_settings_are_the_product_of_rules():
    config = EvaluationConfig(
        policy="a/b",
        output="o",
        rules=("1", "fixed:8", "action_change:1e-3"),
        execution=("8", "binary:8,4,6"),
    )
    assert len(config.settings) == 6
    assert config.settings[1] == Setting(rule="fixed", depth=8, execution="fixed:8")
    assert config.settings[2] == Setting(rule="action_change:0.001", depth=None, execution="fixed:8")
    assert config.settings[2].describe() == "action_change:0.001"
    assert config.settings[1].rule_text == "8"
    assert config.policy_label == "b"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"seed": 5}, "belong to demonstrations"),
        ({"rules": ("acton_change",)}, "Did you mean 'action_change'"),
        ({"rules": ()}, "rules is empty"),
        ({"rules": ("8", "fixed:8")}, "named twice"),
        ({"execution": ("sometimes",)}, "execution rule"),
        ({"videos": -1}, "videos"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        EvaluationConfig(policy="p", output="o", **change)
