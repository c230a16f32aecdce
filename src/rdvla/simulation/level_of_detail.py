"""Fewer triangles in a MuJoCo model's meshes, for rendering small images in software.

Simulators' meshes have up to 60,000 triangles each. Most are far smaller than a pixel of a policy's images,
yet a software renderer spends its time on them. Here all vertices in a cell of a grid become the same vertex
(Rossignac and Borrel, 1993), and triangles that vanish or coincide are dropped. Collision shapes and physics
use other arrays of the model, which stay unchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALL_MESH = 200  # triangles; smaller meshes are not worth the work


def simplify_meshes(model: Any, cell: float) -> None:
    """Simplify every mesh of a compiled model in place, before a renderer is opened for it.

    Args:
        model: MjModel.
        cell: edge of a grid cell in metres; details below it are lost.
    """
    for mesh in range(model.nmesh):
        if model.mesh_facenum[mesh] >= _SMALL_MESH:
            _simplify(model, mesh, cell)


def _simplify(model: Any, mesh: int, cell: float) -> None:
    start, count = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
    faces = slice(start, start + count)
    first, vertices = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
    representatives = cluster_vertices(model.mesh_vert[first : first + vertices], cell)
    corners = representatives[model.mesh_face[faces]]
    kept = distinct_triangles(corners)
    left = slice(start, start + len(kept))
    # The right sides are copies, so that writing over the first entries is safe.
    model.mesh_face[left] = corners[kept]
    model.mesh_facenormal[left] = model.mesh_facenormal[faces][kept]
    if model.nmeshtexcoord:
        model.mesh_facetexcoord[left] = model.mesh_facetexcoord[faces][kept]
    model.mesh_facenum[mesh] = len(kept)


def cluster_vertices(vertices: NDArray[np.float32], cell: float) -> NDArray[np.int64]:
    """Return for each vertex the number of the vertex that replaces it, (V,).

    All vertices of a grid cell are replaced by the vertex nearest to their mean.

    Args:
        vertices: (V, 3) metres.
        cell: edge of a grid cell in metres.
    """
    grid = np.floor((vertices - vertices.min(axis=0)) / cell).astype(np.int64)
    _, cluster = np.unique(np.ravel_multi_index(grid.T, grid.max(axis=0) + 1), return_inverse=True)
    members = np.bincount(cluster)
    means = np.stack([np.bincount(cluster, vertices[:, axis]) / members for axis in range(3)], axis=1)
    distance = ((vertices - means[cluster]) ** 2).sum(axis=1)
    nearest_first = np.lexsort((distance, cluster))
    starts = np.concatenate([[0], np.cumsum(members)[:-1]])
    representatives: NDArray[np.int64] = nearest_first[starts][cluster]
    return representatives


def distinct_triangles(corners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which triangles to keep: those with three different corners, each only once.

    Args:
        corners: (T, 3) numbers of vertices.
    """
    proper = (corners != np.roll(corners, 1, axis=1)).all(axis=1)
    numbers = np.flatnonzero(proper)
    triangles = corners[numbers]
    # The same triangle may start at another corner. The reverse order is its other side, which is kept.
    smallest = triangles.argmin(axis=1)[:, None]
    turned = np.take_along_axis(triangles, (smallest + np.arange(3)) % 3, axis=1)
    size = int(corners.max(initial=0)) + 1
    _, once = np.unique(np.ravel_multi_index(turned.T, (size, size, size)), return_index=True)
    kept: NDArray[np.int64] = numbers[np.sort(once)]
    return kept
