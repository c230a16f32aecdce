"""What ships with the package is found by name, works with the core only, and is in the wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from rdvla import RDVLAPolicy
from rdvla.assets import FOLDER, config_names, find_config, policy_names
from rdvla.config import load_config
from rdvla.errors import ConfigError, RDVLAError
from rdvla.evaluation.config import EvaluationConfig
from tests.test_extras import run_with_the_core_only

ROOT = Path(__file__).parents[1]


def test_configurations_are_found_by_name(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"demo", "reproduce/recurrent", "libero/eval"} <= set(config_names())
    for name in config_names():
        assert isinstance(yaml.safe_load(find_config(name).read_text()), dict)


def test_a_file_of_the_same_name_wins(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text("policy: mine\noutput: here\n")
    assert load_config(EvaluationConfig, ["--config", "demo"]).policy == "mine"


def test_an_unknown_configuration_lists_what_ships(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        load_config(EvaluationConfig, ["--config", "reproduce/recurent"])
    assert "Did you mean 'reproduce/recurrent'?" in str(error.value)
    assert all(name in str(error.value) for name in config_names())


def test_policies_are_found_by_name(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert policy_names() == ["metaworld"]
    assert RDVLAPolicy.from_pretrained("metaworld").config.cameras == ("front", "side", "wrist")


def test_a_folder_of_the_same_name_as_a_policy_wins(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("metaworld").mkdir()
    with pytest.raises(RDVLAError, match=r"metaworld/config\.json"):
        RDVLAPolicy.from_pretrained("metaworld")


def test_the_demonstration_needs_the_core_only():
    printed = " ".join(
        run_with_the_core_only("from rdvla.cli import main; assert main(['demo']) == 0").split()
    )
    assert "action_change:0.001: stops after" in printed
    assert f"pip install -e '.[metaworld,report]' in {ROOT}" in printed


def test_the_demonstration_without_a_simulator_ends_after_the_table(tmp_path: Path, monkeypatch, capsys):
    from rdvla.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--no-simulator"]) == 0
    assert capsys.readouterr().out.count("*") == 4  # one of the title, one for each observation
    assert not any(tmp_path.iterdir())


def test_the_demonstration_evaluates_and_reports(tmp_path: Path, monkeypatch):
    from rdvla.cli import demo

    asked = []
    monkeypatch.setattr("rdvla.cli.demo.find_spec", lambda _name: True)
    monkeypatch.setattr("rdvla.evaluation.evaluate", asked.append)
    monkeypatch.setattr("rdvla.evaluation.write_report", lambda _results, page: page)
    demo.run(output=tmp_path / "out", episodes=2, tasks=("reach-v3", "push-v3"))
    (config,) = asked
    assert (config.policy, config.output) == ("metaworld", str(tmp_path / "out"))
    assert (config.episodes, tuple(config.tasks)) == (2, ("reach-v3", "push-v3"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile):
    package = ROOT / "src" / "rdvla"
    files = {
        f"rdvla/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {f"rdvla/{path.relative_to(package).as_posix()}" for path in FOLDER.rglob("*.yaml")} <= files
    assert {"rdvla/py.typed", "rdvla/assets/policies/metaworld/model.safetensors"} <= files
    assert files <= set(wheel.namelist())
    assert sum(entry.compress_size for entry in wheel.infolist()) < 10 * 2**20


def test_the_wheel_asks_for_the_core_only(wheel: zipfile.ZipFile):
    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    packages = {line.split(">")[0].split("<")[0].lower() for line in required}
    assert packages == {
        "draccus", "filelock", "fsspec", "huggingface-hub", "mergedeep", "numpy", "pillow", "pyyaml", "rich",
        "safetensors", "torch",
    }  # fmt: skip
    assert {"train", "data", "report", "runtime", "all"} <= set(metadata.get_all("Provides-Extra"))
