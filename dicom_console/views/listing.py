"""The page and the list entry of a study."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ai_pipeline.contract import BURNED_IN
from dicom_console.views.search import grouped, names, with_withdrawals
from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotFound
from dicom_node.base.lifecycle import PICTURES, AuditAction, DeliveryState
from dicom_node.base.store import kept_results, views
from dicom_node.base.store.tables import AuditRow, Delivery, ReceivedObject, Result, Study, Withdrawal
from dicom_node.base.store.views import View, columns
from dicom_node.people import Row, held_results, verdicts
from dicom_node.people.pictures import (
    heatmap_finding,
    image_view,
    images_of,
    number_in,
    person_of,
    report_files,
)
from dicom_node.results import stated_report
from dicom_node.results.concepts import OURS

_FIGURES = 12  # of a UID, at least
_LOOKED_INTO = 6  # images of a study, for one with marks
_MOST = 200  # images, received objects and events that a study's page shows
_MOST_READ = 2000  # events that the timeline is made of
_STEPS = 60  # of the timeline that are shown: those that come first
_LIKELIEST = 3  # findings of a model
_OF_OBJECTS: Final = {
    *events.INDEXED,
    *(kind.number for kind in (events.RESULT_BUILT, events.RESULT_EXISTS, events.DELIVERY_SENT)),
    *(kind.number for kind in (events.DELIVERY_CONFIRMED, events.DELIVERY_RETRIED)),
}
"""Events of which each object has its own."""


def uid(session: Session, number: int) -> str:
    """Return the Study Instance UID of study ``number`` or, if it has none, the name that lists show for it.

    Raises NotFound.
    """
    called: str = brief(session, number)["study"]
    return called


def brief(session: Session, number: int) -> View:
    """Return study ``number`` as lists show it. Raises NotFound."""
    found = views.numbered_studies(session, select(Study).where(Study.id == number))
    if not found:
        raise NotFound("there is no such study")
    return with_withdrawals(session, [{"id": number, **found[number]}])[0]


def show(session: Session, settings: Settings, number: int) -> View:
    """Return everything that the page of study ``number`` shows. Raises NotFound."""
    shown = brief(session, number)
    study = session.get_one(Study, number)
    images = [
        {
            "id": row.id,
            **columns(row, "modality", "role", "sop_instance_uid", "purged", "bytes"),
            "number": number_in(row, "InstanceNumber"),
            "series": row.attributes.get("SeriesDescription", ""),
            "view": row.attributes.get("ViewPosition", ""),
            "size": f"{row.attributes.get('Columns', '?')} × {row.attributes.get('Rows', '?')}",
            "frames": number_in(row, "NumberOfFrames") or 1,
        }
        for row in images_of(session, number)
    ]
    received = select(ReceivedObject).where(ReceivedObject.study_id == number).order_by(ReceivedObject.id)
    of_object = ("sop_instance_uid", "outcome", "reason", "calling_ae", "bytes", "received_at")
    reports = report_files(session, settings, number)  # the newest of each rule
    findings = _with_images(images, (row for path in reports for row in stated_report.findings(path)))
    measured = _with_images(images, (row for path in reports for row in stated_report.measurements(path)))
    stated = [stated_report.read_report(path) for path in reports]
    remarks = dict.fromkeys(remark for report in stated for remark in report.remarks)
    happened = views.list_events(session, study_instance_uid=shown["study"], debug=False, limit=_MOST_READ)
    return {
        **shown,
        "accession": study.accession_number,
        "person": person_of(session, settings, number),
        "images": images,
        "lead": _main_image(session, settings, images),
        "deleted": _deletion(session, number, images),
        "received": [columns(row, *of_object) for row in session.scalars(received.limit(_MOST))],
        "jobs": views.list_jobs(session, study_instance_uid=shown["study"]),
        "results": _results(session, settings, number),
        "held": held_results.held_results(session, settings, number),
        "findings": verdicts.with_verdicts(session, number, findings),
        "measurements": measured,
        "conclusions": list(dict.fromkeys(filter(None, (report.conclusion for report in stated)))),
        "remarks": list(remarks),
        "likeliest": _likeliest(findings),
        "missing": verdicts.missing_findings(session, settings, number, findings),
        "steps": views.list_steps(session, study.study_instance_uid),
        "timeline": timeline(happened),
        "events": happened[-_MOST:],
        "most": _MOST,
    }


def _with_images(images: Sequence[View], rows: Iterable[View]) -> list[View]:
    """Return findings or measurements, each with ``id`` and ``number`` (Instance Number) of its image as
    ``of``; None in a study of one image, and for an image that is not among ``images``.
    """
    of = {row["sop_instance_uid"]: {"id": row["id"], "number": row["number"]} for row in images}
    of = of if len(images) > 1 else {}
    return [row | {"of": of.get(row["image"])} for row in rows]


def timeline(rows: Sequence[View]) -> list[View]:
    """Return the steps of a study in order of time, made from its events ``rows``; each has the ``seconds``
    since the step before.

    Like events of several objects of one sender, job or destination are one step: the last one's time, and
    how many ``times``. Changes of the study's state follow from its jobs and deliveries, and are no steps.
    """
    steps: dict[object, View] = {}
    phase = 0  # objects before and after another step are not counted together
    for place, row in enumerate(rows):
        phase = phase if row["number"] in _OF_OBJECTS else place
        key = phase, row["number"], *(row["fields"].get(name) for name in ("calling", "job", "destination"))
        if row["number"] != events.STUDY_MOVED.number:
            steps[key] = row | {"times": steps.get(key, {"times": 0})["times"] + 1}
    ordered = sorted(steps.values(), key=lambda row: str(row["at"]))[:_STEPS]
    times = [datetime.fromisoformat(row["at"]) for row in ordered]
    waited = [None, *((later - earlier).total_seconds() for earlier, later in pairwise(times))]
    return [row | {"seconds": seconds} for row, seconds in zip(ordered, waited, strict=False)]


def questions(rows: Sequence[View]) -> list[View]:
    """Return the choices that a person must make before a study leaves quarantine, those between patients
    first.

    ``rows``: all options, as ``studies.versions`` returns them; each choice has its ``options``. Those
    without number are not chosen.
    """
    options_of = [row for row in rows if row["number"] is not None]
    found = grouped(((row["if_taken"], row["sop_instance_uid"]), row) for row in options_of)
    return [
        {
            "choose": options[0]["choose"],
            "if_taken": if_taken,
            "sop_instance_uid": uid,
            "options": options,
            "differs": sorted({word for option in options for word in option["differs"]}),
        }
        for (if_taken, uid), options in found.items()
    ]


def study_heading(session: Session, settings: Settings, number: int) -> View:
    """Return number, date and patient of study ``number``, for headings. Raises NotFound."""
    row = session.get(Study, number)
    if row is None:
        raise NotFound("there is no such study")
    shown = columns(row, "id", "patient_id", "study_date")
    return shown | {"person": person_of(session, settings, number)}


def named(session: Session, settings: Settings, rows: Sequence[View | Row]) -> dict[str, View]:
    """Return, by Study Instance UID, the fields with which a list names the studies that ``rows`` mention.

    They are ``id``, ``name`` (of the patient), ``patient_id``, ``revision``, and ``ending``: the shortest end
    of the UID that no other study of the list has.
    """
    uids = {row["study_instance_uid"] for row in rows if row["study_instance_uid"]}
    found = session.scalars(select(Study).where(Study.study_instance_uid.in_(uids))).all()
    people = names(session, settings, [row.id for row in found])
    return {
        str(row.study_instance_uid): columns(row, "id", "patient_id", "revision")
        | {"name": people[row.id], "ending": _ending(str(row.study_instance_uid), uids)}
        for row in found
    }


def _ending(uid: str, others: Collection[str]) -> str:
    """Return the shortest ending of ``uid``, after "…", that no other UID of ``others`` has; it has 12
    characters or more.
    """
    for length in range(_FIGURES, len(uid)):
        end = uid[-length:]
        if end[0] != "." and sum(other.endswith(end) for other in others) <= 1:
            return f"…{end}"
    return uid


def dead_by_destination(session: Session) -> dict[str, int]:
    """Return the number of deliveries that were given up, by destination."""
    chosen = select(Delivery.destination, func.count()).where(Delivery.state == DeliveryState.DEAD)
    rows = session.execute(chosen.group_by(Delivery.destination).order_by(Delivery.destination))
    return {destination: number for destination, number in rows}  # noqa: C416


def _deletion(session: Session, number: int, images: Sequence[View]) -> View | None:
    """Return who deleted the ``images`` of study ``number``, and when; None if one is here, or no person did.
    ``results``: whether the results went with them.
    """
    if not all(row["purged"] for row in images):
        return None
    chosen = select(AuditRow).where(
        AuditRow.study_id == number, AuditRow.action == AuditAction.OBJECTS_DELETED
    )
    row = session.scalar(chosen.order_by(AuditRow.id.desc()).limit(1))
    if row is None:
        return None
    return columns(row, "at", "actor") | {"results": bool(row.fields.get("results"))}


def _main_image(session: Session, settings: Settings, images: Sequence[View]) -> View | None:
    """Return the image that the study's page shows large: the first with a finding or measurement, else the
    first that is stored; None without one.
    """
    first: View | None = None
    for number in [row["id"] for row in images if not row["purged"]][:_LOOKED_INTO]:
        seen = image_view(session, settings, number)
        first = first or seen
        if seen["marks"]:
            return seen
    return first


def _results(session: Session, settings: Settings, number: int) -> list[View]:
    """Return the study's result objects, the newest first, each with its deliveries.

    ``subject`` in a row is the finding that a heat map is about.
    """
    chosen = select(Result).where(Result.study_id == number).order_by(Result.id.desc()).limit(_MOST)
    sent = select(Delivery, Result.id).join(Delivery.result).where(Result.study_id == number)
    names = (
        "id",
        "destination",
        "state",
        "reason",
        "status",
        "attempts",
        "sent_at",
        "confirmed_at",
        "discarded_because",
    )
    rows_sent = session.execute(sent.order_by(Delivery.id))
    deliveries = grouped((result, columns(row, *names)) for row, result in rows_sent)
    rows = session.scalars(chosen).all()
    because = kept_results.reasons(session, settings, number)
    taken_back = select(Withdrawal).where(Withdrawal.result_id.in_([row.id for row in rows]))
    gone = {one.result_id: one for one in session.scalars(taken_back)}
    return [
        {
            **columns(row, "id", "job_id", "kind", "sop_instance_uid", "bytes", "deidentified", "created_at"),
            "purged": row.purged,
            "subject": heatmap_finding(session, settings, row),
            "withdrawn": columns(gone[row.id], "at", "actor", "because") if row.id in gone else None,
            "has_pixels": row.id not in gone and not row.purged and row.kind in PICTURES,
            "deliveries": deliveries[row.id],
            "kept_because": because.get(row.id, ""),
        }
        for row in rows
    ]


def _likeliest(findings: Sequence[Mapping[str, Any]]) -> list[View]:
    """Return the three findings with the highest scores for each model that scored more than three.

    Each row has the ``model`` and its ``findings``: ``finding``, ``decision``, ``score`` and ``cut_off`` with
    units ("" if the report states no cut-off, as for an absent finding). If several images have a score for a
    finding, the highest counts. Models are not compared, because only scores of calibrated models are
    probabilities.
    """

    def value(row: View) -> float:
        """Return a row's score as a number."""
        return float(row["score"].split()[0])  # of "83.1 %"

    scored: dict[str, dict[str, View]] = {}
    for row in findings:
        numbers = row["numbers"]
        scores = [text for name, text in numbers.items() if name != OURS["CUTOFF"].meaning]
        if len(scores) != 1 or tuple(row["code"]) == (BURNED_IN.value, BURNED_IN.scheme):
            continue
        found = {
            "finding": row["finding"],
            "decision": row["decision"],
            "score": scores[0],
            "cut_off": numbers.get(OURS["CUTOFF"].meaning, ""),
        }
        best = scored.setdefault(row["model"], {})
        if row["finding"] not in best or value(found) > value(best[row["finding"]]):
            best[row["finding"]] = found
    return [
        {"model": model, "findings": sorted(best.values(), key=value, reverse=True)[:_LIKELIEST]}
        for model, best in scored.items()
        if len(best) > _LIKELIEST
    ]
