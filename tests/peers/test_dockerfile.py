"""The Dockerfile agrees with the package; no engine is needed to see that."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields

from rdvla.serving import ServeConfig
from tests.support.peers import ROOT
from tests.support.serving import running_server

LINES = [
    line
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]
IGNORED = [
    line
    for line in (ROOT / ".dockerignore").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]
LAST_STAGE = LINES[max(number for number, line in enumerate(LINES) if line.startswith("FROM")) :]


def instructions(name: str, lines: list[str] = LINES) -> list[str]:
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def only(name: str) -> str:
    (found,) = instructions(name, LAST_STAGE)
    return found


def health_command() -> list[str]:
    command: list[str] = json.loads(only("HEALTHCHECK").partition("CMD ")[2])
    return command


def copied() -> set[str]:
    """Files and folders that come from the checkout."""
    lines = [shlex.split(line) for line in instructions("COPY") if "--from" not in line]
    return {source for line in lines for source in line[:-1]}


def test_what_is_copied_exists_and_nothing_else_reaches_a_build():
    assert all((ROOT / source).exists() for source in copied())
    assert IGNORED[0] == "*"
    assert {line.removeprefix("!") for line in IGNORED if line.startswith("!")} == copied()


def test_torch_and_everything_else_are_pinned():
    pins = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==\S+$", pins, re.MULTILINE)
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert len(installs) == 2
    assert all("'^torch==' constraints.txt" in line or "-c constraints.txt" in line for line in installs)


def test_the_extras_that_it_installs_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (default,) = [line for line in instructions("ARG") if line.startswith("EXTRAS=")]
    assert set(default.partition("=")[2].split(",")) <= project["optional-dependencies"].keys()


def test_it_runs_the_server_on_its_default_port_as_an_ordinary_user():
    entry, arguments = (json.loads(only(name)) for name in ("ENTRYPOINT", "CMD"))
    assert entry[:2] == ["rdvla", "serve"]
    words = [*entry[2:], *arguments]
    options = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    assert options.keys() <= {field.name for field in fields(ServeConfig)}
    config = ServeConfig(**options)
    assert not config.is_local
    assert only("EXPOSE") == str(config.port)
    assert int(only("USER")) > 0


def test_the_check_of_health_asks_a_page_of_the_server_at_its_default_port():
    code = health_command()[-1]
    assert f"http://127.0.0.1:{ServeConfig(policy='any').port}/healthz" in code
    with running_server() as address:
        port = address.rpartition(":")[2]
        assert check_health(code, port) == 0
    assert check_health(code, port) != 0


def check_health(code: str, port: str) -> int:
    """Run the command of the check against another port; return its exit code."""
    assert health_command()[:2] == ["python", "-c"]
    command = [sys.executable, "-c", code.replace(":8000/", f":{port}/")]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode


def test_torch_is_pinned_and_comes_from_an_index_that_the_build_may_name():
    (install,) = [line for line in instructions("RUN") if "^torch==" in line]
    assert "constraints.txt" in install
    assert '${TORCH_INDEX:+--index-url "${TORCH_INDEX}"}' in install
    assert 'TORCH_INDEX=""' in instructions("ARG")
