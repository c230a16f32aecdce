"""The `rdvla` command: one verb a file, each a function `run` whose signature and docstring are its help.

A file of this folder with a function `run` is a verb. A folder is a verb with verbs of its own, such as
`rdvla data check`; the docstring of its `__init__.py` is its help. `rdvla.config.command` says how a
signature becomes a command line.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from rdvla import __version__
from rdvla.cli.failures import (
    BAD_INPUT,
    INTERRUPTED,
    READER_GONE,
    discard_output,
    reader_is_gone,
    sentence,
)
from rdvla.errors import RDVLAError, nearest

# In the order of the work; verbs that are not named here follow.
ORDER = (
    "demo",
    "demos",
    "data",
    "train",
    "sweep",
    "eval",
    "openloop",
    "report",
    "compare",
    "profile",
    "calibrate",
    "convert",
    "export",
    "info",
    "serve",
    "push",
    "bench",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `rdvla VERB ...`; return 0, what the verb returns, or 2 after a sentence about what went wrong.

    Only bugs leave as exceptions. `--debug` also shows where an error came from.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("RDVLA_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        try:
            return _dispatch(arguments)
        finally:
            sys.stdout.flush()  # fails here if nobody takes the output, not while the interpreter exits
    except KeyboardInterrupt:
        print("\nrdvla: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            discard_output()
            return READER_GONE  # `rdvla --help | head` has what it asked for
        said = sentence(error)
        if said is None:
            raise
        print(f"rdvla: error: {said}", file=sys.stderr)
        return BAD_INPUT


def _dispatch(arguments: Sequence[str]) -> int:
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        print(_overview())
    elif verb in ("-V", "--version"):
        print(f"rdvla {__version__}")
    else:
        known = verbs()
        if verb not in known:
            raise RDVLAError(f"unknown verb '{verb}'.{nearest(verb, known)} Verbs: {', '.join(known)}")
        return _run(verb, arguments[1:])
    return 0


def verbs(group: str = "") -> dict[str, str]:
    """Return every verb -> the first line of its help. Reads the files without importing them.

    Args:
        group: a verb with verbs of its own, which are returned instead.
    """
    folder = Path(__file__).parent / group
    found = {}
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == "run":
                found[path.stem] = (ast.get_docstring(node) or "").split("\n")[0]
    for path in folder.glob("*/__init__.py"):
        found[path.parent.name] = _docstring(path).split("\n")[0]
    known = [verb for verb in ORDER if verb in found]
    return {verb: found[verb] for verb in [*known, *sorted(found.keys() - known)]}


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _run(verb: str, argv: Sequence[str]) -> int:
    from rdvla.config import call

    if (Path(__file__).parent / verb).is_dir():
        return _run_group(verb, argv)
    module = importlib.import_module(f"rdvla.cli.{verb.replace(' ', '.')}")
    words = module.in_full(argv) if hasattr(module, "in_full") else argv
    code = call(module.run, words, prog=f"rdvla {verb}")
    return code if isinstance(code, int) else 0


def _run_group(group: str, argv: Sequence[str]) -> int:
    inner = argv[0] if argv else "--help"
    known = verbs(group)
    if inner in ("-h", "--help", "help"):
        print(_group_overview(group, known))
        return 0
    if inner not in known:
        raise RDVLAError(f"unknown verb '{group} {inner}'.{nearest(inner, known)} Verbs: {', '.join(known)}")
    return _run(f"{group} {inner}", argv[1:])


def _group_overview(group: str, known: dict[str, str]) -> str:
    lines = [f"usage: rdvla {group} VERB ...", "", _docstring(Path(__file__).parent / group / "__init__.py")]
    lines += ["", "verbs:", *(f"  {verb:<10}{summary}" for verb, summary in known.items())]
    return "\n".join([*lines, "", f"`rdvla {group} VERB --help` lists a verb's options."])


def _overview() -> str:
    lines = ["usage: rdvla VERB [--config FILE.yaml] [--option value] ... [--debug]", "", "verbs:"]
    lines += [f"  {verb:<10}{summary}" for verb, summary in verbs().items()]
    lines += ["", "`rdvla VERB --help` lists a verb's options; --debug (or RDVLA_DEBUG=1) shows tracebacks."]
    return "\n".join(lines)
