"""Several people at several robots: whose command counts, and what is left when one goes."""

import pytest

from rdvla.control import Desk
from rdvla.live import Hub
from rdvla.live.driving import Driving
from tests.support.live_events import came


class GoingDesk(Desk):
    """A desk whose robot `going` goes as soon as somebody wants to pause it."""

    going = ""

    def change(self, robot, phase, **options):
        if robot == self.going and phase == "paused":
            self.remove(robot)
        super().change(robot, phase, **options)


@pytest.fixture
def hub():
    return Hub()


def add(hub, desk, *robots):
    for robot in robots:
        desk.add(robot, action_dim=7)
        hub.publish(came(robot))


def test_who_takes_over_does_not_inherit_the_last_drivers_command(hub):
    desk = Desk()
    driving = Driving(hub, desk)
    add(hub, desk, "arm")
    take_over = {"robot": "arm", "phase": "correcting"}
    driving.take("first", take_over)
    driving.take("first", {"robot": "arm", "steer": [0.5] * 7})
    driving.take("first", take_over)  # drives already: the command stays
    assert desk.command("arm").tolist() == [0.5] * 7
    driving.take("second", take_over)
    assert desk.command("arm") is None
    assert (driving.driver("arm", "second"), driving.driver("arm", "first")) == ("you", "another")
    driving.take("second", {"robot": "arm", "steer": [0.25] * 7})
    assert desk.command("arm").tolist() == [0.25] * 7


def test_all_robots_of_a_driver_who_leaves_are_paused_even_if_one_goes_meanwhile(hub):
    desk = GoingDesk()
    driving = Driving(hub, desk)
    add(hub, desk, "left", "middle", "right")
    for robot in ("left", "middle", "right"):
        driving.take("driver", {"robot": robot, "phase": "correcting"})
    desk.going = "left"
    driving.leave("driver")
    assert [desk.phase(robot) for robot in ("middle", "right")] == ["paused", "paused"]
    assert desk.robots() == ("middle", "right")


def test_a_robot_that_comes_again_has_no_driver(hub):
    desk = Desk()
    driving = Driving(hub, desk)
    add(hub, desk, "arm")
    driving.take("driver", {"robot": "arm", "phase": "correcting"})
    desk.remove("arm")
    add(hub, desk, "arm")
    desk.change("arm", "correcting", cause="gate")
    assert driving.driver("arm", "driver") is None
