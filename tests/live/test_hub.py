"""The hub: what it keeps of robots, and that nobody who publishes waits for somebody who watches."""

import threading
import time

import numpy as np

from rdvla.live import Hub, StepEvent
from tests.support.live_events import FACTS, came, picture, query, went


def test_a_robot_is_known_from_its_first_query_on():
    hub = Hub()
    hub.publish(query(0, "arm"))
    view = hub.robots()["arm"]
    assert view.state.connected
    assert view.queries == 1
    assert view.last.number == 0
    assert view.before is None


def test_what_was_said_of_a_robot_stays_until_it_is_said_anew():
    hub = Hub()
    hub.publish(came("arm", facts=FACTS))
    hub.publish(came("arm", facts=None, phase="paused"))
    view = hub.robots()["arm"]
    assert view.facts == FACTS
    assert view.state.phase == "paused"


def test_the_chunk_before_belongs_to_the_same_episode():
    hub = Hub()
    for number in (0, 1, 2, 0):
        hub.publish(query(number, "arm"))
        view = hub.robots()["arm"]
        expected = None if number == 0 else number - 1
        assert (None if view.before is None else view.before.number) == expected
    assert [row.serial for row in view.rows] == [0, 1, 2, 3]
    assert [row.number for row in view.rows] == [0, 1, 2, 0]


def test_histories_are_bounded_and_the_newest_stay():
    hub = Hub(history=5)
    for number in range(12):
        hub.publish(query(number, "arm"))
    view = hub.robots()["arm"]
    assert [row.number for row in view.rows] == [7, 8, 9, 10, 11]
    assert view.queries == 12


def test_robots_that_went_are_forgotten_oldest_first_and_running_ones_never():
    hub = Hub(gone=3)
    hub.publish(came("stays", time=0.0))
    for number in range(20):
        hub.publish(came(f"episode {number}", time=float(number)))
        hub.publish(went(f"episode {number}", time=float(number)))
    assert list(hub.robots()) == ["stays", "episode 17", "episode 18", "episode 19"]
    assert not hub.robots()["episode 19"].state.connected


def test_a_robot_that_comes_again_begins_afresh():
    hub = Hub()
    hub.publish(came("arm"))
    hub.publish(query(0, "arm"))
    hub.publish(went("arm"))
    hub.publish(came("arm"))
    assert hub.robots()["arm"].queries == 0


def test_a_watcher_sees_every_event_in_order_and_first_who_is_there():
    hub = Hub()
    hub.publish(came("arm"))
    with hub.watch() as watcher:
        for number in range(5):
            hub.publish(query(number, "arm"))
        events = [watcher.next(timeout=5) for _ in range(6)]
        assert events[0].connected
        assert [event.number for event in events[1:]] == [0, 1, 2, 3, 4]
        assert watcher.next(timeout=0) is None
    hub.publish(query(5, "arm"))
    assert watcher.next(timeout=0) is None


def test_a_watcher_that_sleeps_loses_the_oldest_events_and_holds_up_nobody():
    hub = Hub()
    with hub.watch(capacity=10) as sleeper, hub.watch(capacity=1000) as other:
        for number in range(300):
            hub.publish(query(number, "arm"))
        assert sleeper.dropped == 290
        assert [sleeper.next(timeout=5).number for _ in range(10)] == list(range(290, 300))
        assert [other.next(timeout=5).number for _ in range(300)] == list(range(300))
        assert other.dropped == 0


def test_closing_a_watcher_wakes_the_thread_that_waits_for_it():
    hub = Hub()
    watcher = hub.watch()
    found = []
    waiting = threading.Thread(target=lambda: found.append(watcher.next(timeout=60)))
    waiting.start()
    watcher.close()
    waiting.join(30)
    assert found == [None]


def test_many_threads_publish_at_once_and_nothing_is_lost():
    hub = Hub()
    version = hub.version

    def publish(robot):
        for number in range(200):
            hub.publish(query(number, robot) if number else came(robot))

    threads = [threading.Thread(target=publish, args=(f"arm {index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    for thread in threads:
        thread.join(deadline - time.monotonic())
    assert hub.version == version + 800
    assert [view.queries for view in hub.robots().values()] == [199] * 4


def test_steps_of_a_person_renew_what_a_robot_shows_and_are_no_queries():
    hub = Hub()
    hub.publish(StepEvent("arm", 1e9, {"front": picture(3)}, np.ones(8, np.float32)))  # nobody knows it yet
    assert hub.robots() == {}
    hub.publish(came())
    hub.publish(query(0))
    for number in (5, 6):
        hub.publish(
            StepEvent("arm", 1e9 + number, {"front": picture(number)}, np.full(8, number, np.float32))
        )
    view = hub.robots()["arm"]
    assert (view.queries, view.steps, len(view.rows)) == (1, 2, 1)
    assert view.last.state.tolist() == [6] * 8
    assert (view.last.images["front"] == picture(6)).all()
    assert view.last.actions.tolist() == query(0).actions.tolist()
