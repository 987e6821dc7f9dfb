"""The received images of a study, and the reports and pictures that the node made of them, for pages."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
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
from dicom_node.base.lifecycle import ObjectRole, ResultKind
from dicom_node.base.store import results as stored_results
from dicom_node.base.store.tables import Instance, Job, Result
from dicom_node.base.store.views import View

_PICTURES = (ResultKind.CLEANED, ResultKind.HEATMAP, ResultKind.SC)
_NOT_SHOWN = (ObjectRole.OWN, ObjectRole.ASIDE)
_PERSON = ("PatientName", "PatientBirthDate", "PatientSex", "StudyDescription")
_MOST_RESULTS = 200  # results that are looked into


def image_view(session: Session, settings: Settings, number: int) -> View:
    """The received image with this number for a page: size, layers, marks, and the images before and after
    it.

    A layer is a result picture of the image; with ``same_size`` marks fit on it pixel by pixel. A mark is a
    line or region that a report draws. Raises NotFound.
    """
    row = session.get(Instance, number)
    if row is None or row.purged or row.role is ObjectRole.ASIDE:
        raise NotFound("there is no such image, or no longer")
    uid = row.sop_instance_uid
    in_order = [image.id for image in images_of(session, row.study_id) if not image.purged]
    marks = list(_marks(report_files(session, settings, row.study_id), uid))
    return {
        "id": number,
        "uid": uid,
        "study": row.study_id,
        "columns": number_in(row, "Columns"),
        "rows": number_in(row, "Rows"),
        "layers": _layers(session, settings, row),
        "marks": marks,
        "about_lines": _about_lines({mark["finding"] for mark in marks if not mark["decision"]}),
        "before": dict(pairwise(reversed(in_order))).get(number),
        "after": dict(pairwise(in_order)).get(number),
    }


def _layers(session: Session, settings: Settings, image: Instance) -> list[View]:
    """The newest picture of each name that was made of an image and not withdrawn, in the order of kinds."""
    pictures: dict[str, Result] = {}
    for name, made in pictures_of(session, settings, image.study_id, image.sop_instance_uid):
        pictures.setdefault(name, made)
    gone = stored_results.withdrawn(session, [made.id for made in pictures.values()])
    layers = [(name, made) for name, made in pictures.items() if made.id not in gone]
    layers.sort(key=lambda layer: (_PICTURES.index(layer[1].kind), layer[1].id))
    return [
        {"id": made.id, "kind": made.kind, "name": name, "same_size": made.kind is ResultKind.CLEANED}
        for name, made in layers
    ]


def _about_lines(findings: Collection[str]) -> list[str]:
    """What the cards of pipelines say of the lines that are drawn for these measurements."""
    if not findings:
        return []
    measures = (measure for card in cards() for measure in card.measures)
    return [measure.about for measure in measures if measure.about and measure.code.meaning in findings]


def images_of(session: Session, study: int) -> Sequence[Instance]:
    """The received objects of a study that have pixels, in the order of the examination; replaced ones are
    left out.
    """
    rows = session.scalars(
        select(Instance)
        .where(Instance.study_id == study, Instance.role.not_in(_NOT_SHOWN))
        .order_by(Instance.id)
        .limit(_MOST_RESULTS)
    )
    return sorted(
        (row for row in rows if row.attributes.get("Rows")),
        key=lambda row: (number_in(row, "SeriesNumber"), number_in(row, "InstanceNumber"), row.id),
    )


def number_in(row: Instance, keyword: str) -> int:
    """The value of this keyword in the image's header as a whole number; 0 if it is missing."""
    return whole(row.attributes.get(keyword, "")) or 0


def report_files(session: Session, settings: Settings, study: int) -> dict[Path, Result]:
    """The newest reports that name the patient, one for each rule, by their files, as far as these exist.

    If the newest was withdrawn there is none: a replaced report does not come back. Reports on images that
    were purged before the newest was made are not replaced by it; they come first.
    """
    rows = session.execute(
        select(Result, Job.rule, Job.source_uids)
        .join(Result.job)
        .where(Result.study_id == study, Result.kind == ResultKind.SR, ~Result.deidentified)
        .order_by(Result.id.desc())
    ).all()
    replaced = {row.supersedes for row, _, _ in rows}
    newest: list[Result] = []
    reported: dict[str, set[str]] = {}  # images of newer reports, by rule
    for row, rule, images in rows:
        if row.sop_instance_uid not in replaced and not reported.setdefault(rule, set()).issuperset(images):
            newest.insert(0, row)
            reported[rule].update(images)
    gone = stored_results.withdrawn(session, [row.id for row in newest])
    door = Files(settings)
    return {path: row for row in newest if row.id not in gone and (path := door.if_here(session, row.path))}


def pictures_of(session: Session, settings: Settings, study: int, uid: str) -> Iterator[tuple[str, Result]]:
    """Yield (what it shows, result) for each picture made of the image ``uid`` that is not de-identified, the
    newest first.

    ``study``: its number.
    """
    for row in session.scalars(
        select(Result)
        .where(Result.study_id == study, Result.kind.in_(_PICTURES), ~Result.deidentified)
        .order_by(Result.id.desc())
        .limit(_MOST_RESULTS)
    ):
        path = Files(settings).if_here(session, row.path)
        if path and (name := _picture_name(row, path, uid)):
            yield name, row


def person_of(session: Session, settings: Settings, number: int) -> dict[str, str]:
    """The patient's name, birth date and sex, and the study's description, read from a file of the study; ""
    for missing.

    The database does not contain them all. ``number``: of the study.
    """
    row = session.scalar(
        select(Instance)
        .where(Instance.study_id == number, ~Instance.purged, Instance.role.not_in(_NOT_SHOWN))
        .order_by(Instance.id.desc())
        .limit(1)
    )
    header = Dataset()
    if row is not None and (path := Files(settings).if_here(session, row.path)):
        with suppress(NodeError):  # its text does not decode: the study's reason says so
            header = read_header(path, _PERSON, row.assumed_charset).dataset
    return {keyword: str(header.get(keyword) or "") for keyword in _PERSON}


def heatmap_finding(session: Session, settings: Settings, row: Result) -> str:
    """The finding that a heat map shows; "" for other results, and if its file is missing."""
    path = Files(settings).if_here(session, row.path) if row.kind is ResultKind.HEATMAP else None
    if path is None:
        return ""
    return _finding_in_description(
        dcmread(path, stop_before_pixels=True, specific_tags=["DerivationDescription"])
    )


def _marks(files: Iterable[Path], uid: str) -> Iterator[View]:
    """Yield the lines and regions that reports (``files``) draw on the image ``uid``, each once; its text
    only once.
    """
    drawn: set[object] = set()
    named: set[tuple[str, object]] = set()
    from dicom_node.results.stated_report import places  # heavy; the node's main process imports this module

    for mark in (mark for path in files for mark in places(path) if mark["image"] == uid):
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


def _picture_name(row: Result, path: Path, uid: str) -> str:
    """What a result picture shows in words; "" if it was made of another image than ``uid``."""
    header = dcmread(
        path, stop_before_pixels=True, specific_tags=["SourceImageSequence", "DerivationDescription"]
    )
    if uid not in {item.ReferencedSOPInstanceUID for item in header.get("SourceImageSequence", [])}:
        return ""
    return _NAMES.get(row.kind) or f"Heat map: {_finding_in_description(header)}"


def _finding_in_description(header: Dataset) -> str:
    """The finding that a heat map shows, as the first sentence of its description says
    (``results.pictures.build_heatmap``).
    """
    return str(header.get("DerivationDescription", "")).partition(" of ")[2].partition(".")[0]


_NAMES = {ResultKind.CLEANED: "Cleaned", ResultKind.SC: "Drawn into the picture"}
