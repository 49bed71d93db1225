"""Logs that machines read: events with named facts, one JSON object a line, in the driver and in its workers.

    {"time": "2026-03-01T12:00:00.250Z", "level": "info", "event": "unit_done", "unit": "part-000001-00042-…", …}

Nothing is set up unless the command line asks for it: a program that uses the package keeps its own logging, and gets
the same events as records with a message and the attribute `facts`.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

__all__ = ["JsonFormatter", "LogFormat", "active_log_format", "json_logs", "log_event", "start_json_logs"]

LogFormat = Literal["text", "json"]

_PACKAGES = ("tokenizer_jobs", "encodec_core")


def log_event(logger: logging.Logger, level: int, event: str, **facts: Any) -> None:
    """Log an event and what there is to say of it.

    Args:
        logger: Of the module.
        level: Of `logging`.
        event: Name of the kind of event, of a fixed set (docs/monitoring.md).
        facts: Names, numbers and words; None is left out.
    """
    if logger.isEnabledFor(level):
        known = {name: value for name, value in facts.items() if value is not None}
        text = " ".join([event, *(f"{name}={_word(value)}" for name, value in known.items())])
        logger.log(level, "%s", text, extra={"event": event, "facts": known}, stacklevel=2)


def _word(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return repr(text) if not text or not text.isprintable() or " " in text or "=" in text else text


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, event, the event's facts, and those of the process."""

    def __init__(self, **always: str) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        event = getattr(record, "event", None)
        facts: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "event": event or "message",
        }
        if event is None:
            facts["message"] = record.getMessage()
            facts["logger"] = record.name
        facts |= self._always | getattr(record, "facts", {})
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts, ensure_ascii=False, default=str)


def active_log_format() -> LogFormat:
    """`json` where JSON logs were started in this process."""
    return "json" if any(isinstance(h.formatter, JsonFormatter) for h in _loggers()[0].handlers) else "text"


def start_json_logs(stream: TextIO | None = None, **always: str) -> logging.Handler:
    """Write this package's records from level INFO on to a stream, and hand them to nobody else.

    Args:
        stream: None: stderr.
        always: Facts of every line, such as encoder and node.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter(**always))
    for logger in _loggers():
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return handler


@contextmanager
def json_logs(stream: TextIO) -> Iterator[None]:
    """Have JSON logs while inside."""
    handler = start_json_logs(stream)
    try:
        yield
    finally:
        for logger in _loggers():
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
            logger.propagate = True


def _loggers() -> list[logging.Logger]:
    return [logging.getLogger(name) for name in _PACKAGES]
