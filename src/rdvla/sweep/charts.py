"""Curves of trials over their updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from rdvla.evaluation.report.charts import SERIES, STYLE, as_svg
from rdvla.sweep.outcomes import Outcome, SettingOutcome

SIZE = (5.4, 3.2)  # inches
DASHES = ("-", "--", ":")  # of the first settings that have all colours, of the next ones, and so on
SMOOTHED = 60  # points of a curve of training losses; more than that are averaged in blocks

Curve = Callable[[Outcome], Sequence[tuple[int, float]]]


def curves(settings: Sequence[SettingOutcome], curve: Curve, *, label: str) -> str:
    """Draw a curve of every trial, all trials of a setting in its colour, as SVG.

    Args:
        settings: whose trials to draw.
        curve: gives (updates, value) of a trial.
        label: of the vertical axis.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        for number, setting in enumerate(settings):
            colour = SERIES[number % len(SERIES)]
            for outcome in setting.outcomes:
                points = _smooth(curve(outcome))
                marker = "o" if len(points) < SMOOTHED // 2 else ""
                axes.plot(
                    [step for step, _ in points],
                    [value for _, value in points],
                    color=colour,
                    linewidth=1.2,
                    linestyle=DASHES[number // len(SERIES) % len(DASHES)],
                    marker=marker,
                    markersize=3,
                )
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_xlabel("updates")
        axes.set_ylabel(label)
        figure.tight_layout(pad=0.4)
        return as_svg(figure)


def _smooth(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    block = max(1, len(points) // SMOOTHED)
    blocks = [points[start : start + block] for start in range(0, len(points), block)]
    return [
        (sum(step for step, _ in each) / len(each), sum(value for _, value in each) / len(each))
        for each in blocks
    ]
