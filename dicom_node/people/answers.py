"""Results that a vendor's AI service sends by STOW-RS, with the token of the study that it was sent."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from ai_pipeline.programs.output import MOST_OBJECT_BYTES
from dicom_node.base.answer_token import AnswerTokens, microseconds
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NodeError
from dicom_node.base.events import ANSWER_REFUSED
from dicom_node.base.lifecycle import AssociationOutcome, AwaitedState, Intake
from dicom_node.base.store.awaited import AwaitedAnswer
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Association
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.people.audit import Person
from dicom_node.people.stow import TOO_LARGE, StowRequest

_TAKES: Final = (AwaitedState.SENDING, AwaitedState.AWAITED)
_AGAIN_SECONDS: Final = 3600.0
"""An event for each reason of refusals is recorded once in so long."""


class Refusal(StrEnum):
    """Why a request is refused."""

    UNKNOWN = "its token was not made by this node"
    ENDED = "the answer for which its token was made is whole, was given up, or its time is over"
    OTHER_STUDY = "its address names another study than its token"


class TokenRefused(NodeError):
    """Raised for a request that may store nothing. ``kind``: why."""

    def __init__(self, kind: Refusal) -> None:
        """Store the reason."""
        super().__init__(kind.value)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Admitted:
    """The answer to which a request belongs: its study, and name and AE title of its service."""

    study_instance_uid: str
    peer: str
    ae_title: str


class AnswerDoor:
    """Decides which requests may store results. Many threads may use one.

    ``clock``: returns monotonic seconds.
    """

    def __init__(
        self, database: Database, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare for the services of these settings; the site key is read at the first request."""
        self._database, self._settings, self._clock = database, settings, clock
        self._tokens: AnswerTokens | None = None
        self._lock = threading.Lock()
        self._refused = dict.fromkeys(Refusal, 0)  # since the last event
        self._quiet_until = dict.fromkeys(Refusal, float("-inf"))

    def admit(self, token: str, study_instance_uid: str = "") -> Admitted:
        """Return to which answer a request with this token belongs.

        ``study_instance_uid``: the study that its address names, "" for none. Raises TokenRefused, which is
        counted.
        """
        try:
            return self._admitted(token, study_instance_uid)
        except TokenRefused as refused:
            self._count(refused.kind)
            raise

    def _admitted(self, token: str, study_instance_uid: str) -> Admitted:
        """Return to which answer a request with this token belongs. Raises TokenRefused."""
        if self._tokens is None:
            self._tokens = AnswerTokens(self._settings.node.data_dir)
        named = self._tokens.read(token)
        if named is None:
            raise TokenRefused(Refusal.UNKNOWN)
        number, began = named
        with self._database.read() as session:
            row = session.get(AwaitedAnswer, number)
            titles = {peer.name: peer.ae_title for peer in self._settings.peers}
            if row is None or microseconds(row.began_at) != began or row.peer not in titles:
                raise TokenRefused(Refusal.UNKNOWN)  # of a database that was replaced
            if row.state not in _TAKES or row.limit_at <= utc_now():
                raise TokenRefused(Refusal.ENDED)
            if study_instance_uid not in ("", row.study_instance_uid):
                raise TokenRefused(Refusal.OTHER_STUDY)
            return Admitted(row.study_instance_uid, row.peer, titles[row.peer])

    def _count(self, kind: Refusal) -> None:
        """Count a refusal; the first one, and then one in an hour, records an event."""
        with self._lock:
            self._refused[kind] += 1
            if self._clock() < self._quiet_until[kind]:
                return
            self._quiet_until[kind] = self._clock() + _AGAIN_SECONDS
            number, self._refused[kind] = self._refused[kind], 0
        with self._database.write() as session:
            record(session, ANSWER_REFUSED, reason=kind.value, requests=number)


class AnswerRequest(StowRequest):
    """The objects of one request of a service, stored as those of an association under its AE title.

    While it is open, the answer is not whole. Raises SpoolError.
    """

    def __init__(self, database: Database, settings: Settings, admitted: Admitted, address: str) -> None:
        """Prepare to store the objects of one request from this network address."""
        self.sender = admitted.ae_title
        super().__init__(
            database,
            settings,
            Person(admitted.peer, address),
            admitted.study_instance_uid,
            Intake.ANSWER,
        )
        self._bytes = 0
        self.is_whole = False
        """Whether the request came to its end; if it did not, more may have been to come."""
        with database.write() as session:
            session.add(
                Association(
                    id=self.association,
                    listener="answers",
                    calling_ae=admitted.ae_title,
                    called_ae=settings.node.ae_title,
                    address=address,
                    opened_at=utc_now(),
                )
            )

    def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Process the next bytes of the current part: all of a request have MOST_OBJECT_BYTES at most."""
        self._bytes += len(data)
        if self._bytes > MOST_OBJECT_BYTES:
            self._part.one.failure = TOO_LARGE
        super().write(data, is_last=is_last)

    def close(self, refused: int | None = None) -> int:  # noqa: ARG002  (the audit is of persons)
        """End the request; an incomplete part is deleted. Returns 0."""
        self._drop()
        with self._database.write() as session:
            row = session.get_one(Association, self.association)
            row.closed_at = max(utc_now(), row.opened_at + timedelta(microseconds=1))
            row.outcome = AssociationOutcome.RELEASED if self.is_whole else AssociationOutcome.ABORTED
            row.objects = self.stored
        return 0
