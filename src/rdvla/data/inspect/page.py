"""Write what a dataset holds as one HTML page that needs no other file."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import jinja2
import numpy as np

from rdvla.data.check.findings import Finding
from rdvla.data.features import ACTION, STATE
from rdvla.data.inspect.facts import DatasetFacts
from rdvla.data.inspect.pictures import EpisodeStrips, Strip
from rdvla.files import write_atomically
from rdvla.processing.augmentation import Augmentation

LENGTH_BINS = 40


def write_page(
    output: Path,
    facts: DatasetFacts,
    *,
    sheet: Sequence[EpisodeStrips],
    variations: Sequence[Strip],
    augmentation: Augmentation,
    findings: Sequence[Finding],
) -> Path:
    """Write the page.

    Args:
        output: the HTML file.
        facts: what the dataset holds.
        sheet: images of some episodes.
        variations: what `augmentation` does to an image of each camera.
        augmentation: how far images are changed.
        findings: of `rdvla data check`.

    Returns:
        `output`.
    """
    low, high = int(facts.lengths.min()), int(facts.lengths.max())
    counts, _ = np.histogram(facts.lengths, bins=LENGTH_BINS, range=(low, max(high, low + 1)))
    text = _template().render(
        facts=facts,
        name=facts.root.resolve().name,
        lengths={"counts": counts.tolist(), "low": low, "high": high},
        median=float(np.median(facts.lengths)),
        detailed=[feature for feature in facts.features if feature.name in (ACTION, STATE)],
        others=[feature for feature in facts.features if feature.name not in (ACTION, STATE)],
        sheet=sheet,
        variations=variations,
        augmentation=asdict(augmentation),
        findings=findings,
    )
    with write_atomically(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return output


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["short"] = lambda value: f"{value:.4g}"
    folder = importlib.resources.files("rdvla.data.inspect")
    environment.globals["style"] = (folder / "style.css").read_text(encoding="utf-8")
    return environment.from_string((folder / "template.html").read_text(encoding="utf-8"))
