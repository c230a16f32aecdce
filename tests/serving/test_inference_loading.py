"""Every form of a policy is loaded by one function, and answers as the policy itself does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rdvla.errors import ConfigError, InputError, RDVLAError
from rdvla.policy import fingerprint
from rdvla.serving.loading import load_policy
from rdvla.serving.queries import Query, ServedPolicy
from rdvla.types import Observation
from tests.support.tiny_models import CAMERAS, CONFIG, SENTENCES, SIZE, make_policy


def observe(seed: int, *, size: tuple[int, int] = (SIZE, SIZE), state_dim: int = 3) -> Observation:
    random = np.random.default_rng(seed)
    return Observation(
        {camera: random.integers(0, 256, (*size, 3), dtype=np.uint8) for camera in CAMERAS},
        random.uniform(size=state_dim),
        SENTENCES[seed % len(SENTENCES)],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    make_policy().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from rdvla.export import export_policy

    output = tmp_path_factory.mktemp("exports") / "onnx"
    export_policy(make_policy(), output)
    return output


def assert_answers_as_alone(served: ServedPolicy, *, atol: float = 1e-5) -> None:
    """Every query of a mixed batch is answered as torch answers it alone."""
    policy = make_policy()
    wishes = [(None, None), ("fixed:7", 3), ("latent_change:0.03", None), ("2", None)]
    queries = [
        Query(observe(seed), served.initial_state(seed), stop=stop, max_depth=max_depth)
        for seed, (stop, max_depth) in enumerate(wishes)
    ]
    answers = served.predict(queries)
    for query, answer in zip(queries, answers, strict=True):
        alone = policy.predict(
            query.observation,
            stop=query.stop,
            max_depth=query.max_depth,
            initial_state=query.initial_state,
        )
        assert int(answer.prediction.depth) == int(alone.depth)
        assert bool(answer.prediction.converged) == bool(alone.converged)
        np.testing.assert_allclose(answer.prediction.actions, alone.actions.numpy(), atol=atol)
        assert answer.batch_size == len(queries)
    assert [answer.ended_by for answer in answers] == ["converged", "max_depth", "converged", "converged"]
    assert [answer.max_depth for answer in answers] == [4, 3, 32, 2]


def test_a_folder_is_loaded_with_its_facts(folder: Path) -> None:
    served = load_policy(folder, name="left arm")
    facts = served.facts
    assert (facts.name, facts.form, facts.fingerprint) == ("left arm", "torch", fingerprint(make_policy()))
    assert facts.cameras == CAMERAS and facts.image_sizes == dict.fromkeys(CAMERAS, (SIZE, SIZE))
    assert (facts.state_dim, facts.action_dim, facts.chunk_size) == (3, 4, CONFIG.head.chunk_size)
    assert (facts.stop, facts.execution, facts.start) == ("4", "fixed:3", "noise")
    assert facts.iterates
    assert_answers_as_alone(served)


def test_a_policy_that_ships_is_loaded_by_its_name() -> None:
    facts = load_policy("metaworld", name="default").facts
    assert facts.cameras == ("front", "side", "wrist") and facts.action_dim == 4


def test_a_seed_gives_the_initial_state_of_the_policy(folder: Path) -> None:
    served = load_policy(folder, name="default")
    expected = make_policy().initial_state(1, torch.Generator().manual_seed(5))[0].numpy()
    for source in (served, served.front()):
        np.testing.assert_array_equal(source.initial_state(5), expected)
        assert not np.array_equal(source.initial_state(), source.initial_state())


@pytest.mark.slow
def test_an_onnx_export_answers_as_torch(exported: Path) -> None:
    served = load_policy(exported, name="default", threads=1)
    assert served.facts.form == "onnx" and served.facts.fingerprint == fingerprint(make_policy())
    assert served.facts.cameras == CAMERAS and served.facts.state_dim == 3
    np.testing.assert_array_equal(served.front().initial_state(3), served.initial_state(3))
    assert_answers_as_alone(served, atol=2e-4)


@pytest.mark.slow
def test_an_onnx_export_needs_no_torch(exported: Path) -> None:
    code = (
        "import sys; from rdvla.serving.loading import load_policy;"
        f"served = load_policy({str(exported)!r}, name='a'); served.initial_state(0);"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "False", found.stderr


def test_images_of_different_sizes_share_a_batch(tmp_path: Path) -> None:
    from dataclasses import replace

    sizes = dict.fromkeys(CAMERAS, (48, 64))
    policy = make_policy(replace(CONFIG, camera_sizes=sizes))
    policy.save_pretrained(tmp_path / "policy")
    served = load_policy(tmp_path / "policy", name="default")
    assert served.facts.image_sizes == sizes
    queries = [
        Query(observe(seed, size=size), served.initial_state(seed))
        for seed, size in enumerate([(48, 64), (96, 128), (24, 32)])
    ]
    for query, answer in zip(queries, served.predict(queries), strict=True):
        served.facts.check(query.observation)
        alone = policy.predict(query.observation, initial_state=query.initial_state)
        np.testing.assert_allclose(answer.prediction.actions, alone.actions.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (observe(0, size=(SIZE, 2 * SIZE)), "camera 'front'"),
        (observe(0, state_dim=2), "3 numbers of proprioception, got 2"),
        (Observation({}, np.zeros(3), "push"), "lacks the camera 'front'"),
        (Observation(observe(0).images, np.full(3, np.nan), "push"), "NaN"),
        (observe(0).batched(), "this is a batch"),
    ],
    ids=["proportions", "state", "camera", "not finite", "batch"],
)
def test_an_observation_that_does_not_fit_is_found_before_it_is_batched(
    folder: Path, observation: Observation, message: str
) -> None:
    facts = load_policy(folder, name="default").facts
    with pytest.raises(InputError, match=message):
        facts.check(observation)


def test_a_folder_that_is_no_policy_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(RDVLAError, match=r"neither config\.json .* nor runtime\.json .* nor run\.json"):
        load_policy(tmp_path, name="default")
    (tmp_path / "compiled.json").write_text("{}")
    with pytest.raises(RDVLAError, match="a compiled head alone"):
        load_policy(tmp_path, name="default")


@pytest.mark.slow
def test_an_export_is_not_compiled_again(exported: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be compiled again"):
        load_policy(exported, name="default", compiled=True)
