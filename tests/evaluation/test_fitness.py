"""A policy and an environment that do not go together are refused before the first episode."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from rdvla.errors import ConfigError
from rdvla.evaluation import EvaluationConfig, Suite, evaluate
from rdvla.evaluation.fitness import check_cameras, check_policy, open_environments
from rdvla.rollout import Opened
from tests.support.line_task import make_line
from tests.support.tiny_models import CONFIG, make_policy
from tests.support.toy_simulator import make_toy

SIZES = (CONFIG.image_size, CONFIG.image_size)
SHOWN = Opened(
    images=dict.fromkeys(CONFIG.cameras, SIZES),
    state_size=CONFIG.state_dim,
    action_size=CONFIG.head.action_dim,
    control_hz=20.0,
    robot_type="panda",
    names={"action": ("x", "y", "z", "gripper")},
)


def check(config=CONFIG, *, allow_other_robot=False, **changes):
    """Check against an environment that differs from the policy's in `changes`; return the warnings."""
    out = io.StringIO()
    check_policy(
        config,
        {"kitchen": replace(SHOWN, **changes)},
        allow_other_robot=allow_other_robot,
        console=Console(file=out, width=200),
    )
    return out.getvalue()


def test_what_an_environment_shows_is_seen_in_a_worker():
    (shown,) = open_environments([Suite("toy", ("left",), 12)], make=make_toy, seed=3, workers=1).values()
    assert shown == Opened(
        images={"front": (32, 32)}, state_size=4, action_size=4, control_hz=20.0, robot_type="point"
    )
    (bare,) = open_environments([Suite("line", ("near",), 12)], make=make_line, seed=3, workers=2).values()
    assert (bare.state_size, bare.action_size, bare.robot_type) == (1, None, None)


def test_a_policy_that_fits_is_not_warned_of():
    assert check() == ""
    assert check(action_size=None, robot_type=None, names={}) == ""
    assert check(images=dict.fromkeys(CONFIG.cameras, (3 * SIZES[0], 3 * SIZES[1]))) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_size": 8}, r"does not fit kitchen: its state has 8 numbers, and the policy's has 3"),
        ({"action_size": 7}, r"its action has 7 numbers, and the policy's has 4"),
        (
            {"images": {CONFIG.cameras[0]: SIZES, "wrist_cam": SIZES}},
            rf"it needs camera '{CONFIG.cameras[1]}', there are {CONFIG.cameras[0]}, wrist_cam",
        ),
        (
            {"images": dict.fromkeys(CONFIG.cameras, (480, 640))},
            rf"camera '{CONFIG.cameras[0]}' gives 640x480 pixels, training had {SIZES[1]}x{SIZES[0]}",
        ),
    ],
)
def test_other_sizes_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        check(**changes)


def test_a_camera_that_the_simulator_lacks_is_refused_without_opening_it(tmp_path):
    config = replace(CONFIG, cameras=("front", "wrst"))
    with pytest.raises(
        ConfigError, match=r"camera 'wrst', which metaworld does not have\. Did you mean 'wrist'"
    ):
        check_cameras(config, ["metaworld"])
    make_policy(config).save_pretrained(tmp_path / "policy")
    with pytest.raises(ConfigError, match=r"Cameras of metaworld: front, side, wrist"):
        evaluate(EvaluationConfig(policy=str(tmp_path / "policy"), output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
