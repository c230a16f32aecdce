"""Print what a dataset holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rdvla.data.features import ACTION, STATE
from rdvla.data.inspect.facts import DatasetFacts, FeatureFacts

BLOCKS = " ▁▂▃▄▅▆▇█"
BLOCKS_IN_A_ROW = 12
TASKS = 10  # shown
WIDTH_OF_A_FILE = 110  # columns, if the output is no terminal
DETAILED = (ACTION, STATE)


def show(facts: DatasetFacts, console: Console) -> None:
    """Print a summary, the tasks, and the range and histogram of every number of action and state."""
    lengths = facts.lengths
    size = f"{len(lengths)} episodes, {lengths.sum()} frames at {facts.fps:g} Hz"
    console.print(
        f"[bold]{escape(str(facts.root))}[/]: {size}, {facts.seconds / 60:.1f} minutes", soft_wrap=True
    )
    if lengths.min() == lengths.max():
        console.print(f"lengths   {lengths[0]} frames each")
    else:
        counts, _ = np.histogram(lengths, bins=BLOCKS_IN_A_ROW)
        around = f"{lengths.min()} [cyan]{bars(counts.tolist())}[/] {lengths.max()} frames"
        console.print(f"lengths   {around}, median {np.median(lengths):.0f}")
    cameras = ", ".join(f"{name} {c.height} x {c.width}" for name, c in facts.cameras.items())
    console.print(f"cameras   {escape(cameras or 'none')}", soft_wrap=True)
    others = [f"{f.name} ({len(f.numbers)})" for f in facts.features if f.name not in DETAILED]
    if others:
        console.print(f"others    {escape(', '.join(others))}", soft_wrap=True)
    if facts.robot_type:
        console.print(f"robot     {escape(facts.robot_type)}", soft_wrap=True)
    for note in facts.notes:
        console.print(f"[yellow]note[/]      {escape(note)}", soft_wrap=True)
    console.print(_tasks(facts))
    for feature in facts.features:
        if feature.name in DETAILED:
            console.print(_numbers(feature))


def bars(counts: Sequence[int]) -> str:
    """Return a histogram as one line of block characters; what is not empty shows at least the lowest."""
    top = max(counts, default=0) or 1
    return "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // top)] for count in counts)


def _tasks(facts: DatasetFacts) -> Table:
    more = len(facts.tasks) - TASKS
    table = Table(
        title=f"{len(facts.tasks)} tasks" + (f", {more} not shown" if more > 0 else ""),
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("task")
    for heading in ("episodes", "frames"):
        table.add_column(heading, justify="right")
    for task in facts.tasks[:TASKS]:
        table.add_row(escape(task.text), str(task.episodes), str(task.frames))
    return table


def _numbers(feature: FeatureFacts) -> Table:
    table = Table(
        title=f"{feature.name}: {len(feature.numbers)} numbers, {feature.dtype}",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    table.add_column("number", no_wrap=True)
    for heading in ("min", "1%", "mean", "std", "99%", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("min to max", no_wrap=True)
    for n in feature.numbers:
        values = [f"{value:.3g}" for value in (n.low, n.q01, n.mean, n.std, n.q99, n.high)]
        counts = np.reshape(n.counts, (BLOCKS_IN_A_ROW, -1)).sum(axis=1).tolist()
        table.add_row(escape(n.name), *values, f"[cyan]{bars(counts)}[/]")
    return table
