"""One received image with the node's results: other pictures of it, and the marks of the report on it."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.images.numbers import whole
from ai_pipeline.pipelines import cards
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.header import read_header
from dicom_node.base.errors import NodeError, NotFound
from dicom_node.base.files import Files
from dicom_node.base.kinds import ObjectRole, ResultKind
from dicom_node.base.store import results
from dicom_node.base.store.tables import Instance, Job, Result, Study
from dicom_node.base.store.views import View
from dicom_node.results import sr as report

_PICTURES = (ResultKind.CLEANED, ResultKind.HEATMAP, ResultKind.SC)
_NOT_SHOWN = (ObjectRole.OWN, ObjectRole.ASIDE)
_PERSON = ("PatientName", "PatientBirthDate", "PatientSex", "StudyDescription")
_MOST = 200  # results that are looked into
_MOST_EARLIER = 50  # images that may be shown beside one


def view(session: Session, settings: Settings, number: int) -> View:
    """The image with this number: size, layers, marks, and the images before and after it.

    A layer is a picture of the same image; with ``same_size``, marks and the received picture fit on the
    layer pixel by pixel. Raises NotFound.
    """
    row = session.get(Instance, number)
    if row is None or row.purged or row.role is ObjectRole.ASIDE:
        raise NotFound("there is no such image, or no longer")
    uid = row.sop_instance_uid
    in_order = [image.id for image in images_of(session, row.study_id) if not image.purged]
    place = in_order.index(number) if number in in_order else None
    marks = list(_marks(report_files(session, settings, row.study_id), uid))
    names = {mark["finding"] for mark in marks if not mark["decision"]}
    return {
        "id": number,
        "uid": uid,
        "study": row.study_id,
        "columns": number_in(row, "Columns"),
        "rows": number_in(row, "Rows"),
        "layers": _layers(session, settings, row.study_id, uid),
        "marks": marks,
        # What the cards of pipelines say of the lines that are drawn for measurements.
        "about_lines": [
            one.about
            for card in (cards() if names else ())
            for one in card.measures
            if one.about and one.code.meaning in names
        ],
        "before": in_order[place - 1] if place else None,
        "after": in_order[place + 1] if place is not None and place + 1 < len(in_order) else None,
    }


def earlier(session: Session, number: int) -> list[View]:
    """Images of earlier studies of the same patient and modality, the newest first; none without Patient ID.

    Two studies have the same patient if Patient ID and its issuer are equal.
    """
    row = session.get_one(Instance, number)
    here = session.get_one(Study, row.study_id)
    if not here.patient_id:
        return []
    rows = session.execute(
        select(Instance, Study.study_date)
        .join(Study, Study.id == Instance.study_id)
        .where(
            Study.patient_id == here.patient_id,
            Study.issuer_of_patient_id == here.issuer_of_patient_id,
            Study.study_date < here.study_date,
            Instance.modality == row.modality,
            Instance.role.not_in(_NOT_SHOWN),
            Instance.purged.is_(False),
        )
        .order_by(Study.study_date.desc(), Instance.id)
        .limit(_MOST_EARLIER)
    )
    return [
        {"id": image.id, "date": date, "view": str(image.attributes.get("ViewPosition") or "")}
        for image, date in rows
        if image.attributes.get("Rows")
    ]


def images_of(session: Session, study: int) -> Sequence[Instance]:
    """The study's objects in force that have pixels, in the order of the examination."""
    shown = (Instance.study_id == study, Instance.role.not_in(_NOT_SHOWN))
    rows = session.scalars(select(Instance).where(*shown).order_by(Instance.id).limit(_MOST))
    return sorted(
        (row for row in rows if row.attributes.get("Rows")),
        key=lambda row: (number_in(row, "SeriesNumber"), number_in(row, "InstanceNumber"), row.id),
    )


def number_in(row: Instance, keyword: str) -> int:
    """A number from the image's header, 0 if it is missing."""
    return whole(row.attributes.get(keyword, "")) or 0


def report_files(session: Session, settings: Settings, study: int) -> list[Path]:
    """The file of the newest report of each rule that names the patient, if the file exists.

    If the newest was withdrawn there is none: a replaced report does not come back. Reports on images that
    were purged before the newest was made are not replaced by it; they come first.
    """
    rows = session.execute(
        select(Result, Job.rule, Job.source_uids)
        .join(Job, Result.job_id == Job.id)
        .where(Result.study_id == study, Result.kind == ResultKind.SR, Result.deidentified.is_(False))
        .order_by(Result.id.desc())
    ).all()
    replaced = {row.supersedes for row, _, _ in rows}
    newest: list[Result] = []
    reported: dict[str, set[str]] = {}  # images of newer reports, by rule
    for row, rule, images in rows:
        if row.sop_instance_uid not in replaced and not reported.setdefault(rule, set()).issuperset(images):
            newest.insert(0, row)
            reported[rule].update(images)
    gone = results.withdrawn(session, [row.id for row in newest])
    door = Files(settings)
    return [path for row in newest if row.id not in gone and (path := door.if_here(session, row.path))]


def pictures_of(session: Session, settings: Settings, study: int, uid: str) -> Iterator[tuple[str, Result]]:
    """All pictures made of the image that name the patient, the newest first, with their subjects."""
    wanted = (Result.study_id == study, Result.kind.in_(_PICTURES), Result.deidentified.is_(False))
    for row in session.scalars(select(Result).where(*wanted).order_by(Result.id.desc()).limit(_MOST)):
        path = Files(settings).if_here(session, row.path)
        if path and (name := _name(row, path, uid)):
            yield name, row


def person(session: Session, settings: Settings, number: int) -> dict[str, str]:
    """Name, birth date and sex, read from a file of the study: the database does not contain them all."""
    shown = (Instance.study_id == number, Instance.purged.is_(False), Instance.role.not_in(_NOT_SHOWN))
    row = session.scalar(select(Instance).where(*shown).order_by(Instance.id.desc()).limit(1))
    header = Dataset()
    if row is not None and (path := Files(settings).if_here(session, row.path)):
        with suppress(NodeError):  # its text does not decode: the study's reason says so
            header = read_header(path, _PERSON, row.assumed_charset).dataset
    return {keyword: str(header.get(keyword) or "") for keyword in _PERSON}


def subject(session: Session, settings: Settings, row: Result) -> str:
    """The finding of a heat map; "" for other results, and if its file is missing."""
    path = Files(settings).if_here(session, row.path) if row.kind is ResultKind.HEATMAP else None
    if path is None:
        return ""
    return _subject(dcmread(path, stop_before_pixels=True, specific_tags=["DerivationDescription"]))


def _marks(files: Sequence[Path], uid: str) -> Iterator[View]:
    """What reports draw on the image, each line once and the name of a measurement once."""
    drawn: set[object] = set()
    named: set[tuple[str, object]] = set()
    for mark in (mark for path in files for mark in report.places(path) if mark["image"] == uid):
        place = (tuple(mark["points"]), tuple(mark["frames"]))
        if place in drawn:
            continue
        drawn.add(place)
        name = (mark["finding"], place if mark["decision"] else place[1])
        text = "" if name in named else mark["finding"]
        named.add(name)
        yield {
            **mark,
            "text": text,
            "points": [(round(x, 1), round(y, 1)) for x, y in mark["points"]],
        }


def _layers(session: Session, settings: Settings, study: int, uid: str) -> list[View]:
    """Pictures that were made of the image, the newest of each name unless it was withdrawn."""
    found: dict[str, Result] = {}
    for name, row in pictures_of(session, settings, study, uid):
        found.setdefault(name, row)
    gone = results.withdrawn(session, [row.id for row in found.values()])
    return [
        {
            "id": row.id,
            "kind": row.kind.value,
            "name": name,
            "same_size": row.kind is ResultKind.CLEANED,
        }
        for name, row in sorted(found.items(), key=lambda item: (_PICTURES.index(item[1].kind), item[1].id))
        if row.id not in gone
    ]


def _name(row: Result, path: Path, uid: str) -> str:
    """What the picture is called beside this image; "" where it is of another one."""
    header = dcmread(
        path, stop_before_pixels=True, specific_tags=["SourceImageSequence", "DerivationDescription"]
    )
    if uid not in {item.ReferencedSOPInstanceUID for item in header.get("SourceImageSequence", [])}:
        return ""
    return _NAMES.get(row.kind) or f"Heat map: {_subject(header)}"


def _subject(header: Dataset) -> str:
    """The finding that a heat map is of, as its first sentence says (``results.pictures.build_heatmap``)."""
    return str(header.get("DerivationDescription", "")).partition(" of ")[2].partition(".")[0]


_NAMES = {ResultKind.CLEANED: "Cleaned", ResultKind.SC: "Drawn into the picture"}
