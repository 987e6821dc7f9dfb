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
    """Base of all errors that the node raises on purpose; a class names its exit status beside its base."""

    exit_code: ExitCode = ExitCode.SOFTWARE

    def __init_subclass__(cls, exit_code: ExitCode | None = None) -> None:
        super().__init_subclass__()
        cls.exit_code = exit_code or cls.exit_code


class CannotRun(NodeError, exit_code=ExitCode.CONFIG):
    """The node cannot start or go on as it is set up, or its database is not of this version; raised before
    anything is accepted.
    """


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
    """What is needed (a peer, a provider, the node) does not run, start or answer, or is taken already."""


class NotFound(RequestRefused, exit_code=ExitCode.NOT_FOUND):
    """No such peer, study, job, delivery or model."""


class NotAllowedNow(RequestRefused):
    """The state of the thing does not allow the step, or somebody else changed it meanwhile."""


class HoldUndercut(RequestRefused):
    """A rule would send at once what another rule holds for a person, and nobody confirmed this."""


class NotTakenOverYet(RequestRefused):
    """This machine has not loaded yet a peer that was entered on another machine: wait, it will."""


class SignInRefused(RequestRefused):
    """Name or password is wrong, the account may not be used, or there were too many attempts."""


class FaultyInput(RequestRefused, exit_code=ExitCode.DATA):
    """A file, folder, form or model from a person cannot be used or made. ``problems``: of its keys."""

    def __init__(self, text: str, problems: Sequence[ConfigProblem] = ()) -> None:
        super().__init__(text)
        self.problems = tuple(problems)


class StorageError(NodeError):
    """Spool or database cannot be written or read."""


class SpoolError(StorageError):
    """The spool cannot keep an object."""


class SpoolFull(SpoolError):
    """The spool cannot store an object."""


class NotInSpool(StorageError):
    """A spooled file is not at the path in its row. The index may just be moving it, so it is tried again."""


class StoreAway(StorageError, exit_code=ExitCode.UNAVAILABLE):
    """The object store does not answer, or does not have the object yet; a later try may succeed."""


class DecisionNotCopied(StorageError, exit_code=ExitCode.UNAVAILABLE):
    """A person's decision is in force, but not yet copied outside the database."""


class DatabaseUnusable(StorageError, exit_code=ExitCode.UNAVAILABLE):
    """The database does not answer, is locked, or cannot be opened or written."""


class SchemaOutdated(CannotRun):
    """The schema is older than this program: upgrade it."""


class FaultyObject(NodeError):
    """A received object or report that cannot be read or is beyond its limits. The reason goes to the
    quarantine list.
    """


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
    """What the node built, an object or an audit message, is invalid: it is not stored and not sent."""


class JobCancelled(NodeError):
    """A person or a newer revision of the study cancelled the job while it ran."""


class LeaseLost(NodeError):
    """Another worker has the job now; this worker's results are discarded."""


class HandedBack(NodeError):
    """The worker stops: another worker will do this job, and this try does not count."""


class TimeLimitReached(NodeError):
    """The job took longer than ``workers.time_limit_seconds``; it counts as failed once."""


class WorkerSpent(NodeError):
    """An image used up the worker's memory: the job is tried again in a new process."""
