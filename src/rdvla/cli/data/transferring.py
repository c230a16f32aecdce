"""What `convert`, `merge` and `split` share: episodes taken over, with progress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdvla.data.transfer.transfer import Transfer


def write(
    sources: Sequence[tuple[Path, Sequence[int] | None]], output: Path, *, robot_type: str | None = None
) -> Transfer:
    """Write episodes of datasets as a new one, and show how far it is."""
    from rich.console import Console

    from rdvla.errors import optional
    from rdvla.progress import Progress

    with optional("data"):
        from rdvla.data.transfer.transfer import transfer

    with Progress(Console(stderr=True), transient=True) as bar:
        shown = bar.add_task(f"episodes of {output.name}", total=None)
        return transfer(
            sources,
            output,
            robot_type=robot_type,
            progress=lambda done, total: bar.update(shown, completed=done, total=total),
        )


def text(done: Transfer) -> str:
    """Say what was written and what was left out."""
    lines = [f"note: {note}" for note in done.notes]
    state = "is written" if done.is_new else "holds this already, so nothing was written"
    lines.append(f"{done.root} {state}: {done.episodes} episodes, {done.frames} frames")
    if done.copied or done.encoded:
        why = "they do not begin with a keyframe, hide pictures, or are single pictures"
        again = f", {done.encoded} encoded again ({why})"
        lines.append(f"videos: {done.copied} copied as they are{again if done.encoded else ''}")
    return "\n".join(lines)
