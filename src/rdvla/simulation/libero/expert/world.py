"""A LIBERO task as the experts see it: privileged poses, joints, regions and collision surfaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rdvla.simulation.libero.expert.geometry import Array, box_surface, cylinder_surface, mesh_surface
from rdvla.simulation.libero.goals import Goal, holds, read_goals

if TYPE_CHECKING:
    from rdvla.simulation.libero.environment import LiberoEnv

# mujoco.mjtGeom, written out: this module must import without mujoco.
_PLANE, _SPHERE, _CAPSULE, _ELLIPSOID, _CYLINDER, _BOX, _MESH = 0, 2, 3, 4, 5, 6, 7
_LARGEST_SHAPE = 0.3  # metres; larger collision shapes are table, floor and walls


@dataclass(frozen=True)
class Cloud:
    """Surface points (N, 3) of everything on the table, and the root body (N,) that each belongs to."""

    points: Array
    owners: NDArray[np.int64]

    def of(self, body: int) -> Array:
        """Return the points of one root body."""
        own: Array = self.points[self.owners == body]
        return own

    def highest_along(self, start: Array, end: Array, *, reach: float = 0.10, without: int = -1) -> float:
        """Return the greatest height within `reach` of the straight way in the plane, -inf if it is free.

        Obstacles behind the start do not count: the hand moves away from them.

        Args:
            start, end: positions (2+,) whose first two numbers count.
            reach: half of the way's width in metres.
            without: a root body to leave out.
        """
        way = end[:2] - start[:2]
        along = (self.points[:, :2] - start[:2]) @ way / max(float(way @ way), 1e-12)
        nearest = start[:2] + np.clip(along, 0, 1)[:, None] * way
        near = (np.linalg.norm(self.points[:, :2] - nearest, axis=1) < reach) & (along > 0)
        heights = self.points[near & (self.owners != without), 2]
        return float(heights.max(initial=-np.inf))


class World:
    """A view of a task's simulator, always of its present state.

    Args:
        env: the environment after its reset; a reset may replace its model, so build a new view then.
    """

    def __init__(self, env: LiberoEnv) -> None:
        self.problem: Any = env.problem
        self.model: Any = env.simulation_model
        self.data: Any = env.simulation_data
        self._hand = self.model.site("gripper0_grip_site").id
        self._fingers = [self.model.joint(f"gripper0_finger_joint{finger}").qposadr[0] for finger in (1, 2)]
        self._shapes = self._surfaces()

    @property
    def goals(self) -> list[Goal]:
        """The task's conditions, such as ("on", "akita_black_bowl_1", "plate_1")."""
        return read_goals(self.problem)

    def holds(self, goal: Goal) -> bool:
        """Whether a condition is true now."""
        return holds(self.problem, goal)

    @property
    def hand(self) -> tuple[Array, Array]:
        """Position (3,) and rotation (3, 3) of the point between the fingertips."""
        return self.data.site_xpos[self._hand].copy(), self.data.site_xmat[self._hand].reshape(3, 3).copy()

    @property
    def opening(self) -> float:
        """Distance between the fingers in metres."""
        return float(np.abs(self.data.qpos[self._fingers]).sum())

    def body_of(self, name: str) -> int:
        """Return the root body of an object or a fixture."""
        return int(self.problem.obj_body_id[name])

    def position(self, name: str) -> Array:
        """Return the origin (3,) of an object or a fixture, which LIBERO's predicates compare."""
        return np.array(self.data.xpos[self.body_of(name)])

    def region(self, name: str) -> Any | None:
        """Return LIBERO's site object of a region, None if `name` is no region."""
        return self.problem.object_sites_dict.get(name)

    def region_box(self, name: str) -> tuple[Array, Array]:
        """Return a region's centre (3,) and half extents (3,) along the world's axes."""
        site = self.data.site(name)
        rotation = site.xmat.reshape(3, 3)
        return site.xpos.copy(), np.abs(rotation @ np.asarray(self.problem.object_sites_dict[name].size))

    def joint(self, name: str) -> float:
        """Return a joint's position in metres or radians."""
        return float(self.data.qpos[self.model.joint(name).qposadr[0]])

    def shapes_of(self, body: int) -> list[int]:
        """Return the ids of a body's own collision shapes."""
        return [g for g in np.flatnonzero(self.model.geom_bodyid == body).tolist() if self._collides(g)]

    def cloud(self) -> Cloud:
        """Return the surfaces as they are now."""
        surfaces = [self._placed(body, points) for body, _, points in self._shapes]
        owners = [np.full(len(points), root) for _, root, points in self._shapes]
        return Cloud(np.concatenate(surfaces), np.concatenate(owners))

    def surface(self, name: str) -> Array:
        """Return the surface points (N, 3) of one object or fixture as they are now."""
        owner = self.body_of(name)
        return np.concatenate([self._placed(body, pts) for body, root, pts in self._shapes if root == owner])

    def body_surface(self, body: int) -> Array:
        """Return the surface points (N, 3) of a single body, such as a door."""
        return np.concatenate([self._placed(own, points) for own, _, points in self._shapes if own == body])

    def lowest(self, name: str) -> float:
        """Return the height of an object's lowest point."""
        return float(self.surface(name)[:, 2].min())

    def _placed(self, body: int, points: Array) -> Array:
        placed: Array = points @ self.data.xmat[body].reshape(3, 3).T + self.data.xpos[body]
        return placed

    def _collides(self, shape: int) -> bool:
        return bool(self.model.geom_contype[shape] or self.model.geom_conaffinity[shape])

    def _surfaces(self) -> list[tuple[int, int, Array]]:
        """Return (body, root body, points in the body's frame) for everything but robot, table and walls."""
        surfaces = []
        for shape in range(self.model.ngeom):
            body = int(self.model.geom_bodyid[shape])
            root = int(self.model.body_rootid[body])
            robot = self.model.body(root).name.startswith(("robot", "gripper", "mount"))
            if body == 0 or robot or not self._collides(shape) or not self._small(shape):
                continue
            surfaces.append((body, root, self._in_body_frame(shape, self._surface_of(shape))))
        return surfaces

    def _small(self, shape: int) -> bool:
        large = self.model.geom_size[shape].max() > _LARGEST_SHAPE
        return bool(self.model.geom_type[shape] != _PLANE and not large)

    def _surface_of(self, shape: int) -> Array:
        kind, size = int(self.model.geom_type[shape]), np.array(self.model.geom_size[shape])
        if kind == _MESH:
            mesh = self.model.mesh(self.model.geom_dataid[shape])
            first, count = mesh.vertadr[0], mesh.vertnum[0]
            faces = self.model.mesh_face[mesh.faceadr[0] : mesh.faceadr[0] + mesh.facenum[0]]
            return mesh_surface(self.model.mesh_vert[first : first + count].astype(float), faces)
        if kind == _CYLINDER:
            return cylinder_surface(size[0], size[1])
        # A box around the round shapes is enough: the hand avoids them and touches none.
        if kind == _SPHERE:
            size = np.full(3, size[0])
        elif kind == _CAPSULE:
            size = np.array([size[0], size[0], size[1] + size[0]])
        return box_surface(size)

    def _in_body_frame(self, shape: int, points: Array) -> Array:
        w, x, y, z = self.model.geom_quat[shape]
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        placed: Array = points @ rotation.T + self.model.geom_pos[shape]
        return placed
