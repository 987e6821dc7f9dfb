"""Files of the spool and rows of the index that lost each other."""

from datetime import timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from dicom_node.base.lifecycle import (
    StudyState,
)
from dicom_node.base.store.tables import (
    Instance,
    Job,
    ReceivedObject,
    Study,
)
from dicom_node.base.store.transitions import utc_now
from dicom_node.studies.purging import purge
from dicom_node.studies.reconciliation import compare, reconcile, reindex
from tests.inbox_lab import Inbox
from tests.modality import ultrasound, ultrasounds
from tests.unit.receive.objects import (
    changed,
)


def lose_database(inbox: Inbox) -> Inbox:
    """As after ``rm node.db*`` and a restart."""
    inbox.close()
    for path in inbox.folder.glob("node.db*"):
        path.unlink()
    return Inbox(inbox.folder)


def test_a_lost_database_is_named_and_its_studies_come_back(inbox: Inbox) -> None:
    images = [ultrasound(name, number=number) for name in ("one", "two") for number in (1, 2)]
    faulty = changed(ultrasound("faulty"), Rows=0)
    inbox.settle(*images, faulty)
    again = lose_database(inbox)
    stores = again.stores
    reconcile(*stores)
    [event] = again.events()
    assert (event.number, event.fields["unknown"], event.fields["missing"]) == (2030, 5, 0)
    assert "spool reindex" in event.fields["remedy"]
    assert reindex(*stores) == 5
    again.settle()
    for image in images:
        study = again.study_of(image)
        assert (study.state, study.revision) == (StudyState.QUEUED, 1)
    assert again.study_of(faulty).state is StudyState.QUARANTINED
    assert not str(compare(*stores))
    assert again.reindex() == 0
    assert len(again.outcomes()) == 5
    assert [e.number for e in again.events() if e.number in (2030, 2036)] == [
        2030,
        2036,
    ]
    again.close()


def test_a_reindexed_study_waits_for_its_other_objects(inbox: Inbox) -> None:
    """Its objects came long ago, but they are still being put back: no revision for each of them."""
    images = ultrasounds("slow", 2)
    inbox.settle(*images)
    again = lose_database(inbox)
    for path in compare(*again.stores).unknown:
        again.spool.put_back(path)
        again.index()
        assert again.assemble(seconds=0) == 0
    again.settle()
    assert again.study_of(images[0]).revision == 1
    again.close()


def test_a_row_whose_file_is_gone_is_named(inbox: Inbox) -> None:
    image = ultrasound("gone")
    inbox.index(image)
    (inbox.folder / inbox.instance(image).path).unlink()
    reconcile(*inbox.stores)
    assert inbox.events()[-1].fields["missing"] == 1


def test_the_purge_reaches_what_outlived_it_and_never_what_was_never_indexed(inbox: Inbox) -> None:
    known, unknown = ultrasound("known"), ultrasound("unknown")
    inbox.settle(known, unknown)
    inbox.write(Session.execute, delete(Job))
    inbox.put(Study, inbox.study_of(known).id, state=StudyState.NOT_APPLICABLE)
    lost = inbox.study_of(unknown).id
    for table in (Instance, ReceivedObject):
        inbox.write(Session.execute, delete(table).where(table.study_id == lost))
    path = inbox.folder / inbox.instance(known).path
    held = path.read_bytes()
    assert purge(inbox.database, inbox.settings, utc_now() + timedelta(days=1000)) == 1
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(held)  # a crash between the commit and the deletion
    assert inbox.spool_files() == 2
    reconcile(*inbox.stores)
    assert inbox.spool_files() == 1
    assert (inbox.events()[-1].number, inbox.events()[-1].fields["unknown"]) == (2030, 1)
    inbox.reindex()
    inbox.index()
    assert inbox.study_of(unknown).state is StudyState.RECEIVING
