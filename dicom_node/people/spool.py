"""A person's actions on the spool: delete received objects, compare with the database, index again."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, all_of
from dicom_node.base.actions.columns import STUDY_UID, fields, yes_no
from dicom_node.base.actions.inputs import StudyUid, StudyUids
from dicom_node.base.actions.nouns import STUDIES
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import (
    AuditAction,
    UserRole,
)
from dicom_node.base.store.tables import Study
from dicom_node.base.store.views import View, find_study
from dicom_node.people import (
    audit,
    open_database,
    reading,
)
from dicom_node.people.audit import COMMAND_LINE, Person


@Action(
    STUDIES,
    "delete",
    "Delete received images of studies before spool.keep_days; exit status 1 if one cannot be "
    "deleted.\n\nA study must have ended with all results confirmed. Built results stay.",
    "1.2.840.113619.2.1 --config node.toml",
    columns=(STUDY_UID, yes_no("deleted", "deleted"), *fields("why not: reason")),
    status=all_of("deleted"),
    role=UserRole.ADMIN,
)
def delete_by_uid(
    settings: Settings, study_instance_uids: StudyUids, by: Person = COMMAND_LINE
) -> list[View]:
    """Delete the received objects of studies, given by Study Instance UID; returns rows as
    ``delete_received``.

    Raises NotFound.
    """
    with reading(settings) as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
    return delete_received(settings, studies, by)


def delete_received(settings: Settings, studies: Sequence[int], by: Person = COMMAND_LINE) -> list[View]:
    """Delete the received objects of these studies (numbers) now; returns a row for each, with the reason why
    not, or "".

    The rule is that of ``spool.keep_days`` without the days: a study must have ended, and each of its results
    be confirmed, cancelled or discarded. Built results stay.
    """
    from dicom_node.studies.purging import purge_now

    def note(session: Session, study: int) -> None:
        """Note the deletion in the audit."""
        audit.note(session, by, AuditAction.OBJECTS_DELETED, study_id=study)

    with open_database(settings) as database:
        deleted = set(purge_now(database, settings, studies, note))
        with database.read() as session:
            return [
                {
                    "study_instance_uid": session.get_one(Study, study).study_instance_uid,
                    "deleted": study in deleted,
                    "reason": "" if study in deleted else _NOT_DELETED,
                }
                for study in studies
            ]


@Action(
    STUDIES,
    "erase",
    "Delete received images and built results of a study now; the entry with the Patient ID, events, the "
    "audit and copies in a PACS stay.\n\nA study must have ended with all results confirmed, cancelled or "
    "discarded.",
    "1.2.840.113619.2.1 --config node.toml",
    says="{result} files deleted.",
    role=UserRole.ADMIN,
)
def erase_study(settings: Settings, study_instance_uid: StudyUid, by: Person = COMMAND_LINE) -> int:
    """Delete the received objects and built results of a study; returns the number of files.

    Raises NotFound, and NotAllowedNow while a job or a delivery is under way.
    """
    from dicom_node.people.tried_programs import forget_study
    from dicom_node.studies.purging import erase_now

    with reading(settings) as session:
        study = find_study(session, study_instance_uid).id
    deleted = 0

    def note(session: Session, files: int) -> None:
        """Note the deletion in the audit."""
        nonlocal deleted
        deleted = files
        audit.note(session, by, AuditAction.OBJECTS_DELETED, study_id=study, files=files, results=True)

    with open_database(settings) as database:
        if not erase_now(database, settings, study, note):
            raise NotAllowedNow(_NOT_ERASED)
    forget_study(settings, study)
    return deleted


_NOT_ERASED = (
    "nothing was deleted: release the study from quarantine, wait until it has ended, and send, discard or "
    "cancel what is held or not confirmed"
)
_NOT_DELETED = (
    "its images were deleted before, or must stay: release it from quarantine, wait until it has ended, and "
    "send, discard or cancel what is held or not confirmed"
)


def compare_spool(settings: Settings) -> str:
    """The differences between the spooled objects and the database in words, and what to do; "" if there is
    none.
    """
    from dicom_node.receive.spool import Spool
    from dicom_node.studies.reconciliation import compare

    spool = Spool(settings.node.data_dir / "spool", minimum_free_bytes=0)
    with open_database(settings) as database:
        return str(compare(database, spool, Files(settings)))


def reindex_spool(settings: Settings) -> int:
    """Let the node index spooled objects that its database does not know; returns how many. Raises
    SpoolError.
    """
    from dicom_node.receive.spool import Spool
    from dicom_node.studies.reconciliation import reindex

    spool = Spool(settings.node.data_dir / "spool", minimum_free_bytes=0)
    with open_database(settings) as database:
        done = reindex(database, spool, Files(settings))
        if done:
            with database.write() as session:
                audit.note(session, COMMAND_LINE, AuditAction.SPOOL_REINDEXED, objects=done)
    return done
