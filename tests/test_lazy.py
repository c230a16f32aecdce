"""Packages load their public names on first use."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import rdvla

ROOT = Path(rdvla.__file__).parent
LAZY = [
    ".".join(("rdvla", *path.parent.relative_to(ROOT).parts))
    for path in sorted(ROOT.rglob("__init__.py"))
    if "= load_lazily(" in path.read_text()
]


@pytest.mark.parametrize("name", LAZY)
def test_every_public_name_is_there(name: str):
    package = importlib.import_module(name)
    for public in package.__all__:
        assert getattr(package, public) is not None
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("name", LAZY)
def test_what_type_checkers_see_is_what_is_loaded(name: str):
    package = importlib.import_module(name)
    block = next(
        node for node in ast.parse(Path(package.__file__).read_text()).body if isinstance(node, ast.If)
    )
    seen = [(line.module, alias.name) for line in block.body for alias in line.names]
    for home, public in seen:
        assert getattr(package, public) is getattr(importlib.import_module(home), public)
    assert {public for _, public in seen} <= set(package.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'rdvla' has no attribute 'nothing'"):
        rdvla.nothing  # noqa: B018
    assert not hasattr(rdvla, "nothing")
