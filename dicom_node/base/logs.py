"""Logging of every process: standard error, file, syslog; UTC; no messages of libraries that may contain
PHI.
"""

import fcntl
import json
import logging
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler, SysLogHandler
from pathlib import Path
from types import TracebackType

from dicom_node.base.printable import printable

# Their messages quote values of the data set (names, dates): never in our logs. Ours are numbered events.
_SILENT = (
    *("pydicom", "pynetdicom", "highdicom", "dicomweb_client", "orthanc_api_client", "urllib3", "httpx"),
    "python_multipart",  # names of uploaded files
)


@dataclass(frozen=True, slots=True)
class LogTarget:
    """The target and format of the log besides standard error; ``[log]`` of the configuration.

    ``file``: absolute path, "" for none.
    """

    json: bool = False
    file: str = ""
    file_bytes: int = 10 * 2**20
    files: int = 5
    syslog: str = ""


def configure(level: str, process: str, target: LogTarget | None = None) -> None:
    """Set up logging once, at the start of a process.

    ``level`` as in ``node.log_level``; ``process`` is in every line, because all processes share one stream.
    """
    target = target or LogTarget()
    # Standard error always; file and syslog where they can be opened.
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    problems = []
    try:
        if target.file:
            handlers.append(_SharedFile(target))
    except OSError as error:
        problems.append(f"log.file cannot be written: {error.strerror}")
    try:
        if target.syslog:
            handlers.append(SysLogHandler(_syslog_address(target.syslog)))
    except OSError as error:
        problems.append(f"log.syslog cannot be reached: {error.strerror}")
    for handler in handlers:
        handler.setFormatter(_Json(process) if target.json else _Formatter(process))
        # By the handler: libraries that are imported later (pydicom) set the level of their logger.
        handler.setLevel(level.upper())
        handler.addFilter(lambda record: record.name.partition(".")[0] not in _SILENT)
    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)
    logging.raiseExceptions = False  # a full disk or a syslog that is away must not flood standard error
    for name in ("alembic", "rapidocr", "RapidOCR"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a timer that waits for the database is missed
    warnings.simplefilter("ignore")  # pydicom warns with the value it found
    for problem in problems:
        logging.getLogger(__name__).error("%s", problem)


def _syslog_address(text: str) -> str | tuple[str, int]:
    """A socket's path, or HOST:PORT by UDP. Raises OSError where there is no such socket or host."""
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not host:
        Path(text).stat()
        return text
    # Looked up once: a name server that is away would hold up every line, and with it the node.
    return socket.gethostbyname(host), int(port)


class _SharedFile(RotatingFileHandler):
    """One file of all processes of the node: turned over under a lock, opened anew when another did so."""

    def __init__(self, target: LogTarget) -> None:
        path = Path(target.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_path = path.with_name(f".{path.name}.lock")
        super().__init__(path, maxBytes=target.file_bytes, backupCount=target.files, encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            with self._lock_path.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                there = Path(self.baseFilename)
                ours = os.fstat(self.stream.fileno()).st_ino if self.stream else None
                if not there.exists() or there.stat().st_ino != ours:
                    if self.stream:
                        self.stream.close()
                    self.stream = self._open()
                super().emit(record)
        except OSError:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """One line for each record, with what could forge a line or control a terminal escaped."""

    converter = staticmethod(time.gmtime)

    def __init__(self, process: str) -> None:
        super().__init__(
            f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {process}: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Where and of what kind; not the exception's text, which may quote a data set."""
        kind, _, where = ei
        return "".join(traceback.format_tb(where)) + (kind.__name__ if kind else "")


class _Json(_Formatter):
    """One JSON object for each line; an event's number and fields have keys of their own."""

    def __init__(self, process: str) -> None:
        super().__init__(process)
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        number, fields = _event(record)
        line: dict[str, object] = {
            "time": f"{self.formatTime(record, self.datefmt)}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "message": printable(record.getMessage()),
        }
        if number is not None:
            line |= {"event": number, "fields": dict(fields)}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _event(record: logging.LogRecord) -> tuple[int | None, Mapping[str, object]]:
    """Number and fields where the record is a numbered event (``events.happened``)."""
    happened = record.args[0] if isinstance(record.args, tuple) and record.args else None
    kind = getattr(happened, "type", None)
    return getattr(kind, "number", None), getattr(happened, "fields", {})
