"""The published head against an independent implementation's outputs, in float64 from float32 values."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from rdvla.control import Stop
from rdvla.engine import Engine
from rdvla.errors import RDVLAError
from rdvla.heads import Context, RecurrentDepthHead
from rdvla.interop import load_published_head
from tests.support.closeness import assert_stops_clearly
from tests.support.reference_case import VECTORS, load_case

CASES = ("tiny", "no_prelude_no_coda")
DEPTHS = (1, 2, 4, 8, 12, 32)
Case = tuple[RecurrentDepthHead, Context, dict[str, torch.Tensor], dict[str, int]]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return load_case(request.param)


RUNS = {"the paper's file": lambda head: head, "engine": Engine}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_actions_and_state_at_fixed_depth(case: Case, depth: int, run: type) -> None:
    head, context, expected, _ = case
    prediction = run(head).predict(context, stop=depth, initial_state=expected["initial_state"])
    torch.testing.assert_close(prediction.actions, expected[f"actions_depth_{depth}"], atol=1e-4, rtol=0)
    torch.testing.assert_close(prediction.state, expected[f"state_depth_{depth}"], atol=1e-4, rtol=0)
    assert prediction.depth.tolist() == [depth] * context.batch_size


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_every_sample_stops_where_the_reference_does(case: Case, run: type) -> None:
    head, context, expected, depths = case
    for name, depth in depths.items():
        threshold, _, sample = name.partition("/sample_")
        rule = Stop("action_change", threshold=float(threshold))
        start = expected["initial_state"]
        # Actions and states may be off by 1e-4; states are 0.97 or more in the root mean square.
        assert_stops_clearly(head, context, stop=rule, initial_state=start, tolerance=1.1e-4)
        prediction = run(head).predict(context, stop=rule, initial_state=start)
        assert int(prediction.depth[int(sample)]) == depth
        assert bool(prediction.converged[int(sample)])
        actions = expected[f"actions_adaptive_{threshold}_sample_{sample}"][0]
        torch.testing.assert_close(prediction.actions[int(sample)], actions, atol=1e-4, rtol=0)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.copytree(VECTORS / "tiny", folder)
    return folder


def config_of(folder: Path) -> Path:
    return next(folder.glob("action_head_config--*.json"))


def test_damaged_weights_are_named(copy: Path) -> None:
    path = next(copy.glob("action_head--*.pt"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RDVLAError, match=path.name):
        load_published_head(copy)


def test_code_in_a_checkpoint_is_never_run(copy: Path) -> None:
    path = next(copy.glob("proprio_projector--*.pt"))
    marker = copy / "ran"
    torch.save({"fc1.weight": _Touches(marker)}, path)
    with pytest.raises(RDVLAError, match=path.name):
        load_published_head(copy)
    assert not marker.exists()


class _Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.path),)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["action_head_config", "proprio_projector"])
def test_missing_file_is_named(copy: Path, name: str) -> None:
    path = next(copy.glob(f"{name}--*"))
    path.unlink()
    with pytest.raises(RDVLAError, match=path.name):
        load_published_head(copy)


def test_two_checkpoints_in_one_folder_are_refused(copy: Path) -> None:
    path = next(copy.glob("action_head--*.pt"))
    shutil.copy(path, copy / "action_head--latest_checkpoint.pt")
    with pytest.raises(RDVLAError, match="exactly one"):
        load_published_head(copy)


def test_latest_is_a_valid_step(copy: Path) -> None:
    for path in list(copy.glob("*--40000_checkpoint*")):
        path.rename(path.with_name(path.name.replace("40000", "latest")))
    load_published_head(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_type": "DiffusionHead"}, "DiffusionHead"),
        ({"hidden_dim": 32}, "does not fit the configuration"),
        ({"coda_vlm_layers": [3, 3]}, "lacks"),
        ({"prelude_vlm_layers": []}, "no part of the head takes"),
        ({"prelude_vlm_layers": "all"}, "prelude_vlm_layers"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_configuration_that_does_not_fit(copy: Path, change: dict[str, object], message: str) -> None:
    path = config_of(copy)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RDVLAError, match=message):
        load_published_head(copy)


def test_missing_entry_names_the_nearest(copy: Path) -> None:
    path = config_of(copy)
    entries = json.loads(path.read_text())
    entries["hiden_dim"] = entries.pop("hidden_dim")
    path.write_text(json.dumps(entries))
    with pytest.raises(RDVLAError, match=r"lacks 'hidden_dim'.*hiden_dim"):
        load_published_head(copy)
