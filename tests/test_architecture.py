"""The house's rules: which room may import which, and what must not be needed to import them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rdvla

ROOT = Path(rdvla.__file__).parent

# A room imports itself and the rooms listed for it, which all lie below it.
FOUNDATIONS = {"errors", "files", "config", "assets"}
ALLOWED = {
    "errors": set(),
    "lazy": {"errors"},
    "files": {"errors"},
    "assets": {"errors"},
    "config": {"errors", "files", "assets"},
    "rule_text": {"errors"},
    "head": {"errors", "rule_text"},
    "inputs": {"errors"},
    "backbone": {"errors", "files", "head", "inputs", "processing"},
    "processing": {"errors", "inputs"},
    "execution": {"errors"},
    "action_queue": {"errors"},
    "warm_start": {"errors"},
    "progress": set(),
    "policy": FOUNDATIONS
    | {"head", "backbone", "inputs", "processing", "execution", "action_queue", "warm_start"},
    "data": FOUNDATIONS,
    "training": FOUNDATIONS
    | {"head", "backbone", "processing", "execution", "policy", "data", "progress", "warm_start"},
    "rollout": FOUNDATIONS | {"lazy", "head", "processing", "execution", "warm_start"},
    "simulation": FOUNDATIONS | {"lazy", "data", "progress", "rollout"},
    "evaluation": FOUNDATIONS
    | {
        "lazy",
        "head",
        "processing",
        "execution",
        "policy",
        "rollout",
        "simulation",
        "progress",
        "warm_start",
    },
    "interop": FOUNDATIONS | {"head", "backbone", "processing", "policy"},
    "runtime": {"errors", "files", "inputs", "execution", "action_queue", "rule_text", "warm_start"},
    "export": FOUNDATIONS | {"head", "backbone", "processing", "execution", "policy", "runtime"},
}
TOP = {"__init__", "cli"}  # may import everything
EVERYWHERE = {"lazy"}  # any package's `__init__.py` may use it

# Optional, or present in some installs only: nothing but the code that needs one may import it.
OPTIONAL = (
    "torchvision", "metaworld", "mujoco", "libero", "timm", "peft", "datasets", "lerobot", "pandas", "scipy",
    "sentence_transformers", "torchcodec", "imageio", "cv2",
    "onnx", "onnx_ir", "onnxruntime", "onnxscript",
)  # fmt: skip
ROOMS = sorted(
    path.stem
    for path in ROOT.iterdir()
    if not path.name.startswith((".", "__py")) and (path.suffix == ".py" or path.is_dir())
)


def files_of(room: str) -> list[Path]:
    module = ROOT / f"{room}.py"
    return [module] if module.exists() else sorted((ROOT / room).rglob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, at its top or inside a function."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name their module in full"
            modules |= {node.module or ""}
            if node.module == "rdvla":
                modules |= {f"rdvla.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in modules if name.startswith("rdvla.")} & set(ROOMS)


def test_every_room_has_a_place():
    assert set(ROOMS) == set(ALLOWED) | TOP


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_downwards(room: str):
    if room in TOP:
        return
    for path in files_of(room):
        upwards = imported_rooms(path) - ALLOWED[room] - EVERYWHERE - {room}
        assert not upwards, f"{path.relative_to(ROOT)} imports {sorted(upwards)}"


def test_the_order_has_no_circle():
    remaining = dict(ALLOWED)
    while remaining:
        free = {room for room, below in remaining.items() if not (below - {room}) & remaining.keys()}
        assert free, f"these import each other in a circle: {sorted(remaining)}"
        remaining = {room: below for room, below in remaining.items() if room not in free}


def test_the_head_needs_torch_only():
    outside = set()
    for path in files_of("head"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                outside |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                outside.add(node.module.split(".")[0])
    assert outside - sys.stdlib_module_names <= {"torch", "rdvla"}


def import_without(blocked: tuple[str, ...], modules: list[str]) -> subprocess.CompletedProcess[str]:
    """Import modules and their public names in a fresh process in which some packages cannot be imported."""
    code = (
        f"import sys, importlib; sys.modules.update(dict.fromkeys({blocked!r}));"
        f"modules = [importlib.import_module(name) for name in {modules!r}];"
        "[getattr(module, name) for module in modules for name in getattr(module, '__all__', ())]"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_every_module_imports_without_optional_packages():
    modules = [
        ".".join(("rdvla", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "__main__.py"
    ]
    finished = import_without(OPTIONAL, modules)
    assert finished.returncode == 0, finished.stderr


def test_a_robot_needs_no_charts_video_or_data_packages():
    finished = import_without(
        (*OPTIONAL, "matplotlib", "jinja2", "av", "pyarrow", "tensorboard", "accelerate", "gymnasium"),
        ["rdvla", "rdvla.head", "rdvla.policy", "rdvla.interop", "rdvla.cli"],
    )
    assert finished.returncode == 0, finished.stderr


# What robots' clients, environment workers and the command line's help import.
TORCH_FREE = (
    "rdvla.assets", "rdvla.backbone.config", "rdvla.cli", "rdvla.config", "rdvla.errors",
    "rdvla.files", "rdvla.lazy", "rdvla.progress", "rdvla.rollout.worker", "rdvla.runtime",
    "rdvla.simulation", "rdvla.simulation.demonstrations", "rdvla.simulation.registry",
)  # fmt: skip


def test_parts_that_need_no_torch_import_none():
    finished = import_without(("torch",), list(TORCH_FREE))
    assert finished.returncode == 0, finished.stderr


def test_loading_a_policy_imports_no_optional_or_slow_package():
    unwanted = ("transformers", "matplotlib", "metaworld", "torchvision", "jinja2", "mujoco")
    code = (
        "import sys; from rdvla import RDVLAPolicy; RDVLAPolicy.from_pretrained('metaworld');"
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_no_file_is_read_by_unpickling():
    """Only safetensors, JSON, parquet, YAML and MP4 are read; published `.pt` files with weights_only."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called = f"{ast.unparse(node.func.value)}.{node.func.attr}"
            assert called not in {"pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load"}, path
            if called == "torch.load":
                safe = {word.arg: ast.unparse(word.value) for word in node.keywords}.get("weights_only")
                assert safe == "True", f"{path}: torch.load without weights_only=True"
            if called == "np.load":
                assert "allow_pickle" not in {word.arg for word in node.keywords}, path
