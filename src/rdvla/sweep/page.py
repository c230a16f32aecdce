"""A sweep as a table, as JSON, and as one HTML page that needs no other file."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rdvla.config import encode_config
from rdvla.evaluation.provenance import describe_hardware
from rdvla.evaluation.table import percent
from rdvla.files import write_atomically, write_json
from rdvla.sweep.charts import curves
from rdvla.sweep.config import SweepConfig
from rdvla.sweep.outcomes import Outcome, Paired, SettingOutcome, Success

SCHEMA_VERSION = 1


def print_table(settings: Sequence[SettingOutcome], pairs: Sequence[Paired], *, console: Console) -> None:
    """Print a line per setting: validation, success, and the difference from the first setting."""
    rules = [success.rule for success in settings[0].success]
    table = Table(title="Sweep", title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("setting", overflow="fold")
    figure, differ = _figure(settings)
    for heading in ("trials", figure or "validation", "against first"):
        table.add_column(heading, justify="right")
    for rule in rules:
        table.add_column(f"success, {rule.describe()}", justify="right")
    found = {pair.setting: pair for pair in pairs}
    for setting in settings:
        shares = {success.rule: success for success in setting.success}
        cells = [success_text(shares[rule]) if rule in shares else "-" for rule in rules]
        pair = found.get(setting.setting)
        table.add_row(
            escape(setting.setting),
            str(len(setting.outcomes)),
            mean_text(setting) + (f", {setting.figure}" if differ and setting.figure else ""),
            "" if pair is None else difference_text(pair),
            *cells,
        )
    console.print(table)


def write_report(
    folder: Path,
    config: SweepConfig,
    settings: Sequence[SettingOutcome],
    pairs: Sequence[Paired],
    *,
    trials: int,
) -> Path:
    """Write `sweep.json` and `report.html`; return the page.

    Args:
        folder: of the sweep.
        config: of the sweep.
        settings: all finished trials; the first setting is what the others are compared with.
        pairs: the others against the first.
        trials: how many there are, finished or not.
    """
    hardware = describe_hardware()
    content = {
        "schema_version": SCHEMA_VERSION,
        "config": encode_config(config),
        "hardware": hardware,
        "trials": trials,
        "settings": [_setting_entry(setting) for setting in settings],
        "against_first": [asdict(pair) for pair in pairs],
    }
    write_json(folder / "sweep.json", content)
    package = importlib.resources.files("rdvla.sweep")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals |= {
        "style": (importlib.resources.files("rdvla.evaluation.report") / "style.css").read_text("utf-8"),
        "percent": percent,
        "mean_text": mean_text,
        "success_text": success_text,
        "difference_text": difference_text,
    }
    figure, differ = _figure(settings)
    text = environment.from_string((package / "template.html").read_text("utf-8")).render(
        name=folder.name,
        settings=settings,
        pairs=pairs,
        finished=sum(len(setting.outcomes) for setting in settings),
        trials=trials,
        figure=figure,
        figures_differ=differ,
        rules=[success.rule for success in settings[0].success],
        validation=curves(settings, _validation, label=figure) if figure else "",
        loss=curves(settings, _loss, label="training loss"),
        hardware=", ".join(str(value) for value in hardware.values()),
        config=yaml.safe_dump(encode_config(config), sort_keys=False),
    )
    page = folder / "report.html"
    with write_atomically(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def mean_text(setting: SettingOutcome) -> str:
    """Return the mean of the best validation figures, with their standard deviation over seeds."""
    if setting.mean is None:
        return "-"
    return f"{setting.mean:.4f}" + ("" if setting.deviation is None else f" ± {setting.deviation:.4f}")


def success_text(success: Success) -> str:
    """Return a success with its 95% interval and its counts."""
    low, high = 100 * success.interval.low, 100 * success.interval.high
    share = percent(success.successes / success.episodes)
    return f"{share} ({low:.0f}-{high:.0f}), {success.successes} of {success.episodes}"


def difference_text(pair: Paired) -> str:
    """Return the mean difference from the first setting over seeds, with its p."""
    if pair.difference is None:
        return "-"
    return f"{pair.difference:+.4f}" + ("" if pair.p_value is None else f" (p {pair.p_value:.2g})")


def _figure(settings: Sequence[SettingOutcome]) -> tuple[str, bool]:
    """Return what to call the figure that decided, empty without validation, and whether settings differ."""
    names = list(dict.fromkeys(setting.figure for setting in settings if setting.figure))
    return ("validation", True) if len(names) > 1 else ("".join(names), False)


def _validation(outcome: Outcome) -> Sequence[tuple[int, float]]:
    return outcome.validation


def _loss(outcome: Outcome) -> Sequence[tuple[int, float]]:
    return outcome.loss


def _setting_entry(setting: SettingOutcome) -> dict[str, Any]:
    return {
        "setting": setting.setting,
        "mean": setting.mean,
        "deviation": setting.deviation,
        "success": [asdict(success) for success in setting.success],
        "trials": [
            {
                "name": outcome.trial.name,
                "seed": outcome.trial.seed,
                "figure": outcome.figure,
                "best": outcome.best,
                "options": outcome.trial.options,
                "validation": outcome.validation,
            }
            for outcome in setting.outcomes
        ],
    }
