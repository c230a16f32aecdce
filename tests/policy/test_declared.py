"""A policy's configuration is believed only as far as the header of its weights bears it out."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rdvla.errors import RDVLAError
from rdvla.policy import RDVLAPolicy
from tests.support.tiny_models import make_policy, pretrained_config, save_tiny_bert, save_tiny_dinov2

GIB = 1 << 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("declared") / "policy"
    make_policy().save_pretrained(folder)
    (folder / "checksums.json").unlink()
    return folder


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let any request for gigabytes fail at once."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * GIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def edited(folder: Path, place: Path, option: str, value: Any) -> Path:
    shutil.copytree(folder, place)
    content = json.loads((place / "config.json").read_text())
    *groups, name = option.split(".")
    node = content
    for group in groups:
        node = node[group]
    node[name] = value
    (place / "config.json").write_text(json.dumps(content))
    return place


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("head.hidden_dim", 16384),
        ("head.hidden_dim", 2**18),
        ("head.feedforward_multiple", 2**18),
        ("head.chunk_size", 2**20),
        ("head.core", ["late"] * 40),
        ("backbone.width", 65536),
        ("backbone.slots", 2**20),
        ("backbone.latents", 2**20),
        ("backbone.layers", 40),
        ("backbone.conv_width", 2**16),
        ("backbone.conv_blocks", 60),
        ("backbone.conv_blocks", 0),
        ("backbone.max_instruction_bytes", 2**20),
        ("backbone.environment_state_dim", 2**20),
        ("state_dim", 10**9),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_memory_is_taken(
    whole: Path, tmp_path: Path, option: str, value: Any
):
    with pytest.raises(RDVLAError, match=r"does not fit|must equal") as caught:
        RDVLAPolicy.from_pretrained(edited(whole, tmp_path / "policy", option, value))
    assert str(tmp_path / "policy") in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("head.norm_eps", -1.0, "head.norm_eps must be above 0 and at most 1"),
        ("head.norm_eps", 0.0, "above 0"),
        ("head.rotary_base", 0.0, "head.rotary_base must be at least 1"),
        ("head.rotary_base", -1.0, "head.rotary_base"),
        ("head.initial_state_std", -1.0, "head.initial_state_std must be above 0"),
        ("head.initial_state_std", 1e300, "head.initial_state_std"),
        ("head.core", ["late"] * 300, "number of blocks must be at most 256"),
        ("head.core", ["late"] * 10**6, "option .head.core.: a list has at most 10000 entries"),
        ("backbone.layers", 10**30, r"backbone.layers must be at least 0 and at most 256"),
        ("backbone.conv_blocks", 10**9, "backbone.conv_blocks"),
        ("backbone.conv_blocks", -1, "backbone.conv_blocks"),
        ("backbone.layers", 1e30, "backbone.layers"),
        ("backbone.slots", 10**30, "backbone.slots"),
    ],
)
def test_numbers_that_mean_nothing_are_refused_with_their_range(
    whole: Path, tmp_path: Path, option: str, value: Any, said: str
):
    with pytest.raises(RDVLAError, match=rf"config\.json.*{said}"):
        RDVLAPolicy.from_pretrained(edited(whole, tmp_path / "policy", option, value))


@pytest.mark.usefixtures("little_memory")
def test_a_policy_on_published_encoders_is_checked_next_to_them(tmp_path: Path):
    config = pretrained_config(save_tiny_dinov2(tmp_path / "dinov2"), save_tiny_bert(tmp_path / "bert"))
    make_policy(config).save_pretrained(tmp_path / "whole")
    (tmp_path / "whole" / "checksums.json").unlink()
    RDVLAPolicy.from_pretrained(tmp_path / "whole")
    for number, (option, value) in enumerate([("head.hidden_dim", 2**18), ("backbone.slots", 2**20)]):
        with pytest.raises(RDVLAError, match="does not fit"):
            RDVLAPolicy.from_pretrained(edited(tmp_path / "whole", tmp_path / str(number), option, value))


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a": ' * 100_000, '{"a": ' + "1" * 5000 + "}"])
@pytest.mark.parametrize("name", ["config.json", "statistics.json"])
def test_json_that_exhausts_its_reader_is_named(whole: Path, tmp_path: Path, name: str, content: str):
    shutil.copytree(whole, tmp_path / "policy")
    (tmp_path / "policy" / name).write_text(content)
    with pytest.raises(RDVLAError, match=rf"{name} is damaged: it"):
        RDVLAPolicy.from_pretrained(tmp_path / "policy")
