"""Gather what the page shows and fill the template."""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from rdvla.evaluation.lines import load_lines
from rdvla.evaluation.profile import depth_profile
from rdvla.evaluation.records import Episode, ResultsError
from rdvla.evaluation.report import content
from rdvla.evaluation.report.media import Clip, FilmStrip, clip, film_strip
from rdvla.evaluation.results import Results, differences
from rdvla.evaluation.standard import standard_comparisons
from rdvla.evaluation.summaries import Summary, sort_rows, summaries
from rdvla.evaluation.table import number, percent, readable
from rdvla.rollout.jobs import Setting

Filmed = tuple[Episode, Results]

FILM_STRIPS = 12  # at most, one per task, equally many in every environment
CLIPS = 160  # at most, equally many per task: a page with thousands would not open


def render_page(results: Sequence[str | Path]) -> str:
    """Return the whole page as text; see `rdvla.evaluation.write_report`."""
    loaded = load_lines(results)
    rows = sort_rows([row for each in loaded for row in each.rows])
    episodes = [episode for each in loaded for episode in each.episodes]
    if not rows:
        raise ResultsError("the results hold no episode; there is nothing to report")
    everything, core_blocks = summaries(rows), _core_blocks(loaded)
    envs, times = content.environments(everything), content.query_times(loaded)
    return _template().render(
        title=_title(envs, everything),
        policies=list(dict.fromkeys(row.policy for row in rows)),
        number_of_tasks=_number_of_tasks(everything),
        envs=envs,
        key_figures=content.key_figures(_main_line(everything), episodes),
        caution=content.caution(_main_line(everything)),
        lines=content.policies(everything),
        left_out=_left_out(everything),
        several_executions=len({summary.setting.execution for summary in everything}) > 1,
        compute_chart=content.compute_chart(everything, core_blocks=core_blocks),
        times=times,
        # Runs were measured one after the other: their times are not for one chart.
        time_chart=content.time_chart(everything, times) if times and len(loaded) == 1 else None,
        suite_panels=content.suite_panels(everything, core_blocks=core_blocks),
        panels=content.task_panels(everything, core_blocks=core_blocks),
        summaries=everything,
        cells=content.summary_cells,
        suite_cells=content.suite_cells,
        rows=rows,
        comparisons=standard_comparisons(
            everything, episodes, unlike=functools.partial(_unlike_policies, loaded)
        ),
        sentence=content.comparison_sentence,
        strips=_film_strips(loaded),
        clips=_clips(loaded, tasks=_number_of_tasks(everything)),
        number_of_episodes=len(episodes),
        errors=[episode for episode in episodes if episode.error is not None],
        helped=[episode for episode in episodes if episode.driven_steps],
        kinds=content.exception_kinds(episodes),
        runs=[
            (each.meta, each.step_limits, json.dumps(each.meta.get("config", {}), indent=2))
            for each in loaded
        ],
        seeds=_seeds(episodes),
        unlike=_unlike(loaded),
        percent=percent,
        number=number,
        readable=readable,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    folder = importlib.resources.files("rdvla.evaluation.report")
    environment.globals["style"] = (folder / "style.css").read_text(encoding="utf-8")
    return environment.from_string((folder / "template.html").read_text(encoding="utf-8"))


def _title(envs: Sequence[str], everything: Sequence[Summary]) -> str:
    tasks = _number_of_tasks(everything)
    plural = "s" if tasks != 1 else ""
    named = f"{envs[0]} task{plural}" if len(envs) == 1 else f"tasks of {', '.join(envs)}"
    return f"Success against depth on {tasks} {named}"


def _number_of_tasks(everything: Sequence[Summary]) -> int:
    return len({(row.env, row.task) for summary in everything for row in summary.rows})


def _main_line(everything: Sequence[Summary]) -> list[Summary]:
    """The first policy under its first execution rule."""
    first = everything[0]
    return [
        summary
        for summary in everything
        if (summary.policy, summary.setting.execution) == (first.policy, first.setting.execution)
    ]


def _core_blocks(loaded: Sequence[Results]) -> dict[str, int]:
    """Blocks in the core by policy, if the results say."""
    return {
        row.policy: each.meta["policy"]["core_blocks"]
        for each in loaded
        for row in each.rows
        if "core_blocks" in each.meta.get("policy", {})
    }


def _film_strips(loaded: Sequence[Results]) -> list[FilmStrip]:
    """An adaptive episode per task; a fixed depth would only draw a level line."""
    strips: dict[tuple[str, str], FilmStrip] = {}
    envs = {row.env for results in loaded for row in results.rows}
    for results in loaded:
        for (env, task, _), group in _adaptive_groups(results).items():
            full = sum(other == env for other, _ in strips) >= max(1, FILM_STRIPS // len(envs))
            if full or (env, task) in strips:
                continue
            profile = depth_profile(group)
            drawn = (film_strip(episode, results.folder, profile=profile) for episode in group)
            strip = next((found for found in drawn if found is not None), None)
            if strip is not None:
                strips[env, task] = strip
    return [strips[place] for place in sorted(strips)]


def _adaptive_groups(results: Results) -> dict[tuple[str, str, Setting], list[Episode]]:
    """Episodes of adaptive rules by environment, task and setting."""
    groups: dict[tuple[str, str, Setting], list[Episode]] = {}
    for episode in results.episodes:
        if episode.setting.depth is None:
            groups.setdefault((episode.env, episode.task, episode.setting), []).append(episode)
    return groups


def _clips(loaded: Sequence[Results], *, tasks: int) -> dict[tuple[str, str], list[Clip]]:
    """Videos by environment and task; with several policies their captions name the policy."""
    filmed: dict[tuple[str, str], list[Filmed]] = {}
    for results in loaded:
        for episode in results.episodes:
            if episode.video is not None:
                filmed.setdefault((episode.env, episode.task), []).append((episode, results))
    several = len({label for results in loaded for label in results.labels}) > 1
    clips: dict[tuple[str, str], list[Clip]] = {}
    for key, found in sorted(filmed.items(), key=lambda item: item[0]):
        found.sort(key=lambda each: _order(each[0].setting))
        for episode, results in _spread(found, max(1, CLIPS // tasks)):
            made = clip(episode, results.folder)
            if made is None:
                continue
            if several:
                made = Clip(f"{episode.policy} · {made.caption}", made.outcome, made.source)
            clips.setdefault(key, []).append(made)
    return clips


def _order(setting: Setting) -> tuple[bool, int, str, str]:
    """Depths before adaptive rules, as in the tables."""
    return setting.depth is None, setting.depth or 0, setting.stop, setting.execution


def _spread(found: Sequence[Filmed], count: int) -> list[Filmed]:
    """At most `count` of them, evenly spaced, the last included."""
    if len(found) <= count:
        return list(found)
    return [found[-1 - (len(found) - 1) * i // max(1, count - 1)] for i in reversed(range(count))]


def _left_out(everything: Sequence[Summary]) -> list[str]:
    """Lines of which no setting is in the charts of means."""
    shown = {content.line_name(each, everything) for each in content.complete(everything)}
    return [name for name in content.policies(everything) if name not in shown]


def _unlike(loaded: Sequence[Results]) -> list[str]:
    """What differed between runs in the same environment; no paired test compares them."""
    found = [
        f"{name} {value!r} and {other!r} in {env}"
        for number, second in enumerate(loaded)
        for first in loaded[:number]
        for env, name, value, other in differences(first, second)
    ]
    return list(dict.fromkeys(found))


def _unlike_policies(loaded: Sequence[Results], first: str, second: str) -> bool:
    """Whether any run of one policy was played under other conditions than one of another policy."""
    sides = [[each for each in loaded if label in each.labels] for label in (first, second)]
    return any(any(differences(one, other)) for one in sides[0] for other in sides[1])


def _seeds(episodes: Sequence[Episode]) -> str:
    seeds: list[Any] = sorted({episode.seed for episode in episodes})
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
