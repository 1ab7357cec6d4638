"""Logs for programs: one JSON object a line."""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable


@runtime_checkable
class Structured(Protocol):
    """A message that has more to say than its text."""

    def fields(self) -> Mapping[str, object]:
        """Return what JSON can hold, by name."""


class JsonFormatter(logging.Formatter):
    """Makes an object of a record: ``time`` (RFC 3339, UTC), ``level``, ``process``, ``logger``,
    and ``message``, or the fields of a message that is ``Structured``; ``error`` is a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, all of it ASCII: no text that came from outside can end it."""
        moment = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
        document: dict[str, object] = {
            "time": f"{moment.isoformat(timespec='milliseconds')}Z",
            "level": record.levelname.lower(),
            "process": record.process,
            "logger": record.name,
        }
        if isinstance(record.msg, Structured):
            document |= record.msg.fields()
        else:
            document["message"] = record.getMessage()
        if record.exc_info:
            document["error"] = self.formatException(record.exc_info)
        return json.dumps(document)
