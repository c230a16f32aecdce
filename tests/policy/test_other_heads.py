"""A head is one file: policies, cards, evaluations and errors ask no more of it than the protocol says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

pytest.importorskip("gymnasium")

from rdvla.cli import main
from rdvla.engine import compile
from rdvla.errors import RDVLAError
from rdvla.evaluation import EvaluationConfig, evaluate_policy, load_results
from rdvla.evaluation.protocol import resolve_suites
from rdvla.evaluation.provenance import describe_policy
from rdvla.evaluation.report import write_report
from rdvla.policy import RDVLAPolicy
from tests.support.regression_head import RegressionConfig
from tests.support.tiny_models import CONFIG, make_observation, make_policy
from tests.support.tiny_training import tiny_policy
from tests.support.toy_simulator import make_toy

HEAD = RegressionConfig(chunk_size=4, action_dim=4, context_dim=16)


@pytest.fixture
def policy() -> RDVLAPolicy:
    return make_policy(replace(CONFIG, head=HEAD))


def test_it_acts_alone_and_in_a_batch(policy: RDVLAPolicy) -> None:
    observation = make_observation(3)
    together = policy.predict(observation, stop="action_change:1e-3", max_depth=[1, 2, 3])
    assert together.depth.tolist() == [1, 1, 1]
    alone = policy.predict(observation.select([1]))
    torch.testing.assert_close(alone.actions[0], together.actions[1])
    taken = [policy.select_action(observation) for _ in range(4)]
    assert torch.equal(torch.stack(taken[:3], dim=1), together.actions[:, :3])
    assert torch.equal(taken[3], together.actions[:, 0])  # a query for each chunk


@pytest.mark.parametrize("start", ["final", "midpoint", "shifted"])
def test_it_has_no_state_to_start_from_and_needs_none(start: str) -> None:
    policy, observation = make_policy(replace(CONFIG, head=HEAD, start=start)), make_observation(2)
    first = [policy.select_action(observation) for _ in range(4)]
    assert torch.equal(first[0], first[3])


def test_its_card_and_facts_are_its_own(policy: RDVLAPolicy, tmp_path: Path, capsys) -> None:
    policy.save_pretrained(tmp_path / "policy")
    card = (tmp_path / "policy" / "README.md").read_text()
    assert "# A vision-language-action policy\n" in card and "| levels read by head | late |" in card
    assert "recurrent" not in card and "latent" not in card
    assert main(["info", str(tmp_path / "policy"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["levels"] == {"head": ["late"]} and facts["memory_mib"]["keys and values of a query"] == 0
    assert facts["config"]["head"]["type"] == "test_regression"
    assert main(["info", str(tmp_path / "policy")]) == 0


def test_it_is_evaluated_and_reported(tmp_path: Path) -> None:
    for package in ("matplotlib", "jinja2", "av"):
        pytest.importorskip(package)
    like = tiny_policy()
    policy = RDVLAPolicy(replace(like.config, head=HEAD), like.statistics).eval()
    config = EvaluationConfig(
        policy="regression", output=str(tmp_path / "run"), env="toy", stops=("1", "4"),
        execution=("fixed:4",), episodes=1, videos=0, max_steps=3, workers=1,
    )  # fmt: skip
    path = evaluate_policy(
        policy, config, suites=resolve_suites(config), make=make_toy,
        provenance=describe_policy(policy, config.policy), fingerprint="abc", console=Console(quiet=True),
    )  # fmt: skip
    results = load_results(path)
    assert [row.errors for row in results.rows] == [0] * 4
    assert {row.mean_depth for row in results.rows} == {1}
    assert results.meta["policy"]["core_blocks"] == 1  # one query runs all of it once
    write_report([path], tmp_path / "report.html")


def test_what_is_for_recurrent_heads_alone_says_so(policy: RDVLAPolicy, tmp_path: Path, capsys) -> None:
    message = "needs a recurrent-depth head; the policy has a RegressionHead"
    with pytest.raises(RDVLAError, match=message):
        policy.predict(make_observation(1), trace=True)
    with pytest.raises(RDVLAError, match=message):
        compile(policy.head)
    policy.save_pretrained(tmp_path / "policy")
    for part in ("policy", "head"):
        assert main(["export", str(tmp_path / "policy"), str(tmp_path / "out"), "--part", part]) == 2
        assert message in capsys.readouterr().err
