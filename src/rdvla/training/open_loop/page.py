"""Write an open-loop evaluation as JSON, and as one HTML page that needs no other file."""

from __future__ import annotations

import importlib.resources
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from rdvla.files import write_atomically, write_json
from rdvla.training.open_loop.compare import Curve, OpenLoop

COLUMNS = 3
MOST_DIMENSIONS = 24  # that are drawn; a humanoid has more


def write_results(found: OpenLoop, folder: Path, *, meta: dict[str, Any]) -> Path:
    """Write `open_loop.json` and `open_loop.html`; return the page.

    Args:
        found: what to write.
        folder: made if it does not exist.
        meta: where it comes from: policy, dataset, hardware.
    """
    figures = {**asdict(found), "curves": [_as_json(curve) for curve in found.curves]}
    write_json(folder / "open_loop.json", {**figures, "meta": meta})
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = (importlib.resources.files("rdvla.training.open_loop") / "template.html").read_text("utf-8")
    drawn = [(curve, _draw(curve, found.names)) for curve in found.curves]
    text = environment.from_string(source).render(
        found=found, meta=meta, curves=drawn, left_out=max(0, len(found.names) - MOST_DIMENSIONS)
    )
    page = folder / "open_loop.html"
    with write_atomically(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def _as_json(curve: Curve) -> dict[str, Any]:
    plain = {"demonstrated": curve.demonstrated.tolist(), "predicted": curve.predicted.tolist()}
    return {**asdict(curve), **plain}


def _draw(curve: Curve, names: tuple[str, ...]) -> str:
    """Draw demonstrated and predicted actions over the episode, and the iterations of every query, as SVG."""
    shown = names[:MOST_DIMENSIONS]
    rows = -(-(len(shown) + 1) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 1.9 * rows), layout="constrained")
    axes = np.atleast_2d(figure.subplots(rows, COLUMNS, sharex=True)).ravel()
    for dimension, name in enumerate(shown):
        plot = axes[dimension].plot
        plot(curve.demonstrated[:, dimension], color="#9aa0a6", linewidth=2, label="demonstrated")
        plot(curve.predicted[:, dimension], color="#3949ab", linewidth=1.2, label="predicted")
        axes[dimension].set_title(name, fontsize=9, loc="left")
    depth = axes[len(shown)]
    ends, depths = [*curve.starts, len(curve.demonstrated)], [*curve.depths, curve.depths[-1]]
    depth.step(ends, depths, where="post", color="#c2410c")
    depth.set_title("iterations", fontsize=9, loc="left")
    depth.set_ylim(bottom=0)
    for unused in axes[len(shown) + 1 :]:
        unused.set_axis_off()
    for each in axes:
        each.tick_params(labelsize=7)
        each.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7, frameon=False)
    text = io.StringIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "rdvla"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
