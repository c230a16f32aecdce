"""What a hub is told is in Rerun's recording: read back from the file."""

import io
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rerun")
pytest.importorskip("rdvla_client")

from rerun.chunk import RrdReader

from rdvla.errors import ConfigError, RDVLAError
from rdvla.live import Hub, RerunLog
from rdvla.live.events import StepEvent
from rdvla.live.rerun import check_target
from rdvla.serving.config import ServeConfig
from rdvla_client import PolicyClient
from tests.live.test_evaluation import evaluate
from tests.support.live_events import NAMES, came, query, went
from tests.support.rollout_doubles import StepPolicy
from tests.support.serving import make_message, open_server


def read(path):
    """Entity without its robot -> rows of {column: value}, in order of time."""
    found = {}
    for chunk in RrdReader(path).stream():
        robot, *entity = re.split(r"(?<!\\)/", chunk.entity_path.strip("/"))
        if robot == "__properties":
            continue
        table = chunk.to_record_batch()
        kept = [name for name in table.schema.names if name in ("query", "action") or ":" in name]
        rows = table.select(kept).to_pylist()
        place = robot.replace("\\", ""), "/".join(entity)
        found.setdefault(place, []).extend(rows)
    return found


def scalars(rows, timeline):
    return dict(sorted((row[timeline], row["Scalars:scalars"][0]) for row in rows))


def test_a_recording_holds_every_query(tmp_path):
    hub, path = Hub(), tmp_path / "logs" / "robots.rrd"
    queries = [query(number, "arm 1, seed 3") for number in range(12)]
    with RerunLog(hub, str(path)):
        hub.publish(came("arm 1, seed 3"))
        for event in queries:
            hub.publish(event)
        hub.publish(went("arm 1, seed 3"))
    found = {entity: rows for (robot, entity), rows in read(path).items() if robot == "arm 1, seed 3"}

    def column(entity):
        return list(scalars(found[entity], "query").values())

    assert column("depth/used") == [event.depth for event in queries]
    assert column("depth/allowed") == [12] * 12
    np.testing.assert_allclose(column("uncertainty/value"), [event.uncertainty for event in queries])
    np.testing.assert_allclose(column("uncertainty/band"), [0.72] * 12)
    assert column("batch_size") == [event.batch_size for event in queries]
    for name in ("waiting", "inference", "total"):
        expected = [event.milliseconds[name] for event in queries]
        np.testing.assert_allclose(column(f"milliseconds/{name}"), expected)
    executed = np.concatenate([event.actions[: event.execute_steps] for event in queries])
    for dimension, name in enumerate(NAMES):
        logged = scalars(found[f"actions/{name}"], "action")
        assert list(logged) == list(range(len(executed)))
        np.testing.assert_allclose(list(logged.values()), executed[:, dimension], rtol=1e-6)
    assert len(found["chunk"]) == 12
    texts = [row["TextLog:text"][0] for row in found["log"]]
    assert "came, autonomous" in texts
    assert "went, autonomous, success after 120 steps" in texts
    assert {row["TextDocument:text"][0] for row in found["instruction"]} == {queries[0].instruction}


def test_cameras_are_pictures_also_while_a_person_drives(tmp_path):
    hub, path = Hub(), tmp_path / "robots.rrd"
    event = query(5, "arm")
    with RerunLog(hub, str(path)):
        hub.publish(event)
        hub.publish(StepEvent("arm", event.time + 1, event.images, event.state))
    found = read(path)
    for camera, image in event.images.items():
        rows = found["arm", f"cameras/{camera}"]
        assert len(rows) == 2
        for row in rows:
            blob = row["EncodedImage:blob"][0]
            shown = np.asarray(Image.open(io.BytesIO(bytes(blob))))
            assert shown.shape == image.shape
            assert np.abs(shown.astype(int) - image).mean() < 6


def test_a_robot_whose_actions_have_no_names_has_numbers(tmp_path):
    hub, path = Hub(), tmp_path / "robots.rrd"
    with RerunLog(hub, str(path)):
        hub.publish(query(0, "arm"))
    assert ("arm", "actions/6") in read(path)


def test_an_evaluation_is_logged_and_its_results_are_the_same(tmp_path):
    path = tmp_path / "robots.rrd"
    logged = evaluate(tmp_path / "logged", StepPolicy(), rerun=str(path))
    plain = evaluate(tmp_path / "plain", StepPolicy())
    assert logged.episodes == plain.episodes
    found = read(path)
    assert len({robot for robot, _ in found}) == len(logged.episodes)
    depths = sorted(len(rows) for (_, entity), rows in found.items() if entity == "depth/used")
    assert depths == sorted(len(episode.depths) for episode in logged.episodes)


def test_a_server_logs_the_queries_of_its_robots(tmp_path):
    path = tmp_path / "robots.rrd"
    with open_server(rerun=str(path)) as server, PolicyClient(server.address) as client:
        for _ in range(3):
            client.infer(make_message())
    found = {entity: rows for (_, entity), rows in read(path).items()}
    assert list(scalars(found["depth/used"], "query").values()) == [4] * 3
    assert found["instruction"][0]["TextDocument:text"] == ["push the puck"]


@pytest.mark.parametrize(
    "target",
    [
        *("robots.mp4", "", "spawned", "http://127.0.0.1:9876/proxy", "foo://bar/a.mp4"),
        *("rerun://", "rerun+http://127.0.0.1:9876", "rerun+http://[bad/proxy"),
    ],
)
def test_a_target_that_is_none_is_refused(target):
    with pytest.raises(ConfigError, match=r"rerun must be a file\.rrd, spawn, or the address"):
        RerunLog(Hub(), target)


@pytest.mark.parametrize("scheme", ["rerun", "rerun+http", "rerun+https"])
def test_addresses_of_viewers_are_taken(scheme):
    check_target(f"{scheme}://127.0.0.1:9876/proxy")


def test_a_place_where_no_file_can_be_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match=r"robots\.rrd cannot be written: \S+file is no folder"):
        ServeConfig(policy="x", rerun=str(tmp_path / "file" / "robots.rrd"))


def test_what_cannot_be_opened_is_named(tmp_path):
    path = tmp_path / "robots.rrd"
    log = RerunLog(Hub(), str(path))
    path.mkdir()  # after it was checked
    with pytest.raises(ConfigError, match=r"robots\.rrd cannot be opened"), log:
        pass


def test_a_file_that_exists_stays(tmp_path):
    path = tmp_path / "robots.rrd"
    path.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="exists already"):
        RerunLog(Hub(), str(path))
    assert path.read_bytes() == b"precious"


def test_what_cannot_be_logged_is_said_at_the_end_and_the_publisher_goes_on(tmp_path):
    hub = Hub()
    with pytest.raises(RDVLAError, match="not everything was logged"), RerunLog(hub, str(tmp_path / "a.rrd")):
        hub.publish(query(0, "arm", images={"front": np.zeros((2, 2), dtype=np.float32)}))
        for number in range(1, 5):
            hub.publish(query(number, "arm"))
    assert hub.robots()["arm"].queries == 5
