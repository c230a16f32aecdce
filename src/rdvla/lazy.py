"""Public names of a package that are imported on first use.

`rdvla --help` must not wait for torch, and a robot's client must not need it. A package's `__init__.py`
therefore lists its imports for type checkers and editors, and hands them to `load_lazily` at run time::

    if TYPE_CHECKING:
        from rdvla.policy.config import PolicyConfig
    else:
        __getattr__, __dir__ = load_lazily(__name__)

    __all__ = ["PolicyConfig"]
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.abc import InspectLoader
from typing import Any

from rdvla.errors import optional


def load_lazily(
    package: str, *, extra: str | None = None, extras: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` (PEP 562) for a package with its imports under `if TYPE_CHECKING:`.

    Read the imports from the package's source, so no second list can disagree. Import a name on first use and
    keep it.

    Args:
        package: `__name__` of the package that calls.
        extra: extra of rdvla that the package needs; a missing package's error then names it.
        extras: module -> its extra, for modules that need another.

    Raises:
        ImportError: the package's source is not available.
    """
    module = sys.modules[package]
    loader = module.__spec__.loader if module.__spec__ else None
    source = loader.get_source(package) if isinstance(loader, InspectLoader) else None
    if source is None:
        raise ImportError(f"{package} cannot be loaded without its source file")
    homes = _imports(ast.parse(source))

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, original = homes[name]
        needed = (extras or {}).get(home, extra)
        with optional(needed) if needed else nullcontext():
            value = getattr(importlib.import_module(home), original)
        setattr(module, name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(module), *homes})

    return get, names


def _imports(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Name -> (module, name there) of every `from module import name` under `if TYPE_CHECKING:`."""
    return {
        alias.asname or alias.name: (statement.module, alias.name)
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }
