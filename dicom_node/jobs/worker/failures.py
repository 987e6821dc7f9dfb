"""Why a job fails: errors that end it for good, and each failure as a sentence and a coded cause."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ai_pipeline.errors import (
    CardError,
    CleaningFailed,
    NoNumber,
    PixelError,
    ProgramFailed,
    ProgramStopped,
    disk_fault,
)
from ai_pipeline.images.limits import lacks_memory
from dicom_node.base.errors import (
    DecodedDifferently,
    NoAnswer,
    NodeError,
    StoreAway,
    TimeLimitReached,
    TryEnded,
)
from dicom_node.results.concepts import Cause


class JobFailed(Exception):
    """The job fails for good, because another attempt would fail in the same way."""

    def __init__(self, reason: str, cause: Cause = Cause.UNKNOWN) -> None:
        """Store the reason in words, and the cause that the report codes."""
        super().__init__(reason)
        self.cause = cause


FINAL = (JobFailed, PixelError, NoNumber, CleaningFailed, DecodedDifferently, NoAnswer)


@contextmanager
def disk_apart() -> Iterator[None]:
    """Context manager: raise StoreAway for what the disk of the machine did, so that it is not held against
    the job.
    """
    try:
        yield
    except (TryEnded, StoreAway):
        raise
    except Exception as error:
        if fault := disk_fault(error):
            raise StoreAway(fault) from error
        raise


def sentence_of(error: BaseException) -> str:
    """Return the reason of a failure as a sentence. Only errors of our own are quoted: others may contain
    header values.
    """
    if isinstance(error, DecodedDifferently):
        return f"a text of the object cannot be decoded ({error})"
    if isinstance(error, (NodeError, PixelError, NoNumber, CleaningFailed, ProgramFailed, JobFailed)):
        return str(error)
    if lacks_memory(error):
        return "the analysis takes more memory than workers.memory_mib allows"
    return f"{type(error).__name__} in the pipeline"


def cause_of(error: BaseException) -> Cause:
    """Return the kind of a failure, as the report codes it."""
    if isinstance(error, JobFailed):
        return error.cause
    if lacks_memory(error):
        return Cause.RESOURCES
    return next((cause for kinds, cause in _CAUSES if isinstance(error, kinds)), Cause.UNKNOWN)


_CAUSES = (
    ((PixelError, DecodedDifferently), Cause.FORMAT),
    ((CleaningFailed,), Cause.QUALITY),
    ((TimeLimitReached, ProgramStopped), Cause.RESOURCES),
    ((CardError, NoNumber, NoAnswer), Cause.EQUIPMENT),
)


def place_of(error: BaseException) -> str:
    """Return class and place of an error, without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}"
