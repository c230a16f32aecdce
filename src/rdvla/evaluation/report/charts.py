"""Charts as inline SVG: drawn by matplotlib, coloured by the page's CSS variables to follow its theme."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from rdvla.evaluation.profile import DepthProfile
from rdvla.evaluation.statistics import Interval

INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#0a0101", "#0a0202", "#0a0303", "#0a0404", "#0a0505", "#0a0606")
# matplotlib knows no CSS variables: it draws with placeholder colours, replaced in its output.
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be searched
    "svg.hashsalt": "rdvla",
    "font.size": 9,
    "axes.linewidth": 0.7,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
}


@dataclass(frozen=True)
class Point:
    """One setting in a chart of success."""

    x: float
    success: float
    interval: Interval


@dataclass(frozen=True)
class Series:
    """One policy in a chart: its fixed depths as a line, its adaptive rules as diamonds."""

    number: int  # from 0; its colour
    fixed: Sequence[Point]
    adaptive: Sequence[Point]


def success_chart(
    series: Sequence[Series],
    *,
    ticks: Sequence[float],
    label: str,
    size: tuple[float, float],
    logarithmic: bool = True,
    connected: bool = True,
) -> str:
    """Draw success (percent, with intervals) against depth, iterations or time; `size` in inches.

    `connected` draws a line through a policy's fixed depths; times are too noisy for a line.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=size)
        axes = figure.add_subplot()
        if logarithmic:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
            axes.set_xticklabels([f"{tick:g}" for tick in ticks])
            axes.set_xlim(min(ticks) / 1.25, max(ticks) * 1.25)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(-4, 104)
        axes.set_yticks([0, 50, 100] if size[1] < 2.5 else [0, 25, 50, 75, 100])
        axes.yaxis.set_major_formatter("{x:.0f}%")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_xlabel(label)
        for each in series:
            _draw(axes, each, large=size[1] >= 2.5, connected=connected)
        figure.tight_layout(pad=0.4)
        return as_svg(figure)


def depth_chart(
    depths: Sequence[int],
    executed: Sequence[int],
    *,
    profile: DepthProfile | None,
    size: tuple[float, float],
) -> str:
    """Draw the iterations of each query along an episode; it fills the width exactly, under a film strip.

    The median and quartiles of `profile` lie behind it, scaled to the episode's length.
    """
    edges = [0]
    for count in executed:
        edges.append(edges[-1] + count)
    with rc_context(STYLE):
        figure = Figure(figsize=size)
        axes = figure.add_axes((0.0, 0.2, 1.0, 0.78))
        top = max(depths)
        if profile is not None:
            time = profile.time * edges[-1]
            axes.fill_between(time, profile.low, profile.high, color=MUTED, alpha=0.22, linewidth=0)
            axes.plot(time, profile.median, color=MUTED, linewidth=1.0)
            top = max(top, round(float(profile.high.max())))
        axes.stairs(depths, edges, color=SERIES[0], linewidth=1.6, baseline=None)
        axes.set_xlim(0, edges[-1])
        axes.set_ylim(0, top * 1.25)
        levels = [level for level in sorted({min(depths), max(depths)}) if level]
        axes.set_yticks(levels, labels=[""] * len(levels))
        axes.grid(axis="y")
        for level in levels:
            axes.annotate(str(level), (0, level), (3, 2), textcoords="offset points", color=MUTED, fontsize=8)
        ticks = sorted({0, edges[-1] // 4, edges[-1] // 2, 3 * edges[-1] // 4, edges[-1]})
        axes.set_xticks(ticks)
        labels = axes.set_xticklabels([f"step {tick}" if tick == 0 else str(tick) for tick in ticks])
        labels[0].set_horizontalalignment("left")
        labels[-1].set_horizontalalignment("right")
        return as_svg(figure)


def _draw(axes: Axes, series: Series, *, large: bool, connected: bool) -> None:
    colour = SERIES[series.number % len(SERIES)]
    size = 5.5 if large else 4.0
    for points, marker, line, scale in (
        (sorted(series.fixed, key=lambda point: point.x), "o", "-" if connected else "none", 1.0),
        (series.adaptive, "D", "none", 1.25),
    ):
        if not points:
            continue
        success = [100 * point.success for point in points]
        below = [100 * max(0.0, point.success - point.interval.low) for point in points]
        above = [100 * max(0.0, point.interval.high - point.success) for point in points]
        axes.errorbar(
            [point.x for point in points],
            success,
            yerr=[below, above],
            color=colour,
            marker=marker,
            markersize=size * scale,
            linestyle=line,
            linewidth=1.6,
            elinewidth=1.0,
            alpha=0.95,
            markeredgewidth=1.2,
            markerfacecolor=colour if marker == "o" else "none",
            clip_on=False,
        )


def as_svg(figure: Figure) -> str:
    """Return a figure drawn under `STYLE` as an <svg> element without any link that leaves the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text, count=3)
    text = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    for placeholder, variable in VARIABLES.items():
        text = text.replace(placeholder, variable)
    return text
