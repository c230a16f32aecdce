"""A head as native code, compiled ahead of time, against the plain head."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rdvla.cli import main
from rdvla.control import Stop
from rdvla.engine import Engine, load_compiled
from rdvla.export import Report, export_compiled_head
from rdvla.heads import Context, RecurrentDepthHead
from rdvla.policy import RDVLAPolicy
from tests.support.closeness import assert_stops_clearly
from tests.support.heads import make_scaled_case, take
from tests.support.processes import without_a_compiler
from tests.support.tiny_models import make_observation, make_policy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="compiling needs a C++ compiler on a CPU"),
]

VISION = 60  # tokens, enough for the coda's context to have either form
STOPS = (
    Stop.fixed(1),
    Stop.fixed(9),
    Stop("action_change", threshold=1e-3),
    Stop("deferred_action_change", threshold=1e-3, coda_below=0.2),
    Stop("latent_change", threshold=0.05),
    Stop("cosine", threshold=1e-3),
)


def make_case() -> tuple[RecurrentDepthHead, Context, torch.Tensor]:
    return make_scaled_case(vision=VISION)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    head, context, _ = make_case()
    return export_compiled_head(
        head, tmp_path_factory.mktemp("aoti") / "export", example=context, stop=Stop("latent_change")
    )


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.describe())
def test_every_rule_decides_as_before_in_a_batch_and_alone(report: Report, stop: Stop) -> None:
    head, context, start = make_case()
    expected = Engine(head).predict(context, stop=stop, initial_state=start)
    assert_stops_clearly(head, context, stop=stop, initial_state=start, tolerance=3e-5)
    engine = load_compiled(head, report.folder)
    found = engine.predict(context, stop=stop, initial_state=start)
    assert found.depth.tolist() == expected.depth.tolist()
    torch.testing.assert_close(found.actions, expected.actions, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.state, expected.state, atol=1e-5, rtol=1e-5)
    for sample in range(3):
        initial_state = start[sample : sample + 1]
        alone = engine.predict(take(context, sample), stop=stop, initial_state=initial_state)
        assert alone.depth.tolist() == expected.depth[sample : sample + 1].tolist()
        torch.testing.assert_close(alone.actions[0], expected.actions[sample], atol=1e-5, rtol=1e-5)


def test_the_layout_of_features_does_not_matter(report: Report) -> None:
    head, context, start = make_case()
    expected = Engine(head).predict(context, stop=5, initial_state=start).actions
    engine = load_compiled(head, report.folder)
    turned = Context(
        {level: value.mT.contiguous().mT for level, value in context.vision.items()},
        {level: value.mT.contiguous().mT for level, value in context.latents.items()},
        context.proprio.expand(-1, 2, -1)[:, 1:],
    )
    found = engine.predict(turned, stop=5, initial_state=start.mT.contiguous().mT).actions
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["in place", "move", "load"])
def test_the_code_is_dropped_when_weights_change(report: Report, change: str) -> None:
    head, _, _ = make_case()
    engine = load_compiled(head, report.folder)
    assert engine.is_compiled
    if change == "in place":
        head.output.bias.add_(1)
    elif change == "move":
        head.to(torch.float64)
    else:
        head.load_state_dict(head.state_dict())
    with pytest.warns(UserWarning, match="compile it again"):
        assert not engine.is_compiled


def test_it_was_checked_under_a_rule_of_each_kind(report: Report) -> None:
    assert [check.stop.partition(":")[0] for check in report.checks] == [
        "fixed", "latent_change", "action_change", "deferred_action_change"
    ]  # fmt: skip
    for check in report.checks:
        check.require()
        assert len(check.depths) == 4  # three in a batch, one alone


def test_no_compiler_is_needed_to_run_it(report: Report) -> None:
    code = f"""
import torch
from rdvla.engine import Engine, load_compiled
from tests.support.heads import make_scaled_case
head, context, start = make_scaled_case(vision={VISION})
engines = Engine(head), load_compiled(head, {str(report.folder)!r})
expected, found = (each.predict(context, stop=4, initial_state=start).actions for each in engines)
print(float((found - expected).abs().max()) < 1e-5)
"""
    bare = os.environ | {"PATH": "", "CXX": "none"}
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=bare
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "True"


def test_the_command_line_compiles_a_policy_s_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_policy().save_pretrained(tmp_path / "policy")
    output = tmp_path / "export"
    options = ["--format", "aoti", "--part", "head", "--precision", "bf16"]
    assert main(["export", str(tmp_path / "policy"), str(output), *options]) == 0
    shown = capsys.readouterr().out
    assert f"written: {output}, bf16" in shown
    assert f'next: policy.engine = rdvla.engine.load_compiled(policy.head, "{output}")' in shown
    policy = RDVLAPolicy.from_pretrained(tmp_path / "policy")
    observation, start = make_observation(3), policy.initial_state(3, torch.Generator().manual_seed(0))
    expected = policy.predict(observation, stop=4, initial_state=start).actions
    policy.engine = load_compiled(policy.head, output)
    found = policy.predict(observation, stop=4, initial_state=start).actions
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=3e-2, rtol=3e-2)


def test_without_a_compiler_the_error_says_what_is_missing(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    code = (
        "from pathlib import Path\n"
        "from rdvla.control import Stop; from rdvla.export import export_compiled_head\n"
        "from tests.support.heads import make_scaled_case\n"
        f"head, context, _ = make_scaled_case(vision={VISION})\n"
        f"output = Path({str(output / 'export')!r})\n"
        "export_compiled_head(head, output, example=context, stop=Stop.fixed(1))"
    )
    found = without_a_compiler(code, tmp_path / "cache")
    assert found.returncode != 0
    assert "RDVLAError" in found.stderr and "C++ compiler such as g++" in found.stderr
    assert not any(output.iterdir())
