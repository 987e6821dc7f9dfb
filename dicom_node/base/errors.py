"""The node's exceptions: one tree with four branches that callers can catch.

Each message says what is wrong and what to do; none holds PHI. Every error has an exit status for
``dicom-node``; branches are there to be caught.

* :class:`CannotRun`: the node cannot start or go on as it is set up
* :class:`RequestRefused`: what a person asked for cannot be had
* :class:`StorageError`: spool or database do not take or give
* :class:`JobStopped`: the attempt at a job ends before its results
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
    CANNOT_CREATE = 73
    CONFIG = 78


class NodeError(Exception):
    """Base of all errors that the node raises on purpose; a class names its exit status beside its base."""

    exit_code: ExitCode = ExitCode.SOFTWARE

    def __init_subclass__(cls, exit_code: ExitCode | None = None) -> None:
        super().__init_subclass__()
        cls.exit_code = exit_code or cls.exit_code


class IllegalTransition(NodeError):
    """The life cycle's table does not allow this step in the present state: a defect of the node."""


class CannotRun(NodeError, exit_code=ExitCode.CONFIG):
    """The node cannot start or go on as it is set up; raised before anything is accepted."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One mistake in a configuration file: its place, the value found, the remedy."""

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
    """All mistakes of a configuration together."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RequestRefused(NodeError, exit_code=ExitCode.FAILED):
    """A person's request cannot be fulfilled."""


class Unavailable(RequestRefused, exit_code=ExitCode.UNAVAILABLE):
    """The program or service that the request needs does not run, start or answer, or a second one may not
    run.
    """


class NotFound(RequestRefused, exit_code=ExitCode.NOT_FOUND):
    """There is no such study, job, delivery or model."""


class NotAllowedNow(RequestRefused):
    """The state of the study, job or delivery does not allow the step."""


class HoldUndercut(RequestRefused):
    """A rule would send results at once that another rule holds for a person, and nobody confirmed this."""


class ChangedMeanwhile(RequestRefused):
    """Somebody else changed it after this person opened it: nothing is overwritten."""


class TooManyAtOnce(RequestRefused):
    """The limit of such requests under way is reached: ask again when one of them is done."""


class UnknownPeer(RequestRefused, exit_code=ExitCode.NOT_FOUND):
    """No peer of this name is configured."""


class NotTakenOverYet(RequestRefused):
    """A peer that was entered on another machine is not loaded here yet; it will be in a moment."""


class PeerUnreachable(RequestRefused, exit_code=ExitCode.UNAVAILABLE):
    """No association with a peer: it is down, refuses us, or its settings lack host or port."""


class SignInRefused(RequestRefused):
    """Name or password is wrong, the account may not be used, or there were too many attempts."""


class FaultyInput(RequestRefused, exit_code=ExitCode.DATA):
    """A file, folder, form or model from a person cannot be used. ``problems``: of its keys, where known."""

    def __init__(self, text: str, problems: Sequence[ConfigProblem] = ()) -> None:
        super().__init__(text)
        self.problems = tuple(problems)


class CannotCreate(RequestRefused, exit_code=ExitCode.CANNOT_CREATE):
    """The file or folder that a person named exists already, or cannot be made."""


class StorageError(NodeError):
    """Spool or database cannot be written or read."""


class SpoolError(StorageError):
    """The spool cannot store an object."""


class SpoolFull(SpoolError):
    """The disk of the spool is full, or nearly full."""


class NotInSpool(StorageError):
    """A spooled file is not at the path in its row. The index may just be moving it, so it is tried again."""


class StoreAway(StorageError, exit_code=ExitCode.UNAVAILABLE):
    """The object store does not answer, or does not have the object yet; a later try may succeed."""


class DecisionNotCopied(StorageError, exit_code=ExitCode.UNAVAILABLE):
    """A person's decision is in force, but not yet copied outside the database."""


class DatabaseUnusable(StorageError, exit_code=ExitCode.UNAVAILABLE):
    """The database does not answer, is locked, or cannot be opened or written."""


class DatabaseDamaged(StorageError, exit_code=ExitCode.DATA):
    """The database's file is damaged."""


class DatabaseNotReady(StorageError, exit_code=ExitCode.CONFIG):
    """The database's URL is invalid, or its schema is newer than this program."""


class SchemaOutdated(DatabaseNotReady):
    """The schema is older than this program: upgrade it."""


class FaultyObject(NodeError):
    """A received object that cannot be indexed; the reason goes to the quarantine list."""


class FaultyReport(NodeError):
    """A storage commitment report or request that cannot be read, or is beyond its limits."""


class FaultyStep(NodeError):
    """A refused request about a performed procedure step; the text contains no value of the request.

    ``code``: the status (PS3.7 Annex C). ``tags``: the attributes that are at fault.
    """

    def __init__(self, text: str, code: int, tags: Sequence[int] = ()) -> None:
        super().__init__(text)
        self.code = code
        self.tags = tuple(tags)


class DecodedDifferently(NodeError):
    """Text in the object cannot be decoded with the character set that the object names."""


class ResultRefused(NodeError, exit_code=ExitCode.DATA):
    """The gate found a built object invalid: it is not stored and not sent."""


class FaultyMessage(NodeError):
    """An audit message that violates its schema. The text names the place, and quotes no value."""


class JobStopped(NodeError):
    """The attempt at a job ends before its results."""


class JobCancelled(JobStopped):
    """A person or a newer revision of the study cancelled the job while it ran."""


class LeaseLost(JobStopped):
    """Another worker has the job now; this worker's results are discarded."""


class HandedBack(JobStopped):
    """The worker stops: another worker does the job, and this try is not counted."""


class TimeLimitReached(JobStopped):
    """The job took longer than ``workers.time_limit_seconds``; it counts as failed once."""


class WorkerSpent(JobStopped):
    """An image used up the worker's memory: the job is tried again in a new process."""


class NoSuchPipeline(JobStopped):
    """A rule names a pipeline that this program does not have, or cannot load."""
