"""What a person does in an evaluation becomes a dataset, frame by frame what was executed."""

import io
import json
import threading
import time

import numpy as np
import pytest
from rich.console import Console

import tests.support.toy_simulator  # noqa: F401  (registers the simulator)
from rdvla.cli import main
from rdvla.control import Desk
from rdvla.data import EpisodeDataset
from rdvla.data.check.check import check_dataset
from rdvla.errors import ConfigError, DatasetError
from rdvla.evaluation import EvaluationConfig, Suite, evaluate_policy, load_results
from rdvla.simulation import make
from tests.support.helped_episodes import Help, NearSighted, Standstill, play_and_record

SEED = 1_000_000
TOY = {"env": "toy", "task": "right", "steps": 12}


def columns(root, *names):
    data = EpisodeDataset(root, chunk_size=1)
    return {name: data.column(name) for name in names}


def lengths(root):
    return np.bincount(EpisodeDataset(root, chunk_size=1).column("episode_index")[:, 0]).tolist()


def assert_frames(root, logs, frames):
    """Compare a dataset with what the simulators were told, in the frames that are to be recorded."""
    data = EpisodeDataset(root, chunk_size=1)
    expected = [(log, step) for log, steps in zip(logs, frames, strict=True) for step in steps]
    for name, values in (
        ("action", [log.actions[step] for log, step in expected]),
        ("observation.state", [log.states[step] for log, step in expected]),
        ("next.success", [[log.successes[step]] for log, step in expected]),
    ):
        np.testing.assert_array_equal(data.column(name), np.array(values))
    shown = data.images(range(len(expected)))
    for camera, images in shown.items():
        wanted = np.stack([log.images[step][camera] for log, step in expected]).astype(int)
        assert np.abs(images.numpy().astype(int) - wanted).mean() < 3  # the videos lose a little


def test_an_episode_succeeds_with_help_and_only_the_corrections_are_recorded(tmp_path):
    alone = Help(spans=())
    assert not play_and_record(
        tmp_path / "rollout_alone", alone, NearSighted(), seeds=range(SEED, SEED + 1), **TOY
    )[SEED].success
    assert not (tmp_path / "rollout_alone").exists()
    person = Help(spans=((2, 4), (6, 8)))
    root = tmp_path / "rollout_toy"
    result = play_and_record(root, person, NearSighted(), seeds=range(SEED, SEED + 1), **TOY)[SEED]
    assert (result.success, result.driven_steps, result.interventions) == (True, 4, 2)
    log = person.executed[SEED]
    assert lengths(root) == [2, 2]
    assert_frames(root, [log], [[2, 3, 6, 7]])
    found = columns(
        root, "intervention", "intervention_cause", "policy_action", "uncertainty", "depth", "help_requested"
    )
    assert found["intervention"].all() and (found["intervention_cause"] == 1).all()
    assert (found["policy_action"][:2] == 0).all()  # it stood still, far from the goal
    assert (found["depth"] == 3).all() and (found["uncertainty"] == 1).all()  # three of three iterations
    assert not found["help_requested"].any()
    data = EpisodeDataset(root, chunk_size=1)
    assert data.instructions([0]) == ["walk to the right"]
    assert [source["first_step"] for source in data.sources] == [2, 6]
    assert data.sources[0]["scene_seed"] == SEED and data.sources[0]["fingerprint"] == "abc"


def test_whole_episodes_are_recorded_on_request(tmp_path):
    person, root = Help(spans=((2, 5),)), tmp_path / "rollout_toy"
    seeds = range(SEED, SEED + 2)
    results = play_and_record(root, person, NearSighted(), seeds=seeds, autonomous=True, **TOY)
    logs = [person.executed[seed] for seed in seeds]
    assert lengths(root) == [results[seed].steps for seed in seeds] == [len(log.actions) for log in logs]
    assert_frames(root, logs, [range(len(log.actions)) for log in logs])
    found = columns(root, "intervention", "intervention_cause", "action", "policy_action")
    driven = [2 <= step < 5 for log in logs for step in range(len(log.actions))]
    assert found["intervention"][:, 0].tolist() == driven
    assert found["intervention_cause"][:, 0].tolist() == [int(own) for own in driven]
    own = ~found["intervention"][:, 0]
    np.testing.assert_array_equal(found["action"][own], found["policy_action"][own])


def test_a_recorded_dataset_has_no_faults_and_is_added_to(tmp_path):
    root = tmp_path / "rollout_toy"
    play_and_record(root, Help(spans=((1, 4),)), Standstill(4), seeds=range(SEED, SEED + 2), **TOY)
    assert not [
        finding for finding in check_dataset(root, decode_all=True).findings if finding.severity == "error"
    ]
    play_and_record(root, Help(spans=((3, 5),)), Standstill(4), seeds=range(SEED + 2, SEED + 3), **TOY)
    assert lengths(root) == [3, 3, 2]
    assert main(["data", "check", str(root)]) == 0
    play_and_record(root, Help(spans=()), Standstill(4), seeds=range(SEED, SEED + 1), **TOY)
    assert lengths(root) == [3, 3, 2]  # nothing was recorded: it is as it was


def test_a_dataset_of_something_else_is_left_alone(tmp_path):
    root = tmp_path / "rollout_toy"
    play_and_record(root, Help(spans=((1, 4),)), Standstill(4), seeds=range(SEED, SEED + 1), **TOY)
    with pytest.raises(DatasetError, match="has other cameras than this evaluation records"):
        play_and_record(
            root, Help(spans=()), Standstill(4), seeds=range(SEED, SEED + 1), image_size=64, **TOY
        )


class EagerDesk(Desk):
    """Someone takes over every robot that comes, and drives it to the right."""

    def add(self, robot, *, action_dim=None):
        super().add(robot, action_dim=action_dim)
        self.change(robot, "correcting")
        self.steer(robot, [1.0, 0.0, 0.0, 0.0])


def make_long_toy(env, task):
    return make(env, task, image_size=32, max_steps=400)


def evaluate(tmp_path, policy, *, desk=None, console=None, steps=12, **changes):
    options = {
        "policy": "runs/walker", "output": str(tmp_path / "run"), "env": "toy", "tasks": ("right",),
        "episodes": 2, "stops": ("3",), "execution": ("fixed:8",), "max_steps": steps, "videos": 1,
        "timing_seconds": 0, "workers": 2,
    }  # fmt: skip
    config = EvaluationConfig(**{**options, **changes})
    path = evaluate_policy(
        policy,
        config,
        suites=[Suite(env="toy", tasks=config.tasks, max_steps=steps)],
        make=make_long_toy,
        provenance={"path": "walker"},
        fingerprint="abc",
        desk=desk,
        console=console or Console(file=io.StringIO()),
    )
    return load_results(path)


def test_an_evaluation_says_in_which_episodes_a_person_stepped_in(tmp_path):
    output, root = io.StringIO(), tmp_path / "rollout_toy"
    desk = EagerDesk(command_seconds=600)
    results = evaluate(
        tmp_path, Standstill(4), desk=desk, record=str(root), console=Console(file=output, width=300),
        seed=1_000_009, workers=1,
    )  # fmt: skip
    for episode in results.episodes:
        assert (episode.success, episode.success_with_help) == (False, True)
        assert episode.driven_steps == episode.steps > 0 and episode.interventions == 1
        assert episode.depths == episode.executed == []
    (row,) = results.rows
    assert (row.episodes, row.successes, row.helped, row.helped_successes) == (2, 0, 2, 2)
    assert "A person stepped in in 2 of 2 episodes. 2 of these succeeded, with help" in output.getvalue()
    assert f"recorded: {root} (2 new episodes). They show scenes 1000009 to 1000010" in output.getvalue()
    assert sorted(lengths(root)) == sorted(episode.steps for episode in results.episodes)
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert stored["episodes"][0]["success_with_help"] is True


def test_an_interrupted_evaluation_leaves_a_dataset_of_what_is_finished(tmp_path):
    class Interrupted(Standstill):
        calls = 0

        def predict(self, observation, **options):
            self.calls += 1
            if self.calls > 3:
                raise KeyboardInterrupt
            return super().predict(observation, **options)

    root = tmp_path / "rollout_toy"
    options = {"episodes": 3, "workers": 1, "record": str(root), "record_autonomous": True}
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, Interrupted(4), **options)
    assert lengths(root) == [12]
    results = evaluate(tmp_path, Standstill(4), **options)
    assert lengths(root) == [12, 12, 12]
    assert [episode.driven_steps for episode in results.episodes] == [0, 0, 0]
    seeds = [source["scene_seed"] for source in EpisodeDataset(root, chunk_size=1).sources]
    assert seeds == [SEED, SEED + 1, SEED + 2]


@pytest.mark.slow
def test_recording_leaves_results_as_they_are(tmp_path):
    plain = evaluate(tmp_path / "a", NearSighted(), workers=1)
    recorded = evaluate(
        tmp_path / "b", NearSighted(), workers=1, record=str(tmp_path / "rollout_toy"), record_autonomous=True
    )
    assert plain.episodes == recorded.episodes and plain.rows == recorded.rows


def test_recordings_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"start with rollout_: give --record .*rollout_toy"):
        evaluate(tmp_path, Standstill(4), record=str(tmp_path / "toy"))
    with pytest.raises(ConfigError, match=r"record: nobody can step in\. Give --live true"):
        evaluate(tmp_path, Standstill(4), record=str(tmp_path / "rollout_toy"))
    with pytest.raises(ConfigError, match="record_autonomous says how to record"):
        evaluate(tmp_path, Standstill(4), record_autonomous=True)


@pytest.mark.slow
def test_a_person_on_the_page_drives_an_episode_to_its_goal(tmp_path):
    """Over the page's WebSocket, as a browser does it."""
    pytest.importorskip("websockets")
    from websockets.sync.client import connect

    output, root, desk, there = io.StringIO(), tmp_path / "rollout_toy", Desk(), threading.Event()

    def until(condition):
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert condition()

    class Waiting(Standstill):
        """Goes on only as the person does."""

        calls = 0

        def predict(self, observation, **options):
            self.calls += 1
            until(there.is_set if self.calls == 1 else lambda: desk.phase(desk.robots()[0]) == "correcting")
            return super().predict(observation, **options)

    def person():
        until(lambda: "live page: " in output.getvalue())
        address = output.getvalue().split("live page: ")[1].split()[0]
        with connect(f"ws{address.removeprefix('http')}/socket", proxy=None) as socket:
            there.set()
            name = None
            for message in map(json.loads, socket):
                for robot in message.get("robots", ()):
                    if robot["connected"] and name is None:
                        name = robot["robot"]
                        socket.send(json.dumps({"watch": name}))
                        socket.send(json.dumps({"robot": name, "phase": "correcting"}))
                if "shown" in message:
                    x, y, goal_x, goal_y = message["shown"]["state"]
                    steer = np.clip([2 * (goal_x - x), 2 * (goal_y - y), 0, 0], -1, 1)
                    socket.send(json.dumps({"robot": name, "steer": steer.tolist()}))

    thread = threading.Thread(target=person, daemon=True)
    thread.start()
    results = evaluate(
        tmp_path, Waiting(4), desk=desk, record=str(root), console=Console(file=output, width=300), live=0,
        episodes=1, steps=400, execution=("fixed:1",), videos=0,
    )  # fmt: skip
    thread.join(60)
    (episode,) = results.episodes
    assert (episode.success, episode.success_with_help, episode.interventions) == (False, True, 1)
    assert lengths(root) == [episode.driven_steps] == [episode.steps - 1]
    assert columns(root, "action")["action"][:, 0].max() > 0.5
