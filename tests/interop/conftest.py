"""A published checkpoint and its conversion, made once per file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rdvla.interop import Conversion, convert_published
from tests.support.converting import OPTIONS
from tests.support.published_checkpoint import ENCODERS, Published, make_published


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return make_published(tmp_path_factory.mktemp("published") / "Spatial_40k")


@pytest.fixture(scope="module")
def converted(published: Published, tmp_path_factory: pytest.TempPathFactory) -> tuple[Conversion, Path]:
    output = tmp_path_factory.mktemp("converted") / "policy"
    return convert_published(published.folder, output, options=OPTIONS, encoders=ENCODERS), output


@pytest.fixture
def copy(published: Published, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published.folder, tmp_path / "copy"))
