"""Check the numbers: missing, stuck, frozen, jumping, drifting or repeated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rdvla.data.check.findings import Finding, Severity, listed
from rdvla.data.check.names import numbered_names
from rdvla.data.check.stored import StoredDataset
from rdvla.data.features import ACTION, STATE
from rdvla.data.formats.lerobot.info import DEFAULT_FEATURES

# The thresholds of lerobot-doctor 0.2.0, so both name the same episodes and joints.
STATIC = 0.8  # share of the steps in which a joint does not move
STATIC_EPISODES = 0.8  # share of the episodes
FROZEN = 0.05  # longest run of equal actions, of the episode's length
JUMP = 8.0  # standard deviations of a step, mean over the joints
OUTLIER = 10.0  # standard deviations
AT_LIMIT = 0.5  # share of the values
CLIPPED = 0.99
ALL = 100  # names shown
DRIFT = 3.0  # standard deviations between the first and the last quarter
EPISODES_FOR_DRIFT = 10
TOLERANCE = 1e-6  # of equal episodes
LOOK = "look at them: rdvla data inspect"


@dataclass
class Numbers:
    """A feature of every episode that has it, finite values only, as float64.

    Attributes:
        name: of the feature.
        names: of its numbers.
        episodes: episode -> (T, size).
    """

    name: str
    names: list[str]
    episodes: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def all(self) -> NDArray[np.float64]:
        """(N, size) of all episodes."""
        return np.concatenate(list(self.episodes.values()))


def check_values(data: StoredDataset) -> Iterator[Finding]:
    """Find numbers that spoil a training."""
    columns = dict.fromkeys(
        name for e in data.with_data for name in e.columns if name not in DEFAULT_FEATURES
    )
    for name in columns:
        yield from _finite(data, name)
        numbers = _numbers(data, name)
        if numbers is None:
            continue
        moves = name.startswith(ACTION) or "state" in name
        yield from _constant(numbers, matters=moves)
        if not moves:
            continue
        yield from _outliers(numbers)
        yield from _stuck(numbers)
        yield from _drift(numbers)
        if name.startswith(ACTION):
            yield from _limits(numbers)
            yield from _frozen(numbers)
            yield from _jumps(numbers)
            yield from _repeated(numbers)


def _finite(data: StoredDataset, name: str) -> Iterator[Finding]:
    concerned, count, first = [], 0, ""
    for episode in data.with_data:
        values = episode.columns.get(name)
        bad = np.argwhere(~np.isfinite(values)) if values is not None else np.zeros((0, 2))
        if len(bad):
            concerned.append(episode.index)
            count += len(bad)
            first = first or f"frame {int(bad[0, 0])} of episode {episode.index}"
    if concerned:
        severity: Severity = "error" if name in (ACTION, STATE) else "warning"
        message = f"{count} values are NaN, infinite or missing, the first in {first}"
        fix = "leave these episodes out, or record them again"
        yield Finding(severity, "not-finite", message, fix, None, tuple(concerned), name)


def _numbers(data: StoredDataset, name: str) -> Numbers | None:
    found = {e.index: e.columns[name] for e in data.with_data if name in e.columns}
    sizes = {values.shape[1] for values in found.values()}
    if len(sizes) != 1 or 0 in sizes:
        return None
    numbers = Numbers(name, numbered_names(data.features.get(name), sizes.pop()))
    for index, values in found.items():
        finite = values[np.isfinite(values).all(axis=1)].astype(np.float64)
        if len(finite):
            numbers.episodes[index] = finite
    return numbers if numbers.episodes else None


def _constant(numbers: Numbers, *, matters: bool) -> Iterator[Finding]:
    values = numbers.all
    still = (values == values[0]).all(axis=0)
    if not still.any():
        return
    names = [name for name, is_still in zip(numbers.names, still, strict=True) if is_still]
    some = f"{len(names)} of {len(still)} never change: {listed(names, ALL)}"
    what = "it never changes" if still.all() else some
    if matters:
        fix = "nothing if they are unused; else the sensor or the recording is at fault"
        yield Finding("warning", "constant", what, fix, feature=numbers.name)
    else:
        yield Finding("note", "constant", what, "", feature=numbers.name)


def _stuck(numbers: Numbers) -> Iterator[Finding]:
    """Find joints that hardly move, and episodes in which a joint that moves elsewhere does not."""
    long = {i: v for i, v in numbers.episodes.items() if len(v) > 11}
    if not long:
        return
    still = np.stack([(np.diff(v, axis=0) == 0).mean(axis=0) for v in long.values()])  # (E, size)
    varies = np.stack([v.std(axis=0) > 0 for v in long.values()])
    often = ((still > STATIC) & varies).mean(axis=0) > STATIC_EPISODES
    if often.any():
        names = [n for n, is_so in zip(numbers.names, often, strict=True) if is_so]
        message = f"hardly ever moves (still in over 80% of the steps of most episodes): {listed(names)}"
        yield Finding("warning", "stuck", message, "check the joint, or leave it out", feature=numbers.name)
    for dim, name in enumerate(numbers.names):
        dead = tuple(index for index, moving in zip(long, varies[:, dim], strict=True) if not moving)
        if dead and len(dead) <= 0.2 * len(long):
            message = f"{name} does not move at all, but does in the other episodes"
            yield Finding("warning", "stuck", message, LOOK, None, dead, numbers.name)


def _outliers(numbers: Numbers) -> Iterator[Finding]:
    values = numbers.all
    spread = values.std(axis=0)
    far = np.abs(values - values.mean(axis=0)) > OUTLIER * np.where(spread > 0, spread, np.inf)
    names = [f"{n}: {int(c)}" for n, c in zip(numbers.names, far.sum(axis=0), strict=True) if c]
    if not names:
        return
    start, concerned = 0, []
    for index, own in numbers.episodes.items():
        if far[start : start + len(own)].any():
            concerned.append(index)
        start += len(own)
    message = f"values more than {OUTLIER:g} standard deviations from the mean ({listed(names)})"
    yield Finding("warning", "outliers", message, LOOK, None, tuple(concerned), numbers.name)


def _limits(numbers: Numbers) -> Iterator[Finding]:
    values = numbers.all
    low, high = values.min(axis=0), values.max(axis=0)
    share = np.maximum((values == low).mean(axis=0), (values == high).mean(axis=0)) * (low < high)
    two_valued = ((values == low) | (values == high)).all(axis=0)
    levels: tuple[tuple[float, Severity], ...] = ((CLIPPED, "warning"), (AT_LIMIT, "note"))
    for bound, severity in levels:
        hit = (share > bound) & ((share <= CLIPPED) | (bound == CLIPPED))
        names = [n for n, is_hit in zip(numbers.names, hit, strict=True) if is_hit]
        if names:
            message = (
                f"over {100 * bound:.0f}% of the values are the smallest or the largest: {listed(names)}"
            )
            if two_valued[hit].all():
                message += " (they have two values, as grippers do)"
            fix = "none for a gripper; else the command is clipped"
            yield Finding(severity, "limits", message, fix, feature=numbers.name)


def _frozen(numbers: Numbers) -> Iterator[Finding]:
    shares = {
        i: _longest_run((v[1:] == v[:-1]).all(axis=1)) / len(v)
        for i, v in numbers.episodes.items()
        if len(v) > 1
    }
    frozen = tuple(index for index, share in shares.items() if share >= FROZEN)
    if frozen:
        worst = max(frozen, key=shares.__getitem__)
        share = f"{100 * shares[worst]:.0f}% of episode {worst}"
        message = f"the same action is repeated for 5% of an episode or more ({share})"
        fix = "cut the pauses, if nothing was to be waited for"
        yield Finding("warning", "frozen", message, fix, None, frozen, numbers.name)


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _jumps(numbers: Numbers) -> Iterator[Finding]:
    steps = {i: np.diff(v, axis=0) for i, v in numbers.episodes.items() if len(v) > 2}
    if not steps:
        return
    spread = np.concatenate(list(steps.values())).std(axis=0)
    spread[spread == 0] = 1.0
    counts = {i: int((np.abs(s / spread).mean(axis=1) > JUMP).sum()) for i, s in steps.items()}
    jumping = tuple(index for index, count in counts.items() if count)
    if jumping:
        message = (
            f"{sum(counts.values())} sudden jumps of the action (over {JUMP:g} standard deviations of a step)"
        )
        yield Finding("warning", "jumps", message, LOOK, None, jumping, numbers.name)


def _drift(numbers: Numbers) -> Iterator[Finding]:
    if len(numbers.episodes) < EPISODES_FOR_DRIFT:
        return
    episodes = list(numbers.episodes.values())
    quarter = len(episodes) // 4
    first, last = np.concatenate(episodes[:quarter]), np.concatenate(episodes[-quarter:])
    spread = first.std(axis=0)
    # A joint that stands still in the first quarter gives no scale: use the scale of all episodes.
    spread = np.where(spread > 0, spread, numbers.all.std(axis=0))
    shift = np.abs(last.mean(axis=0) - first.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
    names = [f"{n} by {s:.1f}" for n, s in zip(numbers.names, shift, strict=True) if s > DRIFT]
    if names:
        quarters = "differs between the first and the last quarter of the episodes"
        message = f"{quarters}, in standard deviations: {listed(names, ALL)}"
        fix = "check calibration and set-up; split the dataset if it changed on purpose"
        yield Finding("warning", "drift", message, fix, feature=numbers.name)


def _repeated(numbers: Numbers) -> Iterator[Finding]:
    seen: dict[bytes, int] = {}
    pairs = []
    for index, values in numbers.episodes.items():
        key = np.round(values / TOLERANCE).astype(np.int64).tobytes()
        if key in seen:
            pairs.append((seen[key], index))
        seen.setdefault(key, index)
    if pairs:
        shown = ", ".join(f"{a} and {b}" for a, b in pairs[:5])
        message = f"episodes with the same actions throughout: {shown}{', ...' if len(pairs) > 5 else ''}"
        episodes = tuple(dict.fromkeys(b for _, b in pairs))
        yield Finding("warning", "repeated", message, "leave the copies out", None, episodes, numbers.name)
