"""Objects that come in by HTTP, by STOW-RS (PS3.18 10.5) or uploaded: spooled as those of a modality are.

They are written as they arrive, under the limits of the listener. Of an object only the file meta information
and the UID of its study are read here: the inspection opens it like any other. The largest request is
``console.upload_mib`` (``base/config/settings.py``).
"""

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from dicom_node.base.actions.action import allowed_to
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.elements import META_BYTES, is_uid, read_uids
from dicom_node.base.dicom.uids import TransferSyntax, transfer_syntax
from dicom_node.base.errors import FaultyInput, SpoolError
from dicom_node.base.lifecycle import CONSOLE_AE_TITLE, AuditAction, Intake, UserRole
from dicom_node.base.store import sight
from dicom_node.base.store.database import Database
from dicom_node.people import audit
from dicom_node.people.audit import Person
from dicom_node.receive.policy import accepted_classes, further_classes
from dicom_node.receive.spool import Arrival, IncomingObject, Spool, WaitingObjects, read_meta
from dicom_node.receive.statuses import Status

HEAD = 2**20
"""Bytes of a data set in which the UIDs of its study and series are looked for."""

# PS3.18 Table I.2-2, but for the last: PS3.7 C.5.24
NO_ROOM = Status(
    0xA700,
    "Refused: Out of Resources",
    "less free disk space than spool.minimum_free_mib, or the spool cannot be written, or as many objects "
    "of the console wait to be indexed as spool.waiting_objects or spool.waiting_mib allow; send again later",
)
NO_SUCH_CLASS = Status(0x0122, "Refused: SOP Class Not Supported", "the SOP class is none that is accepted")
NO_SUCH_SYNTAX = Status(
    0xC122, "Referenced Transfer Syntax Not Supported", "the transfer syntax is none that is accepted"
)
OTHER_OBJECT = Status(
    0xA900,
    "Error: Data Set Does Not Match SOP Class",
    "the data set has another SOP Class or SOP Instance UID than the file meta information",
)
NO_OBJECT = Status(
    0xC000,
    "Error: Cannot understand",
    "the part is no file of DICOM (PS3.10) with valid UIDs and a data set, or its media type is not "
    "application/dicom, or its Study or SOP Instance UID is needed and not in its first MiB",
)
TOO_LARGE = Status(
    0xC001, "Error: Cannot understand", "the data set is larger than listener.maximum_object_mib"
)
OTHER_STUDY = Status(0xC409, "Error: Cannot understand", "it is of another study than the address names")
NOT_ITS_STUDY = Status(
    0x0124,
    "Refused: Not Authorized",
    "the user sees the studies of some senders only, and the study or the object is here from others",
)
REASONS: Final = (
    NO_ROOM, NO_SUCH_CLASS, NO_SUCH_SYNTAX, OTHER_OBJECT, NO_OBJECT, TOO_LARGE, OTHER_STUDY, NOT_ITS_STUDY,
)  # fmt: skip
"""Failure Reasons (0008,1197) of an answer."""


@dataclass(slots=True)
class StowedInstance:
    """The outcome for one object of a STOW-RS request or upload. UIDs are "" if they were not read.

    ``failure``: None if it was stored.
    """

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    failure: Status | None = None
    why: str = ""
    """The failure in words, where they say more than the status."""


@allowed_to(UserRole.OPERATOR)
class StowRequest:
    """The objects of one STOW-RS request or upload, stored like those of one association. Used by one thread
    at a time.

    ``study_uid``: the study that all objects must belong to, "" for any. ``intake``: how they come in.
    ``about``: fields for the audit. Raises SpoolError, FaultyInput for an invalid UID.
    """

    sender = CONSOLE_AE_TITLE
    """The AE title under which the objects come."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        by: Person,
        study_uid: str = "",
        intake: Intake = Intake.STOW,
        **about: Any,
    ) -> None:
        """Prepare to store the objects of one request by the person ``by``; the parameters are explained
        at the class.
        """
        if study_uid and not is_uid(study_uid):
            raise FaultyInput("the address has no valid Study Instance UID")
        self._database, self._settings, self._by, self._study_uid = database, settings, by, study_uid
        self._about = about
        self.intake: Final = intake
        self._classes = accepted_classes(further_classes(settings))
        self._spool, self._waiting = _place(
            settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20
        )
        self.association: Final = f"{intake}-{secrets.token_hex(8)}"
        self.instances: Final[list[StowedInstance]] = []
        """What became of the parts that are whole."""
        self._part = _Part()

    def begin(self, media_type: str = "") -> None:
        """Begin a part of the request; ``media_type`` in lower case, "" if the part has none."""
        self._drop()
        self._part = _Part()
        if media_type not in ("", "application/dicom"):
            self._part.one.failure = NO_OBJECT

    def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Process the next bytes of the current part of the request; ``is_last``: they end the part."""
        part = self._part
        if part.one.failure is None:
            part.start += data
            try:
                if is_last or part.incoming is not None or len(part.start) >= META_BYTES:
                    self._spool_bytes(part)
                if is_last:
                    self._commit(part)
            except _Refused as refused:
                part.one.failure = refused.args[0]
            except FaultyInput as error:
                part.one.failure, part.one.why = NO_OBJECT, str(error)
            except SpoolError:
                part.one.failure = NO_ROOM
        if part.one.failure is not None:
            part.start.clear()
            self._drop()

    def end(self) -> None:
        """End the current part: its object is stored durably, or refused, when this returns."""
        self.write(b"", is_last=True)
        self.instances.append(self._part.one)

    def close(self, refused: int | None = None) -> int:
        """End the request; returns the number of its row in the audit, 0 if it had no objects.

        An incomplete part is deleted, and the audit says how many objects were stored, and how many were
        ``refused``; None: all parts that were not stored.
        """
        self._drop()
        if refused is None:
            refused = len(self.instances) - self.stored
        if not self.instances and not refused:
            return 0
        with self._database.write() as session:
            row = audit.note(
                session,
                self._by,
                AuditAction.UPLOADED,
                **self._about,
                objects=self.stored,
                refused=refused,
                association=self.association,
            )
            session.flush()
            return row.id

    @property
    def stored(self) -> int:
        """How many objects of the request have been stored durably."""
        return sum(not one.failure for one in self.instances)

    def _drop(self) -> None:
        """Delete the unfinished file of the current part."""
        if self._part.incoming is not None:
            self._part.incoming.abandon()
            self._part.incoming = None

    def _spool_bytes(self, part: "_Part") -> None:
        """Write the bytes of a part that came to its file; the first ones open it. Raises _Refused."""
        if part.incoming is None:
            meta = read_meta(bytes(part.start[:META_BYTES]))
            part.one.sop_class_uid, part.one.sop_instance_uid = meta.sop_class_uid, meta.sop_instance_uid
            part.syntax = transfer_syntax(meta.transfer_syntax_uid)
            if meta.sop_class_uid not in self._classes:
                raise _Refused(NO_SUCH_CLASS)
            if part.syntax is None:
                raise _Refused(NO_SUCH_SYNTAX)
            if not self._waiting.has_room(
                self.sender, self._settings.spool.waiting_objects, self._settings.spool.waiting_mib
            ):
                raise _Refused(NO_ROOM)
            arrival = Arrival(
                self.association,
                self.sender,
                self._settings.node.ae_title,
                self._by.address,
                self.intake.priority,
                datetime.now(UTC),
                sight.SENDERS.get(),
            )
            part.incoming = self._spool.open(
                arrival, meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid
            )
            del part.start[: meta.length]
        data = bytes(part.start)
        part.start.clear()
        part.size += len(data)
        if part.size > self._settings.listener.maximum_object_mib * 2**20:
            raise _Refused(TOO_LARGE)
        part.head += data[: HEAD - len(part.head)]
        part.incoming.write(data)

    def _commit(self, part: "_Part") -> None:
        """Store the object of a complete part durably.

        Raises _Refused if its data set does not match its header, or if it belongs to a study that the user
        may not see.
        """
        assert part.incoming is not None and part.syntax is not None
        sop_class_uid, instance_uid, study_uid, _ = read_uids(part.head, part.syntax, HEAD)
        one, is_limited = part.one, bool(sight.SENDERS.get())
        if sop_class_uid not in ("", one.sop_class_uid) or instance_uid not in ("", one.sop_instance_uid):
            raise _Refused(OTHER_OBJECT)
        if (not study_uid and (self._study_uid or is_limited)) or (is_limited and not instance_uid):
            raise _Refused(NO_OBJECT)
        if self._study_uid and study_uid != self._study_uid:
            raise _Refused(OTHER_STUDY)
        if is_limited:
            with self._database.read() as session:
                if sight.is_hidden(session, study_uid, instance_uid):
                    raise _Refused(NOT_ITS_STUDY)
        part.incoming.commit()
        part.incoming = None
        self._waiting.add(self.sender, part.size)


@cache
def _place(folder: Path, minimum_free_bytes: int) -> tuple[Spool, WaitingObjects]:
    """The spool in this folder and its counts of waiting objects, which all requests of this process
    share.
    """
    spool = Spool(folder, minimum_free_bytes)
    return spool, WaitingObjects(spool.incoming)


class _Refused(Exception):
    """Raised if the node refuses to store an object; its argument is the status."""


@dataclass(slots=True)
class _Part:
    """A part of a request while it arrives.

    ``one``: its outcome. ``start``: bytes that are not written yet. ``head``: the first bytes of the data
    set. ``incoming``: its file in the spool; None before that is opened. ``size``: bytes of the data set so
    far.
    """

    one: StowedInstance = field(default_factory=StowedInstance)
    start: bytearray = field(default_factory=bytearray)
    head: bytearray = field(default_factory=bytearray)
    incoming: IncomingObject | None = None
    syntax: TransferSyntax | None = None
    size: int = 0
