"""The node's exceptions: one tree, whose branches callers can catch.

Each message says what is wrong and what to do; none holds PHI. Every error has an exit status for
``dicom-node``.

* NodeError: all that the node raises on purpose
  * CannotRun: the node cannot start or go on as it is set up
    * ConfigurationError: its files have mistakes, all of which are listed
    * SchemaOutdated: its database must be upgraded first
  * RequestRefused: what a person asked for cannot be had
    * Unavailable: the program or service that it needs does not answer
    * NotFound: there is nothing of this name or number
    * NotAllowedNow: the state of the thing forbids it
    * HoldUndercut: a rule would send what another one holds back
    * NotTakenOverYet: this machine of the site does not know the new peer yet
    * SignInRefused: wrong name or password, or too many attempts
    * FaultyInput: a file, form or model from a person has mistakes
  * StorageError: the machine does not take or give what is stored
    * SpoolError: the spool cannot store an object
      * SpoolFull: its disk is full
    * NotInSpool: a received file is not where its row says
    * StoreAway: the object store does not answer
    * DecisionNotCopied: the backup copy of a decision could not be written
    * DatabaseUnusable: the database does not answer, or cannot be written
  * FaultyData: an object or message breaks the rules of DICOM or of the node
    * FaultyObject: a received object or report cannot be read
    * FaultyStep: a modality's procedure step (MPPS) is refused
    * DecodedDifferently: a text does not fit its character set
    * ResultRefused: the node built an invalid object or audit message
  * TryEnded: this try of a job is over, though its pipeline did not fail
    * JobCancelled: a person or newer images made the job void
    * LeaseLost: another worker has the job
    * HandedBack: the worker stops, another one does the job
    * TimeLimitReached: it took too long
    * WorkerSpent: an image took the worker's memory
    * AnswerAwaited: another party works on it, and the job goes on with its answer
  * NoAnswer: another party that a job needs did not answer in time, or refused it
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Self


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
        """Set the exit status of a subclass; None: that of its base."""
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
        """Return the mistake on one line: file, line, key, value and remedy."""
        shown = f" = {self.value}" if self.value else ""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}{shown}: {self.remedy}"


class ConfigurationError(CannotRun):
    """The configuration is unusable; the message lists all its mistakes."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        """Join the mistakes to the error's text, one a line."""
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SchemaOutdated(CannotRun):
    """The database schema is older than this program and must be upgraded."""


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
        """Store the text, and the mistakes of single keys if there are any."""
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

    @classmethod
    def of_disk(cls, error: OSError) -> Self:
        """Build the error for a disk of this machine that failed with ``error``."""
        return cls(f"disk: {(error.strerror or type(error).__name__).lower()}")


class DecisionNotCopied(StorageError, exit_code=ExitCode.UNAVAILABLE):
    """A person's decision is in force, but its backup copy outside the database could not be written yet."""


class DatabaseUnusable(StorageError, exit_code=ExitCode.UNAVAILABLE):
    """The database does not answer, is locked, or cannot be opened or written."""


class FaultyData(NodeError):
    """An object or a message, received or built here, breaks the rules of DICOM or the limits of the node."""


class FaultyObject(FaultyData):
    """A received object or report cannot be read or exceeds its limits; the text becomes the reason in the
    quarantine list.
    """


class FaultyStep(FaultyData):
    """An MPPS request (Modality Performed Procedure Step) is refused; the text quotes no value of the
    request.

    ``code``: the DIMSE status of the answer (PS3.7 Annex C). ``tags``: the tags of the faulty attributes.
    """

    def __init__(self, text: str, code: int, tags: Sequence[int] = ()) -> None:
        """Store the text, the DIMSE status of the answer and the tags of the faulty attributes."""
        super().__init__(text)
        self.code = code
        self.tags = tuple(tags)


class DecodedDifferently(FaultyData):
    """Text in an object cannot be decoded with the character set that the object declares."""


class ResultRefused(FaultyData, exit_code=ExitCode.DATA):
    """A DICOM object or audit message that the node built is invalid: it is neither stored nor sent."""


class TryEnded(NodeError):
    """A try of a job ended early for a reason that lies outside of its pipeline."""


class JobCancelled(TryEnded):
    """A person or a newer revision of the study cancelled the job while it ran."""


class LeaseLost(TryEnded):
    """Another worker has taken over the job, so this worker's results are discarded."""


class HandedBack(TryEnded):
    """The worker is stopping: another worker will do its job, and this try is not counted."""


class TimeLimitReached(TryEnded):
    """The job took longer than ``workers.time_limit_seconds``; it counts as failed once."""


class WorkerSpent(TryEnded):
    """An image exhausted the worker's memory: the job is tried again in a new process."""


class AnswerAwaited(TryEnded):
    """Another party works on the study: the job is claimed again when its answer is there, or after
    ``seconds``; this try is not counted.
    """

    def __init__(self, reason: str, seconds: float) -> None:
        """Store what is awaited, in words, and when to look again at the latest."""
        super().__init__(reason)
        self.seconds = seconds


class NoAnswer(NodeError):
    """Another party did not answer in time, or refused the study: the job fails for good."""
