"""A picture of the depth along episodes, over film strips: when an adaptive policy iterates most."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import MaxNLocator

from rdvla.errors import nearest
from rdvla.evaluation.profile import (
    DepthProfile,
    deepest_queries,
    depth_profile,
    pictures_at,
    query_steps,
    video_path,
)
from rdvla.evaluation.records import Episode, ResultsError
from rdvla.evaluation.results import Results
from rdvla.evaluation.table import readable
from rdvla.files import write_atomically
from rdvla.rollout.jobs import Setting

TASKS = 4  # shown when none are named
PICTURES = 9  # in a film strip
MARKED = 3  # pictures among them that are marked as the deepest queries
INK, MUTED, FRAME = "#1c2127", "#626b76", "#b4bcc6"
BAND, MEDIAN, LINE, MARK = "#c9d8ea", "#7f97b5", "#1f66b0", "#c2611a"
WIDTH = 11.0  # inches
HEIGHTS = (1.5, 0.4, 0.95)  # inches: chart, lines to the pictures, room for captions and the next title
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#c4cad1",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
}


@dataclass(frozen=True)
class _Scene:
    """What the picture shows for one task."""

    episode: Episode  # in the film strip
    path: Path  # its video
    profile: DepthProfile  # over all episodes of the task


def draw_profiles(
    results: Results, output: Path | str, *, tasks: Sequence[str] = (), setting: Setting | None = None
) -> Path:
    """Draw the iterations along an episode over pictures of it, for some tasks; mark the deepest queries.

    Args:
        results: of an evaluation with videos under an adaptive rule.
        output: PNG (or another format of matplotlib, by its suffix) to write.
        tasks: names of tasks; if none are given, the first few with a video.
        setting: whose episodes to show; the first adaptive setting if not given.

    Raises:
        ResultsError: the results hold no such setting or task, or no video of it.
    """
    chosen = setting or _first_adaptive(results)
    scenes = _scenes(results, tasks, chosen)
    strip = WIDTH / PICTURES
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, len(scenes) * (strip + sum(HEIGHTS))), dpi=130)
        chart_height, gap, captions = HEIGHTS
        heights = [chart_height, gap, strip, captions] * len(scenes)
        grid = GridSpec(
            len(heights),
            PICTURES,
            figure=figure,
            height_ratios=heights,
            left=0.05,
            right=0.985,
            top=1 - 0.45 / figure.get_figheight(),
            bottom=0.0,
            hspace=0,
            wspace=0.04,
        )
        for number, scene in enumerate(scenes):
            chart = figure.add_subplot(grid[4 * number, :])
            strip_axes = [figure.add_subplot(grid[4 * number + 2, column]) for column in range(PICTURES)]
            _draw_curve(chart, scene)
            _draw_strip(chart, strip_axes, scene)
        output = Path(output)
        with write_atomically(output) as temporary:
            figure.savefig(temporary, facecolor="white")
    return output


def _first_adaptive(results: Results) -> Setting:
    found = next((row.setting for row in results.rows if row.setting.depth is None), None)
    if found is None:
        raise ResultsError(
            "the results hold no adaptive rule, and a fixed depth is the same in every query: "
            "evaluate with --stops '[action_change:1e-3]'"
        )
    return found


def _scenes(results: Results, tasks: Sequence[str], setting: Setting) -> list[_Scene]:
    groups: dict[tuple[str, str, str], list[Episode]] = {}
    for episode in results.episodes:
        if episode.setting == setting:
            groups.setdefault((episode.policy, episode.env, episode.task), []).append(episode)
    if not groups:
        known = ", ".join(dict.fromkeys(row.setting.short_stop for row in results.rows))
        raise ResultsError(
            f"no episode was played under {setting.describe()}, {setting.execution}; stop rules: {known}"
        )
    for task in tasks:
        known_tasks = [name for _, _, name in groups]
        if task not in known_tasks:
            raise ResultsError(f"the results hold no task '{task}'.{nearest(task, known_tasks)}")
    wanted = [group for (_, _, task), group in groups.items() if not tasks or task in tasks]
    scenes = [scene for group in wanted if (scene := _scene(group, results.folder)) is not None]
    if not scenes:
        raise ResultsError("none of these episodes has a video next to the results: evaluate with --videos 1")
    return scenes if tasks else scenes[:TASKS]


def _scene(group: Sequence[Episode], folder: Path) -> _Scene | None:
    """The first successful episode with a video, or else the first with a video."""
    profile = depth_profile(group)
    filmed = [
        (episode, path)
        for episode in group
        if episode.error is None
        and episode.depths
        and not episode.driven_steps
        and (path := video_path(episode, folder)) is not None
    ]
    if profile is None or not filmed:
        return None
    episode, path = next(((each, where) for each, where in filmed if each.success), filmed[0])
    return _Scene(episode=episode, path=path, profile=profile)


def _draw_curve(axes: Axes, scene: _Scene) -> None:
    episode, profile = scene.episode, scene.profile
    ends = [*query_steps(episode), episode.steps]
    kind = "successful episodes" if profile.successful else "episodes"
    label = f"quartiles of {profile.episodes} {kind}"
    if profile.episodes > 1:
        axes.fill_between(profile.time, profile.low, profile.high, color=BAND, linewidth=0, label=label)
        axes.plot(profile.time, profile.median, color=MEDIAN, linewidth=1.2, label="their median")
    axes.stairs(
        episode.depths,
        np.array(ends) / episode.steps,
        baseline=None,
        color=LINE,
        linewidth=1.7,
        label="this episode",
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.18 * max(*episode.depths, *profile.high))
    axes.set_ylabel("iterations")
    axes.set_xticks([])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=2))
    ending = "success" if episode.success else "no success"
    details = f"{episode.setting.describe()} · seed {episode.seed} · {ending} after {episode.steps} steps"
    axes.set_title(readable(episode.task), loc="left", fontsize=10.5, fontweight="bold", pad=17)
    axes.text(0, 1.02, f"{episode.env} · {details}", transform=axes.transAxes, color=MUTED, va="bottom")
    axes.legend(loc="lower right", bbox_to_anchor=(1.005, 0.97), ncols=3, frameon=False, fontsize=8)


def _draw_strip(chart: Axes, strip: Sequence[Axes], scene: _Scene) -> None:
    episode = scene.episode
    steps = query_steps(episode)
    marked = deepest_queries(episode, MARKED)
    queries = shown_queries(episode, marked, len(strip))
    pictures = pictures_at(episode, scene.path, [steps[query] for query in queries])
    for axes in strip[len(queries) :]:
        axes.set_visible(False)
    for axes, query, picture in zip(strip, queries, pictures, strict=False):
        colour = MARK if query in marked else FRAME
        axes.imshow(np.asarray(picture), interpolation="lanczos")
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set(visible=True, color=colour, linewidth=2.4 if query in marked else 0.7)
        depth = episode.depths[query]
        axes.set_xlabel(
            f"{depth} iteration{'s' if depth != 1 else ''}\nstep {steps[query]}",
            color=MARK if query in marked else MUTED,
            fontweight="bold" if query in marked else "normal",
        )
        time = steps[query] / episode.steps
        line = ConnectionPatch(
            (time, 0.0),
            (0.5, 1.0),
            coordsA=chart.get_xaxis_transform(),
            coordsB=axes.transAxes,
            color=colour,
            linewidth=1.2 if query in marked else 0.7,
        )
        chart.figure.add_artist(line)
        chart.plot(time, depth, "o", color=colour, markersize=5 if query in marked else 3, clip_on=False)


def shown_queries(episode: Episode, marked: Sequence[int], count: int) -> list[int]:
    """Return at most `count` queries in order of time: the marked ones, and others in the widest gaps."""
    last = len(episode.depths) - 1
    chosen = {0, last, *marked}
    while len(chosen) < min(count, last + 1):
        ordered = sorted(chosen)
        gap, start = max((after - before, -before) for before, after in itertools.pairwise(ordered))
        chosen.add(-start + gap // 2)
    return sorted(chosen)[:count]
