"""Phases and commands of robots, changed and awaited from threads and event loops."""

import asyncio
import threading

import numpy as np
import pytest

from rdvla.control import Desk
from rdvla.errors import InputError


def taken_over(desk: Desk, robot: str = "arm") -> Desk:
    desk.add(robot, action_dim=3)
    desk.change(robot, "correcting")
    return desk


def test_a_robot_begins_autonomous_and_unknown_ones_are():
    desk = Desk()
    desk.add("arm")
    for robot in ("arm", "nobody's"):
        place = desk.look(robot)
        assert (place.phase, place.cause, place.trigger, place.command) == ("autonomous", None, None, None)
    assert desk.robots() == ("arm",)


def test_a_change_says_who_made_it_and_who_ended_autonomy():
    desk = Desk()
    desk.add("arm")
    desk.change("arm", "paused", cause="gate")
    desk.change("arm", "correcting")
    assert (desk.cause("arm"), desk.look("arm").trigger) == ("person", "gate")
    desk.change("arm", "autonomous")
    assert (desk.cause("arm"), desk.look("arm").trigger) == ("person", None)
    desk.change("arm", "paused")
    assert desk.look("arm").trigger == "person"


def test_what_is_not_there_cannot_be_changed():
    desk = Desk()
    desk.add("arm")
    with pytest.raises(InputError, match=r"no robot 'leg'.*'arm'"):
        desk.change("leg", "paused")
    with pytest.raises(InputError, match="'asleep'; it must be one of autonomous, paused, correcting"):
        desk.change("arm", "asleep")
    with pytest.raises(InputError, match="'weather'; it must be one of person, gate"):
        desk.change("arm", "paused", cause="weather")


@pytest.mark.parametrize(
    "action",
    [[1.0, 2.0], [[1.0, 2.0, 3.0]], [0.0, float("nan"), 0.0], [1.0, "left", 0.0], "left", None, [1e60] * 3],
)
def test_only_actions_of_the_robots_form_are_taken(action):
    desk = taken_over(Desk())
    with pytest.raises(InputError):
        desk.steer("arm", action)
    assert desk.command("arm") is None


def test_only_who_has_taken_over_may_drive():
    desk = Desk()
    desk.add("arm")
    for phase in ("autonomous", "paused"):
        desk.change("arm", phase)
        with pytest.raises(InputError, match=f"'arm' is {phase}: take over"):
            desk.steer("arm", [0.0])


def test_a_command_counts_until_it_is_old_or_the_phase_changes():
    now = [100.0]
    desk = taken_over(Desk(command_seconds=0.5, clock=lambda: now[0]))
    desk.steer("arm", [1, 2, 3])
    now[0] += 0.5
    assert desk.command("arm").tolist() == [1, 2, 3]
    desk.steer("arm", [4, 5, 6])
    now[0] += 0.4
    assert desk.command("arm").tolist() == [4, 5, 6]
    now[0] += 0.2
    assert desk.command("arm") is None
    desk.steer("arm", [7, 8, 9])
    desk.change("arm", "correcting")  # it is already: nothing changes
    assert desk.command("arm").tolist() == [7, 8, 9]
    desk.change("arm", "paused")
    assert desk.command("arm") is None
    desk.change("arm", "correcting")
    assert desk.command("arm") is None


def test_a_command_can_be_dropped():
    desk = taken_over(Desk())
    desk.steer("arm", [1, 2, 3])
    desk.drop_command("arm")
    assert (desk.command("arm"), desk.phase("arm")) == (None, "correcting")
    with pytest.raises(InputError, match="no robot 'leg'"):
        desk.drop_command("leg")


def test_a_command_is_the_desks_own_copy():
    desk = taken_over(Desk())
    action = np.ones(3, dtype=np.float32)
    desk.steer("arm", action)
    action[:] = 7
    assert desk.command("arm").tolist() == [1, 1, 1]


def test_a_thread_waits_while_its_robot_is_paused():
    desk = Desk()
    desk.add("arm")
    desk.change("arm", "paused")
    assert desk.wait_while_paused("arm", timeout=0.01) == "paused"
    for release in (lambda: desk.change("arm", "correcting"), lambda: desk.remove("arm")):
        desk.change("arm", "paused")
        found = []
        thread = threading.Thread(target=lambda f=found: f.append(desk.wait_while_paused("arm", timeout=30)))
        thread.start()
        release()
        thread.join(timeout=30)
        assert found == [desk.phase("arm")]


def test_an_event_loop_goes_on_while_a_robot_is_paused():
    desk = Desk()
    desk.add("arm")
    desk.change("arm", "paused")
    ticks = []

    async def tick():
        for number in range(5):
            ticks.append(number)
            await asyncio.sleep(0)
        threading.Thread(target=desk.change, args=("arm", "correcting")).start()

    async def both():
        return await asyncio.gather(asyncio.wait_for(desk.until_going("arm"), timeout=30), tick())

    assert asyncio.run(both())[0] == "correcting"
    assert ticks == [0, 1, 2, 3, 4]


def test_a_robot_that_goes_releases_who_waits_in_an_event_loop():
    desk = Desk()
    desk.add("arm")
    desk.change("arm", "paused")

    async def wait():
        asyncio.get_running_loop().call_later(0.01, desk.remove, "arm")
        return await asyncio.wait_for(desk.until_going("arm"), timeout=30)

    assert asyncio.run(wait()) == "autonomous"


def test_listeners_hear_every_change_until_they_stop():
    desk, heard = Desk(), []
    desk.add("arm")
    stop = desk.listen(lambda robot, place: heard.append((robot, place.phase, desk.phase(robot))))
    desk.change("arm", "paused")
    desk.change("arm", "paused")
    desk.change("arm", "autonomous")
    stop()
    stop()
    desk.change("arm", "paused")
    desk.remove("arm")
    assert heard == [("arm", "paused", "paused"), ("arm", "autonomous", "autonomous")]
