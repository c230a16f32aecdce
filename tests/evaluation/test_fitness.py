"""A policy and an environment that do not go together are refused before the first episode."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from rdvla.errors import ConfigError, InputError
from rdvla.evaluation import EvaluationConfig, Suite, evaluate
from rdvla.evaluation.fitness import check_cameras, check_policy, open_environments, recorded_sizes
from rdvla.policy.config import RobotConfig
from rdvla.rollout import Opened
from rdvla.workers import LocalProcesses
from tests.support.line_task import make_line
from tests.support.tiny_models import CONFIG, make_policy
from tests.support.toy_simulator import make_named, make_toy

FOUND = ("front", "side")  # cameras of metaworld
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


def opened(suites, **options):
    return open_environments(suites, transport=LocalProcesses(), **options).values()


def test_what_an_environment_shows_is_seen_in_a_worker():
    (shown,) = opened([Suite("toy", ("left",), 12)], make=make_toy, seed=3, workers=1)
    assert shown == Opened(
        images={"front": (32, 32)}, state_size=4, action_size=4, action_range=((-1.0,) * 4, (1.0,) * 4),
        control_hz=20.0, robot_type="point", environment_state_size=3, num_keypoints=1,
    )  # fmt: skip
    (bare,) = opened([Suite("line", ("near",), 12)], make=make_line, seed=3, workers=2)
    assert (bare.state_size, bare.action_size, bare.robot_type) == (1, None, None)


def test_a_policy_that_fits_is_not_warned_of():
    assert check() == ""
    assert check(action_size=None, robot_type=None, names={}) == ""
    assert check(images=dict.fromkeys(CONFIG.cameras, (3 * SIZES[0], 3 * SIZES[1]))) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_size": 8}, r"does not fit kitchen: its state has 8 numbers, and the policy's 3"),
        ({"action_size": 7}, r"its action has 7 numbers, and the policy's 4"),
        (
            {"images": {CONFIG.cameras[0]: SIZES, "wrist_cam": SIZES}},
            rf"it needs camera '{CONFIG.cameras[1]}', there are {CONFIG.cameras[0]}, wrist_cam",
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


def test_images_of_another_shape_are_refused():
    wanted = (
        rf"camera '{CONFIG.cameras[0]}' of kitchen gives 640x480 images, .* trained on {SIZES[1]}x{SIZES[0]}"
    )
    with pytest.raises(InputError, match=wanted):
        check(images=dict.fromkeys(CONFIG.cameras, (480, 640)))
    wide = replace(CONFIG, camera_sizes=dict.fromkeys(CONFIG.cameras, (480, 640)))
    assert check(wide, images=dict.fromkeys(CONFIG.cameras, (240, 320))) == ""
    with pytest.raises(
        ConfigError, match=r"640x480 pixels from camera 'front', and metaworld renders square"
    ):
        check_cameras(replace(CONFIG, cameras=FOUND, camera_sizes={"front": (480, 640)}), ["metaworld"])
    larger = replace(CONFIG, camera_sizes={CONFIG.cameras[0]: (256, 256)})
    assert recorded_sizes(larger) == {CONFIG.cameras[0]: (256, 256), CONFIG.cameras[1]: SIZES}


ROBOT = RobotConfig(type="panda", fps=20.0, action_names=("x", "y", "z", "gripper"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "so100"}, r"another robot than kitchen has: 'so100', not 'panda'"),
        (
            {"action_names": ("gripper", "x", "y", "z")},
            r"the names of the action are \[gripper, x, y, z\], not \[x, y, z, gripper\]",
        ),
        (
            {"action_units": ("deg",) * 4},
            r"the units of the action are \[deg, deg, deg, deg\], not \[m, m, m, 1\]",
        ),
    ],
)
def test_another_robot_is_refused_unless_it_is_allowed(change, message):
    config = replace(CONFIG, robot=replace(ROBOT, **change))
    units = {"action": ("m", "m", "m", "1")}
    with pytest.raises(ConfigError, match=message + r".*--allow_other_robot true"):
        check(config, units=units)
    assert re.search(message.rpartition(": ")[2], check(config, units=units, allow_other_robot=True))


def test_what_one_side_does_not_say_is_no_difference():
    assert check(replace(CONFIG, robot=ROBOT)) == ""
    assert (
        check(replace(CONFIG, robot=RobotConfig(state_names=("a", "b", "c"), action_units=("m",) * 4))) == ""
    )
    assert check(replace(CONFIG, robot=ROBOT), robot_type=None, names={}) == ""


def test_another_control_frequency_is_warned_of():
    warned = check(replace(CONFIG, robot=replace(ROBOT, fps=10.0)))
    assert "kitchen runs at 20 Hz, and the policy was trained at 10 Hz" in warned


def test_the_simulators_say_what_they_are():
    (shown,) = opened([Suite("toy", ("left",), 12)], make=make_named, seed=3, workers=1)
    assert shown.names == {"state": ("x", "y", "goal_x", "goal_y")}
