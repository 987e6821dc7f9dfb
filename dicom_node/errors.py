"""The node's exceptions: one tree. Each message says what is wrong and what to do; none holds PHI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit statuses of ``dicom-node`` (sysexits.h where it has a word for it)."""

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
    """Base of all errors that the node raises on purpose."""

    exit_code: ExitCode = ExitCode.SOFTWARE


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One mistake in a configuration file: where it is, what is there, what to do."""

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


class ConfigurationError(NodeError):
    """All mistakes of a configuration together."""

    exit_code = ExitCode.CONFIG

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class IllegalTransition(NodeError):
    """A life cycle was asked for a step that its table does not have: a defect of the node."""


class SpoolError(NodeError):
    """The spool cannot keep an object."""


class SpoolFull(SpoolError):
    """Fewer free bytes than the watermark: the sender gets A700 and sends again later."""


class FaultyObject(NodeError):
    """A received object that cannot be indexed; the reason goes to the quarantine list."""


class DecodedDifferently(NodeError):
    """Text in the object cannot be decoded with the character set that it names."""


class ResultRefused(NodeError):
    """The gate found a built object invalid: it is not released."""

    exit_code = ExitCode.DATA


class LeaseLost(NodeError):
    """Another worker owns the job now; whatever this one has is thrown away."""


class TimeLimitReached(NodeError):
    """The job took longer than ``workers.time_limit_seconds``; it counts as failed once."""


class JobCancelled(NodeError):
    """A person cancelled the job while it ran."""


class UnknownPeer(NodeError):
    """No peer of this name is configured."""

    exit_code = ExitCode.NOT_FOUND


class PeerUnreachable(NodeError):
    """No association with a peer: it is down, refuses us, or its settings lack host or port."""

    exit_code = ExitCode.UNAVAILABLE


class NotRunning(NodeError):
    """A running node is needed, and none works on the data folder."""

    exit_code = ExitCode.UNAVAILABLE


class NotFound(NodeError):
    """No such study, job, delivery or model."""

    exit_code = ExitCode.NOT_FOUND


class NotAllowedNow(NodeError):
    """A person asked for a step that the state of the study, job or delivery does not allow."""

    exit_code = ExitCode.FAILED


class ReadingsSealed(NodeError):
    """What marks said was sealed with another site key than the one that lies here."""

    exit_code = ExitCode.DATA


class FaultyInput(NodeError):
    """A file or folder that a person gave cannot be used."""

    exit_code = ExitCode.DATA


class CannotCreate(NodeError):
    """A file or folder that a person named is there already, or cannot be made."""

    exit_code = ExitCode.CANNOT_CREATE


class DemoFailed(NodeError):
    """A part of the demonstration does not start or does not end."""

    exit_code = ExitCode.UNAVAILABLE


class ModelRefused(NodeError):
    """A model card cannot be read, or its weights are not those that it names."""

    exit_code = ExitCode.DATA


class DatabaseUnusable(NodeError):
    """The database does not answer, is locked, or cannot be opened or written."""

    exit_code = ExitCode.UNAVAILABLE


class DatabaseDamaged(NodeError):
    """The database's file is damaged."""

    exit_code = ExitCode.DATA


class DatabaseNotReady(NodeError):
    """The database's URL cannot be read, or its schema is newer than this program."""

    exit_code = ExitCode.CONFIG


class SchemaOutdated(DatabaseNotReady):
    """The schema is older than this program: an upgrade cures it."""
