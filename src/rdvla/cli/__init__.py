"""The `rdvla` command: one verb a file, each a function `run(argv)` whose docstring is its help."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from rdvla import __version__
from rdvla.errors import RDVLAError, nearest

VERBS = (
    "demos",
    "train",
    "eval",
    "report",
    "compare",
    "moments",
    "calibrate",
    "convert",
    "export",
    "info",
    "push",
    "bench",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `rdvla VERB ...`; return 0, or 2 after a message about bad input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("RDVLA_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if verb in ("-V", "--version"):
        print(f"rdvla {__version__}")
        return 0
    try:
        if verb not in VERBS:
            raise RDVLAError(f"unknown verb '{verb}'.{nearest(verb, VERBS)} Verbs: {', '.join(VERBS)}")
        importlib.import_module(f"rdvla.cli.{verb}").run(arguments[1:])
    except RDVLAError as error:
        if debug:
            traceback.print_exc()
        print(f"rdvla: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nrdvla: interrupted", file=sys.stderr)
        return 130
    return 0


def _overview() -> str:
    """List the verbs; their modules import nothing heavy until they run."""
    lines = ["usage: rdvla VERB [--config FILE.yaml] [--option value] ... [--debug]", "", "verbs:"]
    for verb in VERBS:
        summary = (importlib.import_module(f"rdvla.cli.{verb}").run.__doc__ or "").splitlines()[0]
        lines.append(f"  {verb:<10}{summary}")
    lines += ["", "`rdvla VERB --help` lists a verb's options; --debug (or RDVLA_DEBUG=1) shows tracebacks."]
    return "\n".join(lines)
