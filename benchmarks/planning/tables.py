"""The tables of a log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.log import Line
from benchmarks.planning.suites import best_rate, validated
from benchmarks.planning.training import VALIDATION_PROBLEMS
from rdvla.evaluation import wilson_interval


def tables(lines: Sequence[Line]) -> Iterator[str]:
    """Format what was solved by length, each depth's success, the rates tried, and where it ran."""
    trainings = [line for line in lines if line["kind"] == "training"]
    cases = list(dict.fromkeys(line["case"] for line in trainings))
    chosen = {case: at_best_rate([line for line in trainings if line["case"] == case]) for case in cases}
    yield from success_table(chosen)
    for case, found in chosen.items():
        if len(found[0]["success"]) > 1:
            yield from ["", f"{case}, by depth", "", *depth_table(found)]
    yield from ["", *rate_table(trainings)]
    yield ""
    for line in lines:
        if line["kind"] == "machine":
            shown = ("cpu", "cores", "torch_threads", "torch", "python")
            yield ", ".join(f"{name} {line['hardware'][name]}" for name in shown)


def at_best_rate(lines: Sequence[Line]) -> list[Line]:
    """Return the trainings of a case at the rate that validated best, by seed."""
    rate = best_rate(lines)
    found = [line for line in lines if line["settings"]["recipe"]["learning_rate"] == rate]
    return sorted(found, key=lambda line: line["settings"]["seed"])


def success_table(chosen: dict[str, list[Line]]) -> Iterator[str]:
    """One line per case and depth: as trained, twice that, and the deepest tested."""
    chance = next(iter(chosen.values()))[0]["chance"]
    yield _line(
        "head",
        "depth",
        "parameters",
        "multiply-accumulates",
        "rate",
        *(f"length {n}" for n in chance),
        "seeds",
    )
    yield "|" + "---|" * (6 + len(chance))
    for case, found in chosen.items():
        recipe, tested = found[0]["settings"]["recipe"], [int(depth) for depth in found[0]["success"]]
        for depth in tested if len(tested) == 1 else (recipe["depth"], 2 * recipe["depth"], tested[-1]):
            yield _line(
                case,
                str(depth),
                f"{found[0]['parameters'] / 1e3:.0f}k",
                f"{found[0]['operations'][str(depth)] / 1e3:.0f}k",
                f"{recipe['learning_rate']:g}",
                *(_pooled(found, depth, length) for length in chance),
                str(len(found)),
            )
    yield _line("chance", "", "", "", "", *(f"{100 * value:.0f}" for value in chance.values()), "")


def depth_table(found: Sequence[Line]) -> Iterator[str]:
    """Success in percent by depth and length, one number per seed."""
    yield _line("depth", "multiply-accumulates", *(f"length {length}" for length in found[0]["chance"]))
    yield "|" + "---|" * (2 + len(found[0]["chance"]))
    for depth in found[0]["success"]:
        cells = (
            " / ".join(f"{100 * line['success'][depth][length] / line['problems']:.0f}" for line in found)
            for length in found[0]["chance"]
        )
        yield _line(depth, f"{found[0]['operations'][depth] / 1e3:.0f}k", *cells)


def rate_table(trainings: Sequence[Line]) -> Iterator[str]:
    """Every training: what validation said at its end, over the trained lengths, and its time."""
    yield _line("head", "rate", "seed", "validation, %", "updates", "CPU s")
    yield "|" + "---|" * 6
    for line in trainings:
        recipe = line["settings"]["recipe"]
        last = line["curve"][-1]
        share = validated(line) / (len(last["validation"]) * VALIDATION_PROBLEMS)
        yield _line(
            line["case"],
            f"{recipe['learning_rate']:g}",
            str(line["settings"]["seed"]),
            f"{100 * share:.0f}",
            str(last["update"]),
            f"{line['cpu_seconds']:.0f}",
        )


def _pooled(found: Sequence[Line], depth: int, length: str) -> str:
    """Success over all seeds in percent, with Wilson's 95% interval over the problems."""
    correct = sum(line["success"][str(depth)][length] for line in found)
    problems = sum(line["problems"] for line in found)
    interval = wilson_interval(correct, problems)
    return f"{100 * correct / problems:.0f} ({100 * interval.low:.0f}-{100 * interval.high:.0f})"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
