"""What the spool has and the index lacks, and the other way round, is found, named and put right."""

from __future__ import annotations

from sqlalchemy import delete

from dicom_node.model.lifecycle import StudyState
from dicom_node.store.tables import Instance, ReceivedObject, Study
from dicom_node.store.transitions import utc_now
from dicom_node.studies.comparison import compare, reconcile, reindex
from dicom_node.studies.purge import purge
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed
from tests.unit.studies.test_purge import DAYS, files


def lose_database(inbox: Inbox) -> Inbox:
    """As after ``rm node.db*`` and a restart."""
    inbox.database.dispose()
    for path in inbox.folder.glob("node.db*"):
        path.unlink()
    return Inbox(inbox.folder)


def silent(_done: int, _of: int) -> None:
    pass


def test_a_lost_database_is_named_and_its_studies_come_back(inbox: Inbox) -> None:
    images = [ultrasound(name, number=number) for name in ("one", "two") for number in (1, 2)]
    faulty = changed(ultrasound("faulty"), Rows=0)
    inbox.receive(*images, faulty)
    inbox.settle()
    again = lose_database(inbox)
    reconcile(again.database, again.spool, again.files)
    [event] = again.events()
    assert (event.number, event.fields["unknown"], event.fields["missing"]) == (2030, 5, 0)
    assert "spool reindex" in event.fields["remedy"]
    told: list[tuple[int, int]] = []
    assert reindex(again.database, again.spool, again.files, lambda *at: told.append(at)) == 5
    assert told[-1] == (5, 5)
    again.settle()
    for image in images:
        study = again.study(image.StudyInstanceUID)
        assert (study.state, study.revision) == (StudyState.QUEUED, 1)
    assert again.study(faulty.StudyInstanceUID).state is StudyState.QUARANTINED
    assert not str(compare(again.database, again.spool, again.files))
    assert reindex(again.database, again.spool, again.files, silent) == 0
    assert len(again.outcomes()) == 5
    again.close()


def test_a_reindexed_study_waits_for_its_other_objects(inbox: Inbox) -> None:
    """Its objects came long ago, but they are still being put back: no revision for each of them."""
    images = [ultrasound("slow", number=number) for number in (1, 2)]
    inbox.receive(*images)
    inbox.settle()
    again = lose_database(inbox)
    paths = compare(again.database, again.spool, again.files).unknown
    for path in paths:
        again.spool.put_back(path)
        again.index()
        assert again.assemble(seconds=0) == 0
    again.settle()
    assert again.study(images[0].StudyInstanceUID).revision == 1
    again.close()


def test_a_row_whose_file_is_gone_is_named(inbox: Inbox) -> None:
    image = ultrasound("gone")
    inbox.receive(image)
    inbox.index()
    (inbox.folder / inbox.instance(image.SOPInstanceUID).path).unlink()
    reconcile(inbox.database, inbox.spool, inbox.files)
    assert inbox.events()[-1].fields["missing"] == 1


def test_what_waits_for_the_index_or_the_move_is_no_difference(inbox: Inbox) -> None:
    image = ultrasound("moving")
    inbox.receive(image)
    inbox.index()
    inbox.spool.put_back(inbox.folder / inbox.instance(image.SOPInstanceUID).path)  # died before the move
    inbox.receive(ultrasound("waiting"))
    assert not str(compare(inbox.database, inbox.spool, inbox.files))


def test_the_purge_reaches_what_outlived_it_and_never_what_was_never_indexed(inbox: Inbox) -> None:
    known, unknown = ultrasound("known"), ultrasound("unknown")
    inbox.receive(known, unknown)
    inbox.settle()
    with inbox.database.write() as session:
        study = session.query(Study).filter_by(study_instance_uid=known.StudyInstanceUID).one()
        for job in study.jobs:
            session.delete(job)
        study.state = StudyState.NOT_APPLICABLE
        lost = session.query(Study).filter_by(study_instance_uid=unknown.StudyInstanceUID).one()
        session.execute(delete(Instance).where(Instance.study_id == lost.id))
        session.execute(delete(ReceivedObject).where(ReceivedObject.study_id == lost.id))
    path = inbox.folder / inbox.instance(known.SOPInstanceUID).path
    held = path.read_bytes()
    assert purge(inbox.database, inbox.settings, utc_now() + 1000 * DAYS) == 1
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(held)  # a crash between the commit and the deletion
    assert files(inbox) == 2
    reconcile(inbox.database, inbox.spool, inbox.files)
    assert files(inbox) == 1
    assert (inbox.events()[-1].number, inbox.events()[-1].fields["unknown"]) == (2030, 1)
    reindex(inbox.database, inbox.spool, inbox.files, silent)
    inbox.index()
    assert inbox.study(unknown.StudyInstanceUID).state is StudyState.RECEIVING


def test_a_file_put_back_twice_is_not_indexed_twice(inbox: Inbox) -> None:
    image = ultrasound("twice")
    inbox.receive(image)
    inbox.index()
    inbox.spool.put_back(inbox.folder / inbox.instance(image.SOPInstanceUID).path)
    inbox.index()
    assert inbox.outcomes() == ["new"]
    assert inbox.file_of(image.SOPInstanceUID).SOPInstanceUID == image.SOPInstanceUID
