"""Received HL7 messages: each is in the database before it is acknowledged.

A message that comes again (same sender, MSH-3, MSH-4, MSH-10 and bytes) is acknowledged and changes nothing.
"""

import hashlib
import json
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_connectors.hl7.message import (
    Header,
    MessageRefused,
    OfAnotherSite,
    StatedPatient,
    acknowledgement,
    control_id_of,
    patients_of,
    read_header,
)
from dicom_connectors.hl7.orders import ORDERS, order_of
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NodeError
from dicom_node.base.lifecycle import OPEN_MESSAGES, MessageState
from dicom_node.base.sitekey import Seal
from dicom_node.base.store.database import Database
from dicom_node.base.store.merges import Hl7Message
from dicom_node.base.store.transitions import utc_now

SEALED_FOR: Final = "HL7 messages"
REPLACES: Final = ("ADT^A40", "ADT^A47")
"""One Patient ID replaces another: the patients are merged, or the identifier is corrected."""
UPDATES: Final = "ADT^A08"
_TAKEN: Final = (UPDATES, *REPLACES, *ORDERS)
_MOST_WAITING: Final = 10_000  # messages that are not carried out yet
_KEPT: Final = timedelta(days=30)  # after which a message that comes again is a new one
_STORED = "the message cannot be stored now: send it again"


class Inbox:
    """Takes messages into the database, and answers them."""

    def __init__(self, database: Database, settings: Settings, authority: str) -> None:
        """``authority``: whose Patient IDs count. Raises ConfigurationError (the site key)."""
        self._database, self._authority = database, authority
        self._seal = Seal(settings.node.data_dir, SEALED_FOR)

    def take(self, data: bytes, sender: str) -> tuple[bytes, str, MessageState | None]:
        """Return the acknowledgement of a message, why it is refused ("" if it is not), and the state in
        which it is stored, None if it was stored before or refused.

        ``sender``: its name in the settings.
        """
        header, state = None, None
        try:
            header = read_header(data)
            state = self._store(header, data, sender)
        except MessageRefused as refusal:
            control_id = header.control_id if header else control_id_of(data)
            return acknowledgement(header, control_id, refusal.code, refusal), str(refusal), None
        return acknowledgement(header, header.control_id, "AA", None), "", state

    def forget_old(self) -> None:
        """Delete messages that were carried out long ago."""
        old = Hl7Message.done_at < utc_now() - _KEPT
        with self._database.write() as session:
            session.execute(delete(Hl7Message).where(old))

    def _store(self, header: Header, data: bytes, sender: str) -> MessageState | None:
        """Store a message; return its state, None if it was stored before. Raises MessageRefused."""
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            with self._database.read() as session:
                if self._is_known(session, header, sender, sha256):
                    return None
            content, names, state = self._contents(header)
            with self._database.write() as session:
                if self._is_known(session, header, sender, sha256):
                    return None
                now = utc_now()
                row = Hl7Message(
                    sender=sender,
                    application=header.application,
                    control_id=header.control_id,
                    kind=header.kind,
                    sha256=sha256,
                    content=content,
                    sealed=self._seal.close(json.dumps(names), sha256) if names else b"",
                    state=state,
                    received_at=now,
                    next_at=now,
                    done_at=now if state is MessageState.FOREIGN else None,
                )
                session.add(row)
        except IntegrityError:  # the same message on another connection
            self._check_again(header, sender, sha256)
            return None
        except (SQLAlchemyError, NodeError) as error:
            if isinstance(error, MessageRefused):
                raise
            raise MessageRefused("AE", "207", _STORED) from None
        return state

    def _check_again(self, header: Header, sender: str, sha256: str) -> None:
        """Judge a message whose control ID another connection stored just now. Raises MessageRefused."""
        with self._database.read() as session:
            if not self._is_known(session, header, sender, sha256):
                raise MessageRefused("AE", "207", _STORED)

    def _is_known(self, session: Session, header: Header, sender: str, sha256: str) -> bool:
        """Return whether this message was stored before. Raises MessageRefused for another one with its
        control ID, and while too many wait.
        """
        known = session.scalar(
            select(Hl7Message.sha256).where(
                Hl7Message.sender == sender,
                Hl7Message.application == header.application,
                Hl7Message.control_id == header.control_id,
            )
        )
        if known not in (None, sha256):
            raise MessageRefused("AE", "205", "another message came with this control ID (MSH-10) before")
        waiting = select(func.count()).where(Hl7Message.state.in_(OPEN_MESSAGES))
        if known is None and (session.scalar(waiting) or 0) >= _MOST_WAITING:
            raise MessageRefused("AE", "207", f"{_MOST_WAITING} messages wait: send it again later")
        return known is not None

    def _contents(self, header: Header) -> tuple[dict[str, Any], list[list[str]], MessageState]:
        """Return what of a message is to be done, the texts that name patients, and its first state. Raises
        MessageRefused.
        """
        if header.kind in ORDERS:
            order = order_of(header, self._authority)
            return {"order": order}, [], MessageState.RECEIVED if order["ids"] else MessageState.FOREIGN
        if header.kind not in _TAKEN:
            raise MessageRefused("AR", "201", f"only {', '.join(_TAKEN)} are taken here")
        changes, names, foreign = [], [], 0
        for patient, former in patients_of(header, self._authority):
            try:
                changes.append(_change(header, patient, former))
                names.append([patient.name, patient.birth_date, patient.sex])
            except OfAnotherSite:
                foreign += 1
        if not changes and not foreign:
            raise MessageRefused("AE", "101", "the message has no PID segment")
        state = MessageState.RECEIVED if changes else MessageState.FOREIGN
        return {"changes": changes}, names, state


def _change(header: Header, patient: StatedPatient, former: StatedPatient | None) -> dict[str, str]:
    """Return what a message says of one patient, for the database. Raises MessageRefused, OfAnotherSite."""
    patient_id = _one_id(patient, "PID-3")
    former_id = patient_id
    if header.kind in REPLACES:
        if former is None:
            raise MessageRefused("AE", "101", "a PID segment has no MRG segment")
        former_id = _one_id(former, "MRG-1")
        if former_id == patient_id:
            raise MessageRefused("AE", "204", "MRG-1 and PID-3 name the same Patient ID")
    return {"former_id": former_id, "patient_id": patient_id, "stated": str(patient.hashes)}


def _one_id(patient: StatedPatient, field: str) -> str:
    """Return the ID of the site's authority. Raises MessageRefused if there are several, OfAnotherSite if
    there is none.
    """
    if len(patient.ids) > 1:
        raise MessageRefused("AE", "204", f"{field} names several Patient IDs of one authority")
    if not patient.ids:
        raise OfAnotherSite
    return patient.ids[0]
