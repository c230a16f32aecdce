"""`rdvla eval --server`: the same episodes as in this process, and servers that do not fit."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from rich.console import Console

from rdvla.errors import ConfigError, RDVLAError
from rdvla.evaluation import Episode, EvaluationConfig, Suite, compare_runs, evaluate_policy, load_results
from rdvla.evaluation.players import ServerPlayer
from rdvla.evaluation.run import evaluate_player
from rdvla.evaluation.served import served_shares
from rdvla.evaluation.server import ServerUnderTest
from rdvla.evaluation.summaries import sort_rows, summarise
from rdvla.hashing import fingerprint
from rdvla.policy import RDVLAPolicy
from rdvla.rollout import Opened
from tests.support.policy_server import policy_server
from tests.support.serving import open_server
from tests.support.tiny_models import CONFIG, make_policy
from tests.support.toy_simulator import make_toy

pytest.importorskip("rdvla_client")

SUITE = Suite("toy", ("left", "right"), 12)
TOY = dataclasses.replace(
    CONFIG,
    cameras=("front",),
    state_dim=4,
    backbone=dataclasses.replace(CONFIG.backbone, num_cameras=1),
)
STATISTICS = {
    "action": {"q01": [-1.0] * 4, "q99": [1.0] * 4},
    "observation.state": {"q01": [-1.0] * 4, "q99": [1.0] * 4},
}
TOLD = {  # by a server of rdvla with such a policy
    "policy": "walker",
    "options": ["stop", "execution", "seed"],
    "keys": {"images": {"front": "images/front"}, "state": ["state"], "instruction": "prompt"},
    "cameras": ["front"],
    "image_sizes": {"front": [32, 32]},
    "state_dim": 4,
    "action_dim": 4,
    "chunk_size": 4,
    "execution": "fixed:3",
    "fingerprint": "abc",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("policies") / "walker"
    RDVLAPolicy(TOY, STATISTICS).eval().save_pretrained(path)
    return path


def config_for(tmp_path, **changes):
    options = {
        "output": str(tmp_path),
        "env": "toy",
        "tasks": SUITE.tasks,
        "episodes": 2,
        "stops": ("4", "action_change:1e-9"),
        "execution": ("fixed:3",),
        "timing_seconds": 0,
        "videos": 0,
    }
    return EvaluationConfig(**{**options, **changes})


def walk(_):
    return {"actions": np.full((4, 4), 0.5, np.float32), "depth": 2, "execute_steps": 3}


def evaluate_server(config):
    """As `rdvla eval --server`, in a simulator that only the tests know."""
    tested = ServerUnderTest.reach(config, ["toy"])
    path = evaluate_player(
        ServerPlayer(tested.server),
        tested.config,
        suites=[SUITE],
        make=make_toy,
        provenance=tested.provenance,
        fingerprint=tested.fingerprint,
        compared=tested.compared,
        fits=tested.check,
        console=Console(file=io.StringIO()),
    )
    return load_results(path)


def test_a_server_plays_the_same_episodes_as_its_policy_in_this_process(folder, tmp_path):
    stops = ("4", "4@final", "action_change:1e-9")
    policy = RDVLAPolicy.from_pretrained(folder)
    config = config_for(tmp_path / "here", policy=str(folder), workers=1, stops=stops)
    path = evaluate_policy(
        policy,
        config,
        suites=[SUITE],
        make=make_toy,
        provenance={"path": "walker"},
        fingerprint=fingerprint(policy),
        console=Console(file=io.StringIO()),
    )
    here = load_results(path)
    with open_server(folder) as server:
        there = evaluate_server(config_for(tmp_path / "there", server=server.address, stops=stops))
    assert there.labels == here.labels == ["walker"]
    assert there.fingerprint == here.fingerprint
    assert len(there.episodes) == len(here.episodes) == 12
    for ours, theirs in zip(here.episodes, there.episodes, strict=True):
        assert dataclasses.replace(theirs, served=None) == ours
        assert len(theirs.served.milliseconds) == len(theirs.served.ended_by) == len(theirs.depths)
    for pair in compare_runs(here, there).pairs:
        assert pair.total.pairs == 4
    assert there.meta["policy"]["server"]["form"] == "torch"


def test_a_deadline_is_a_setting_of_its_own_in_one_table(tmp_path):
    def hurried(message):
        late = message["rdvla"].get("deadline_ms", 1000) < 10
        reply = {"depth": 1, "ended_by": "deadline"} if late else {"depth": 9, "ended_by": "max_depth"}
        return {"actions": np.full((4, 4), 0.5, np.float32), "execute_steps": 3, **reply}

    told = {**TOLD, "options": [*TOLD["options"], "deadline_ms"]}
    with policy_server(hurried, metadata=told) as served:
        results = evaluate_server(config_for(tmp_path, server=served.address, stops=("9", "9@2ms", "9@50ms")))
    assert {row.stop: row.mean_depth for row in results.rows} == {
        "fixed:9": 9,
        "fixed:9@2ms": 1,
        "fixed:9@50ms": 9,
    }
    shares = {setting.deadline_ms: share for setting, share in served_shares(results.episodes).items()}
    assert [shares[deadline].ended_by_deadline for deadline in (None, 2, 50)] == [0, 1, 0]
    assert shares[None].kept is None and 0 <= shares[50].kept <= 1


def test_an_interrupted_evaluation_goes_on_with_the_server_elsewhere(tmp_path):
    with policy_server(walk, metadata=TOLD) as first:
        evaluate_server(config_for(tmp_path, server=first.address, episodes=1))
    with policy_server(walk, metadata=TOLD) as second:
        results = evaluate_server(config_for(tmp_path, server=second.address, episodes=2))
    assert len(results.episodes) == 8
    assert len(second.paths) == 1 + 4  # the first asks who it is; the other four episodes were there
    with pytest.raises(ConfigError, match="holds an evaluation of a server"):
        evaluate_policy(
            make_policy(),
            config_for(tmp_path, policy="p"),
            suites=[SUITE],
            make=make_toy,
            provenance={},
            fingerprint="abc",
        )


@pytest.mark.parametrize(
    ("before", "now", "options", "message"),
    [
        ({"a": 1}, {"a": 1}, {"layout": "native", "stops": ("server",)}, "with server '127"),
        (TOLD, {**TOLD, "fingerprint": "d"}, {}, "with policy_fingerprint 'abc', and this one has 'd'"),
        ({**TOLD, "stop": "fixed:8"}, {**TOLD, "stop": "fixed:1"}, {"stops": ("server",)}, "server_rules"),
        ({**TOLD, "start": "noise"}, {**TOLD, "start": "final"}, {"stops": ("server@9ms",)}, "server_rules"),
    ],
)
def test_an_evaluation_does_not_go_on_with_another_server(before, now, options, message, tmp_path):
    with policy_server(walk, metadata=before) as first:
        config = config_for(tmp_path, server=first.address, tasks=("left",), episodes=1, **options)
        evaluate_server(config)
    with (
        policy_server(walk, metadata=now) as second,
        pytest.raises(ConfigError, match=message),
    ):
        evaluate_server(dataclasses.replace(config, server=second.address, episodes=2))
    assert len(second.messages) == 0


def test_a_servers_own_rules_matter_to_the_settings_that_leave_them_to_it(tmp_path):
    with policy_server(walk, metadata={**TOLD, "stop": "fixed:8"}) as first:
        config = config_for(tmp_path, server=first.address, tasks=("left",), episodes=1, stops=("server",))
        evaluate_server(config)
    with policy_server(walk, metadata={**TOLD, "stop": "fixed:1"}) as second:
        evaluate_server(dataclasses.replace(config, server=second.address, stops=("4",)))
        with pytest.raises(ConfigError, match="server_rules"):
            evaluate_server(dataclasses.replace(config, server=second.address, stops=("4", "server")))


def test_whoever_drives_on_the_servers_page_is_not_the_policy(tmp_path):
    def person(message):
        x, y, goal_x, goal_y = message["state"]
        move = np.clip([[10 * (goal_x - x), 10 * (goal_y - y), 0, 0]], -1, 1).astype(np.float32)
        return {"actions": move, "depth": 2, "execute_steps": 1, "phase": "correcting"}

    with policy_server(person, metadata=TOLD) as served:
        results = evaluate_server(config_for(tmp_path, server=served.address, episodes=1, stops=("4",)))
    for episode in results.episodes:
        assert (episode.success, episode.success_with_help) == (False, True)
        assert episode.driven_steps == episode.steps > 0 and episode.interventions == 1
        assert episode.executed == episode.depths == episode.served.milliseconds == []


def test_metadata_that_json_cannot_hold_is_in_the_results_as_plain_values(tmp_path):
    told = {
        **TOLD,
        "pose": np.zeros((1, 2)),
        "raw": b"xx",
        "limits": [float("nan"), float("inf"), 1.5],
    }
    with policy_server(walk, metadata=told) as served:
        results = evaluate_server(config_for(tmp_path, server=served.address, episodes=1))
    kept = results.meta["policy"]["server"]
    assert kept == {**TOLD, "pose": [[0, 0]], "raw": "xx", "limits": [None, None, 1.5]}


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"cameras": 3}, "cameras"),
        ({"image_sizes": {"front": "x"}}, "image_sizes.front"),
        ({"image_sizes": {"front": [100_000, 100_000]}}, "image_sizes.front"),
        ({"image_sizes": [32, 32]}, "image_sizes"),
        ({"options": ["stop", 5]}, "options"),
        ({"action_names": 7}, "action_names"),
        ({"policy": {"a": 1}}, "policy"),
        ({"fingerprint": 5}, "fingerprint"),
        ({"state_dim": "4"}, "state_dim"),
        ({"chunk_size": True}, "chunk_size"),
        ({"execution": "banana"}, "execution"),
        ({"keys": {"images": ["a"], "state": ["s"], "instruction": "p"}}, "keys.images"),
        ({"keys": {"images": {"front": "a"}}}, "keys.state"),
        ({"keys": {"images": {"front": "a"}, "state": ["s"]}}, "keys.instruction"),
        ({"keys": 1}, "give --layout"),
    ],
)
def test_strange_metadata_is_refused_by_the_name_of_its_entry(entry, named, tmp_path):
    with policy_server(metadata={**TOLD, **entry}) as served, pytest.raises(ConfigError, match=named):
        ServerUnderTest.reach(config_for(tmp_path, server=served.address, execution=()), ["toy"])


def test_what_another_server_means_by_rdvlas_names_is_its_own_affair(tmp_path):
    told = {"policy": {"a": 1}, "cameras": 3, "state_dim": "4", "chunk_size": 1, "image_sizes": 7}
    with policy_server(metadata=told) as served:
        config = config_for(
            tmp_path, server=served.address, layout="native", execution=("2",), stops=("server",)
        )
        tested = ServerUnderTest.reach(config, ["toy"])
    assert tested.image_size == 224
    assert tested.provenance == {"path": served.address, "server": told}


def test_a_server_that_is_gone_is_one_sentence(tmp_path):
    with policy_server(metadata=TOLD) as served:
        address = served.address
    config = config_for(tmp_path, server=address)
    with pytest.raises(RDVLAError, match=address.rpartition(":")[2]):
        ServerUnderTest.reach(config, ["toy"])


def test_another_server_is_asked_in_a_layout_and_keeps_its_own_rule(tmp_path):
    def plain(message):
        assert set(message) == {"top", "state", "prompt"}
        assert message["top"].dtype == np.uint8
        return {"actions": np.full((4, 4), 0.5, np.float32)}

    with policy_server(plain, metadata={"env": "somewhere"}) as served:
        results = evaluate_server(
            EvaluationConfig(
                server=served.address,
                layout="top=front,state=state",
                output=str(tmp_path),
                env="toy",
                tasks=SUITE.tasks,
                episodes=1,
                execution=("2",),
                videos=0,
            )
        )
    assert {(row.stop, row.execution) for row in results.rows} == {("server", "fixed:2")}
    assert all(row.mean_depth is None and row.episodes == 1 for row in results.rows)
    assert results.meta["policy"]["server"] == {"env": "somewhere"}


@pytest.mark.parametrize(
    ("told", "options", "message"),
    [
        ({**TOLD, "cameras": ["frnt"]}, {}, "needs camera 'frnt', which toy does not have"),
        ({**TOLD, "image_sizes": {"front": [48, 64]}}, {}, "images of 64x48 pixels"),
        ({**TOLD, "chunk_size": 2}, {}, "longer than the server's chunks of 2"),
        ({}, {}, "give --layout"),
        ({}, {"layout": "native", "execution": ()}, "give --execution"),
        ({}, {"layout": "native", "execution": ("linear:4,2,3",)}, "needs the depth of every query"),
        ({}, {"layout": "native", "stops": ("8",)}, "takes no stop rule or deadline"),
        ({}, {"layout": "libero"}, "none of the cameras front is known to it"),
        ({}, {"layout": "liber"}, "Did you mean 'libero'"),
        ({}, {"layout": "top=frnt"}, "'frnt' is none of front, state, instruction"),
    ],
)
def test_a_server_that_does_not_go_with_the_options_is_refused(told, options, message, tmp_path):
    with policy_server(metadata=told) as served, pytest.raises(ConfigError, match=message):
        ServerUnderTest.reach(config_for(tmp_path, server=served.address, **options), ["toy"])


def test_a_server_with_another_robot_is_refused(tmp_path):
    shown = Opened(images={"front": (32, 32)}, state_size=7, action_size=4)
    with policy_server(metadata=TOLD) as served:
        tested = ServerUnderTest.reach(config_for(tmp_path, server=served.address), ["toy"])
    with pytest.raises(ConfigError, match="does not fit toy: its state has 4 numbers, not 7"):
        tested.check({"toy": shown}, console=Console())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "p", "server": "ws://robot"}, "not both"),
        ({}, "not neither"),
        ({"policy": "p", "stops": ("8@20ms",)}, "needs a policy server"),
        ({"policy": "p", "stops": ("server",)}, "needs a policy server"),
        ({"policy": "p", "layout": "libero"}, "give --server too"),
        ({"server": "ws://robot", "live": True}, "rdvla serve --live"),
        ({"policy": "p", "output": ""}, "output is missing"),
    ],
)
def test_a_server_or_a_policy_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        EvaluationConfig(**{"output": "o", **options})


def test_deadlines_of_a_rule_rise_in_tables_and_none_comes_last():
    stops = ["action_change:0.001", "action_change:0.001@100ms", "action_change:0.001@50ms", "fixed:8"]
    episodes = [
        Episode("toy", "left", "p", stop, "fixed:2", seed=1, success=True, steps=4, depths=[3], executed=[4])
        for stop in stops
    ]
    assert [row.stop for row in sort_rows(summarise(episodes))] == [stops[3], stops[2], stops[1], stops[0]]
