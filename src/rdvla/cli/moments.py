"""`rdvla moments`."""

from __future__ import annotations

from pathlib import Path


def run(
    results: Path, *, output: Path | None = None, tasks: tuple[str, ...] = (), rule: str | None = None
) -> None:
    """Draw when a task takes the most iterations, over a film strip of an episode.

    The band shows the quartiles of the task's successful episodes, stretched to one length. The evaluation
    needs an adaptive rule and videos.

    Args:
        results: results.json, or the run directory that holds it.
        output: picture to write (default: moments.png next to the results).
        tasks: tasks to show (default: the first four).
        rule: adaptive rule, such as action_change:1e-3 (default: the first of the evaluation).
    """
    from rdvla.evaluation import find_setting, load_results, write_moments

    loaded = load_results(results)
    known = [row.setting for row in loaded.rows]
    setting = None if rule is None else find_setting(rule, known)
    picture = output or (results if results.is_dir() else results.parent) / "moments.png"
    print(f"moments: {write_moments(loaded, picture, tasks=tasks, setting=setting)}")
