"""Top-down grasps of an object in a cloud of surface points, checked against collisions of the hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdvla.simulation.libero.expert.geometry import Array, wrapped_half_turn

# The Panda's hand, measured on its collision shapes, in metres from the point between the fingertips:
# u runs along the closing axis, v across it, w upwards.
_FINGER_INNER, _FINGER_OUTER, _FINGER_HALF_WIDTH = 0.038, 0.056, 0.012
_FINGER_BELOW, _PALM, _HAND_TOP = 0.010, 0.048, 0.18
_PALM_HALF_LENGTH, _PALM_HALF_WIDTH = 0.10, 0.032

_CELL = 0.004  # of the occupancy images
_CELLS = 120  # along each side of an image
# Of the fingertips below the object's top; deeper, the palm would come to press on it.
_DEPTHS = (0.004, 0.010, 0.016, 0.024, 0.032)
_ABOVE_SUPPORT = 0.012  # of the fingertips, which must not touch the object's support
# At 90 degrees the wrist is near the middle of its range, at the equivalent -90 near its end.
_YAWS = tuple(np.deg2rad(np.arange(-75.0, 91.0, 15.0)))
_DEEP, _THIN = 0.018, 0.02  # below the top, and between the object's faces, in metres
_CANDIDATES = 60  # looked at closely for each yaw and height


@dataclass(frozen=True)
class Grasp:
    """Where the point between the fingertips goes, the yaw of a hand that points down, and how good it is."""

    position: Array
    yaw: float
    score: float


@dataclass(frozen=True)
class Preference:
    """Which of the possible grasps is preferred, apart from a firm and balanced hold.

    Attributes:
        yaw: the wanted yaw in radians; others lose `yaw_cost` a radian.
        center_cost: loss for each metre between grasp and object centre.
        side: gain for each metre of the grasp's offset from the centre along (x, y): it makes the choice
            between the equally good sides of a symmetric object, so the choice is always the same.
        deeper: gain for each metre that the fingertips are further than 18 mm below the top of an object that
            is not held at its centre. A bowl slips along its sloping wall when it is held low.
    """

    yaw: float = 0.0
    yaw_cost: float = 0.25
    center_cost: float = 12.0
    side: tuple[float, float] = (-1.0, 3.0)
    deeper: float = -12.0

    def value(self, offsets: Array, distance: Array, yaw: float) -> Array:
        """Return the score (K,) of grasps at `offsets` (K, 2), at `distance` (K,) from the centre."""
        turned = abs(wrapped_half_turn(yaw - self.yaw))
        gain: Array = offsets @ np.array(self.side)
        return gain - self.center_cost * distance - self.yaw_cost * turned


def plan_grasps(
    points: Array,
    is_object: NDArray[np.bool_],
    *,
    preference: Preference | None = None,
    yaws: Sequence[float] = _YAWS,
    count: int = 6,
) -> list[Grasp]:
    """Return up to `count` different grasps, the best first; none if the hand fits nowhere.

    Args:
        points: surface points (N, 3) of the object and of whatever is around it.
        is_object: which points (N,) belong to the object; at least one.
        preference: which of the possible grasps to prefer.
        yaws: the hand's yaws to try, in radians.
    """
    preference = preference or Preference()
    own = points[is_object]
    top, bottom = own[:, 2].max(), own[:, 2].min()
    center = (own.max(axis=0) + own.min(axis=0))[:2] / 2
    floor = bottom + _ABOVE_SUPPORT
    heights = sorted({round(max(top - depth, floor), 4) for depth in _DEPTHS if top - depth > floor - 0.012})
    near = np.abs(points[:, :2] - center).max(axis=1) < _CELLS * _CELL / 2 + _PALM_HALF_LENGTH
    grasps: list[Grasp] = []
    for yaw in yaws:
        view = _View(points[near], is_object[near], center, float(yaw))
        for height in heights:
            grasps.extend(_grasps_at(view, height, top - height, preference))
    return _different(sorted(grasps, key=lambda grasp: -grasp.score), count)


class _View:
    """The cloud in the hand's horizontal axes (u, v), centred on the object."""

    def __init__(self, points: Array, is_object: NDArray[np.bool_], center: Array, yaw: float) -> None:
        self.yaw, self.center = yaw, center
        self.axes = np.array([[-np.sin(yaw), np.cos(yaw)], [np.cos(yaw), np.sin(yaw)]])
        self.uv = (points[:, :2] - center) @ self.axes.T
        self.heights, self.is_object = points[:, 2], is_object
        cells = np.floor(self.uv / _CELL).astype(int) + _CELLS // 2
        self.inside = ((cells >= 0) & (cells < _CELLS)).all(axis=1)
        self.cell = cells[:, 0] * _CELLS + cells[:, 1]

    def counts(self, which: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the summed-area table (cells + 1, cells + 1) of the points `which`."""
        counts = np.bincount(self.cell[which & self.inside], minlength=_CELLS * _CELLS)
        table = np.zeros((_CELLS + 1, _CELLS + 1), np.int64)
        table[1:, 1:] = counts.reshape(_CELLS, _CELLS).cumsum(0).cumsum(1)
        return table

    def world(self, u: Array, v: Array) -> Array:
        """Return the world's (x, y), (K, 2), of places (K,), (K,) in the view."""
        places: Array = self.center + np.stack([u, v], axis=1) @ self.axes
        return places


def _box_sums(table: NDArray[np.int64], u: tuple[float, float], v: tuple[float, float]) -> NDArray[np.int64]:
    """Return how many points lie in the box u x v around the centre of every cell, (cells, cells)."""
    (u0, u1), (v0, v1) = _edges(u), _edges(v)
    strips = table[u1] - table[u0]
    sums: NDArray[np.int64] = strips[:, v1] - strips[:, v0]
    return sums


def _edges(interval: tuple[float, float]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for the interval around every cell, its first cell and the cell after its last."""
    cells = np.arange(_CELLS)
    first, last = int(np.floor(interval[0] / _CELL)), int(np.ceil(interval[1] / _CELL))
    return np.clip(cells + first, 0, _CELLS), np.clip(cells + last + 1, 0, _CELLS)


def _free_cells(view: _View, height: float) -> NDArray[np.bool_]:
    """Return where the open hand touches nothing and holds some of the object between its fingers."""
    above = view.heights - height
    between = view.counts(view.is_object & (above > -0.008) & (above < 0.010))
    free = _box_sums(between, (-0.032, 0.032), (-0.006, 0.006)) > 0
    fingers = view.counts((above > -_FINGER_BELOW) & (above < 0.05))
    across = (-_FINGER_HALF_WIDTH, _FINGER_HALF_WIDTH)
    free &= _box_sums(fingers, (_FINGER_INNER, _FINGER_OUTER), across) == 0
    free &= _box_sums(fingers, (-_FINGER_OUTER, -_FINGER_INNER), across) == 0
    palm = view.counts((above > _PALM) & (above < _HAND_TOP))
    half = (_PALM_HALF_LENGTH, _PALM_HALF_WIDTH)
    free &= _box_sums(palm, (-half[0], half[0]), (-half[1], half[1])) == 0
    return np.asarray(free)


def _grasps_at(view: _View, height: float, depth: float, preference: Preference) -> Iterator[Grasp]:
    """Yield the possible grasps at a yaw and a fingertip height."""
    cells = np.argwhere(_free_cells(view, height))
    if not len(cells):
        return
    hands = np.asarray((cells + 0.5 - _CELLS // 2) * _CELL, dtype=np.float64)
    order = np.argsort(np.hypot(*hands.T), kind="stable")
    hands = hands[order[:: max(1, len(order) // _CANDIDATES)][:_CANDIDATES]]
    held = view.uv[view.is_object & (np.abs(view.heights - height - 0.001) < 0.009)]
    low, high = _contacts(held, hands)
    firm = np.isfinite(low).all(axis=1) & np.isfinite(high).all(axis=1)
    low, high, (u, v) = low[firm], high[firm], hands[firm].T
    middle = (low[:, 1] + high[:, 1]) / 2
    uneven = middle - u  # one finger would touch first
    slope = np.ptp(low, axis=1) + np.ptp(high, axis=1)  # the faces are not perpendicular to the closing axis
    distance = np.hypot(middle, v)
    width = high.max(axis=1) - low.min(axis=1)
    score = -60 * np.abs(uneven) - 25 * slope - 4 * np.maximum(0.0, width - 0.06)
    score += 12 * min(depth, _DEEP)
    score += np.where(distance < 0.015, 2.0, preference.deeper) * max(0.0, depth - _DEEP)
    # The fingers press least on thin edges, and slip off their ends.
    score -= np.where(width < _THIN, 150 * max(0.0, 0.010 - depth), 0.0)
    positions = view.world(u + uneven / 2, v)
    score += preference.value(positions - view.center, distance, view.yaw)
    for (x, y), value in zip(positions, score, strict=True):
        yield Grasp(np.array([x, y, height]), view.yaw, float(value))


def _contacts(held: Array, hands: Array) -> tuple[Array, Array]:
    """Return where the object's faces are, lowest and highest u, in three slices under the fingertips.

    Args:
        held: places (M, 2) of the object's points at the height of the fingertips.
        hands: places (K, 2) of the hand.

    Returns:
        Two arrays (K, 3), infinite if a slice has fewer than two points.
    """
    along = held[None, :, 0] - hands[:, :1]
    across = held[None, :, 1] - hands[:, 1:]
    between = np.abs(along) < 0.036
    low, high = np.full((len(hands), 3), np.inf), np.full((len(hands), 3), np.inf)
    for k, shift in enumerate((-0.006, 0.0, 0.006)):
        touched = between & (np.abs(across - shift) < 0.0045)
        enough = touched.sum(axis=1) >= 2
        low[enough, k] = np.where(touched, held[None, :, 0], np.inf).min(axis=1)[enough]
        high[enough, k] = np.where(touched, held[None, :, 0], -np.inf).max(axis=1)[enough]
    return low, high


def _different(grasps: Sequence[Grasp], count: int) -> list[Grasp]:
    """Return the first `count` grasps that are not nearly the same as an earlier grasp."""
    kept: list[Grasp] = []
    for grasp in grasps:
        if all(
            np.linalg.norm(grasp.position - other.position) > 0.01 or abs(grasp.yaw - other.yaw) > 0.2
            for other in kept
        ):
            kept.append(grasp)
        if len(kept) >= count:
            break
    return kept
