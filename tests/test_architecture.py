"""The house's rules: which room may import which, and what must not be needed to import them."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rdvla

ROOT = Path(rdvla.__file__).parent
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"

# A room imports itself and the rooms listed for it, which all lie below it.
FOUNDATIONS = {"errors", "files", "config", "assets"}
CORE = FOUNDATIONS | {"inputs", "types", "control", "hashing"}
ALLOWED = {
    "errors": set(),
    "lazy": {"errors"},
    "leftovers": set(),
    "locks": {"errors", "leftovers"},
    "files": {"errors", "leftovers", "locks"},
    "assets": {"errors"},
    "config": {"errors", "files", "assets"},
    "hashing": set(),
    "manifest": {"errors", "files", "hashing"},
    "progress": set(),
    "inputs": {"errors"},
    "types": {"errors", "inputs"},
    "control": {"errors", "inputs", "types"},
    "heads": {"errors", "inputs", "types", "control"},
    "engine": {"errors", "types", "control", "heads", "hashing", "manifest"},
    "processing": {"errors", "inputs", "types"},
    "backbone": {"errors", "files", "heads", "processing"},
    "policy": CORE | {"heads", "engine", "backbone", "processing"},
    "data": FOUNDATIONS | {"leftovers", "processing"},
    "training": CORE
    | {"leftovers", "heads", "engine", "backbone", "processing", "policy", "data", "progress", "workers"},
    "workers": {"errors", "files"},
    "rollout": CORE | {"workers"},
    "live": CORE,
    "simulation": FOUNDATIONS | {"data", "progress", "rollout", "workers"},
    "evaluation": CORE
    | {"policy", "rollout", "workers", "simulation", "progress", "live", "serving", "data"},
    "sweep": CORE | {"policy", "training", "rollout", "evaluation", "progress"},
    "interop": CORE | {"heads", "backbone", "processing", "policy"},
    "runtime": {"errors", "files", "inputs", "types", "control", "processing", "manifest"},
    "serving": CORE
    | {"manifest", "heads", "engine", "processing", "policy", "runtime", "live", "progress", "rollout"}
    | {"workers"},
    "export": CORE | {"manifest", "heads", "engine", "backbone", "processing", "policy", "runtime"},
}
TOP = {"__init__", "cli"}  # may import everything
EVERYWHERE = {"lazy"}  # any package's `__init__.py` may use it

# Optional, or present in some installs only: nothing but the code that needs one may import it.
OPTIONAL = (
    "torchvision", "metaworld", "mujoco", "libero", "timm", "peft", "datasets", "lerobot", "pandas", "scipy",
    "sentence_transformers", "torchcodec", "imageio", "cv2",
    "onnx", "onnx_ir", "onnxruntime", "onnxscript", "h5py", "google_crc32c",
    "rdvla_client", "websockets", "msgpack", "prometheus_client", "ray", "rerun",
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


def module_name(path: Path) -> str:
    return ".".join(("rdvla", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def homes_of(package: str) -> dict[str, str]:
    """Name -> module that a package's `__init__.py` loads it from."""
    return {
        alias.asname or alias.name: node.module
        for node in ast.walk(ast.parse(MODULES[package].read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in MODULES
        for alias in node.names
    }


def imported_modules(path: Path) -> set[str]:
    """Modules of the package that are imported with a file: not inside functions, not for types alone."""
    found: set[str] = set()
    pending: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            homes = homes_of(node.module) if node.module in MODULES else {}
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else homes.get(alias.name, node.module))
        elif isinstance(node, ast.If):
            pending += node.orelse if ast.unparse(node.test) == "TYPE_CHECKING" else node.body
        elif isinstance(node, ast.Try | ast.ClassDef):
            pending += node.body
    return found & MODULES.keys()


def test_no_files_import_each_other_in_a_circle():
    """A configuration may import the class that it builds inside `make`, so help texts need no torch."""
    graph = {name: imported_modules(path) - {name} for name, path in MODULES.items()}
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")


def test_contributing_explains_every_room():
    table = re.findall(r"^\| (`.+?) \|", CONTRIBUTING.read_text(), re.MULTILINE)
    explained = {Path(name).stem for cell in table for name in re.findall(r"`([^`]+)`", cell)}
    assert set(ROOMS) - {"__init__"} <= explained


def test_the_engine_is_imported_by_nobody_below_the_policy():
    for room in ALLOWED["policy"] - {"engine"}:
        for path in files_of(room):
            assert "engine" not in imported_rooms(path), path


LONGEST_FILE = 400  # lines


def test_files_can_be_read_in_one_sitting():
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in MODULES.values()}
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


# Words that say nothing to someone who knows the field. Saved files may still hold them, as text.
UNUSED_WORDS = {"skinny", "pacing", "stretches", "piece", "pieces", "moment", "moments"}


def names_in(path: Path) -> set[str]:
    """Every name that a file defines or uses, and its own and its folder's."""
    names = {path.stem, path.parent.name}
    for node in ast.walk(ast.parse(path.read_text())):
        for field in ("name", "id", "attr", "arg", "asname"):
            value = getattr(node, field, None)
            names |= {value} if isinstance(value, str) else set()
    return names


def test_names_use_the_fields_words():
    for path in MODULES.values():
        for name in names_in(path):
            words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
            assert not words & UNUSED_WORDS, f"{path.relative_to(ROOT)}: {name}"


def test_heads_know_nothing_of_the_engine():
    for path in files_of("heads"):
        assert not {"engine", "policy"} & imported_rooms(path), path


def test_the_paper_is_one_file_that_needs_torch_only():
    path = ROOT / "heads" / "recurrent" / "model.py"
    outside = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            outside.add(node.module.split(".")[0])
    assert outside - sys.stdlib_module_names <= {"torch", "rdvla"}
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


def test_what_robots_need_imports_no_torch():
    code = (
        "import sys, rdvla, rdvla.types, rdvla.control, rdvla.runtime, rdvla.policy.config, rdvla.heads, "
        "rdvla.backbone, rdvla.hashing, rdvla.manifest; "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "set()", found.stderr


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
        ["rdvla", "rdvla.heads", "rdvla.policy", "rdvla.interop", "rdvla.cli"],
    )
    assert finished.returncode == 0, finished.stderr


# What robots' clients, environment workers and the command line's help import.
TORCH_FREE = (
    "rdvla.assets", "rdvla.backbone.config", "rdvla.cli", "rdvla.config", "rdvla.control", "rdvla.errors",
    "rdvla.evaluation.config", "rdvla.files", "rdvla.heads.recurrent.config", "rdvla.lazy",
    "rdvla.live.hub", "rdvla.live.page", "rdvla.live.standalone",
    "rdvla.policy.config", "rdvla.progress", "rdvla.rollout.worker", "rdvla.runtime", "rdvla.simulation",
    "rdvla.serving.config", "rdvla.serving.server",
    "rdvla.simulation.demonstrations", "rdvla.simulation.registry", "rdvla.training.config", "rdvla.types",
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
