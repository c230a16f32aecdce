"""The live page's side: every query is told, and a person can hold a robot back or drive it."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

pytest.importorskip("openpi_client")

import websockets.sync.client as websocket
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed

from rdvla.control import Desk
from rdvla.errors import ConfigError
from rdvla.live.events import QueryEvent, RobotEvent
from rdvla.serving import Endpoint, ServeConfig
from rdvla.serving.loading import load_policy
from tests.support.serving import DoublePolicy, make_facts, make_message, open_server, wait_until


class Kept:
    """A hub that keeps every event."""

    def __init__(self) -> None:
        self.events: list = []

    def publish(self, event) -> None:
        self.events.append(event)

    @property
    def queries(self) -> list[QueryEvent]:
        return [event for event in self.events if isinstance(event, QueryEvent)]


class Asking(threading.Thread):
    """Asks in a thread, for what a person holds back."""

    def __init__(self, client: WebsocketClientPolicy) -> None:
        super().__init__(daemon=True)
        self.client, self.reply, self.failure = client, None, None
        self.start()

    def run(self) -> None:
        try:
            self.reply = self.client.infer(make_message())
        except ConnectionClosed as error:
            self.failure = error

    def result(self) -> dict:
        self.join(20)
        assert self.reply is not None
        return self.reply


def test_every_query_is_told_with_what_it_saw():
    hub = Kept()
    with open_server(hub=hub) as server:
        client = WebsocketClientPolicy(server.address)
        message = make_message()
        client.infer(message)
        client.infer(message)
        client.infer(make_message(prompt="open the drawer"))
    came, *queries, went = hub.events
    assert isinstance(came, RobotEvent)
    assert came.connected
    assert isinstance(went, RobotEvent)
    assert not went.connected
    assert {event.robot for event in hub.events} == {"robot-0"}
    assert [query.number for query in queries] == [0, 1, 0]
    first = queries[0]
    np.testing.assert_array_equal(first.images["front"], message["images/front"])
    np.testing.assert_array_equal(first.state, message["state"])
    np.testing.assert_array_equal(first.actions[:, 0], [3, 4, 5, 6])
    assert (first.instruction, first.depth, first.max_depth) == ("push the puck", 4, 4)
    assert (first.execute_steps, first.ended_by, first.phase) == (2, "converged", "autonomous")
    assert set(first.milliseconds) == {"waiting", "inference", "total"}


def test_a_paused_robot_gets_its_reply_when_it_goes_on():
    hub, desk = Kept(), Desk()
    with open_server(hub=hub, desk=desk) as server:
        client, other = WebsocketClientPolicy(server.address), WebsocketClientPolicy(server.address)
        assert wait_until(lambda: len(hub.events) == 2)
        desk.change("robot-0", "paused")
        asking = Asking(client)
        assert wait_until(lambda: hub.queries)
        assert hub.queries[0].phase == "paused"
        assert other.infer(make_message())["phase"] == "autonomous"  # nobody else waits
        assert asking.reply is None
        desk.change("robot-0", "autonomous")
        assert asking.result()["phase"] == "autonomous"


def test_a_desk_holds_robots_back_without_a_hub_too():
    desk = Desk()
    with open_server(desk=desk) as server:
        client = WebsocketClientPolicy(server.address)
        client.infer(make_message())
        desk.change("robot-0", "paused")
        asking = Asking(client)
        asking.join(0.3)
        assert asking.reply is None
        desk.change("robot-0", "autonomous")
        assert asking.result()["depth"] == 4


def test_whoever_drives_a_robot_decides_its_only_action():
    hub, desk, double = Kept(), Desk(), DoublePolicy(make_facts(start="final"))
    with open_server(double, hub=hub, desk=desk) as server:
        client = WebsocketClientPolicy(server.address)
        client.infer(make_message())
        client.infer(make_message())
        desk.change("robot-0", "correcting")
        asking = Asking(client)
        assert wait_until(lambda: len(hub.queries) == 3)
        assert asking.reply is None  # until the person says what to do
        desk.steer("robot-0", [0.5, -0.5, 1.0])
        driven = asking.result()
        np.testing.assert_array_equal(driven["actions"], np.float32([[0.5, -0.5, 1.0]]))
        assert (driven["execute_steps"], driven["phase"]) == (1, "correcting")
        desk.change("robot-0", "autonomous")
        after = client.infer(make_message())
    assert (after["actions"].shape, after["phase"]) == ((4, 3), "autonomous")
    # After a person has driven, the policy does not go on from its own last state.
    assert [float(query.initial_state[0, 0]) for query in double.asked[1:]] == [0, 1, 2, 0]


def lose(client: WebsocketClientPolicy) -> None:
    """Break a connection as a robot does that fails: without a word."""
    client._ws.socket.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("phase", ["paused", "correcting"])
def test_a_held_robot_that_lost_its_connection_comes_back_paused(phase):
    hub, desk = Kept(), Desk()
    with open_server(hub=hub, desk=desk) as server:
        client = WebsocketClientPolicy(server.address)
        client.infer(make_message())
        desk.change("robot-0", phase)
        lose(client)
        assert wait_until(lambda: not desk.robots())
        asking = Asking(WebsocketClientPolicy(server.address))
        assert wait_until(lambda: len(hub.queries) == 2)
        place = desk.look("robot-1")
        assert (place.phase, place.cause, asking.reply) == ("paused", "person", None)
        came = [event for event in hub.events if isinstance(event, RobotEvent) and event.connected]
        assert [event.note for event in came] == ["", "its connection was lost while it was held"]
        # One place is held for one robot that was lost.
        assert WebsocketClientPolicy(server.address).infer(make_message())["phase"] == "autonomous"
        desk.change("robot-1", "autonomous")
        assert asking.result()["phase"] == "autonomous"


def test_a_robot_is_not_held_because_another_one_was_let_go_on_or_asks_another_policy():
    desk = Desk()
    policies = [DoublePolicy(make_facts(name="one")), DoublePolicy(make_facts(name="two"))]
    with open_server(policies, desk=desk) as server:
        lost, going = WebsocketClientPolicy(server.address), WebsocketClientPolicy(server.address)
        assert wait_until(lambda: len(desk.robots()) == 2)
        desk.change("robot-0", "paused")
        desk.change("robot-1", "paused")
        desk.change("robot-1", "autonomous")
        lose(lost)
        lose(going)
        assert wait_until(lambda: not desk.robots())
        other = WebsocketClientPolicy(f"{server.address}/two")
        assert other.infer(make_message())["phase"] == "autonomous"
        clients = [WebsocketClientPolicy(server.address) for _ in range(2)]
        assert wait_until(lambda: len(desk.robots()) == 3)
        assert [desk.phase(f"robot-{number}") for number in (3, 4)] == ["paused", "autonomous"]
        del clients


def test_a_robot_is_held_although_its_old_connection_has_not_gone_yet():
    desk = Desk()
    with open_server(desk=desk) as server, socket.create_connection(("127.0.0.1", server.port)) as silent:
        # It answers no ping, as if its network were broken.
        silent.sendall(
            b"GET / HTTP/1.1\r\nHost: robot\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert wait_until(lambda: desk.robots() == ("robot-0",))
        desk.change("robot-0", "paused")
        client = WebsocketClientPolicy(server.address)
        assert wait_until(lambda: desk.robots() == ("robot-1",))
        assert desk.phase("robot-1") == "paused"
        del client


def test_a_paused_robot_does_not_keep_the_server_from_stopping():
    hub, desk = Kept(), Desk()
    with open_server(hub=hub, desk=desk, grace_seconds=0.2) as server:
        client = WebsocketClientPolicy(server.address)
        assert wait_until(lambda: hub.events)
        desk.change("robot-0", "paused")
        asking = Asking(client)
        assert wait_until(lambda: hub.queries)
    asking.join(20)
    assert isinstance(asking.failure, ConnectionClosed)


def test_the_live_page_is_on_the_same_port(monkeypatch):
    monkeypatch.setenv("RDVLA_API_KEY", "correct-horse")
    with open_server(live=True) as server:
        page = server.address.replace("ws", "http", 1)
        with urllib.request.urlopen(f"{page}/live", timeout=20) as answer:
            assert b"<html" in answer.read()
        assert f"live page: {page}/live" in server.greeting()
        client = WebsocketClientPolicy(server.address, api_key="correct-horse")
        client.infer(make_message())
        with websocket.connect(f"{server.address}/live/socket") as watcher:
            assert json.loads(watcher.recv(timeout=20))["key_needed"]
            watcher.send(json.dumps({"key": "correct-horse"}))
            news = json.loads(watcher.recv(timeout=20))
            assert [robot["robot"] for robot in news["robots"]] == ["robot-0"]
            assert not news["robots"][0]["drivable"]
            watcher.send(json.dumps({"robot": "robot-0", "phase": "paused"}))
            asking = Asking(client)
            while not any(robot["phase"] == "paused" for robot in news["robots"]):
                news = json.loads(watcher.recv(timeout=20))
            watcher.send(json.dumps({"robot": "robot-0", "phase": "autonomous"}))
            assert asking.result()["phase"] == "autonomous"


def test_without_the_option_there_is_no_live_page():
    with open_server() as server:
        with pytest.raises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(f"{server.address.replace('ws', 'http', 1)}/live", timeout=20)
        with missing.value:  # unread, it would keep its connection open
            assert missing.value.code == 404


def test_robots_are_driven_only_where_that_was_said_and_can_be_done():
    told = {drive: load_policy_facts(drive) for drive in ("no", "motion", "position")}
    assert [facts.drivable for facts in told.values()] == [False, True, True]
    assert told["motion"].action_held == (False, False, False, True)  # its gripper stays
    assert told["position"].action_held == (True,) * 4
    assert (told["motion"].action_low[3], told["motion"].action_high[3]) == (-1.0, 1.0)
    double = DoublePolicy()
    with pytest.raises(ConfigError, match="drive needs the range of the actions"):
        Endpoint.of(double, double, ServeConfig(policy="x", live=True, drive="motion"))
    with pytest.raises(ConfigError, match="drive needs the live page"):
        ServeConfig(policy="x", drive="motion")


def load_policy_facts(drive):
    policy = load_policy("metaworld", name="metaworld")
    config = ServeConfig(policy="metaworld", live=True, drive=drive)
    return Endpoint.of(policy.front(), DoublePolicy(), config).robot
