"""What a policy's folder says about itself: checksums of its files, and the published models it stands on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from rdvla.assets import POLICIES
from rdvla.cli import main
from rdvla.errors import ConfigError, RDVLAError
from rdvla.policy import RESULTS, TRAINING, RDVLAPolicy, base_models
from rdvla.policy.base_models import CHANGED_WEIGHTS
from tests.support.tiny_models import (
    make_observation,
    make_policy,
    pretrained_config,
    save_tiny_bert,
    save_tiny_dinov2,
)
from tests.support.tiny_vlms import save_tiny_vlm, vlm_config

SHIPPED = [*POLICIES.iterdir(), *(Path(__file__).parents[2] / "policies").iterdir()]
FILES = ("config.json", "model.safetensors", "statistics.json", TRAINING)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    policy = make_policy()
    policy.records = {TRAINING: {"steps": 3, "dataset": {"root": "demos", "on_hub": [], "fingerprint": "f"}}}
    policy.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


# --- checksums ---


def test_checksums_are_those_of_the_files(saved: Path) -> None:
    content = json.loads((saved / "checksums.json").read_text())
    assert content == {
        "sha256": {name: hashlib.sha256((saved / name).read_bytes()).hexdigest() for name in sorted(FILES)}
    }


@pytest.mark.parametrize("name", FILES)
def test_a_change_of_any_file_is_named_with_the_way_out(saved: Path, name: str) -> None:
    """One that the file's own reader would not notice: a byte of a weight, a blank in JSON."""
    path = saved / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1 if path.suffix == ".safetensors" else ord("\n") ^ ord(" ")
    path.write_bytes(content)
    with pytest.raises(
        RDVLAError, match=rf"{name} is damaged or was changed .*delete its entry from .*checksums"
    ):
        RDVLAPolicy.from_pretrained(saved)
    checksums = json.loads((saved / "checksums.json").read_text())
    del checksums["sha256"][name]
    (saved / "checksums.json").write_text(json.dumps(checksums))
    RDVLAPolicy.from_pretrained(saved)


def test_a_file_that_is_gone_is_named(saved: Path) -> None:
    (saved / TRAINING).unlink()
    with pytest.raises(RDVLAError, match=r"training\.json is missing: get the whole policy again"):
        RDVLAPolicy.from_pretrained(saved)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": 3}'])
def test_damaged_checksums_are_named(saved: Path, content: str) -> None:
    (saved / "checksums.json").write_text(content)
    with pytest.raises(RDVLAError, match=r"checksums\.json"):
        RDVLAPolicy.from_pretrained(saved)


def test_an_older_policy_without_checksums_loads(saved: Path) -> None:
    (saved / "checksums.json").unlink()
    (saved / "statistics.json").write_text((saved / "statistics.json").read_text() + "\n")
    RDVLAPolicy.from_pretrained(saved)


def test_results_and_the_card_may_come_later(saved: Path) -> None:
    (saved / RESULTS).write_text('{"meta": {}}')
    (saved / "README.md").write_text("My robot.")
    assert RDVLAPolicy.from_pretrained(saved).records[RESULTS] == {"meta": {}}


def test_saving_over_another_policy_renews_the_checksums(saved: Path) -> None:
    make_policy(seed=7).save_pretrained(saved)
    assert RDVLAPolicy.from_pretrained(saved).records == {}
    assert TRAINING not in json.loads((saved / "checksums.json").read_text())["sha256"]


def test_a_save_that_is_cut_short_leaves_no_checksums(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the files are new then: stale checksums would blame the wrong ones."""

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rdvla.policy.policy.write_description", full)
    with pytest.raises(OSError, match="No space"):
        make_policy(seed=7).save_pretrained(saved)
    assert not (saved / "checksums.json").exists()


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_the_policies_that_ship_have_checksums_and_load(folder: Path) -> None:
    checksums = json.loads((folder / "checksums.json").read_text())["sha256"]
    assert set(checksums) == set(FILES)
    RDVLAPolicy.from_pretrained(folder)


# --- published models ---


@pytest.fixture
def standing(tmp_path: Path) -> Path:
    """A policy on two published encoders."""
    config = pretrained_config(save_tiny_dinov2(tmp_path / "dinov2"), save_tiny_bert(tmp_path / "bert"))
    make_policy(config).save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def change_scale(folder: Path) -> None:
    path = folder / "dinov2" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.1, 0.1, 0.1]}))


def change_words(folder: Path) -> None:
    path = folder / "bert" / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["door"], words["push"] = words["push"], words["door"]
    path.write_text(json.dumps(content))


CHANGES = {
    "weights": lambda folder: save_tiny_dinov2(folder / "dinov2", seed=1),
    "pixels": change_scale,
    "text": change_words,
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_published_model_that_changed_is_refused_and_said(standing: Path, what: str) -> None:
    CHANGES[what](standing.parent)
    with pytest.raises(RDVLAError, match=rf"stands on .*dinov2 and .*bert, which changed .* saved: {what}\."):
        RDVLAPolicy.from_pretrained(standing)


def test_who_wants_it_loads_a_changed_model_with_a_warning(
    standing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_dinov2(standing.parent / "dinov2", seed=1)
    with pytest.warns(UserWarning, match="changed since the policy was saved: weights"):
        loaded = RDVLAPolicy.from_pretrained(standing, changed_weights="warn")
    monkeypatch.setenv(CHANGED_WEIGHTS, "warn")
    with pytest.warns(UserWarning, match="changed since"):
        RDVLAPolicy.from_pretrained(standing)
    with pytest.raises(RDVLAError, match="changed since"):  # what is said here counts more
        RDVLAPolicy.from_pretrained(standing, changed_weights="refuse")
    monkeypatch.delenv(CHANGED_WEIGHTS)
    loaded.save_pretrained(standing)  # and stands on the new one from now on
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RDVLAPolicy.from_pretrained(standing)


def test_the_command_line_takes_the_choice_from_the_environment(
    standing: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change_scale(standing.parent)
    assert main(["info", str(standing)]) == 2
    assert f"{CHANGED_WEIGHTS}=warn" in capsys.readouterr().err
    monkeypatch.setenv(CHANGED_WEIGHTS, "warn")
    with pytest.warns(UserWarning, match="pixels"):
        assert main(["info", str(standing)]) == 0
    monkeypatch.setenv(CHANGED_WEIGHTS, "maybe")
    with pytest.raises(ConfigError, match=f"{CHANGED_WEIGHTS} must be one of refuse, warn, got 'maybe'"):
        RDVLAPolicy.from_pretrained(standing)


def test_an_unchanged_model_loads_and_one_without_a_record_does(standing: Path) -> None:
    ours = RDVLAPolicy.from_pretrained(standing)
    record = json.loads((standing / "base_models.json").read_text())
    assert [Path(name).name for name in record["models"]] == ["dinov2", "bert"]
    save_tiny_dinov2(standing.parent / "dinov2", seed=1)
    for name in ("base_models.json", "checksums.json"):  # as older versions saved it
        (standing / name).unlink()
    assert RDVLAPolicy.from_pretrained(standing).cache_key() != ours.cache_key()


def test_a_changed_vision_language_model_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    from rdvla.backbone import LoraSettings
    from tests.support.tiny_models import CONFIG

    folder = save_tiny_vlm(tmp_path / "vlm", "smolvlm")
    backbone = vlm_config(folder, lora=LoraSettings(where="none"))
    head = replace(CONFIG.head, context_dim=backbone.make().context_width, prelude=(), core=(2,))
    policy = make_policy(replace(CONFIG, backbone=backbone, head=head))
    policy.save_pretrained(tmp_path / "policy")
    RDVLAPolicy.from_pretrained(tmp_path / "policy")
    path = next(Path(folder).glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RDVLAError, match="changed since the policy was saved: weights"):
        RDVLAPolicy.from_pretrained(tmp_path / "policy")


def test_weights_in_memory_that_change_are_recorded_as_they_are(standing: Path) -> None:
    """Saving hashes them once, and again only after a change."""
    policy = RDVLAPolicy.from_pretrained(standing)
    before = json.loads((standing / "base_models.json").read_text())
    policy.save_pretrained(standing)
    assert json.loads((standing / "base_models.json").read_text()) == before
    with torch.no_grad():
        next(policy.backbone.image_encoder.parameters()).add_(1)
    policy.save_pretrained(standing)
    assert json.loads((standing / "base_models.json").read_text())["weights"] != before["weights"]


def test_a_policy_that_holds_all_its_weights_names_no_models(standing: Path) -> None:
    make_policy().save_pretrained(standing)
    assert not (standing / "base_models.json").exists()
    assert RDVLAPolicy.from_pretrained(standing).predict(make_observation(1), stop=1).depth.tolist() == [1]


# --- hashes that this machine knows ---


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every time that weights are hashed; models are large here, and the cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(base_models, "SMALL", 0)
    counted: list[int] = []
    compute = base_models._hash
    monkeypatch.setattr(base_models, "_hash", lambda weights: (counted.append(1), compute(weights))[1])
    return counted


def test_weights_of_known_files_are_not_hashed_again(standing: Path, hashed: list[int]) -> None:
    for _ in range(3):
        RDVLAPolicy.from_pretrained(standing)
    assert len(hashed) == 1
    save_tiny_dinov2(standing.parent / "dinov2")  # the same weights in new files
    RDVLAPolicy.from_pretrained(standing)
    assert len(hashed) == 2
    save_tiny_dinov2(standing.parent / "dinov2", seed=1)
    with pytest.raises(RDVLAError, match="changed since the policy was saved: weights"):
        RDVLAPolicy.from_pretrained(standing)
    assert len(hashed) == 3


def test_a_file_that_was_given_its_old_time_is_hashed_again(standing: Path, hashed: list[int]) -> None:
    RDVLAPolicy.from_pretrained(standing)
    path = standing.parent / "dinov2" / "model.safetensors"
    times, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(RDVLAError, match="changed since the policy was saved: weights"):
        RDVLAPolicy.from_pretrained(standing)


@pytest.mark.parametrize("trouble", ["damaged", "other", "not a folder"])
def test_without_the_cache_weights_are_hashed(standing: Path, hashed: list[int], trouble: str) -> None:
    RDVLAPolicy.from_pretrained(standing)
    cache = standing.parent / "cache"
    for path in cache.rglob("*.json"):
        path.write_text("{" if trouble == "damaged" else "{}")
    if trouble == "not a folder":
        shutil.rmtree(cache)
        cache.write_text("")
    RDVLAPolicy.from_pretrained(standing)
    assert len(hashed) == 2
