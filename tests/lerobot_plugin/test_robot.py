"""A robot of LeRobot is driven by a real server of rdvla."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdvla.policy.config import RobotConfig
from rdvla_client import PolicyClient
from tests.support.lerobot import SOURCES, needs_lerobot, run_lerobot
from tests.support.policy_server import Close, policy_server
from tests.support.serving import running_server
from tests.support.tiny_models import CONFIG, make_policy

pytestmark = pytest.mark.slow

ROBOT = Path(__file__).parent / "fake_robot.py"
POSITION = (0.1, 0.2, 0.3, 0.4)  # of the robot, which never moves
ACTIONS = ("grip.pos", "x.pos", "y.pos", "z.pos")  # the policy's order is not the robot's
ACTIONS_SENT = 8
NAMES = RobotConfig(fps=20.0, state_names=("y.pos", "x.pos", "z.pos"), action_names=ACTIONS)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_lerobot("lerobot_policy_rdvla")
    folder = tmp_path_factory.mktemp("server") / "policy"
    make_policy(replace(CONFIG, robot=NAMES)).save_pretrained(folder)
    return folder


@pytest.fixture
def server(policy: Path) -> Iterator[str]:
    """A server whose first connection always draws the same noise."""
    with running_server(policy, seed=0) as address:
        yield address


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the robot, installed as LeRobot looks for it."""
    (tmp_path / "lerobot_robot_fake").mkdir()
    shutil.copy(ROBOT, tmp_path / "lerobot_robot_fake/__init__.py")
    (tmp_path / "lerobot_robot_fake-0.1.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: lerobot_robot_fake\nVersion: 0.1\n"
    (tmp_path / "lerobot_robot_fake-0.1.dist-info/METADATA").write_text(metadata)
    return tmp_path


def drive(home: Path, server: str, *options: str, code: int = 0) -> tuple[list[Any], str]:
    """Return what happened to the robot, and what the command printed."""
    log = home / "log.jsonl"
    log.touch()
    printed = run_lerobot(
        "-c", "from lerobot_policy_rdvla.robot import main; main()",
        "--robot.type=fake", f"--robot.log={log}", f"--robot.actions={ACTIONS_SENT}", f"--server={server}",
        *options, home=home, paths=[home, *SOURCES], code=code,
    )  # fmt: skip
    return [json.loads(line) for line in log.read_text().splitlines()], printed


def test_the_robot_gets_the_policys_actions_by_name_and_is_left_alone_afterwards(
    policy: Path, server: str, home: Path
) -> None:
    events, printed = drive(
        home, server, "--rename={wrist: hand}", "--task=push the puck", "--prefetch=false",
        "--execution=fixed:3",
    )  # fmt: skip
    assert (events[0], events[-1]) == ("connected", "disconnected")
    assert f"{ACTIONS_SENT} control steps" in printed
    assert "front as images/front, hand as images/wrist" in printed
    sent = [[action[name] for name in ACTIONS] for action in events[1:-1]]
    assert len(sent) == ACTIONS_SENT

    image = np.arange(32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    x, y, z, _ = POSITION
    message = {
        "images/front": image,
        "images/wrist": image[::-1].copy(),
        "state": np.array([y, x, z], np.float32),
        "prompt": "push the puck",
    }
    with running_server(policy, seed=0) as another, PolicyClient(another) as client:
        chunks = [client.infer(message)["actions"][:3] for _ in range(3)]
    np.testing.assert_allclose(sent, np.concatenate(chunks)[:ACTIONS_SENT], rtol=1e-4, atol=1e-5)


def test_while_there_is_no_action_the_robot_stays_where_it_is(server: str, home: Path) -> None:
    """Its limits allow no change at all, so even the policy's actions leave it there."""
    events, _ = drive(
        home,
        server,
        "--rename={wrist: hand}",
        "--task=push the puck",
        "--largest_change=[1e-6]",
        "--prefetch=false",
    )
    x, y, z, grip = POSITION
    for action in events[1:-1]:
        np.testing.assert_allclose([action[name] for name in ACTIONS], [grip, x, y, z], atol=1e-4)
    assert events[-1] == "disconnected"


def test_without_any_actions_of_the_policy_it_fails_and_says_why(server: str, home: Path) -> None:
    with PolicyClient(server) as client:
        metadata = dict(client.metadata)

    def never(_: Any) -> Any:
        raise Close("too busy for you", 1013)

    with policy_server(never, metadata=metadata) as busy:
        events, printed = drive(home, f"ws://{busy.address}", "--rename={wrist: hand}", "--task=push", code=1)
    assert events[-1] == "disconnected"
    assert "the policy sent no actions, so the robot only held still: " in printed


def test_a_robot_that_is_stopped_before_its_time_was_not_driven_as_asked(server: str, home: Path) -> None:
    _, printed = drive(
        home, server, "--rename={wrist: hand}", "--task=push", "--prefetch=false", "--seconds=600", code=1
    )
    assert re.search(r"stopped by a signal after \d+\.\d of 600 seconds", printed), printed[-500:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--task=push",), "camera 'wrist', and the robot has no 'wrist'.*rename="),
        (("--rename={wrist: hand}",), "the policy needs an instruction.*give --task"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_robot_is_touched(
    server: str, home: Path, options: tuple[str, ...], message: str
) -> None:
    events, printed = drive(home, server, *options, code=1)
    assert events == []
    assert re.search(message, printed), printed[-500:]
