"""The page's server side, spoken to as a browser does: what it tells, whom it lets in, who may drive."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed, InvalidStatus

from rdvla.live.access import same_key
from rdvla.live.page import MOST_STRANGERS, MOST_WATCHERS
from tests.support.live_events import FACTS, NAMES, came, query, went
from tests.support.live_page import Shown


def decode(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


# --- what it tells ---


def test_a_newcomer_is_told_of_every_robot_and_its_history():
    with Shown(title="evaluation of kitchen") as shown:
        shown.add("arm")
        for number in range(40):
            shown.hub.publish(query(number, "arm"))
        shown.hub.publish(came("past"))
        shown.hub.publish(went("past", note="no success in 500 steps"))
        with shown.watch() as watcher:
            assert watcher.hello == {"type": "hello", "title": "evaluation of kitchen", "key_needed": False}
            watcher.until(lambda w: len(w.robots) == 2)
            arm, past = watcher.robots["arm"], watcher.robots["past"]
            assert (arm["connected"], arm["queries"], arm["phase"]) == (True, 40, "autonomous")
            assert arm["instruction"] == "put the red block into the drawer"
            assert (past["connected"], past["note"]) == (False, "no success in 500 steps")
            assert max(watcher.rows["arm"]) == 39
            assert len(watcher.rows["arm"]) < 40  # the overview needs a few
            watcher.send(watch="arm")
            watcher.until(lambda w: len(w.rows["arm"]) == 40)


def test_a_chosen_robot_is_shown_with_cameras_chunks_and_facts():
    with Shown() as shown, shown.watch() as watcher:
        shown.add("arm")
        before, last = query(6, "arm"), query(7, "arm")
        shown.hub.publish(before)
        shown.hub.publish(last)
        watcher.send(watch="arm")
        watcher.until(lambda w: w.shown and w.shown.get("number") == 7)
        told = watcher.shown
        assert list(told["images"]) == ["front", "wrist"]
        difference = decode(told["images"]["front"]).astype(int) - last.images["front"]
        assert np.abs(difference).mean() < 6  # JPEG
        np.testing.assert_allclose(told["actions"], last.actions, rtol=1e-4)
        np.testing.assert_allclose(told["previous"], before.actions, rtol=1e-4)
        assert (told["execute_steps"], told["previous_steps"]) == (4, 4)
        assert told["facts"]["names"] == list(NAMES)
        assert told["facts"]["low"] == [-1] * 7


def test_a_query_is_told_with_its_figures():
    event = query(3, "arm", uncertainty=float("nan"), band=None, ended_by="deadline", batch_size=4)
    with Shown() as shown, shown.watch() as watcher:
        shown.add("arm")
        shown.hub.publish(event)
        watcher.until(lambda w: w.rows.get("arm"))
        serial, number, time, depth, most, ended, uncertainty, band, asked, *times, batch = watcher.rows[
            "arm"
        ][0]
        assert (serial, number, time, depth, most, ended) == (0, 3, event.time, event.depth, 12, "deadline")
        assert (uncertainty, band, batch) == (None, None, 4)  # JSON has no NaN
        assert asked == event.help_requested
        np.testing.assert_allclose(times, list(event.milliseconds.values()), rtol=1e-3)


def test_large_images_are_made_smaller_and_keep_their_shape():
    wide = np.zeros((720, 1280, 3), dtype=np.uint8)
    with Shown() as shown, shown.watch() as watcher:
        shown.add("arm")
        shown.hub.publish(query(0, "arm", images={"wide": wide}))
        watcher.send(watch="arm")
        watcher.until(lambda w: w.shown and "images" in w.shown and w.thumbnails)
        assert decode(watcher.shown["images"]["wide"]).shape == (270, 480, 3)
        assert decode(watcher.thumbnails["arm"]).shape == (54, 96, 3)


def test_what_was_told_is_not_told_again_and_what_is_gone_is_taken_back():
    with Shown() as shown, shown.watch() as watcher:
        shown.add("arm")
        for number in range(3):
            shown.hub.publish(query(number, "arm"))
        watcher.until(lambda w: len(w.rows.get("arm", {})) == 3)
        for number in range(30):
            shown.hub.publish(came(f"episode {number}", time=float(number)))
            shown.hub.publish(went(f"episode {number}", time=float(number)))
        watcher.until(lambda w: "episode 29" in w.robots)
        shown.hub.publish(query(3, "arm"))
        message = watcher.receive()
        while "arm" not in message.get("rows", {}):
            message = watcher.receive()
        assert [row[1] for row in message["rows"]["arm"]] == [3]
        assert "episode 0" not in watcher.robots


def test_no_picture_is_encoded_while_nobody_watches(monkeypatch):
    encoded = []
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda self, *a, **k: encoded.append(1) or save(self, *a, **k))
    with Shown() as shown:
        shown.add("arm")
        for number in range(50):
            shown.hub.publish(query(number, "arm"))
        assert not encoded
        with shown.watch() as watcher:
            watcher.send(watch="arm")
            watcher.until(lambda w: w.shown and "images" in w.shown and w.thumbnails)
            assert 0 < len(encoded) <= 3  # the newest query's two cameras and a thumbnail


def test_two_watchers_share_their_pictures(monkeypatch):
    encoded = []
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda self, *a, **k: encoded.append(1) or save(self, *a, **k))
    with Shown() as shown:
        shown.add("arm")
        shown.hub.publish(query(0, "arm"))
        for _ in range(3):
            with shown.watch() as watcher:
                watcher.send(watch="arm")
                watcher.until(lambda w: w.shown and "images" in w.shown and w.thumbnails)
        assert len(encoded) == 3


def test_a_watcher_that_does_not_read_misses_queries_and_holds_up_nobody():
    """Its socket fills up with pictures of noise; another watcher and the publisher go on."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 480, 480, 3), dtype=np.uint8)
    with Shown() as shown:
        shown.add("arm")
        shown.hub.publish(query(0, "arm"))
        with shown.watch(reads_ahead=False) as sleeper, shown.watch() as other:
            for watcher in (sleeper, other):
                watcher.send(watch="arm")
                watcher.until(lambda w: w.shown and "images" in w.shown)
            for number in range(1, 30):
                cameras = {f"camera {index}": noise[(number + index) % 8].copy() for index in range(4)}
                shown.hub.publish(query(number, "arm", images=cameras))
                other.until(lambda w, number=number: w.shown["number"] >= number)
            sleeper.until(lambda w: w.shown["number"] == 29)
            assert other.pictured == list(range(30))
            assert sleeper.pictured[0] == 0
            assert len(sleeper.pictured) < 30
            assert len(sleeper.rows["arm"]) == 30  # the figures of missed queries come later


# --- whom it lets in ---


def test_the_page_and_its_files_are_served_and_nothing_else():
    with Shown() as shown:
        status, headers, body = shown.fetch("/live")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "'unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        for name in ("app.js", "view.js", "charts.js", "drive.js", "connection.js", "style.css", "icon.svg"):
            status, headers, body = shown.fetch(f"/live/{name}")
            assert status == 200, name
            assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
            assert b"https://" not in body
        for path in ("/live/", "/live/../page.py", "/live/%2e%2e/page.py", "/live/page.html", "/other"):
            assert shown.fetch(path)[0] == 404, path


def test_the_root_of_a_page_of_its_own_leads_to_the_page():
    with Shown() as shown:
        status, _, body = shown.fetch("/")
        assert status == 200
        assert b"rdvla live" in body


@pytest.mark.parametrize("path", ["/live", "/live/socket"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1"])
def test_pages_of_other_origins_are_refused(path, origin):
    with Shown() as shown:
        assert shown.fetch(path, Origin=origin)[0] == 403
        with pytest.raises(InvalidStatus, match="403"):
            shown.watch(origin=origin)


def test_its_own_origin_and_named_ones_are_let_in():
    with Shown(origins=("https://robots.example",)) as shown:
        for origin in (shown.server.address.removesuffix("/live"), "https://robots.example", None):
            with shown.watch(origin=origin) as watcher:
                assert watcher.hello["type"] == "hello"


def test_without_a_key_a_stranger_cannot_point_a_name_of_theirs_here():
    """DNS rebinding: Origin and Host agree, and the name is not ours."""
    with Shown() as shown:
        headers = {"Host": "evil.example:80", "Origin": "http://evil.example:80"}
        assert shown.fetch("/live", **headers)[0] == 403
        assert shown.fetch("/live", Host="localhost:80")[0] == 200
    with Shown("secret") as shown:  # the key keeps them out
        assert shown.fetch("/live", **headers)[0] == 200


def test_a_key_opens_the_page_and_a_wrong_one_does_not():
    with Shown("secret") as shown:
        shown.add("arm")
        with shown.watch(key="secret") as watcher:
            assert watcher.hello["key_needed"]
            watcher.until(lambda w: "arm" in w.robots)
        for wrong in ("Secret", "\ud800"):
            with shown.watch() as watcher:
                watcher.send(key=wrong)
                with pytest.raises(ConnectionClosed) as closed:
                    watcher.receive()
                assert closed.value.rcvd.code == 1008
        with shown.watch() as watcher:
            watcher.send(watch="arm")  # no key at all
            with pytest.raises(ConnectionClosed):
                watcher.receive()


def test_only_the_key_itself_is_right():
    assert same_key("schlüssel", "schlüssel")
    for wrong in ("Secret", "", 3, None, ["secret"], "\ud800", "secre\ud800"):
        assert not same_key(wrong, "secret")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"watch"', "x" * 30_000, "[" * 9000, b"\x00"])
def test_nonsense_is_answered_or_ends_the_connection_and_others_go_on(text):
    with Shown() as shown, shown.watch() as watcher, shown.watch() as other:
        watcher.socket.send(text)
        try:
            watcher.until(lambda w: w.errors)
        except ConnectionClosed as closed:
            assert closed.rcvd.code == 1009
        shown.add("arm")
        other.until(lambda w: "arm" in w.robots)


def test_more_watchers_than_the_page_takes_are_told_to_come_later():
    with Shown() as shown:
        watchers = [shown.watch() for _ in range(MOST_WATCHERS)]
        with pytest.raises(ConnectionClosed) as closed:
            shown.watch().receive()
        assert closed.value.rcvd.code == 1013
        for watcher in watchers:
            watcher.close()


def test_strangers_keep_nobody_away_who_has_the_key():
    with Shown("secret") as shown:
        shown.add("arm")
        strangers = [shown.watch() for _ in range(MOST_WATCHERS + MOST_STRANGERS)]
        with shown.watch(key="secret") as watcher:
            watcher.until(lambda w: "arm" in w.robots)
            assert shown.page.watchers == 1
            with pytest.raises(ConnectionClosed):
                strangers[0].receive()  # the oldest have made room
        for stranger in strangers:
            stranger.close()


def test_watchers_are_told_the_farewell():
    with Shown() as shown:
        watcher = shown.watch()
    with pytest.raises(ConnectionClosed) as closed:
        watcher.receive()
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "that was all")


# --- who may drive ---


def test_a_person_pauses_a_robot_and_lets_it_go_on():
    with Shown() as shown, shown.watch() as watcher:
        shown.add("arm")
        for phase in ("paused", "autonomous"):
            watcher.send(robot="arm", phase=phase)
            watcher.until(lambda w, phase=phase: w.robots.get("arm", {}).get("phase") == phase)
            assert shown.desk.phase("arm") == phase


def test_what_others_change_at_the_desk_is_shown():
    with Shown() as shown, shown.watch() as watcher:
        shown.add("arm")
        shown.desk.change("arm", "paused", cause="gate")
        watcher.until(lambda w: w.robots.get("arm", {}).get("phase") == "paused")
        assert watcher.robots["arm"]["cause"] == "gate"


def test_one_person_drives_and_the_actions_stay_in_the_robots_range():
    with Shown() as shown, shown.watch() as first, shown.watch() as second:
        shown.add("arm")
        first.send(robot="arm", phase="correcting")
        first.until(lambda w: w.robots.get("arm", {}).get("driver") == "you")
        second.until(lambda w: w.robots.get("arm", {}).get("driver") == "another")
        second.send(robot="arm", steer=[0.1] * 7)
        second.until(lambda w: w.errors)
        assert "you do not drive 'arm'" in second.errors[0]
        seen = []
        shown.desk.steer = lambda robot, action: seen.append((robot, action))
        first.send(robot="arm", steer=[0.5, -7, 7, 0, 0, 0, 1])
        first.send(robot="arm", steer=[0.5])
        first.until(lambda w: w.errors)
        assert seen == [("arm", [0.5, -1, 1, 0, 0, 0, 1])]
        assert "steer has length 1, an action of the robot 7" in first.errors[0]
        second.send(robot="arm", phase="correcting")
        second.until(lambda w: w.robots["arm"]["driver"] == "you")
        first.until(lambda w: w.robots["arm"]["driver"] == "another")


def test_a_robot_whose_driver_goes_is_paused():
    with Shown() as shown, shown.watch() as other:
        shown.add("arm")
        with shown.watch() as driver:
            driver.send(robot="arm", phase="correcting")
            driver.until(lambda w: w.robots.get("arm", {}).get("driver") == "you")
        other.until(lambda w: w.robots.get("arm", {}).get("phase") == "paused")
        assert shown.desk.phase("arm") == "paused"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"robot": "nobody", "phase": "paused"}, "there is no robot 'nobody'"),
        ({"robot": "arm", "phase": "flying"}, "phase is 'flying'; it must be one of"),
        ({"robot": "arm", "phase": ["paused"]}, "phase is"),
        ({"robot": 3, "phase": "paused"}, "names no robot"),
        ({"robot": "arm", "steer": [0.0] * 7}, "you do not drive 'arm'"),
        ({"robot": "arm", "steer": "fast"}, "steer must be a list of numbers"),
        ({"robot": "arm", "steer": [True] * 7}, "steer must be a list of numbers"),
        ({"robot": "fixed", "phase": "correcting"}, "'fixed' cannot be driven from here"),
        ({"robot": "unknown", "phase": "correcting"}, "'unknown' cannot be driven from here"),
    ],
)
def test_what_cannot_be_done_is_said(message, told):
    with Shown() as shown, shown.watch() as watcher:
        shown.add("arm")
        shown.add("fixed", facts=dataclasses.replace(FACTS, drivable=False))
        shown.add("unknown", facts=dataclasses.replace(FACTS, action_low=(), action_high=()))
        watcher.send(**message)
        watcher.until(lambda w: w.errors)
        assert told in watcher.errors[0]
        assert shown.desk.phase("arm") == "autonomous"
