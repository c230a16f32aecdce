"""Commands of the documents: what can be said about them without running them, and how they are run."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rdvla import cli
from rdvla.config import call, save_config
from rdvla.config.help import section
from rdvla.training import TrainConfig
from rdvla.training.inference import named
from tests.support.documents import ROOT

# Not run, because they change the installation or are long by themselves; what they name is checked.
CHECKED_ONLY = (
    "make",
    "pip",
    "git",
    "cd",
    "openssl",
    "ray",
    "accelerate",
    "docker",
    "vla-eval",
    "inspect-robots",
)
# Those of a Python with LeRobot; tests/lerobot_plugin runs them.
LEROBOT = ("lerobot-train", "lerobot-eval", "rdvla-lerobot-robot")
MADE = re.compile(r"^(datasets/(metaworld|libero_\w+)|runs/(reproduce|libero)/\w+)(/|$)")
HERE = ("benchmarks", "docs", "policies", "scripts", "src")


def check(words: Sequence[str]) -> set[str]:
    """Fail unless the options of a command are known and their values can be read; return what it writes."""
    program, *arguments = words
    if program == "rdvla":
        return check_verb(arguments)
    if program == "make":
        known = subprocess.run(
            ["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert known.returncode == 0, known.stderr
    elif program == "pip":
        _check_extras(arguments)
    elif program == "python":
        return _check_python(arguments)
    else:
        assert program in (*CHECKED_ONLY, *LEROBOT), f"the documents' tests know no command {program!r}"
    return set()


def check_verb(arguments: Sequence[str]) -> set[str]:
    """Read the arguments of `rdvla VERB` as the command line does, and stop before the verb runs."""
    verb, *words = arguments
    if (Path(cli.__file__).parent / verb).is_dir():
        verb, *words = f"{verb} {words[0]}", *words[1:]
    module = importlib.import_module(f"rdvla.cli.{verb.replace(' ', '.')}")
    written: set[str] = set()

    @functools.wraps(module.run)
    def only_read(*positional: Any, **options: Any) -> None:
        given = inspect.signature(module.run).bind(*positional, **options).arguments
        for each in positional:
            config = named(each) if isinstance(each, TrainConfig) else each
            given |= getattr(config, "__dict__", {})
            if isinstance(config, TrainConfig):  # a later command may go on from the run
                save_config(Path(config.output_dir) / "config.yaml", config)
        new = [name for name, text in section(module.run.__doc__, "Args").items() if "new dataset" in text]
        written.update(
            str(given[name]) for name in ("output", "output_dir", "rerun", "record", *new) if given.get(name)
        )

    try:
        call(only_read, module.in_full(words) if hasattr(module, "in_full") else words, prog=f"rdvla {verb}")
    except SystemExit as stop:
        assert stop.code == 0, f"rdvla {' '.join(arguments)}"
    return written


def run(words: Sequence[str]) -> None:
    """Run a command in the present folder, in this process; fail unless it says that it succeeded."""
    program, *arguments = _expanded(words)
    if arguments[:1] == ["serve"]:
        _serve(arguments)
    elif program == "rdvla":
        assert cli.main(arguments) == 0, " ".join(words)
    elif program == "python" and arguments[0].endswith(".py"):
        runpy.run_path(arguments[0], run_name="__main__")
    elif program == "python":
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
        subprocess.run([sys.executable, *arguments], check=True, env=environment)
    else:
        check(words)


def _serve(arguments: Sequence[str]) -> None:
    """Start a server on a free port, wait until it is open, and end it as Ctrl-C does."""
    command = [sys.executable, "-m", "rdvla.cli", *arguments, "--port=0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        patience = threading.Timer(300, serving.kill)  # ends a wait for a greeting that never comes
        patience.start()
        greeting = serving.stdout.readline()
        patience.cancel()
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=60)
    assert greeting.startswith("serving "), greeting
    assert serving.returncode == 0, arguments


def missing_files(words: Sequence[str], *, written: set[str]) -> list[str]:
    """Return the files that a command names and neither the checkout nor an earlier command has."""
    values = (word.partition("=")[2] if word.startswith("--") else word for word in words[1:])
    paths = [path for value in values for path in value.split(",") if _is_path(path)]
    return [path for path in paths if not _is_there(path, written)]


def _expanded(words: Sequence[str]) -> list[str]:
    """Replace patterns such as runs/*.json by the files they match, as a shell does."""
    return [
        found
        for word in words
        for found in (sorted(map(str, Path().glob(word))) if "*" in word else ()) or [word]
    ]


def _is_path(text: str) -> bool:
    first = text.split("/")[0]
    return "/" in text and " " not in text and first in (*HERE, "datasets", "runs")


def _is_there(path: str, written: set[str]) -> bool:
    if MADE.match(path) or any(path.startswith(f"{known}/") or fnmatch(known, path) for known in written):
        return True
    return any(ROOT.glob(path)) if "*" in path else (ROOT / path).exists() or Path(path).exists()


def _check_extras(arguments: Sequence[str]) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    own = r"(?<![\w-])(?:\.|rdvla)\[([\w,]+)\]"  # not those of other packages
    for extras in re.findall(own, " ".join(arguments)):
        assert set(extras.split(",")) <= set(known), f"pip install {arguments}"


def _check_python(arguments: Sequence[str]) -> set[str]:
    if arguments[0] != "-m" or not arguments[1].startswith("benchmarks."):
        return set()  # a file of the page, or a module of another project
    module, *options = arguments[1:]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    help_command = [sys.executable, "-m", module, "--help"]
    shown = subprocess.check_output(help_command, cwd=ROOT, env=environment, text=True)
    for option in (word.split("=")[0] for word in options if word.startswith("--")):
        assert option in shown, f"{module} has no option {option}"
    return {options[options.index("--output") + 1]} if "--output" in options else set()
