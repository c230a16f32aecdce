"""What one connection keeps between its queries, and what no other connection sees of it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("openpi_client")

from openpi_client.websocket_client_policy import WebsocketClientPolicy

from tests.support.serving import CHUNK, WIDTH, DoublePolicy, make_facts, make_message, running_server


def warm(**changes) -> DoublePolicy:
    """Its queries start from the last one's final state, S_0 + 1."""
    return DoublePolicy(make_facts(start="final", **changes))


def starts(double: DoublePolicy) -> list[float]:
    """The first number of every query's S_0, without the one that warmed the policy up."""
    return [float(query.initial_state[0, 0]) for query in double.asked[1:]]


def ask(client: WebsocketClientPolicy, **options) -> dict:
    prompt = options.pop("prompt", "push the puck")
    return client.infer(make_message(prompt=prompt, rdvla=options))


def test_queries_go_on_from_the_last_state_of_their_own_connection():
    double = warm()
    with running_server(double) as address:
        one, other = WebsocketClientPolicy(address), WebsocketClientPolicy(address)
        for client in (one, one, other, one, other):
            ask(client)
    assert starts(double) == [0, 1, 0, 2, 1]


def test_a_new_connection_begins_anew():
    double = warm()
    with running_server(double) as address:
        for _ in range(2):
            ask(WebsocketClientPolicy(address))
    assert starts(double) == [0, 0]


def test_a_new_instruction_or_a_reset_begins_anew():
    double = warm()
    with running_server(double) as address:
        client = WebsocketClientPolicy(address)
        ask(client)
        ask(client)
        ask(client, prompt="open the drawer")
        ask(client, prompt="open the drawer")
        ask(client, prompt="open the drawer", reset=True)
        assert client.infer({"rdvla": {"reset": True}}) == {"reset": True}
        ask(client, prompt="open the drawer")
    assert starts(double) == [0, 1, 0, 1, 0, 0]


def test_the_state_moves_on_by_the_actions_that_were_executed():
    """With the start `shifted`, tokens keep their time: those past the end are noise, here 0."""
    double = DoublePolicy(make_facts(start="shifted"))
    with running_server(double) as address:
        client = WebsocketClientPolicy(address)
        ask(client)  # executes 2 of 4, as the policy's rule says
        ask(client)  # so 2 tokens are left
        ask(client, executed=1)
        ask(client, executed=4)  # the robot executed all of them
    left = [int((query.initial_state[:, 0] > 0).sum()) for query in double.asked[1:]]
    assert left == [0, 2, 3, 0]


def test_the_seed_of_a_query_decides_its_noise():
    double = DoublePolicy()
    with running_server(double) as address:
        ask(WebsocketClientPolicy(address), seed=7)
    np.testing.assert_array_equal(double.asked[1].initial_state, np.full((CHUNK, WIDTH), 7.0))


def test_a_seeded_server_repeats_itself_connection_by_connection():
    def drawn(seed: int) -> list[float]:
        double = DoublePolicy()
        with running_server(double, seed=seed) as address:
            for _ in range(2):
                client = WebsocketClientPolicy(address)
                ask(client)
                ask(client)
        return starts(double)

    first = drawn(1)
    assert first == drawn(1)
    assert first != drawn(2)
    assert len(set(first)) == 4


def test_the_execution_rule_holds_until_it_is_changed():
    with running_server() as address:
        client, other = WebsocketClientPolicy(address), WebsocketClientPolicy(address)
        steps = [
            ask(client)["execute_steps"],
            ask(client, execution="4")["execute_steps"],
            ask(client)["execute_steps"],
            ask(client, execution="linear:4,1,2")["execute_steps"],
            ask(other)["execute_steps"],
        ]
    assert steps == [2, 4, 4, 2, 2]  # depth 4 is 2 beyond tau: 4 - 2


def test_stop_rule_and_maximum_depth_hold_for_one_query():
    double = DoublePolicy()
    with running_server(double) as address:
        client = WebsocketClientPolicy(address)
        depths = [ask(client, **options)["depth"] for options in ({"stop": "8"}, {"max_depth": 3}, {})]
    assert [query.stop for query in double.asked[1:]] == ["8", "fixed:4", "fixed:4"]
    assert [query.max_depth for query in double.asked[1:]] == [None, 3, None]
    assert depths[1:] == [3, 4]


def test_a_stop_rule_may_say_where_its_query_starts():
    double = warm()
    with running_server(double) as address:
        client = WebsocketClientPolicy(address)
        ask(client)
        ask(client, stop="fixed:4@noise")
        ask(client)
    assert starts(double) == [0, 0, 1]


def test_a_deadline_counts_from_the_arrival():
    import time

    double = DoublePolicy()
    with running_server(double) as address:
        client = WebsocketClientPolicy(address)
        before = time.monotonic()
        ask(client, deadline_ms=50_000)
        after = time.monotonic()
        ask(client)
    deadline = double.asked[1].deadline
    assert deadline is not None
    assert before + 50 <= deadline <= after + 50
    assert double.asked[2].deadline is None


def test_servers_own_rules_replace_the_policys():
    double = warm()
    with running_server(double, stop="fixed:9", execution="1") as address:
        client = WebsocketClientPolicy(address)
        assert client.get_server_metadata()["stop"] == "fixed:9"
        reply = ask(client)
    assert (reply["depth"], reply["execute_steps"]) == (9, 1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_dpeth": 3}, r"unknown option 'max_dpeth'; .*Did you mean 'max_depth'\?"),
        ({"max_depth": 0}, "max_depth must be a whole number from 1 to 256, got 0"),
        ({"max_depth": 257}, "from 1 to 256"),
        ({"max_depth": 2.5}, "whole number"),
        ({"max_depth": True}, "whole number"),
        ({"deadline_ms": 0}, "deadline_ms must be milliseconds, above 0"),
        ({"deadline_ms": float("nan")}, "deadline_ms must be milliseconds"),
        ({"deadline_ms": "soon"}, "deadline_ms must be milliseconds"),
        ({"stop": "action_chnge:1e-3"}, r"unknown stop rule.*Did you mean 'action_change'\?"),
        ({"stop": "1000"}, "stop asks for 1000 iterations; this server allows 256"),
        ({"stop": 8}, "stop must be a text"),
        ({"stop": "x" * 1000}, "at most 200 characters"),
        ({"execution": "9"}, "runs up to 9 actions, but a chunk has 4"),
        ({"execution": "sometimes"}, "unknown execution rule"),
        ({"seed": -1}, "a seed must be"),
        ({"executed": 5}, "executed must be a whole number from 0 to 4, got 5"),
        ({"reset": 1}, "reset must be true or false, got 1"),
        ({1.5: 3}, "a map has a key that is no text|unknown option"),
        ("fast", "'rdvla' must be a map of options, got str"),
    ],
)
def test_wrong_options_are_refused_by_name(options, sentence):
    with running_server() as address:
        client = WebsocketClientPolicy(address)
        with pytest.raises(RuntimeError, match=sentence):
            client.infer(make_message(rdvla=options))


def test_numpys_numbers_are_numbers():
    with running_server() as address:
        reply = ask(
            WebsocketClientPolicy(address),
            max_depth=np.int64(3),
            deadline_ms=np.float32(5000),
            reset=np.bool_(True),
        )
    assert reply["depth"] == 3
