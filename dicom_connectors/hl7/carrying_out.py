"""Acknowledged HL7 messages are carried out, in the order in which they came; studies that wait for images of
the right patient go on once these are here.
"""

import json
import threading
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from dicom_connectors.hl7.inbox import SEALED_FOR
from dicom_connectors.hl7.orders import Orders, due_orders
from dicom_connectors.hl7.settings import Hl7Settings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import Patient
from dicom_node.base.errors import ConfigurationError
from dicom_node.base.lifecycle import MessageState
from dicom_node.base.outcomes import NotYet, Outcome
from dicom_node.base.runner import NEVER, Lane
from dicom_node.base.sitekey import Seal
from dicom_node.base.store.database import Database
from dicom_node.base.store.merges import Hl7Message, PatientChange
from dicom_node.base.store.transitions import utc_now
from dicom_node.people.registered import follow_message
from dicom_node.studies import corrections

_SECONDS: Final = 120.0  # for the studies of one patient
_ERASED: Final[dict[str, Any]] = {}


class Hl7Messages(Lane[Hl7Message]):
    """Carries out one message after the other, in one process of a site at a time."""

    table = Hl7Message

    def __init__(self, database: Database, settings: Settings, hl7: Hl7Settings, owner: str) -> None:
        """Prepare to carry out messages by ``[hl7]`` of the settings."""
        super().__init__(database, settings, "HL7 messages", owner, _SECONDS)
        self._authority, self._orders = hl7.assigning_authority, Orders(settings, hl7)

    def run_once(self, stop: threading.Event = NEVER) -> int:
        """Carry out what waits, then let corrected studies go on; return how many."""
        super().run_once(stop)
        with self._database.read() as session:
            orders = due_orders(session, self._orders.hours)
            studies = corrections.studies_with_news(session)
        for number in orders:
            if not stop.is_set() and self._lease.keep():
                self._apply(number, MessageState.WAITING)
        done = 0
        for study in studies:
            if stop.is_set() or not self._lease.keep():
                break
            with self._database.write() as session:
                done += corrections.note_news(session, study, self._settings.assembly.quiet_seconds)
        return done

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """Return the SQL condition for messages that are not carried out yet."""
        return (Hl7Message.state == MessageState.RECEIVED,)

    def order(self) -> Sequence[object]:
        """Return the SQL order: as they came."""
        return (Hl7Message.id,)

    def move(self, session: Session, row: Hl7Message, outcome: Outcome) -> None:
        """Change nothing: ``work`` stores what it did. A row that only raised defects stays as it is."""

    def work(self, row: Hl7Message, stop: threading.Event) -> Outcome:  # noqa: ARG002
        """Carry out a message; a kill between the transactions repeats the first, which changes nothing."""
        if "order" in row.content:
            self._apply(row.id, MessageState.RECEIVED)
            return NotYet()
        changes = [
            PatientChange(
                row.id, one["former_id"], one["patient_id"], self._authority, Patient.parse(one["stated"])
            )
            for one in row.content["changes"]
        ]
        with self._database.write() as session:
            for change in changes:
                if change.former_id != change.patient_id:
                    corrections.replace_patient(session, change)
        names = self._names(row)
        with self._database.write() as session:
            done = session.get_one(Hl7Message, row.id, with_for_update=True)
            if done.state is MessageState.RECEIVED:
                held = sum(corrections.hold_studies(session, change) for change in changes)
                for change, texts in zip(changes, names, strict=False):
                    follow_message(session, self._settings, change, texts, row.sender)
                concerns = held or any(change.former_id != change.patient_id for change in changes)
                done.state = MessageState.DONE if concerns else MessageState.NOTHING
                done.studies, done.done_at = held, utc_now()
                done.content, done.sealed = dict(_ERASED), b""
        return NotYet()

    def _apply(self, number: int, state: MessageState) -> None:
        """Apply an order that is in this state still."""
        with self._database.write() as session:
            row = session.get_one(Hl7Message, number, with_for_update=True)
            if row.state is state:
                self._orders.apply(session, row)

    def _names(self, row: Hl7Message) -> list[list[str]]:
        """Return name, birth date and sex of each patient; empty texts if they cannot be decrypted."""
        try:
            text = Seal(self._settings.node.data_dir, SEALED_FOR).open(row.sealed, row.sha256)
        except ConfigurationError:
            text = None
        unknown = [["", "", ""]] * len(row.content["changes"])
        return json.loads(text) if text else unknown
