"""Requests per second and latency of `rdvla serve`, next to a plain sequential server of the same policy.

    python -m benchmarks.serving --policy policies/libero_goal --output runs/bench/serving.json
    python -m benchmarks.serving --policy policies/libero_goal --deadlines 50 100 200 400

Robots run in a process of their own (`benchmarks.serving_load`), each server in another (`rdvla serve` and
`benchmarks.serving_sequential`), all on loopback. Both servers run all the time and are asked in turn, so a
slow machine is slow for both. Robots ask again as soon as they have an answer, so the load is the highest.

Deadlines are measured at half of the highest rate of `rdvla serve`: 32 robots ask at fixed times, each query
with a deadline. It is kept if the robot has the answer in time, network included. The usual deadline of a
robot is the time that its executed actions take: 8 actions at 20 Hz take 400 ms.

The processor time of a server per query counts what its process used. Other programs on the machine change it
little, unlike the rates.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Spread, hardware, paired_ratio, run_fresh
from benchmarks.serving_process import ServerProcess, rdvla_server, server_process
from rdvla.files import write_json

OURS, PLAIN = "rdvla serve", "sequential"
DEADLINE_CLIENTS = 32
TIMER = "robot: from sending the packed observation to having the reply; time.perf_counter"


def load(server: ServerProcess, **options: float | None) -> dict[str, Any]:
    """Let robots ask a server, in a new process; return what they heard."""
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    before = server.processor_seconds()
    heard: dict[str, Any] = json.loads(
        run_fresh("benchmarks.serving_load", "--address", server.address, *given)
    )
    return {**heard, "processor_ms": 1000 * (server.processor_seconds() - before) / heard["asked"]}


def throughput(
    servers: Mapping[str, ServerProcess], *, clients: Sequence[int], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Measure both servers in turn, at every number of clients; return a row for each server and number."""
    rows = []
    for count in clients:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
        for turn in range(rounds):
            names = list(servers)
            for name in names[turn % 2 :] + names[: turn % 2]:
                runs[name].append(load(servers[name], clients=count, seconds=seconds))
                rate = _rate(runs[name][-1])
                print(f"  {count} clients, {name}, round {turn + 1}: {rate:.1f}/s", flush=True)
        ratio = paired_ratio(*([_rate(run) for run in runs[name]] for name in (OURS, PLAIN)))
        processor = paired_ratio(*([run["processor_ms"] for run in runs[name]] for name in (PLAIN, OURS)))
        for name, found in runs.items():
            rows.append({"clients": count, "server": name, **_figures(found)})
            if name == OURS:
                rows[-1] |= {
                    "ratio": ratio.median,
                    "ratio_spread": [ratio.low, ratio.high],
                    "processor_ratio": processor.median,
                    "processor_ratio_spread": [processor.low, processor.high],
                }
    return rows


def deadlines(
    server: ServerProcess, *, milliseconds: Sequence[float], seconds: float
) -> list[dict[str, Any]]:
    """Measure at half load how many queries are answered within their deadline, for each deadline."""
    full = _rate(load(server, clients=DEADLINE_CLIENTS, seconds=seconds))
    period = DEADLINE_CLIENTS / (full / 2)
    rows = []
    for deadline in milliseconds:
        heard = load(
            server, clients=DEADLINE_CLIENTS, seconds=seconds, period=round(period, 4), deadline_ms=deadline
        )
        times, own = np.array(heard["milliseconds"]), np.array(heard["server_milliseconds"])
        rows.append(
            {
                "deadline_ms": deadline,
                "clients": DEADLINE_CLIENTS,
                "full_rate": full,
                "period_s": period,
                "queries": len(times),
                "kept": float((times <= deadline).mean()),
                "kept_at_server": float((own <= deadline).mean()),
                "ended_by_deadline": heard["ended_by"].count("deadline") / len(times),
                "mean_depth": statistics.fmean(heard["depths"]),
                "begun_late": heard["begun_late"],
                **_percentiles(times),
            }
        )
    return rows


def _rate(heard: Mapping[str, Any]) -> float:
    return len(heard["milliseconds"]) / float(heard["seconds"])


def _percentiles(milliseconds: Any) -> dict[str, float]:
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def _figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rate by round, and percentiles over the queries of all rounds."""
    rate = Spread.of([_rate(run) for run in runs])
    batches = [size for run in runs for size in run["batch_sizes"]]
    return {
        "requests_per_second": rate.median,
        "rate_spread": [rate.low, rate.high],
        "queries": sum(len(run["milliseconds"]) for run in runs),
        "mean_depth": statistics.fmean(depth for run in runs for depth in run["depths"]),
        "mean_batch": statistics.fmean(batches) if batches else 1.0,
        "processor_ms": statistics.median(run["processor_ms"] for run in runs),
        **_percentiles(np.concatenate([run["milliseconds"] for run in runs])),
    }


def throughput_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Format requests per second and latency."""
    yield (
        "| clients | server | requests/s | times (quartiles) | p50, ms | p95, ms | p99, ms | batch | "
        "processor, ms per query | times less (quartiles) |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        ratios = [_ratio(row, name) for name in ("ratio", "processor_ratio")]
        times = " | ".join(f"{row[name]:.0f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
        yield (
            f"| {row['clients']} | {row['server']} | {row['requests_per_second']:.1f} | {ratios[0]} | "
            f"{times} | {row['mean_batch']:.1f} | {row['processor_ms']:.1f} | {ratios[1]} |"
        )


def _ratio(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return ""
    low, high = row[f"{name}_spread"]
    return f"**{row[name]:.1f}** ({low:.1f}-{high:.1f})"


def deadline_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Format the shares of deadlines that were kept."""
    yield "| deadline, ms | kept | kept at server | ended by it | iterations | p50, ms | p99, ms | queries |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row['deadline_ms']:g} | {row['kept']:.1%} | {row['kept_at_server']:.1%} | "
            f"{row['ended_by_deadline']:.1%} | {row['mean_depth']:.1f} | {row['p50_ms']:.0f} | "
            f"{row['p99_ms']:.0f} | {row['queries']} |"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--policy", default="metaworld")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each round")
    parser.add_argument("--deadlines", type=float, nargs="*", default=[50.0, 100.0, 200.0, 400.0])
    parser.add_argument("--server_options", nargs="*", default=[], help="such as max_batch=16")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/serving.json"))
    options = parser.parse_args(argv)
    given = [f"--{option}" for option in options.server_options]
    result: dict[str, Any] = {
        "schema": 1,
        "timer": TIMER,
        "hardware": hardware(),
        "policy": options.policy,
        "server_options": options.server_options,
        "rounds": options.rounds,
        "seconds": options.seconds,
    }
    with (
        rdvla_server(options.policy, "--connections", "128", "--max_waiting", "128", *given) as ours,
        server_process("benchmarks.serving_sequential", "--policy", options.policy) as plain,
    ):
        if options.clients:
            result["throughput"] = throughput(
                {OURS: ours, PLAIN: plain},
                clients=options.clients,
                rounds=options.rounds,
                seconds=options.seconds,
            )
            print("\n".join(throughput_table(result["throughput"])), flush=True)
        if options.deadlines:
            result["deadlines"] = deadlines(ours, milliseconds=options.deadlines, seconds=options.seconds)
            print("\n".join(deadline_table(result["deadlines"])), flush=True)
    write_json(options.output, result)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
