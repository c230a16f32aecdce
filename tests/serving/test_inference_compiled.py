"""Compiled heads, now or ahead of time, answer batches as the plain head does, deadlines included."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from rdvla.errors import RDVLAError
from rdvla.export import example_context, export_compiled_head
from rdvla.serving.loading import load_policy
from rdvla.serving.queries import Query
from tests.serving.test_inference_loading import assert_answers_as_alone, observe
from tests.support.tiny_models import make_policy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="compiling needs a C++ compiler on a CPU"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    make_policy().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    policy, output = make_policy(), tmp_path_factory.mktemp("aoti") / "code"
    export_compiled_head(policy.head, output, example=example_context(policy), stop=policy.stop)
    return output


@pytest.mark.parametrize("form", ["compiled", "aoti"])
def test_a_compiled_head_answers_as_the_plain_one(form: str, folder: Path, request: object) -> None:
    compiled = True if form == "compiled" else request.getfixturevalue("code")
    served = load_policy(folder, name="default", compiled=compiled)
    assert served.facts.form == form
    assert_answers_as_alone(served, atol=1e-4)
    late = Query(
        observe(0), served.initial_state(0), stop="action_change:1e-9:2:20", deadline=time.monotonic()
    )
    free = Query(observe(1), served.initial_state(1), stop="5")
    first, second = served.predict([late, free])
    assert (first.ended_by, int(first.prediction.depth)) == ("deadline", 1)
    assert (second.ended_by, int(second.prediction.depth)) == ("converged", 5)


def test_code_of_another_head_is_refused(code: Path, tmp_path: Path) -> None:
    make_policy(seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(RDVLAError, match="other weights"):
        load_policy(tmp_path / "other", name="default", compiled=code)
