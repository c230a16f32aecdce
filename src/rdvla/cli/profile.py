"""`rdvla profile`."""

from __future__ import annotations

from pathlib import Path

from rdvla.cli.options import StopText


def run(
    results: Path, *, output: Path | None = None, tasks: tuple[str, ...] = (), stop: StopText | None = None
) -> None:
    """Draw the depth along the episodes of a task, over a film strip of an episode.

    The band shows the quartiles of the task's successful episodes, scaled to the same length. The evaluation
    needs an adaptive rule and videos.

    Args:
        results: results.json, or the run directory that holds it.
        output: picture to write (default: profile.png next to the results).
        tasks: tasks to show (default: the first four).
        stop: adaptive stop rule, such as action_change:1e-3 (default: the first of the evaluation).
    """
    from rdvla.files import check_writable

    picture = output or (results if results.is_dir() else results.parent) / "profile.png"
    check_writable(picture, option="--output")
    from rdvla.evaluation import draw_profiles, find_setting, load_results

    loaded = load_results(results)
    known = [row.setting for row in loaded.rows]
    setting = None if stop is None else find_setting(stop, known)
    print(f"written: {draw_profiles(loaded, picture, tasks=tasks, setting=setting)}")
