"""Made-up results in the shape of real ones."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np

from rdvla.evaluation import Episode, EpisodeError, Results
from rdvla.evaluation.summaries import summarise
from rdvla.rollout.video import Frame, write_video

VIDEO_STRIDE = 4
META = {
    "config": {"policy": "policies/compact", "episodes": 25, "seed": 1_000_000},
    "policy": {"path": "compact", "parameters": 1_234_567},
    "hardware": {"cpu": "Some CPU", "cores": 2, "torch": "2.13.0", "python": "3.11.2", "rdvla": "0.1.0"},
    "command": "rdvla eval --config configs/eval.yaml",
    "finished": "2026-01-01T00:00:00+00:00",
    "seconds": 321.0,
}


def walk_images(count, size=48):
    """Squares that move, so that film strips have something to show."""
    for step in range(count):
        image = np.full((size, size, 3), (60, 80, 110), dtype=np.uint8)
        image[size // 3 : size // 2, step % size : step % size + 8] = (230, 190, 90)
        yield image


def make_results(
    folder: Path,
    *,
    policy="recurrent",
    envs=("metaworld",),
    tasks=("push", "reach"),
    depths=(1, 2, 4, 8),
    adaptive=True,
    episodes=6,
    level=1.0,
    videos=1,
    images=walk_images,
    error=False,
    seed=0,
    fingerprint=None,
    timed=True,
) -> Results:
    """Results whose success rises with depth; written with their videos under `folder`.

    Policies of another name have other weights, unless `fingerprint` is given.
    """
    random = np.random.default_rng(seed)
    stops = [(f"fixed:{depth}", depth) for depth in depths]
    stops += [("action_change:0.001", None)] if adaptive else []
    made = []
    for stop, depth in stops:
        for env, (index, task) in itertools.product(envs, enumerate(tasks)):
            for number in range(episodes):
                used = random.integers(2, 9, 12).tolist() if depth is None else [depth] * 12
                chance = level * (1 - np.exp(-np.mean(used) / (0.7 + 0.5 * index)))
                success = bool(random.random() < chance)
                count = int(random.integers(7, 12)) if success else 12
                steps = count * 8 - (3 if success else 0)
                video = (
                    f"videos/{policy}-{env}-{task}-{stop.split(':')[0]}-{depth}-{number}.mp4"
                    if number < videos
                    else None
                )
                broken = error and number == 1 and depth == depths[0]
                if video is not None:
                    _film(folder / video, list(images(steps // VIDEO_STRIDE + 2)), used[:count], success)
                made.append(
                    Episode(
                        env=env,
                        task=task,
                        policy=policy,
                        stop=stop,
                        execution="fixed:8",
                        seed=1_000_000 + number,
                        success=None if broken else success,
                        steps=steps,
                        depths=used[:count],
                        executed=[8] * (count - 1) + [steps - 8 * (count - 1)],
                        video=video,
                        video_stride=None if video is None else VIDEO_STRIDE,
                        error=EpisodeError("ValueError", "<b>broken</b>", "trace") if broken else None,
                    )
                )
    weights = {
        **META["policy"],
        "fingerprint": fingerprint or hashlib.sha256(policy.encode()).hexdigest()[:16],
    }
    stops = dict.fromkeys(episode.stop for episode in made)
    times = {stop: 14.0 + 0.5 * number for number, stop in enumerate(stops)}
    meta = {
        **META,
        "policy": weights,
        "protocol": {env: {"tasks": list(tasks), "max_steps": 96} for env in envs},
        "timing": {"query_ms": times, "queries": 6, "rounds": 9} if timed else None,
    }
    results = Results(rows=summarise(made), episodes=made, meta=meta, folder=folder)
    results.write(folder / "results.json")
    return results


def _film(path, images, depths, success):
    frames = [
        Frame(
            image,
            query=min(i * VIDEO_STRIDE // 8, len(depths) - 1),
            step=i * VIDEO_STRIDE,
            success=success and i == len(images) - 1,
        )
        for i, image in enumerate(images)
    ]
    write_video(path, frames, fps=20, depths=depths)
