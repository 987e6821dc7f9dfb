"""Logging of every process of the node: standard error, UTC, and nothing that a library says of a patient."""

from __future__ import annotations

import logging
import sys
import time
import traceback
import warnings
from types import TracebackType

from dicom_node.printable import printable

# Their messages quote values of the data set (names, dates): never in our logs. Ours are numbered events.
_SILENT = ("pydicom", "pynetdicom", "highdicom", "dicomweb_client", "orthanc_api_client", "urllib3", "httpx")


def configure(level: str, process: str) -> None:
    """Set up logging once, at the start of a process.

    ``level`` as in ``node.log_level``; ``process`` stands in every line: all processes share one stream.
    """
    handler = logging.StreamHandler(sys.stderr)
    formatter = _Formatter(
        f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {process}: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # By the handler: libraries that are imported later (pydicom) set the level of their logger themselves.
    handler.addFilter(lambda record: record.name.partition(".")[0] not in _SILENT)
    for name in ("apscheduler", "alembic", "rapidocr", "RapidOCR"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.simplefilter("ignore")  # pydicom warns with the value it found


class _Formatter(logging.Formatter):
    """One line for each record: nobody outside forges a second one or works a terminal."""

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
