"""What persons decide about an analysed study, and the results that come of it."""

from pathlib import Path

from dicom_node.base.lifecycle import ReaderVerdict, RejectionReason, ResultKind
from dicom_node.base.store.tables import Result
from dicom_node.people import assessments, audit, verdicts, withdrawal
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.dicom_console.illustrated import illustrated


def assess_first() -> dict[str, object]:
    made = illustrated()
    made["rules"][0]["assess_first"] = True
    return made


READER, EVA = audit.Person("anna"), audit.Person("eva")


def instead_of_pacs(node: Inbox, *peers: dict[str, object]) -> None:
    """The node has peers like its PACS with these values, and not the PACS itself."""
    *others, pacs = node.settings.peers
    made = (pacs.model_copy(update=peer) for peer in peers)
    node.settings = node.settings.model_copy(update={"peers": (*others, *made)})


def say(
    node: Inbox, verdict: ReaderVerdict, by: audit.Person = READER, place: int = 0, why: str = ""
) -> None:
    about = node.read(verdicts.findings_of_study, node.settings, UID)[place]
    which = {key: about[key] for key in ("finding", "tracking_uid", "model")}
    verdicts.assess(node.settings, 1, verdicts.FindingAssessed(**which, verdict=verdict, because=why), by)


def send(node: Inbox, by: audit.Person = READER) -> list[str]:
    return assessments.send_assessments(node.settings, UID, by)


def withdraw(node: Inbox, *results: int) -> None:
    """These results, or all of the study."""
    withdrawal.withdraw_results(
        node.settings, UID, results or None, reason=RejectionReason.QUALITY, because="other patient"
    )


UID = str(ultrasound("one").StudyInstanceUID)


def another(row: Result, **values: str) -> Result:
    """A result like it."""
    same = {one.key: getattr(row, one.key) for one in Result.__table__.columns}
    return Result(**same | {"id": None} | values)


def results(node: Inbox, kind: ResultKind) -> list[Result]:
    return [row for row in node.rows(Result) if row.kind is kind]


def objects(node: Inbox, kind: ResultKind) -> list[Path]:
    return [node.folder / row.path for row in results(node, kind)]


def result(node: Inbox, kind: ResultKind) -> Result:
    return results(node, kind)[0]
