"""The live page in a real Chromium: what a person sees there and does."""

import time

import pytest

pytest.importorskip("websockets")

from tests.support.chromium import browser, find_chromium
from tests.support.live_events import NAMES, came, query, went
from tests.support.live_page import Shown

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>&lt;b&gt; "\' ${1} {{7*7}} '


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    find_chromium()
    with browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(autouse=True)
def _fresh(tab):
    tab.size(1360, 900)
    tab.messages.clear()
    tab.requests.clear()
    yield
    tab.open("about:blank")


@pytest.fixture
def shown():
    with Shown(title="evaluation of kitchen") as one:
        yield one


def fill(shown, robot="arm", *, queries=40, **changes):
    shown.add(robot)
    for number in range(queries):
        shown.hub.publish(query(number, robot, **changes))


def coloured(tab, canvas):
    """Share of a canvas's pixels that are drawn."""
    return tab.evaluate(
        f"(() => {{ const one = document.querySelector('{canvas}');"
        "const all = one.getContext('2d').getImageData(0, 0, one.width, one.height).data;"
        "let drawn = 0; for (let i = 3; i < all.length; i += 4) drawn += all[i] > 0;"
        "return drawn / (all.length / 4); })()"
    )


def phase(tab, expected):
    tab.wait_for(f"document.getElementById('phase').dataset.phase === '{expected}'")


def test_a_query_is_shown_with_all_that_it_saw_and_decided(tab, shown):
    fill(shown)
    last = query(39, "arm")
    tab.open(shown.server.address)
    tab.wait_for("document.querySelectorAll('#chunk canvas').length === 7")
    assert tab.text("#instruction") == "put the red block into the drawer"
    assert tab.text("#title") == "evaluation of kitchen"
    assert "arm" in tab.text("#who")
    assert "query 39" in tab.text("#who")
    assert tab.text("#depth-now") == f"{last.depth} of 12"
    assert tab.text("#batch-now") == str(last.batch_size)
    assert tab.evaluate("[...document.querySelectorAll('#chunk b')].map(b => b.innerText)") == list(NAMES)
    cameras = "[...document.querySelectorAll('#cameras img')]"
    tab.wait_for(f"{cameras}.every(image => image.naturalWidth === 128)")
    assert tab.evaluate(f"{cameras}.map(image => image.alt)") == ["camera front", "camera wrist"]
    for canvas in ("#depth-chart", "#uncertainty-chart", "#latency-chart", "#chunk canvas", "#robots canvas"):
        assert coloured(tab, canvas) > 0.005, canvas
    label = tab.evaluate("document.getElementById('depth-chart').getAttribute('aria-label')")
    assert f"depth {last.depth} of 12, converged" in label
    tab.click("#table summary")
    tab.wait_for("document.querySelectorAll('#table tbody tr').length === 12")
    assert tab.text("#table tbody tr").startswith("39")
    assert not tab.messages


def test_nothing_is_loaded_from_elsewhere(tab, shown):
    fill(shown)
    tab.open(shown.server.address)
    tab.wait_for("document.querySelectorAll('#cameras img').length === 2")
    assert tab.requests
    home = shown.server.address
    assert all(url == home or url.startswith(f"{home}/") for url in tab.requests)


def test_before_the_first_robot_the_page_says_what_will_come(tab, shown):
    tab.open(shown.server.address)
    tab.wait_for("!document.getElementById('empty').hidden")
    assert "No robot yet" in tab.text()
    fill(shown)
    tab.wait_for("document.getElementById('empty').hidden && !document.getElementById('layout').hidden")


def test_texts_of_strangers_stay_texts(tab, shown):
    image = query(0).images["front"]
    shown.add(f"robot {HOSTILE}", policy=f"policy {HOSTILE}")
    shown.hub.publish(
        query(
            0, f"robot {HOSTILE}", instruction=HOSTILE, images={f"camera {HOSTILE}": image}, ended_by=HOSTILE
        )
    )
    shown.hub.publish(came("past"))
    shown.hub.publish(query(0, "past"))
    shown.hub.publish(went("past", note=f"ended {HOSTILE}"))
    tab.open(shown.server.address)
    tab.wait_for("document.querySelectorAll('#cameras img').length === 1")
    tab.click("#table summary")
    tab.wait_for("document.querySelectorAll('#table tbody tr').length === 1")
    words = " ".join(HOSTILE.split())
    assert tab.text("#instruction") == words
    for selector in ("#who", "#robots", "#cameras figcaption", "#depth-text", "#table tbody"):
        assert words in tab.text(selector), selector
    assert f"ended {words}" in tab.text("#robots")
    assert tab.evaluate("document.querySelectorAll('script').length") == 1
    assert tab.evaluate("window.hacked === undefined")
    assert not tab.messages


def test_markup_that_got_in_would_not_run(tab, shown):
    """The second line of defence: the page's content security policy."""
    fill(shown)
    tab.open(shown.server.address)
    tab.wait_for("document.querySelectorAll('#cameras img').length === 2")
    tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')")
    tab.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    deadline = time.monotonic() + 30
    while len(tab.messages) < 2 and time.monotonic() < deadline:
        tab.evaluate("1")
    assert tab.evaluate("window.hacked === undefined")
    assert any("Content Security Policy" in message for message in tab.messages)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 768, 1360])
def test_nothing_is_wider_than_the_screen(tab, shown, width, dark):
    fill(shown, "a robot with a name of which each word is long: " + "incomprehensibilities" * 3)
    fill(shown, "arm", instruction="put " + "thereddestofallblocks" * 8 + " away")
    tab.size(width, 844, mobile=width < 500, dark=dark)
    tab.open(shown.server.address)
    tab.wait_for("document.querySelectorAll('#chunk canvas').length === 7")
    tab.click("button[data-phase=correcting]")
    tab.wait_for("!document.getElementById('drive').hidden")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (not dark)
    assert not tab.messages


@pytest.mark.parametrize(
    ("farewell", "state", "told"),
    [
        ("", "lost", "connection lost, trying again"),
        ("this evaluation has ended", "ended", "this evaluation has ended"),
    ],
)
def test_a_lost_connection_is_said_and_found_again(tab, farewell, state, told):
    with Shown(farewell=farewell) as first:
        fill(first)
        address, port = first.server.address, int(first.server.address.split(":")[2].split("/")[0])
        tab.open(address)
        tab.wait_for("document.getElementById('connection').dataset.state === 'live'")
        tab.wait_for("document.querySelectorAll('#cameras img').length === 2")
    tab.wait_for(f"document.getElementById('connection').dataset.state === '{state}'")
    assert tab.text("#connection") == told
    assert tab.evaluate("document.querySelector('button[data-phase=paused]').disabled")
    deadline = time.monotonic() + 30
    while not tab.messages and time.monotonic() < deadline:  # it tries, and Chromium tells the console
        tab.evaluate("1")
    assert tab.text("#connection") == told
    with Shown(port=port) as second:
        fill(second, "another arm", instruction="close the drawer")
        tab.wait_for("document.getElementById('instruction').innerText === 'close the drawer'")
        assert tab.text("#connection") == "live"
        assert tab.evaluate("document.querySelectorAll('#robots li').length") == 1


def test_the_page_asks_for_the_key(tab):
    with Shown("open sesame") as shown:
        fill(shown)
        tab.open(shown.server.address)
        tab.wait_for("!document.getElementById('key').hidden")
        for key in ("abracadabra", "open sesame"):
            tab.wait_for("document.activeElement.id === 'key-value'")
            tab.call("Input.insertText", text=key)
            tab.click("#key button")
            if key == "abracadabra":
                tab.wait_for("document.getElementById('key-problem').innerText.includes('refused')")
        tab.wait_for("document.querySelectorAll('#cameras img').length === 2")
        tab.open(shown.server.address)  # the tab remembers it
        tab.wait_for("document.querySelectorAll('#cameras img').length === 2")
        assert tab.evaluate("document.getElementById('key').hidden")


def test_a_person_pauses_drives_and_gives_back(tab, shown):
    commands = []
    steer = shown.desk.steer
    shown.desk.steer = lambda robot, action: (commands.append(list(action)), steer(robot, action))
    fill(shown)
    tab.open(shown.server.address)
    tab.wait_for("document.querySelectorAll('#chunk canvas').length === 7")
    tab.click("button[data-phase=paused]")
    phase(tab, "paused")
    assert shown.desk.phase("arm") == "paused"
    tab.click("button[data-phase=correcting]")
    tab.wait_for("!document.getElementById('drive').hidden")

    def commanded(dimension, value):
        deadline = time.monotonic() + 30
        while not commands or abs(commands[-1][dimension] - value) > 1e-6:
            assert time.monotonic() < deadline, commands[-1:]
            time.sleep(0.02)

    for code, dimension, value in (("KeyD", 0, 0.5), ("KeyS", 1, -0.5), ("ArrowUp", 6, 1.0)):
        tab.key(code, down=True)
        commanded(dimension, value)
        tab.key(code, down=False)
        commanded(dimension, value if dimension == 6 else 0.0)  # the gripper stays
    assert all(abs(number) <= 1 for command in commands for number in command)
    tab.click("#drive input[value='1']")
    x, y = tab.evaluate(
        "(() => { const box = document.querySelector('[aria-label=\"less z\"]').getBoundingClientRect();"
        "return [box.x + 5, box.y + 5]; })()"
    )
    tab.mouse("mousePressed", x, y)
    commanded(2, -1.0)
    tab.mouse("mouseReleased", x, y)
    commanded(2, 0.0)
    tab.click("#go-on")
    phase(tab, "autonomous")
    assert shown.desk.phase("arm") == "autonomous"
    assert tab.evaluate("document.getElementById('drive').hidden")
    assert tab.evaluate("document.getElementById('problem').hidden")
    assert not tab.messages


def test_no_key_stays_pressed_after_its_release(tab, shown):
    commands = []
    shown.desk.steer = lambda robot, action: commands.append(list(action))
    fill(shown)
    tab.open(shown.server.address)
    tab.wait_for("document.querySelectorAll('#chunk canvas').length === 7")
    tab.click("button[data-phase=correcting]")
    tab.wait_for("!document.getElementById('drive').hidden")

    def moves(expected):
        deadline = time.monotonic() + 30
        while not commands or (commands[-1][0] != 0) != expected:
            assert time.monotonic() < deadline, commands[-1:]
            time.sleep(0.02)

    # Ctrl goes down between press and release of a key; its press alone ends the movement.
    tab.key("KeyD", down=True)
    moves(True)
    tab.key("ControlLeft", down=True, control=True)
    moves(False)
    tab.key("KeyD", down=False, control=True)
    tab.key("ControlLeft", down=False)

    # The key goes up while Ctrl is held, of whose press the page was not told.
    tab.key("KeyD", down=True)
    moves(True)
    tab.key("KeyD", down=False, control=True)
    moves(False)

    # The key goes up in a field for text.
    tab.evaluate("document.body.append(document.createElement('input')); 1")
    tab.key("KeyD", down=True)
    moves(True)
    tab.evaluate("document.querySelector('body > input').focus(); 1")
    tab.key("KeyD", down=False)
    moves(False)

    for event in (
        "window.dispatchEvent(new Event('blur'))",
        "document.dispatchEvent(new Event('visibilitychange'))",
    ):
        tab.evaluate("document.activeElement.blur(); 1")
        tab.key("KeyD", down=True)
        moves(True)
        tab.evaluate(f"{event}; 1")
        moves(False)
        tab.key("KeyD", down=False)


def test_a_gamepad_drives(tab, shown):
    commands = []
    shown.desk.steer = lambda robot, action: commands.append(list(action))
    fill(shown)
    tab.open(shown.server.address)
    tab.wait_for("document.querySelectorAll('#chunk canvas').length === 7")
    tab.evaluate(
        "navigator.getGamepads = () => [{ id: 'pad', mapping: 'standard', axes: [0.05, -1, 0, 0],"
        "buttons: Array.from({ length: 16 }, (_, at) => ({ value: at === 5 ? 1 : 0 })) }]; 1"
    )
    tab.click("button[data-phase=correcting]")
    tab.wait_for("document.getElementById('drive').innerText.includes('Gamepad: pad')")
    deadline = time.monotonic() + 30
    while (not commands or commands[-1][6] < 1) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert commands[-1] == [0, 0.5, 0, 0, 0, 0, 1]  # a stick's small tilt is none


def test_escape_pauses_whoever_drives(tab, shown):
    fill(shown)
    tab.open(shown.server.address)
    tab.wait_for("document.querySelectorAll('#chunk canvas').length === 7")
    tab.click("button[data-phase=correcting]")
    tab.wait_for("!document.getElementById('drive').hidden")
    tab.key("Escape", down=True)
    phase(tab, "paused")
    assert shown.desk.phase("arm") == "paused"


def test_a_robot_that_nobody_can_drive_offers_no_taking_over(tab, shown):
    shown.add("arm", facts=None)
    shown.hub.publish(query(0, "arm"))
    tab.open(shown.server.address)
    tab.wait_for("document.querySelectorAll('#chunk canvas').length === 7")
    assert tab.evaluate("document.querySelector('button[data-phase=correcting]').hidden")
    assert not tab.evaluate("document.querySelector('button[data-phase=paused]').hidden")
    assert tab.text("#chunk b") == "action 0"


def test_the_page_follows_the_episodes_that_run(tab, shown):
    fill(shown, "first")
    tab.open(shown.server.address)
    tab.wait_for("document.getElementById('who').innerText.startsWith('first')")
    fill(shown, "second")
    tab.wait_for("document.querySelectorAll('#robots li').length === 2")
    assert tab.text("#who").startswith("first")  # as long as it runs
    shown.hub.publish(went("first", note="success after 120 steps"))
    tab.wait_for("document.getElementById('who').innerText.startsWith('second')")
    assert "success after 120 steps" in tab.text("#robots")
    tab.evaluate("[...document.querySelectorAll('#robots button')][1].click()")
    tab.wait_for("document.getElementById('who').innerText.startsWith('first')")
    phase(tab, "gone")


def test_help_that_is_asked_for_is_seen(tab, shown):
    fill(shown, queries=3, uncertainty=0.9, band=0.6, help_requested=True)
    tab.open(shown.server.address)
    tab.wait_for("!document.getElementById('help').hidden")
    assert "uncertainty 0.9 is above 0.6" in tab.text("#help")
    shown.hub.publish(query(3, "arm", uncertainty=0.1, band=0.6, help_requested=False))
    tab.wait_for("document.getElementById('help').hidden")
