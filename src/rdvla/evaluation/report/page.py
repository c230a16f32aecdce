"""Gathers what the page shows and fills the template."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from rdvla.evaluation.aggregate import Summary, merge, standard_comparisons, summaries
from rdvla.evaluation.report import content
from rdvla.evaluation.report.media import Clip, FilmStrip, clip, film_strip
from rdvla.evaluation.results import Episode, Results, ResultsError, load_results
from rdvla.evaluation.table import number, percent

FILM_STRIPS = 12  # at most, one for each task


def render_page(results: Sequence[Path | str]) -> str:
    """The whole page as text; see `rdvla.evaluation.write_report`."""
    loaded = [load_results(path) for path in results]
    rows, episodes = merge(loaded)
    if not rows:
        raise ResultsError("the results hold no episode; there is nothing to report")
    everything = summaries(rows)
    return _template().render(
        title=_title(rows[0].env, everything),
        first_policy=everything[0].policy,
        tasks=list(dict.fromkeys(row.task for row in rows)),
        env=rows[0].env,
        key_figures=content.key_figures(_main_line(everything)),
        lines=content.policies(everything),
        several_executions=len({one.setting.execution for one in everything}) > 1,
        compute_chart=content.compute_chart(everything, core_blocks=_core_blocks(loaded)),
        time_chart=content.time_chart(everything),
        panels=content.task_panels(everything, core_blocks=_core_blocks(loaded)),
        summaries=everything,
        cells=content.summary_cells,
        rows=rows,
        comparisons=standard_comparisons(everything, episodes),
        sentence=content.comparison_sentence,
        strips=_film_strips(loaded),
        clips=_clips(loaded),
        errors=[episode for episode in episodes if episode.error is not None],
        runs=[(one.meta, json.dumps(one.meta.get("config", {}), indent=2)) for one in loaded],
        seeds=_seeds(episodes),
        percent=percent,
        number=number,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    folder = importlib.resources.files("rdvla.evaluation.report")
    environment.globals["style"] = (folder / "style.css").read_text(encoding="utf-8")
    return environment.from_string((folder / "template.html").read_text(encoding="utf-8"))


def _title(env: str, everything: Sequence[Summary]) -> str:
    tasks = {row.task for one in everything for row in one.rows}
    return f"Success against depth on {len(tasks)} {env} task{'s' if len(tasks) != 1 else ''}"


def _main_line(everything: Sequence[Summary]) -> list[Summary]:
    """The first policy under its first execution rule."""
    first = everything[0]
    return [
        one
        for one in everything
        if one.policy == first.policy and one.setting.execution == first.setting.execution
    ]


def _core_blocks(loaded: Sequence[Results]) -> dict[str, int]:
    """Blocks in the core by policy, where the results say."""
    return {
        row.policy: one.meta["policy"]["core_blocks"]
        for one in loaded
        for row in one.rows
        if "core_blocks" in one.meta.get("policy", {})
    }


def _film_strips(loaded: Sequence[Results]) -> list[FilmStrip]:
    """One adaptive episode of each task; a fixed depth would only draw a level line."""
    strips: dict[str, FilmStrip] = {}
    for results in loaded:
        for episode in results.episodes:
            if episode.depth is None and episode.task not in strips and len(strips) < FILM_STRIPS:
                strip = film_strip(episode, results.folder)
                if strip is not None:
                    strips[episode.task] = strip
    return list(strips.values())


def _clips(loaded: Sequence[Results]) -> dict[str, list[Clip]]:
    """Videos by task; with several policies their captions name the policy."""
    clips: dict[str, list[Clip]] = {}
    for results in loaded:
        for episode in results.episodes:
            made = clip(episode, results.folder)
            if made is None:
                continue
            if len(loaded) > 1:
                made = Clip(f"{episode.policy} · {made.caption}", made.outcome, made.source)
            clips.setdefault(episode.task, []).append(made)
    return clips


def _seeds(episodes: Sequence[Episode]) -> str:
    seeds: list[Any] = sorted({episode.seed for episode in episodes})
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
