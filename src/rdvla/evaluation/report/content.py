"""What the page says: figures, sentences and charts computed from the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rdvla.evaluation.aggregate import Summary, best_fixed, part_of, suite_summary
from rdvla.evaluation.comparisons import Comparison
from rdvla.evaluation.report.charts import Point, Series, success_chart
from rdvla.evaluation.table import number, percent, readable

Measure = Callable[[Summary], float | None]


@dataclass(frozen=True)
class Figure:
    """A number worth a large type, with what it is."""

    value: str
    text: str


@dataclass(frozen=True)
class Panel:
    """A small chart of one task or environment."""

    title: str
    chart: str


def key_figures(own: Sequence[Summary]) -> list[Figure]:
    """What a reader should take away about one policy: depth 1, the best depth, the adaptive rule."""
    best = best_fixed(own)
    if best is None:
        return []
    figures = [_figure(one, "") for one in own if one.setting.depth == 1 and one is not best][:1]
    figures.append(_figure(best, "the best fixed depth"))
    adaptive = [one for one in own if one.setting.depth is None and one.mean_depth is not None]
    chosen = max(adaptive, key=lambda one: one.success or 0.0, default=None)
    if chosen is not None and chosen.mean_depth is not None and best.mean_depth:
        saved = 1 - chosen.mean_depth / best.mean_depth
        against = f"{abs(saved):.0%} {'fewer' if saved >= 0 else 'more'} than the best fixed depth"
        figures.append(
            Figure(
                percent(chosen.success),
                f"with {chosen.setting.rule}, at {chosen.mean_depth:.1f} iterations a query: {against}",
            )
        )
    return figures


def _figure(one: Summary, note: str) -> Figure:
    interval = f"95% interval {100 * one.interval.low:.0f}-{100 * one.interval.high:.0f}%"
    where = f"at {one.setting.describe()}" + (f", {note}" if note else "")
    return Figure(percent(one.success), f"{where} ({interval})")


def policies(everything: Sequence[Summary]) -> list[str]:
    """Names of lines in the charts: policies, with the execution rule where several were run."""
    return list(dict.fromkeys(line_name(one, everything) for one in everything))


def line_name(one: Summary, everything: Sequence[Summary]) -> str:
    """The line that a summary belongs to."""
    several = len({other.setting.execution for other in everything}) > 1
    return f"{one.policy}, {one.setting.execution}" if several else one.policy


def environments(everything: Sequence[Summary]) -> list[str]:
    """The environments that were played, in the order of the results."""
    return list(dict.fromkeys(row.env for one in everything for row in one.rows))


def compute_chart(everything: Sequence[Summary], *, core_blocks: Mapping[str, int]) -> str:
    """Mean success over the tasks, against passes through a core block: equal compute lies at equal places.

    Args:
        everything: the summaries.
        core_blocks: blocks in the core, by policy; one iteration runs all of them.
    """
    passes = _passes(core_blocks)
    ticks = _ticks([found for one in everything if (found := passes(one)) is not None])
    return success_chart(
        _lines(everything, passes, everything=everything),
        ticks=ticks,
        label="core block passes per query (mean)",
        size=(5.4, 3.5),
    )


def _passes(core_blocks: Mapping[str, int]) -> Measure:
    def passes(one: Summary) -> float | None:
        return None if one.mean_depth is None else one.mean_depth * core_blocks.get(one.policy, 1)

    return passes


def time_chart(everything: Sequence[Summary]) -> str:
    """Mean success over the tasks, against milliseconds a query."""
    lines = _lines(everything, lambda one: one.query_ms, everything=everything)
    return success_chart(
        lines, ticks=[], label="milliseconds per query", size=(5.4, 3.5), logarithmic=False, joined=False
    )


def suite_panels(everything: Sequence[Summary], *, core_blocks: Mapping[str, int]) -> list[Panel]:
    """One small chart for each environment, see `compute_chart`."""
    draw = _panel_maker(everything, core_blocks)
    return [
        draw(env, [part for one in everything if (part := part_of(one, env)) is not None])
        for env in environments(everything)
    ]


def task_panels(everything: Sequence[Summary], *, core_blocks: Mapping[str, int]) -> dict[str, list[Panel]]:
    """One small chart for each task, by environment, see `compute_chart`."""
    draw = _panel_maker(everything, core_blocks)
    panels: dict[str, list[Panel]] = {}
    for env, task in dict.fromkeys((row.env, row.task) for one in everything for row in one.rows):
        rows = [row for one in everything for row in one.rows if (row.env, row.task) == (env, task)]
        panels.setdefault(env, []).append(draw(readable(task), [suite_summary([row]) for row in rows]))
    return panels


def _panel_maker(
    everything: Sequence[Summary], core_blocks: Mapping[str, int]
) -> Callable[[str, Sequence[Summary]], Panel]:
    """A function that draws a part of the summaries with the scale and the colours of all."""
    passes = _passes(core_blocks)
    ticks = _ticks([found for one in everything if (found := passes(one)) is not None])

    def draw(title: str, part: Sequence[Summary]) -> Panel:
        lines = _lines(part, passes, everything=everything)
        return Panel(title, success_chart(lines, ticks=ticks, label="core block passes", size=(3.3, 2.0)))

    return draw


def _lines(part: Sequence[Summary], measure: Measure, *, everything: Sequence[Summary]) -> list[Series]:
    """The lines of a chart of `part`, in the colours that they have in the charts of everything."""
    lines = []
    for index, name in enumerate(policies(everything)):
        own = [one for one in part if line_name(one, everything) == name]
        fixed, adaptive = (
            [
                Point(x, one.success, one.interval)
                for one in own
                if (one.setting.depth is None) == wanted
                and (x := measure(one)) is not None
                and one.success is not None
            ]
            for wanted in (False, True)
        )
        lines.append(Series(number=index, fixed=fixed, adaptive=adaptive))
    return lines


def _ticks(values: Sequence[float]) -> list[float]:
    """Powers of two that span all values."""
    ticks = [1.0]
    while ticks[-1] < max([2.0, *values]):
        ticks.append(2 * ticks[-1])
    return ticks


def comparison_sentence(one: Comparison) -> str:
    """What a paired test says, in words."""
    test = one.test
    if test.p_value is None:
        apart, by = 0.0 not in test.interval, "by the interval"
    else:
        apart, by = test.p_value < 0.05, f"p = {test.p_value:.2g}"
    return f"{('better' if test.difference > 0 else 'worse') if apart else 'not told apart'} ({by})"


def suite_cells(one: Summary, envs: Sequence[str]) -> list[str]:
    """Success in each environment and averaged over them, with intervals."""
    parts = [*(part_of(one, env) for env in envs), one]
    return ["-" if part is None else _with_interval(part) for part in parts]


def _with_interval(one: Summary) -> str:
    return f"{percent(one.success)} ({100 * one.interval.low:.0f}-{100 * one.interval.high:.0f})"


def summary_cells(one: Summary) -> list[str]:
    """The numbers of a table line, after policy and setting."""
    return [
        percent(one.success),
        f"{100 * one.interval.low:.0f}-{100 * one.interval.high:.0f}%",
        number(one.mean_depth, 2),
        number(one.mean_executed, 1),
        number(one.query_ms, 1),
        str(one.episodes),
        str(one.errors),
    ]
