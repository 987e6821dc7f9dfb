"""The node's exceptions: one tree with three branches that callers can catch.

Each message says what is wrong and what to do; none holds PHI. Every error has an exit status for
``dicom-node``; branches are there to be caught.

* :class:`CannotRun`: the node cannot start or go on as it is set up
* :class:`RequestRefused`: what a person asked for cannot be had
* :class:`StorageError`: spool or database do not take or give
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit statuses of ``dicom-node``, from sysexits.h where possible."""

    OK = 0
    FAILED = 1
    USAGE = 64
    DATA = 65
    NOT_FOUND = 66
    UNAVAILABLE = 69
    SOFTWARE = 70
    CONFIG = 78


class NodeError(Exception):
    """Base of all errors that the node raises on purpose. Subclasses set their exit status by the class
    argument ``exit_code``.
    """

    exit_code: ExitCode = ExitCode.SOFTWARE

    def __init_subclass__(cls, exit_code: ExitCode | None = None) -> None:
        super().__init_subclass__()
        cls.exit_code = exit_code or cls.exit_code


class CannotRun(NodeError, exit_code=ExitCode.CONFIG):
    """The node cannot start or continue with its present set-up, or its database has another version; raised
    before any object is accepted.
    """


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One mistake in a configuration file: ``key`` and its faulty ``value`` ("" if not shown), and the
    ``remedy`` in words.
    """

    file: str
    key: str
    value: str
    remedy: str
    line: int = 0
    """From 1; 0 where there is no line to name."""

    def __str__(self) -> str:
        shown = f" = {self.value}" if self.value else ""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}{shown}: {self.remedy}"


class ConfigurationError(CannotRun):
    """The configuration is unusable; the message lists all its mistakes."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RequestRefused(NodeError, exit_code=ExitCode.FAILED):
    """A person's request cannot be fulfilled."""


class Unavailable(RequestRefused, exit_code=ExitCode.UNAVAILABLE):
    """The program or service that a person's request needs is not running or not answering, or is running
    already and only one may.
    """


class NotFound(RequestRefused, exit_code=ExitCode.NOT_FOUND):
    """The peer, study, job, delivery or model that a person named does not exist."""


class NotAllowedNow(RequestRefused):
    """The present state of the study, job, delivery or other thing forbids a person's request, or somebody
    else changed it meanwhile.
    """


class HoldUndercut(RequestRefused):
    """A new rule would send results at once although another rule makes them wait for a person's acceptance,
    and nobody confirmed that this is intended.
    """


class NotTakenOverYet(RequestRefused):
    """A peer was saved on another machine of the site and this machine has not loaded it yet; a later try
    succeeds.
    """


class SignInRefused(RequestRefused):
    """Name or password is wrong, the account may not be used, or there were too many attempts."""


class FaultyInput(RequestRefused, exit_code=ExitCode.DATA):
    """A file, folder, form or model from a person is faulty. ``problems``: one entry for each faulty key, if
    it has keys.
    """

    def __init__(self, text: str, problems: Sequence[ConfigProblem] = ()) -> None:
        super().__init__(text)
        self.problems = tuple(problems)


class StorageError(NodeError):
    """Spool or database cannot be written or read."""


class SpoolError(StorageError):
    """The spool (the folder of received objects) cannot store an object."""


class SpoolFull(SpoolError):
    """The disk of the spool is full, or nearly full."""


class NotInSpool(StorageError):
    """A received file is missing at the path in its database row; indexing may be moving it, so callers try
    again.
    """


class StoreAway(StorageError, exit_code=ExitCode.UNAVAILABLE):
    """The object store does not answer, or does not have the object yet; a later try may succeed."""


class DecisionNotCopied(StorageError, exit_code=ExitCode.UNAVAILABLE):
    """A person's decision is in force, but its backup copy outside the database could not be written yet."""


class DatabaseUnusable(StorageError, exit_code=ExitCode.UNAVAILABLE):
    """The database does not answer, is locked, or cannot be opened or written."""


class SchemaOutdated(CannotRun):
    """The database schema is older than this program and must be upgraded."""


class FaultyObject(NodeError):
    """A received object or report cannot be read or exceeds its limits; the text becomes the reason in the
    quarantine list.
    """


class FaultyStep(NodeError):
    """An MPPS request (Modality Performed Procedure Step) is refused; the text quotes no value of the
    request.

    ``code``: the DIMSE status of the answer (PS3.7 Annex C). ``tags``: the tags of the faulty attributes.
    """

    def __init__(self, text: str, code: int, tags: Sequence[int] = ()) -> None:
        super().__init__(text)
        self.code = code
        self.tags = tuple(tags)


class DecodedDifferently(NodeError):
    """Text in an object cannot be decoded with the character set that the object declares."""


class ResultRefused(NodeError, exit_code=ExitCode.DATA):
    """A DICOM object or audit message that the node built is invalid: it is neither stored nor sent."""


class JobCancelled(NodeError):
    """A person or a newer revision of the study cancelled the job while it ran."""


class LeaseLost(NodeError):
    """Another worker has taken over the job, so this worker's results are discarded."""


class HandedBack(NodeError):
    """The worker is stopping: another worker will do its job, and this try is not counted."""


class TimeLimitReached(NodeError):
    """The job took longer than ``workers.time_limit_seconds``; it counts as failed once."""


class WorkerSpent(NodeError):
    """An image exhausted the worker's memory: the job is tried again in a new process."""
