"""Logs of every process to standard error, in UTC, without messages of libraries that may contain PHI; and
text from outside, made harmless for a terminal and a log file.

A caller chooses its AE title, a modality its patient's name: a line break forges a log line, an escape
sequence (ESC, or U+009B alone) works the terminal, U+202E turns the rest of the line round.
"""

import json
import logging
import re
import sys
import time
import traceback
import warnings
from types import TracebackType

from dicom_node.base.events import Event

# Categories Cc, Zl and Zp, lone surrogates, and what formats invisibly (Cf) but for the joiners U+200C and
# U+200D, with which Persian and Indic names are written; and the 66 noncharacters (Unicode 23.7), two of
# which no XML parser takes (U+FFFE, U+FFFF).
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(
    chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
)
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    f"\ufff9-\ufffb\U000e0000-\U000e007f{_NONCHARACTERS}]"
)
_ADDRESS = re.compile(r"""(['"]?)((?:[A-Za-z][A-Za-z0-9+.-]*://)?)(.*)""", re.DOTALL)

# Their messages quote values of the data set (names, dates): never in our logs. Ours are numbered events.
_SILENT = (
    *("pydicom", "pynetdicom", "highdicom", "dicomweb_client", "orthanc_api_client", "urllib3", "httpx"),
    "python_multipart",  # names of uploaded files
)


def printable(text: str) -> str:
    r"""Return the text on one line, with control characters replaced by escapes (``\n``, ``\x9b``,
    ``\u202e``), so that they cannot control a terminal.
    """
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_json(document: str) -> str:
    r"""Return an equivalent JSON document with control characters other than line breaks escaped
    (``\u009b``), so that they cannot control a terminal.
    """
    return _UNSAFE.sub(lambda found: "\n" if found[0] == "\n" else json.dumps(found[0])[1:-1], document)


def redacted(value: str) -> str:
    """Return a value without possible secrets: user and password before ``@``, and a query behind ``?``, are
    replaced.

    An example is ``postgresql://***@host/name``. It works without a scheme too; quotes around the value stay.
    """
    parts = _ADDRESS.fullmatch(value)
    quote, scheme, rest = parts.groups() if parts else ("", "", value)
    login, at, shown = rest.removesuffix(quote).rpartition("@")
    if "?" in login:  # a password with ?, or a query with @: either way nothing here is the machine's
        return f"{quote}{scheme}***{quote}"
    shown, mark, _ = shown.partition("?")
    return f"{quote}{scheme}{'***@' if at else ''}{shown}{'?…' if mark else ''}{quote}"


def configure(level: str, process: str, *, as_json: bool = False) -> None:
    """Set up logging once, at the start of a process.

    ``level``: as in ``node.log_level``. ``process``: the process's name, written into every line, because all
    processes share one stream. ``as_json``: write each line as a JSON object.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(process) if as_json else _Formatter(process))
    # By the handler: libraries that are imported later (pydicom) set the level of their logger.
    handler.setLevel(level.upper())
    handler.addFilter(lambda record: record.name.partition(".")[0] not in _SILENT)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.raiseExceptions = False  # a full disk must not flood standard error
    for name in ("alembic", "rapidocr", "RapidOCR"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a timer that waits for the database is missed
    warnings.simplefilter("ignore")  # pydicom warns with the value it found


class _Formatter(logging.Formatter):
    """A log formatter that writes one line per record and escapes characters that would forge a line or
    control a terminal.
    """

    converter = staticmethod(time.gmtime)

    def __init__(self, process: str) -> None:
        """Build the formatter for the process with the name ``process``."""
        self._process = process
        super().__init__(
            f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {process}: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the formatted line of a record."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Return type and stack of an exception without its text, which may quote a data set."""
        kind, _, where = ei
        return "".join(traceback.format_tb(where)) + (kind.__name__ if kind else "")


class _Json(_Formatter):
    """A log formatter that writes each record as one JSON object; an event's number and fields have keys of
    their own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
        happened = record.args[0] if isinstance(record.args, tuple) and record.args else None
        line: dict[str, object] = {
            "time": f"{self.formatTime(record, self.datefmt)}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "message": printable(record.getMessage()),
        }
        if isinstance(happened, Event):
            line |= {"event": happened.type.number, "fields": dict(happened.fields)}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
