"""Do iterations predict failure? Areas under the ROC curve over all episodes and within tasks.

    python -m benchmarks.failure docs/results/libero_10.json --setting action_change:0.001

An episode's score is its mean number of iterations per query. Within tasks, only episodes of the same task
are compared. The task prior scores an episode by the failures of the task's other episodes; it uses no
iterations.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def area(failed: Scores, succeeded: Scores) -> tuple[float, int]:
    """Return the number of pairs whose failed episode scores higher, ties as half, and of all pairs."""
    difference = failed[:, None] - succeeded[None]
    return float((difference > 0).sum() + (difference == 0).sum() / 2), difference.size


def areas(tasks: list[str], scores: Scores, success: NDArray[np.bool_]) -> dict[str, float]:
    """Return the areas over all episodes, within tasks, and for the task prior; NaN without pairs."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, task in enumerate(tasks):
        groups[task].append(number)
    within, prior = np.zeros(2), np.zeros(len(tasks))
    for numbers in groups.values():
        won, lost = scores[numbers], success[numbers]
        within += area(won[~lost], won[lost])
        failures = (~lost).sum()
        prior[numbers] = (failures - ~lost) / max(len(numbers) - 1, 1)
    found = {"all": area(scores[~success], scores[success]), "within tasks": tuple(within)}
    found["task prior"] = area(prior[~success], prior[success])
    return {name: wins / pairs if pairs else float("nan") for name, (wins, pairs) in found.items()}


def main() -> None:
    """Print a table with a line per results file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+", help="results.json of evaluations")
    parser.add_argument("--setting", default="action_change:0.001", help="stop rule of the episodes to take")
    arguments = parser.parse_args()
    print("| results | failed | successful | all | within tasks | task prior |\n|---|---|---|---|---|---|")
    for path in arguments.results:
        episodes = [
            episode
            for episode in json.loads(path.read_text())["episodes"]
            if episode["rule"] == arguments.setting and episode["error"] is None
        ]
        success = np.array([episode["success"] for episode in episodes], dtype=bool)
        scores = np.array([np.mean(episode["depths"]) for episode in episodes])
        found = areas([episode["task"] for episode in episodes], scores, success)
        cells = " | ".join(f"{value:.2f}" for value in found.values())
        print(f"| {path.stem} | {(~success).sum()} | {success.sum()} | {cells} |")


if __name__ == "__main__":
    main()
