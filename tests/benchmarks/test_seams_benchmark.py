"""The benchmark of seams measures jerk where chunks follow each other, and runs all ways."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import seams
from rdvla.files import read_json


def record(positions, *, at=(), held=()) -> seams.Record:
    steps = range(len(positions))
    return seams.Record(
        [np.float32([position]) for position in positions],
        [n in at for n in steps],
        [n in held for n in steps],
    )


def test_a_parabola_has_no_jerk_and_a_jump_has_it_at_the_seam_alone() -> None:
    steps = np.arange(20.0)
    smooth = seams.summarise([record(steps**2, at=(10,))], unit=1.0)
    assert smooth["at_seams"] == smooth["elsewhere"] == smooth["largest"] == 0
    jumped = seams.summarise([record(steps**2 + 5 * (steps >= 10), at=(10,))], unit=1.0)
    # The third difference of a jump by 5 is 5, -10, 5.
    assert jumped["at_seams"] == pytest.approx(np.sqrt(50))
    assert jumped["elsewhere"] == 0
    assert jumped["largest"] == 10


def test_the_edges_of_a_hold_count_as_seams() -> None:
    positions = [*range(8), 7, 7, *range(8, 16)]
    found = seams.summarise([record(positions, held=(8, 9))], unit=1.0)
    assert found["at_seams"] > 0
    assert found["elsewhere"] == 0
    assert found["held"] == pytest.approx(2 / 18)


def test_the_synthetic_policy_is_followed_in_every_way(tmp_path) -> None:
    output = tmp_path / "seams.json"
    seams.main(["--steps", "30", "--hz", "50", "--latency-ms", "20", "--output", str(output)])
    rows = read_json(output)["rows"]
    assert [row["way"] for row in rows] == list(seams.WAYS)
    for row in rows:
        assert row["largest"] >= row["at_seams"] > 0
        assert 0 <= row["held"] < 1
