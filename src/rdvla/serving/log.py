"""The server's log: a line per event, as text or as JSON. It holds no images, no keys, and no instructions
unless they are asked for.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from typing import Any

from rdvla.errors import UnknownInstructionWarning
from rdvla.serving.config import LogFormat

LOGGER = logging.getLogger("rdvla.serving")


def log_event(
    event: str, *, level: int = logging.INFO, error: BaseException | None = None, **facts: Any
) -> None:
    """Write a line about an event.

    Args:
        event: a few words that name it, always the same.
        level: of `logging`.
        error: whose traceback belongs to it.
        facts: name -> number or text.
    """
    LOGGER.log(level, event, extra={"facts": facts}, exc_info=error)


def log_to_stderr(how: LogFormat) -> None:
    """Send the log to the standard error stream of this process, with warnings and the network's faults.

    Instructions that a policy was not trained on are told by events, as the warning of them quotes them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if how == "json" else _Text())
    logging.captureWarnings(True)
    warnings.simplefilter("ignore", UnknownInstructionWarning)
    for logger in (LOGGER, *map(logging.getLogger, ("py.warnings", "websockets", "asyncio"))):
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO if logger is LOGGER else logging.WARNING)
        logger.propagate = False


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        # Written as in JSON, so nothing a client sends can break a line.
        told = "".join(f" {name}={json.dumps(value, default=str)}" for name, value in facts.items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():<7} {record.getMessage()}{told}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
