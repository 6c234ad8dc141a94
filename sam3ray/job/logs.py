"""Structured logs: one JSON object per line, with clip id and actor where known. Quiet by default."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from typing import Any, TextIO

from sam3ray.guard.printable import printable, printable_lines
from sam3ray.guard.redact import redact

LEVELS = ("debug", "info", "warning", "error")

# Loggers whose warnings a user cannot act on.
_CHATTY = (
    "ray",
    "transformers",
    "accelerate",
    "huggingface_hub",
    "torch",
    "fsspec",
    "s3fs",
    "botocore",
    "aiobotocore",
    "azure",
    "gcsfs",
    "libav",
    "urllib3",
    "asyncio",
)


class JsonFormatter(logging.Formatter):
    """{"time": ..., "level": ..., "logger": ..., "message": ..., "clip_id": ..., "actor": ...}"""

    def __init__(self, actor: int | None = None) -> None:
        super().__init__()
        self._actor = actor

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if self._actor is not None:
            entry["actor"] = self._actor
            entry["pid"] = os.getpid()
        entry |= getattr(record, "data", {})
        if record.exc_info:
            entry["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(entry, default=str).replace("\x7f", "\\u007f")


class TerminalFormatter(logging.Formatter):
    """One line for people: `sam3ray: warning: message`."""

    def format(self, record: logging.LogRecord) -> str:
        data = getattr(record, "data", {})
        fields = "".join(f", {name}: {value}" for name, value in data.items())
        text = printable(redact(record.getMessage() + fields))
        trace = f"\n{printable_lines(redact(self.formatException(record.exc_info)))}" if record.exc_info else ""
        return f"sam3ray: {record.levelname.lower()}: {text}{trace}"


def set_up_logging(level: str = "warning", *, actor: int | None = None, stream: TextIO | None = None) -> None:
    """Sends the package's log to `stream` (stderr), as sentences on a terminal and as JSON lines elsewhere.

    Libraries log errors only, except at level `debug`.
    """
    if level not in LEVELS:
        raise ValueError(f"log level must be one of {', '.join(LEVELS)}, got {level!r}")
    handler = logging.StreamHandler(stream or sys.stderr)
    on_terminal = actor is None and handler.stream.isatty()
    handler.setFormatter(TerminalFormatter() if on_terminal else JsonFormatter(actor))
    logger = logging.getLogger("sam3ray")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    if level != "debug":
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        warnings.simplefilter("ignore")
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # logs a traceback in addition to raising


def event(logger: logging.Logger, level: int, message: str, **data: object) -> None:
    """Logs an event with fields: `event(log, logging.INFO, "clip done", clip_id="a", frames=7)`."""
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={"data": {k: v for k, v in data.items() if v is not None}})
