"""What the server asks a cleaning process, and what that answers."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, Self

from ai_pipeline.burnin.find.annotation import CleaningPolicy, InDoubt

MOST_BYTES = 128 * 1024
"""Of a task or an answer: each is one message of a socket."""
DICOM, PNG = "application/dicom", "image/png"
"""Media types of what is handed back."""


class Outcome(StrEnum):
    """How a task ended. Only ``cleaned`` comes with a picture."""

    CLEANED = "cleaned"
    WITHHELD = "withheld"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too large"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"
    LATE = "too late"


STATUSES: Mapping[Outcome, int] = {
    Outcome.CLEANED: 200,
    Outcome.UNREADABLE: 400,
    Outcome.TOO_LARGE: 413,
    Outcome.UNSUPPORTED: 415,
    Outcome.WITHHELD: 422,
    Outcome.FAILED: 503,
    Outcome.LATE: 504,
}
"""The HTTP status of each outcome (RFC 9110 15)."""


@dataclass(frozen=True, slots=True)
class Task:
    """One image to clean. ``kind``: hand the image back without what ``policy`` names, or only say where
    ``masks`` must be. ``modality``: that of a picture, which says none. ``form``: the fields of Karnak's form
    (text by name), whose image is no whole file.
    """

    kind: Literal["clean", "masks"] = "clean"
    modality: str = "US"
    policy: CleaningPolicy = CleaningPolicy.CLINICAL
    in_doubt: InDoubt = InDoubt.KEEP
    form: Mapping[str, str] = field(default_factory=dict, repr=False)

    def packed(self) -> bytes:
        """The task as one message."""
        return json.dumps(asdict(self), ensure_ascii=False).encode(errors="replace")

    @classmethod
    def of(cls, message: bytes) -> Self:
        """The task of a message."""
        said = json.loads(message)
        return cls(**said | {"policy": CleaningPolicy(said["policy"]), "in_doubt": InDoubt(said["in_doubt"])})


@dataclass(frozen=True, slots=True)
class Answer:
    """How a task ended. ``reason``: why there is no picture, as one sentence without PHI. ``media_type``: of
    the cleaned file, if there is one. ``report``: what was found, as a JSON object without PHI.
    """

    outcome: Outcome
    reason: str = ""
    media_type: str = ""
    report: dict[str, Any] = field(default_factory=dict)

    def packed(self) -> bytes:
        """The answer as one message."""
        return json.dumps(asdict(self), ensure_ascii=False).encode(errors="replace")

    @classmethod
    def of(cls, message: bytes) -> Self:
        """The answer of a message."""
        said = json.loads(message)
        return cls(**said | {"outcome": Outcome(said["outcome"])})

    def as_json(self) -> dict[str, Any]:
        """The report as a caller gets it."""
        said: dict[str, Any] = {"outcome": self.outcome.value, "withheld": self.outcome is Outcome.WITHHELD}
        return said | ({"detail": self.reason} if self.reason else {}) | self.report
