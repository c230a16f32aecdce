"""What the page says: figures, sentences and charts computed from the results."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rdvla.evaluation.records import Episode
from rdvla.evaluation.report.charts import Point, Series, success_chart
from rdvla.evaluation.results import Results
from rdvla.evaluation.standard import (
    FEWEST_PAIRS,
    Comparison,
    compare,
    enough_adaptive,
    enough_depth,
    told_apart,
    too_few,
)
from rdvla.evaluation.summaries import Summary, suite_summary, within
from rdvla.evaluation.table import number, percent, readable

Times = Mapping[tuple[str, str], float]  # policy, stop rule -> milliseconds per query
Measure = Callable[[Summary], float | None]


@dataclass(frozen=True)
class Figure:
    """A number in large type, with its meaning."""

    value: str
    text: str


@dataclass(frozen=True)
class Panel:
    """A small chart of one task or environment."""

    title: str
    chart: str


def key_figures(own: Sequence[Summary], episodes: Sequence[Episode]) -> list[Figure]:
    """Return what a reader should remember about one policy: depth 1, enough depth, the adaptive rule.

    Args:
        own: the summaries of one policy under one execution rule.
        episodes: of all of them.
    """
    fixed = sorted(
        (each for each in own if each.setting.depth is not None and each.success is not None),
        key=lambda each: each.setting.depth or 0,
    )
    enough = enough_depth(own, episodes)
    if enough is None:  # too few episodes to prefer one
        figures = [_figure(each, "") for each in (*fixed[:1], *fixed[1:][-1:])]
    else:
        figures = [_figure(each, "") for each in fixed[:1] if each.setting.depth == 1 and each is not enough]
        figures.append(_figure(enough, _why_enough(enough, fixed)))
    adaptive = [each for each in own if each.setting.depth is None and each.mean_depth is not None]
    chosen = enough_adaptive(own, episodes) or min(
        adaptive, key=lambda each: each.mean_depth or 0.0, default=None
    )
    if chosen is not None and chosen.mean_depth is not None:
        text = f"with {chosen.setting.stop}, at {chosen.mean_depth:.1f} iterations per query"
        if enough is not None:
            text += _against(chosen, enough, episodes)
        figures.append(Figure(percent(chosen.success), text))
    return figures


def _why_enough(enough: Summary, fixed: Sequence[Summary]) -> str:
    if len(fixed) == 1:
        return ""
    best = max(each.success or 0.0 for each in fixed)
    if enough.success == best:
        return "the smallest fixed depth with the most successes"
    return f"the smallest fixed depth that paired tests do not tell from the best ({percent(best)})"


def _against(chosen: Summary, enough: Summary, episodes: Sequence[Episode]) -> str:
    """What the paired test of an adaptive rule against enough depth says."""
    found = compare(chosen, enough, episodes=episodes, question="headline")
    if found is None:
        return ""
    low, high = 100 * found.test.interval.low, 100 * found.test.interval.high
    points = f"{100 * found.test.difference:+.0f} points ({low:+.0f} to {high:+.0f})"
    return f"; against {enough.setting.describe()}: {points}, {comparison_sentence(found)}"


def caution(own: Sequence[Summary]) -> str | None:
    """Return a warning if there are too few episodes to tell settings apart."""
    if not too_few(own):
        return None
    episodes = max((summary.episodes for summary in own), default=0)
    return (
        f"With {episodes} episode{'s' if episodes != 1 else ''} per setting no test can tell two settings "
        f"apart: it takes at least {FEWEST_PAIRS}, and many more for small differences."
    )


def exception_kinds(episodes: Sequence[Episode]) -> list[str]:
    """Return each exception that ended episodes, with how many, the most frequent first."""
    counted = Counter(
        f"{each.error.type}: {each.error.message}" for each in episodes if each.error is not None
    )
    return [f"{text} ({count} episode{'s' if count != 1 else ''})" for text, count in counted.most_common()]


def _figure(summary: Summary, note: str) -> Figure:
    interval = f"95% interval {100 * summary.interval.low:.0f}-{100 * summary.interval.high:.0f}%"
    where = f"at {summary.setting.describe()}" + (f", {note}" if note else "")
    return Figure(percent(summary.success), f"{where} ({interval})")


def policies(everything: Sequence[Summary]) -> list[str]:
    """Return the names of lines in the charts: policies, with the execution rule if several were run."""
    return list(dict.fromkeys(line_name(summary, everything) for summary in everything))


def line_name(summary: Summary, everything: Sequence[Summary]) -> str:
    """Return the line that a summary belongs to."""
    several = len({other.setting.execution for other in everything}) > 1
    return f"{summary.policy}, {summary.setting.execution}" if several else summary.policy


def environments(everything: Sequence[Summary]) -> list[str]:
    """Return the environments that were played, in the order of the results."""
    return list(dict.fromkeys(row.env for summary in everything for row in summary.rows))


def lacks_environments(summary: Summary, envs: Sequence[str]) -> bool:
    """Whether a setting was not played in all of these environments: its mean is one of other tasks."""
    return not {row.env for row in summary.rows} >= set(envs)


def complete(everything: Sequence[Summary]) -> list[Summary]:
    """Return the settings whose means can be compared: those played in every environment; all if none was."""
    envs = environments(everything)
    return [each for each in everything if not lacks_environments(each, envs)] or list(everything)


def compute_chart(everything: Sequence[Summary], *, core_blocks: Mapping[str, int]) -> str:
    """Draw mean success over the tasks against passes through a core block, so equal compute is aligned.

    Args:
        everything: the summaries.
        core_blocks: blocks in the core, by policy; one iteration runs all of them.
    """
    passes = _passes(core_blocks)
    ticks = _ticks([found for summary in everything if (found := passes(summary)) is not None])
    return success_chart(
        _lines(complete(everything), passes, everything=everything),
        ticks=ticks,
        label="core block passes per query (mean)",
        size=(5.4, 3.5),
    )


def _passes(core_blocks: Mapping[str, int]) -> Measure:
    def passes(summary: Summary) -> float | None:
        if summary.mean_depth is None:
            return None
        return summary.mean_depth * core_blocks.get(summary.policy, 1)

    return passes


def query_times(loaded: Sequence[Results]) -> Times:
    """Return milliseconds per query by policy and stop rule, as far as they were measured."""
    found: dict[tuple[str, str], float] = {}
    for results in loaded:
        for label, (stop, milliseconds) in itertools.product(results.labels, results.query_ms.items()):
            found.setdefault((label, stop), milliseconds)
    return found


def time_chart(everything: Sequence[Summary], times: Times) -> str:
    """Draw mean success over the tasks against milliseconds per query."""
    lines = _lines(
        complete(everything),
        lambda summary: times.get((summary.policy, summary.setting.stop)),
        everything=everything,
    )
    return success_chart(
        lines, ticks=[], label="milliseconds per query", size=(5.4, 3.5), logarithmic=False, connected=False
    )


def suite_panels(everything: Sequence[Summary], *, core_blocks: Mapping[str, int]) -> list[Panel]:
    """Draw a small chart per environment, see `compute_chart`."""
    draw = _panel_maker(everything, core_blocks)
    return [
        draw(env, [own for summary in everything if (own := within(summary, env)) is not None])
        for env in environments(everything)
    ]


def task_panels(everything: Sequence[Summary], *, core_blocks: Mapping[str, int]) -> dict[str, list[Panel]]:
    """Draw a small chart per task, by environment, see `compute_chart`."""
    draw = _panel_maker(everything, core_blocks)
    panels: dict[str, list[Panel]] = {}
    all_rows = [row for summary in everything for row in summary.rows]
    for env, task in dict.fromkeys((row.env, row.task) for row in all_rows):
        rows = [row for row in all_rows if (row.env, row.task) == (env, task)]
        panels.setdefault(env, []).append(draw(readable(task), [suite_summary([row]) for row in rows]))
    return panels


def _panel_maker(
    everything: Sequence[Summary], core_blocks: Mapping[str, int]
) -> Callable[[str, Sequence[Summary]], Panel]:
    """Return a function that draws some summaries with the scale and the colours of all."""
    passes = _passes(core_blocks)
    ticks = _ticks([found for summary in everything if (found := passes(summary)) is not None])

    def draw(title: str, some: Sequence[Summary]) -> Panel:
        lines = _lines(some, passes, everything=everything)
        return Panel(title, success_chart(lines, ticks=ticks, label="core block passes", size=(3.3, 2.0)))

    return draw


def _lines(some: Sequence[Summary], measure: Measure, *, everything: Sequence[Summary]) -> list[Series]:
    """The lines of a chart of some summaries, in the colours of the charts of everything."""
    lines = []
    for index, name in enumerate(policies(everything)):
        own = [summary for summary in some if line_name(summary, everything) == name]
        fixed, adaptive = (
            [
                Point(x, summary.success, summary.interval)
                for summary in own
                if (summary.setting.depth is None) == wanted
                and (x := measure(summary)) is not None
                and summary.success is not None
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


def comparison_sentence(comparison: Comparison) -> str:
    """Say in words what a paired test found."""
    test = comparison.test
    by = "by the interval" if test.p_value is None else f"p = {test.p_value:.2g}"
    found = ("better" if test.difference > 0 else "worse") if told_apart(test) else "not told apart"
    return f"{found} ({by})"


def suite_cells(summary: Summary, envs: Sequence[str]) -> list[str]:
    """Return success in each environment and averaged over them, with intervals; no average of a part."""
    average = summary if not lacks_environments(summary, envs) else None
    columns = [*(within(summary, env) for env in envs), average]
    return ["-" if column is None else _with_interval(column) for column in columns]


def _with_interval(summary: Summary) -> str:
    low, high = summary.interval.low, summary.interval.high
    return f"{percent(summary.success)} ({100 * low:.0f}-{100 * high:.0f})"


def summary_cells(summary: Summary, times: Times) -> list[str]:
    """Return the numbers of a table line, after policy and setting; times only if any were measured."""
    own = times.get((summary.policy, summary.setting.stop))
    return [
        percent(summary.success),
        f"{100 * summary.interval.low:.0f}-{100 * summary.interval.high:.0f}%",
        number(summary.mean_depth, 2),
        number(summary.mean_executed, 1),
        *([number(own, 1)] if times else []),
        str(summary.episodes),
        str(summary.errors),
    ]
