"""Simplified meshes keep their shape to within a cell, and nothing but what is drawn changes."""

import numpy as np
import pytest

from rdvla.simulation.level_of_detail import cluster_vertices, distinct_triangles, simplify_meshes


def test_every_vertex_is_stood_for_by_one_of_its_own_cell():
    vertices = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32)
    cell = 0.25
    found = cluster_vertices(vertices, cell)
    corner = vertices.min(axis=0)
    grid, representative_grid = (np.floor((points - corner) / cell) for points in (vertices, vertices[found]))
    np.testing.assert_array_equal(grid, representative_grid)
    np.testing.assert_array_equal(found[found], found)  # a representative stands for itself
    assert len(np.unique(found)) == len(np.unique(grid, axis=0))


def test_triangles_without_area_and_repetitions_go_but_the_other_side_stays():
    corners = np.array([[0, 1, 2], [1, 1, 2], [1, 2, 0], [2, 1, 0], [3, 1, 2]])
    np.testing.assert_array_equal(distinct_triangles(corners), [0, 3, 4])


def test_a_sphere_loses_triangles_and_keeps_its_size_and_its_collision_shape():
    mujoco = pytest.importorskip("mujoco")
    points = np.random.default_rng(1).normal(size=(3000, 3))
    points /= 10 * np.linalg.norm(points, axis=1, keepdims=True)
    hull = pytest.importorskip("scipy.spatial").ConvexHull(points)
    mesh = (
        f'vertex="{" ".join(map(str, points.ravel()))}" face="{" ".join(map(str, hull.simplices.ravel()))}"'
    )
    body = '<body><freejoint/><geom type="mesh" mesh="ball"/></body>'
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><asset><mesh name="ball" {mesh}/></asset><worldbody>{body}</worldbody></mujoco>'
    )
    before = model.mesh_facenum[0], model.mesh_vert.copy(), model.geom_rbound.copy(), model.mesh_graph.copy()
    simplify_meshes(model, 0.02)
    assert model.mesh_facenum[0] < before[0] / 4
    for array, old in zip((model.mesh_vert, model.geom_rbound, model.mesh_graph), before[1:], strict=True):
        np.testing.assert_array_equal(array, old)
    faces = model.mesh_face[: model.mesh_facenum[0]]
    a, b, c = (model.mesh_vert[faces[:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    assert area == pytest.approx(4 * np.pi * 0.1**2, rel=0.1)


def test_small_meshes_are_left_alone():
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><asset><mesh name="tetrahedron" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset>'
        '<worldbody><geom type="mesh" mesh="tetrahedron"/></worldbody></mujoco>'
    )
    simplify_meshes(model, 10.0)
    assert model.mesh_facenum[0] == 4
