"""The head's benchmark at a small size: its candidates agree, and its result has the promised form."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

import pytest
import torch

from benchmarks import baseline, harness, markdown, paths, roofline
from benchmarks import head as benchmark
from rdvla.control import Stop
from rdvla.engine import Engine
from rdvla.heads import RecurrentConfig
from tests.support.closeness import assert_stops_clearly

SMALL = RecurrentConfig(
    hidden_dim=32, num_heads=4, prelude=("middle",), core=("late", "middle"), coda=("late",)
)


@pytest.mark.parametrize("depth", [1, 3, 9])
def test_plain_loop_gives_the_same_actions(depth: int):
    head, context, state = benchmark.build(SMALL, vision_tokens=6, latent_tokens=3)
    ours = Engine(head).predict(context, stop=depth, initial_state=state).actions
    plain = baseline.plain_loop(head, context, depth=depth, initial_state=state)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain, baseline.plain_loop(head, context, depth=depth + 1, initial_state=state))


def test_the_plain_adaptive_loop_stops_where_ours_does():
    head, context, state = benchmark.build(SMALL, vision_tokens=6, latent_tokens=3)
    for threshold in (1e-2, 1e-3, 1e-5):
        stop = Stop("action_change", threshold=threshold)
        assert_stops_clearly(head, context, stop=stop, initial_state=state, tolerance=3e-5)
        ours = Engine(head).predict(context, stop=stop, initial_state=state)
        plain, depth = baseline.plain_adaptive_loop(
            head, context, threshold=threshold, max_depth=32, initial_state=state
        )
        assert ours.depth.tolist() == [depth]
        torch.testing.assert_close(ours.actions, plain, atol=1e-5, rtol=1e-5)


def small_run(*, rounds: int) -> dict[str, Any]:
    return benchmark.run(
        SMALL,
        vision_tokens=6,
        latent_tokens=3,
        depths=(1, 2),
        rounds=rounds,
        paths=["eager fp32"],
        adaptive_depth=4,
    )


def test_rows(capsys: pytest.CaptureFixture[str]):
    result = small_run(rounds=3)
    assert [row["depth"] for row in result["rows"]] == [1, 2, 4, 4]
    for row in result["rows"]:
        assert {"baseline_ms", "ours_ms", "ratio", "ratio_spread"} <= row.keys()
        assert row["ratio_spread"][0] <= row["ratio"] <= row["ratio_spread"][1]
        assert row["max_abs_difference"] < 1e-4
    assert result["iteration_ms"].keys() == {"eager fp32"}
    errors = result["errors"]["paths"]["eager fp32"]
    assert 0 < errors["median"] <= errors["max"] < 1e-4
    assert json.loads(json.dumps(result, allow_nan=False))["config"]["vision_tokens"] == 6
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_heads_that_disagree_are_not_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmark, "plain_loop", lambda head, *_args, **_kwargs: torch.ones(1, 8, 7))
    head, context, state = benchmark.build(SMALL, vision_tokens=6, latent_tokens=3)
    runs = {"eager fp32": paths.PATHS["eager fp32"](head)}
    with pytest.raises(RuntimeError, match="disagrees"):
        benchmark.measure(head, context, state, stop=Stop.fixed(1), runs=runs, rounds=1)


def test_an_iteration_moves_its_weights_and_keys_once():
    config = RecurrentConfig()  # the paper's: 896 wide, two core blocks, 577 tokens
    work = roofline.iteration(config, tokens=577)
    numbers = 2 * (18 * 896**2 + 2 * 577 * 896) + 896**2
    assert work.bytes == 4 * numbers
    assert work.multiplications == 8 * numbers + 2 * 2 * 64 * 896
    limits = roofline.Limits(bytes_per_second=work.bytes, multiplications_per_second=2 * work.multiplications)
    assert limits.milliseconds(work, float32=True) == 1000
    slow = roofline.Limits(bytes_per_second=work.bytes, multiplications_per_second=work.multiplications / 3)
    assert slow.milliseconds(work, float32=True) == 3000
    assert slow.milliseconds(work, float32=False) == 1000


def test_eight_bit_weights_have_scales_and_full_keys():
    weights, context = 2 * 18 * 896**2 + 896**2, 2 * 2 * 577 * 896
    work = roofline.iteration(RecurrentConfig(), tokens=577, number=paths.BYTES["int8"])
    assert work.bytes == (1 + 4 / 32) * weights + 4 * context


def test_each_path_comes_as_near_as_its_time_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(roofline, "measure_limits", lambda: roofline.Limits(1e9, 1e15))
    result = roofline.possible(
        SMALL,
        tokens=10,
        iteration_ms={"eager fp32": 1.0, "compiled bf16": 1.0},
        numbers={"eager fp32": paths.BYTES["fp32"], "compiled bf16": paths.BYTES["bf16"]},
    )
    full, half = result["rows"]
    assert full["achieved"] == pytest.approx(2 * half["achieved"]) == pytest.approx(full["least_ms"])


def test_tables_show_what_was_measured() -> None:
    result = small_run(rounds=1)
    result["possible"] = {
        "gib_per_second": 1.0,
        "gigamultiplications_per_second": 2.0,
        "rows": [{"path": "eager fp32", "iteration_ms": 4.0, "mib": 8.0, "least_ms": 2.0, "achieved": 0.5}],
    }
    result["peak_memory"] = {"rows": [{"depth": 1, "mib": 30.0}]}
    lines = list(markdown.tables(result))
    assert lines[0] == "| setting | plain loop, ms | eager fp32 |"
    assert [line.split(" |")[0] for line in lines[2:6]] == [
        "| depth 1",
        "| depth 2",
        "| adaptive",
        "| adaptive, coda deferred",
    ]
    assert "| eager fp32 | 4.0 | 8 | 2.0 | 50% |" in lines
    assert lines[-1] == "depth 1: 30 MiB"


def test_interleave_turns_the_order():
    calls: list[str] = []
    candidates = {name: lambda name=name: calls.append(name) for name in "abc"}
    samples = harness.interleave(candidates, rounds=3, warmup=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3, "c": 3}


def test_spread_and_paired_ratio():
    assert harness.Spread.of([2.0]) == harness.Spread(2.0, 2.0, 2.0)
    samples = [1.0, 5.0, 2.0, 8.0]
    assert harness.Spread.of(samples).median == median(samples)
    # a pause hits both candidates of a round, so the ratio stays the same
    assert harness.paired_ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == harness.Spread(2.0, 2.0, 2.0)


def test_peak_memory_sees_an_allocation():
    before = harness.reset_peak_memory()
    held = torch.ones(8 * 2**20)  # 32 MiB
    del held
    assert harness.peak_memory() - before > 24


def test_hardware_names_what_timings_depend_on():
    assert {"cpu", "cores", "torch", "torch_threads"} <= harness.hardware().keys()
