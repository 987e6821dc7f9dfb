"""Reviews by persons: of findings, of results that wait for an assessment, of images and their cleaning.

A reader's verdict on a finding is sent as an object, and counted by model and version: how often the AI was
right. Images whose cleaning waits for a person (withheld, blacked out, filled wider) are decided here, and
device rules are made of boxes that a person drew: tried on the last images of the device, then saved.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from ai_pipeline.burnin.devices.rules import DeviceRule, conditions_of, read_rules
from ai_pipeline.contract import Decision, ImageHeader
from ai_pipeline.errors import CardError, DeviceRuleError, PixelError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.models import registry
from dicom_node.base.config.sample import toml_value
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER, PeerSettings, Settings
from dicom_node.base.durable import write_new
from dicom_node.base.errors import FaultyInput, NotAllowedNow, NotFound, StorageError
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import (
    OPEN_DELIVERIES,
    UNDECIDED,
    AuditAction,
    DeliveryState,
    HeldState,
    ObjectRole,
    ReaderVerdict,
    ResultKind,
    ReviewCause,
    ReviewVerdict,
    StudyState,
    UserRole,
)
from dicom_node.base.store import results
from dicom_node.base.store.tables import CleaningReview, DrawnByHand, Feedback, Instance, Result, Study
from dicom_node.base.store.transitions import FOR_UPDATE, settle_study, utc_now
from dicom_node.base.store.views import View, as_json, columns, find_study
from dicom_node.deliver import holding, outbox
from dicom_node.jobs.drift import wilson
from dicom_node.jobs.worker.images import device_rules_of
from dicom_node.people import (
    PRINTABLE,
    Because,
    Row,
    ServiceRequest,
    ServiceResult,
    audit,
    existing,
    pictures,
    writing,
)

COLUMNS = (
    "at", "actor", "study_instance_uid", "finding", "tracking_uid", "decision", "verdict", "because",
    "report_uid", "model", "version",
)  # fmt: skip
_KEYS = ("finding", "tracking_uid", "model")  # what tells a finding of a study from the others
_NOT_ACCEPTED = (ReaderVerdict.MODIFIED.value, ReaderVerdict.REJECTED.value)

AsOf = Annotated[str | None, Field(max_length=64, pattern=PRINTABLE)]


class FindingAssessed(ServiceRequest):
    """A request to store a person's verdict on a finding of a study's newest report.

    ``because``: the reason, needed if the finding is modified or rejected. ``tracking_uid``: of the finding,
    "" if it has none.
    """

    finding: str = Field(max_length=64, pattern=PRINTABLE)
    model: str = Field(max_length=130, pattern=PRINTABLE)
    tracking_uid: str = Field("", max_length=64, pattern=PRINTABLE)
    verdict: ReaderVerdict
    because: str = Field("", max_length=audit.LONGEST_REASON, pattern=PRINTABLE)


class AcceptResults(ServiceRequest):
    """A request to accept the results of a study that wait for an assessment.

    ``as_of``: the hash of the results that the person saw; required for rejected results. The request is
    refused (409) if other results wait meanwhile.
    """

    as_of: AsOf = None


class RejectResults(Because):
    """A request to reject results that wait for an assessment, with the reason; ``as_of`` as in
    ``AcceptResults``.
    """

    as_of: AsOf = None


def held_results(session: Session, settings: Settings, study: int) -> View:
    """The results of a study that wait for an assessment or were rejected, since when they wait, and who
    decided what.

    ``takers``: peers that have a report of the study and accept assessments. A decision must pass ``as_of``
    back, so that it applies to the results that the person saw.
    """
    rows = holding.decidable_results(session, study)
    decisions = {
        (row.decided_at, row.decided_by, row.state): {
            "verdict": row.state.value,
            **columns(row, "decided_at", "decided_by", "because"),
        }
        for row in holding.decided_results(session, study)
    }
    return {
        "waiting": sum(row.state in UNDECIDED for row in rows),
        "rejected": sum(row.state is HeldState.REJECTED for row in rows),
        "since": as_json(min((row.since for row in rows), default=None)),
        "as_of": holding.results_hash(rows) if rows else "",
        "decisions": list(decisions.values()),
        "takers": sorted(
            {peer.name for one in _reports(session, settings, study) for peer in _takers(settings, one)}
        ),
    }


def accept_results(
    settings: Settings,
    study_instance_uid: str,
    by: audit.Person = audit.COMMAND_LINE,
    *,
    as_of: str | None = None,
    rejected: bool | None = None,
) -> int:
    """Accept the results of a study that wait for an assessment, so that they are sent; returns how many.

    ``as_of``: the hash of the results that the person saw; None: not compared. ``rejected``: True to accept
    rejected results instead; None: as the hash says. A finding that the results suspect and that nobody has
    assessed counts as accepted by this person. Peers that take assessments get this person's assessment, too.

    Raises NotFound, or NotAllowedNow if no results wait, if they changed, or if a finding in them was not
    accepted: the receivers would see the finding all the same.
    """
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        session.get_one(Study, study, with_for_update=FOR_UPDATE)  # nobody assesses a finding meanwhile
        findings = with_verdicts(session, study, _findings(session, settings, study))
        # The last person who assessed them did not accept them.
        others = {
            row["finding"]
            for row in findings
            if row["verdicts"] and row["verdicts"][-1]["verdict"] in _NOT_ACCEPTED
        }
        if others:
            raise NotAllowedNow(
                f"{', '.join(sorted(others))}: not accepted as it is in the results, and they cannot be "
                "changed. Reject the results, or assess the finding anew"
            )
        what = _decision(session, study, HeldState.ACCEPTED)
        number = holding.accept(session, study, by.name, as_of, rejected=rejected)
        # Whoever accepts the results accepts what they suspect and nobody has assessed yet.
        rest = [
            row
            for row in findings
            if row["decision"] == Decision.PRESENT.value and row["model"] and not row["verdicts"]
        ]
        store_verdicts(session, study, rest, ReaderVerdict.ACCEPTED, by, "")
        _send(session, settings, study, by)
        _note_decision(session, by, study, what, number)
    return number


def reject_results(
    settings: Settings,
    study_instance_uid: str,
    by: audit.Person = audit.COMMAND_LINE,
    *,
    because: str,
    as_of: str | None = None,
) -> int:
    """Reject the results of a study that wait for an assessment, so that none is sent; returns how many.

    ``because``: the reason. ``as_of``: the hash of the results that the person saw; None: not compared.
    Raises NotFound, NotAllowedNow, FaultyInput.
    """
    words = audit.checked_reason(because)
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        what = _decision(session, study, HeldState.REJECTED)
        number = holding.reject(session, study, by.name, words, as_of)
        _note_decision(session, by, study, what, number, words)
    return number


def send_assessments(
    settings: Settings, study_instance_uid: str, by: audit.Person = audit.COMMAND_LINE
) -> list[str]:
    """Send this person's assessments of a study to the peers that have the report and accept assessments.

    Returns the names of the peers. Raises NotFound, or NotAllowedNow if there is nothing (new) to send, no
    peer accepts assessments, or the study is being received or in quarantine.
    """
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        state = session.get_one(Study, study, with_for_update=FOR_UPDATE).state
        if state in (StudyState.RECEIVING, StudyState.QUARANTINED):
            raise NotAllowedNow(f"the study is {state}: nothing of it goes anywhere now")
        if not (names := _send(session, settings, study, by)):
            raise NotAllowedNow(
                "there is nothing new to send: assess a finding first; a peer gets it that has "
                "assessments = true and the report"
            )
        audit.note(session, by, AuditAction.ASSESSMENT_SENT, study_id=study, peers=names)
        settle_study(session, study)
    return names


def assess(
    settings: Settings,
    study: int,
    assessment: FindingAssessed,
    by: audit.Person,
) -> None:
    """Store a person's assessment of a finding of the study's newest report, or of one that the report lacks.

    ``study``: its number. A missing finding has no place, so its tracking UID is ignored. Raises NotFound if
    the report does not have the finding (any more), FaultyInput.
    """
    verdict = assessment.verdict
    words = (
        audit.checked_reason(assessment.because)
        if assessment.because or verdict.value in _NOT_ACCEPTED
        else ""
    )
    is_missing = verdict is ReaderVerdict.MISSING
    wanted = (assessment.finding, "" if is_missing else assessment.tracking_uid, assessment.model)
    with writing(settings) as session:
        session.get(Study, study, with_for_update=FOR_UPDATE)  # its results are not accepted meanwhile
        findings = _findings(session, settings, study)
        known = _may_be_missing(settings, findings) if is_missing else findings
        row = next((one for one in known if _key(one) == wanted), None)
        if row is None:
            raise NotFound(
                "this model knows no such finding, or its report says something of it"
                if is_missing
                else "the newest report says nothing of this: load the page again"
            )
        store_verdicts(session, study, [row], verdict, by, words)
        audit.note(
            session,
            by,
            AuditAction.FEEDBACK_GIVEN,
            study_id=study,
            what={
                "finding": {key: row[key] for key in (*_KEYS, "decision", "report_uid")},
                "verdict": verdict.value,
            },
            words=words,
            verdict=verdict.value,
            model=wanted[2],
        )


def findings_of_study(session: Session, settings: Settings, study_instance_uid: str) -> list[View]:
    """The findings of a study's newest reports as rows, with the ``verdicts`` of persons. Raises NotFound."""
    study = find_study(session, study_instance_uid).id
    return with_verdicts(session, study, _findings(session, settings, study))


def with_verdicts(session: Session, study: int, findings: Sequence[View]) -> list[View]:
    """The findings with ``verdicts``: each person's verdict and reason, the newest last; ``study``: its
    number.
    """
    given: dict[tuple[str, ...], list[View]] = {}
    for row in session.scalars(
        select(Feedback).where(Feedback.study_id == study).order_by(Feedback.at, Feedback.id)
    ):
        given.setdefault(_key_of(row), []).append(columns(row, "actor", "verdict", "because"))
    return [row | {"verdicts": given.get(_key(row), [])} for row in findings]


def missing_findings(session: Session, settings: Settings, study: int, findings: Sequence[View]) -> View:
    """The findings that persons reported as missing (``said``), and those that may be so reported
    (``choices``).

    ``findings``: those in the study's newest reports.
    """
    return {
        "said": [
            columns(row, "actor", "finding", "model")
            for row in session.scalars(
                select(Feedback)
                .where(Feedback.study_id == study, Feedback.verdict == ReaderVerdict.MISSING)
                .order_by(Feedback.id)
            )
        ],
        "choices": [
            {"finding": row["finding"], "model": row["model"]} for row in _may_be_missing(settings, findings)
        ],
    }


def counts_by_finding(session: Session, model: str, version: str) -> list[View]:
    """Rows for the findings of a model version: the number of verdicts of each sort, and the positive
    predictive value.

    ``ppv`` is the share of calls "present" that persons confirmed, with its 95 % interval (Wilson); None
    without verdicts. A modified finding counts as confirmed.
    """
    rows = session.execute(
        select(Feedback.finding, Feedback.decision, Feedback.verdict, func.count())
        .where(Feedback.model == model, Feedback.version == version)
        .group_by(Feedback.finding, Feedback.decision, Feedback.verdict)
    )
    found: dict[str, Counter[str]] = {}
    for finding, decision, verdict, number in rows:
        found.setdefault(finding, Counter())[f"{decision} {verdict.value}".strip()] += number
    present, absent = Decision.PRESENT.value, Decision.ABSENT.value
    return [
        {
            "finding": finding,
            "present_accepted": (accepted := number[f"{present} accepted"]),
            "present_modified": (modified := number[f"{present} modified"]),
            "present_rejected": (rejected := number[f"{present} rejected"]),
            "absent_accepted": number[f"{absent} accepted"],
            "missed": number[f"{absent} rejected"] + number[f"{absent} modified"] + number["missing"],
            "ppv": wilson(accepted + modified, accepted + modified + rejected),
        }
        for finding, number in sorted(found.items())
    ]


def all_assessments(
    session: Session, *, since: datetime | None = None, model: str = "", version: str = ""
) -> list[View]:
    """Rows for all assessments, the oldest first, with the keys in COLUMNS.

    ``since``: only from then on, None for all. ``model`` and ``version``: only of this model, "" for all.
    """
    chosen = select(Feedback, Study.study_instance_uid).join(Study, Feedback.study_id == Study.id)
    if since is not None:
        chosen = chosen.where(Feedback.at >= since)
    if model:
        chosen = chosen.where(Feedback.model == model, Feedback.version == version)
    return [
        {
            **columns(row, *(name for name in COLUMNS if name != "study_instance_uid")),
            "study_instance_uid": uid,
        }
        for row, uid in session.execute(chosen.order_by(Feedback.id))
    ]


def _send(session: Session, settings: Settings, study: int, by: audit.Person) -> list[str]:
    """Build and queue an assessment object (SR) for each report that this person assessed; returns the peers'
    names.
    """
    from dicom_node.results.build import (
        FindingAssessment,
        build_assessment,
        put_in_place,
        row_values,
        temporary_files,
    )

    findings = _findings(session, settings, study)
    known = (*_may_be_missing(settings, findings), *findings)
    codes = {_key(row): (row["code"][0], row["code"][1]) for row in known}
    reached: set[str] = set()
    door = Files(settings)
    for report in _reports(session, settings, study):
        peers = _takers(settings, report)
        same = {"study_id": study, "actor": by.name, "report_uid": report.sop_instance_uid}
        rows = [
            row
            for row in session.scalars(select(Feedback).filter_by(**same).order_by(Feedback.id))
            if _key_of(row) in codes
        ]
        if not peers or not rows:
            continue
        # The newest assessment object in which these verdicts were sent.
        former = session.scalar(
            select(Result.sop_instance_uid)
            .where(Result.kind == ResultKind.ASSESSMENT)
            .where(Result.sop_instance_uid.in_([row.sent_in for row in rows]))
            .order_by(Result.id.desc())
            .limit(1)
        )
        built = build_assessment(
            door.here(session, report.path),
            [
                FindingAssessment(
                    finding=row.finding,
                    code=codes[_key_of(row)],
                    tracking_uid=row.tracking_uid,
                    model=row.model,
                    version=row.version,
                    verdict=row.verdict,
                    because=row.because,
                    at=row.at,
                )
                for row in rows
            ],
            by.name,
            settings.node.ae_title,
            results.this_installation(session),
            former or "",
        )
        if results.is_result(session, built.sop_instance_uid):
            continue
        with temporary_files([built], door) as files:
            file = files[built.sop_instance_uid]
            made = Result(
                study_id=study,
                job_id=report.job_id,
                created_at=utc_now(),
                **row_values(built, file, door),
            )
            outbox.enqueue(session, results.add(session, made), peers)
            for one in rows:
                one.sent_in = built.sop_instance_uid
            session.flush()
            put_in_place([] if file.was_there else [file], door)
        reached |= {peer.name for peer in peers}
    return sorted(reached)


def _reports(session: Session, settings: Settings, study: int) -> Sequence[Result]:
    """The rows of a study's newest reports that name the patient (not de-identified ones)."""
    uids = [path.stem for path in pictures.report_files(session, settings, study)]
    in_force = Result.sop_instance_uid.in_(uids), ~Result.outdated
    return session.scalars(select(Result).where(*in_force).order_by(Result.id)).all()


def _takers(settings: Settings, report: Result) -> list[PeerSettings]:
    """The peers that accept assessments, and have the report or will get it."""
    have = {
        one.destination
        for one in report.deliveries
        if one.state in OPEN_DELIVERIES | {DeliveryState.CONFIRMED}
    }
    return [
        peer for peer in settings.peers if peer.assessments and "receive" in peer.may and peer.name in have
    ]


def _decision(session: Session, study: int, verdict: HeldState) -> dict[str, Any]:
    """A person's decision on a study's results, with UIDs in place of row numbers, for its copy outside the
    database.
    """
    held_rows = holding.decidable_results(session, study)
    uids = select(Result.sop_instance_uid).where(Result.id.in_([row.result_id for row in held_rows]))
    return {
        "results": sorted(session.scalars(uids)),
        "rejected": [row.state for row in held_rows[:1]] == [HeldState.REJECTED],
        "verdict": verdict.value,
    }


def _note_decision(
    session: Session, by: audit.Person, study: int, what: dict[str, Any], results: int, words: str = ""
) -> None:
    """Note a decision on results in the audit; ``what`` as from ``_decision``, ``results``: how many,
    ``words``: the reason.
    """
    audit.note(
        session,
        by,
        AuditAction.RESULTS_ASSESSED,
        study_id=study,
        what=what,
        words=words,
        verdict=what["verdict"],
        results=results,
    )


def store_verdicts(
    session: Session,
    study: int,
    findings: Sequence[Mapping[str, Any]],
    verdict: ReaderVerdict,
    by: audit.Person,
    because: str,
) -> None:
    """Store a person's verdict on these findings; it replaces the person's earlier one."""
    for finding in findings:
        model, _, version = finding["model"].rpartition(" ")
        same = {
            "study_id": study,
            "actor": by.name,
            "finding": finding["finding"],
            "tracking_uid": finding["tracking_uid"],
            "model": model,
            "version": version,
        }
        row = session.scalar(select(Feedback).filter_by(**same))
        if row is None:
            row = Feedback(**same)
            session.add(row)
        row.at, row.decision, row.verdict, row.because = by.now, finding["decision"], verdict, because
        row.report_uid = finding["report_uid"]


def _findings(session: Session, settings: Settings, study: int) -> list[dict[str, Any]]:
    """The findings of a study's newest reports as rows, each with the UID of its report."""
    from dicom_node.results.sr import findings  # heavy, and the node's main process imports this module

    return [
        row | {"report_uid": path.stem}
        for path in pictures.report_files(session, settings, study)
        for row in findings(path)
    ]


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The values that identify a finding of a study: name, tracking UID and model."""
    return tuple(row[key] for key in _KEYS)


def _key_of(row: Feedback) -> tuple[str, ...]:
    """The values that identify the finding that a verdict is about, as ``_key`` gives them."""
    return row.finding, row.tracking_uid, f"{row.model} {row.version}"


def _may_be_missing(settings: Settings, findings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for the findings that the models know and did not report, which a person may report as missing."""
    reported = {(row["finding"], row["model"]) for row in findings}
    reports = {row["model"]: row.get("report_uid", "") for row in reversed(findings) if row["model"]}
    found = []
    for model, report_uid in reversed(reports.items()):
        identifier, _, version = model.rpartition(" ")
        try:
            card = registry.find(f"{identifier}@{version}", settings.workers.models_dir)
        except CardError:
            continue  # of a pipeline of the site's own, or no longer here
        about = {"tracking_uid": "", "model": model, "decision": "", "report_uid": report_uid}
        found += [
            {"finding": label.code.meaning, "code": [label.code.value, label.code.scheme], **about}
            for label in card.labels
            if (label.code.meaning, model) not in reported
        ]
    return found


PAGE = 50
"""Images of one page."""
MOST_BOXES = 10
"""Boxes in one image."""
LARGEST_SHARE = 0.5
"""Largest share of the picture under a person's boxes: cleaning refuses more (``burnin.decide.banner``)."""
EDGES = ("left", "top", "right", "bottom")


Edge = Annotated[int, Field(ge=0, lt=100_000)]


class Reviews(ServiceResult):
    """A page of images whose cleaning waits for a person; ``next``: value of ``after`` for the next page,
    null at the end.
    """

    reviews: list[Row]
    next: int | None


class Boxes(ServiceRequest):
    """A request with boxes that a person drew around text to remove: left, top, right, bottom in pixels."""

    boxes: list[tuple[Edge, Edge, Edge, Edge]] = Field(min_length=1, max_length=MOST_BOXES)


def waiting_reviews(session: Session, after: int | None = None) -> tuple[list[View], int | None]:
    """A page of images whose cleaning waits for a person, the longest waiting first, and its last number if
    more follow.

    ``after``: the last number of the page before; None for the first page.
    """
    chosen = _reviews_query().where(CleaningReview.verdict.is_(None)).order_by(CleaningReview.id)
    if after is not None:
        chosen = chosen.where(CleaningReview.id > after)
    found = [_review_row(*row) for row in session.execute(chosen.limit(PAGE + 1)).all()]
    return found[:PAGE], found[PAGE - 1]["id"] if len(found) > PAGE else None


def review_after(session: Session, number: int) -> int | None:
    """The number of the review that waits after this one; after the last one that of the first; None if no
    other waits.
    """
    return session.scalar(
        select(CleaningReview.id)
        .where(CleaningReview.verdict.is_(None), CleaningReview.id != number)
        .order_by(CleaningReview.id < number, CleaningReview.id)
        .limit(1)
    )


def count_reviews(session: Session) -> View:
    """The number of images that wait for a review, and the time since when the oldest waits."""
    count, oldest = session.execute(
        select(func.count(), func.min(CleaningReview.created_at)).where(CleaningReview.verdict.is_(None))
    ).one()
    return {"waiting": count, "oldest": as_json(oldest)}


def show_review(session: Session, settings: Settings, number: int) -> View:
    """One image whose cleaning waits for a person: detected annotation, boxes that a person drew, its cleaned
    image, and the peers that got that. Raises NotFound.
    """
    row = session.execute(_reviews_query().where(CleaningReview.id == number)).one_or_none()
    if row is None:
        raise NotFound("there is no such review")
    review, instance, _ = row
    image = pictures.image_view(session, settings, review.instance_id)
    mark = {"finding": "Detected annotation", "text": "", "decision": "", "frames": []}
    image["masks"] = []
    image["marks"] = [
        {**mark, "points": [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]}
        for left, top, right, bottom in review.places
    ]
    made = pictures.pictures_of(session, settings, review.study_id, instance.sop_instance_uid)
    cleaned = [picture for _, picture in made if picture.kind is ResultKind.CLEANED]
    gone = results.withdrawn(session, [picture.id for picture in cleaned])
    drawn = results.drawn_boxes(session, [instance.sop_instance_uid]).get(instance.sop_instance_uid)
    return {
        **_review_row(*row),
        "image": image,
        "places": review.places,
        "drawn": [list(box) for box in drawn.boxes] if drawn else [],
        "cleaned": next((one for one in image["layers"] if one["same_size"]), None),
        # Peers that have a cleaned image of it, of whatever rule, or to which one is on its way.
        "left": sorted(
            {
                sent.destination
                for picture in cleaned
                if picture.id not in gone
                for sent in picture.deliveries
                if sent.state.value not in ("cancelled", "discarded", "dead")
            }
        ),
    }


def accept_cleaning(settings: Settings, number: int, by: audit.Person) -> None:
    """Accept the cleaning of an image as it is: a sent image stays sent, a withheld one is not sent.

    ``number``: of the review. Raises NotFound, NotAllowedNow.
    """
    with writing(settings) as session:
        review = _waiting_review(session, number)
        _decide(session, review, session.get_one(Instance, review.instance_id), ReviewVerdict.ACCEPTED, by)


def draw_boxes(
    settings: Settings, number: int, boxes: Sequence[results.Box], by: audit.Person, role: UserRole
) -> None:
    """Clean the image again, and also remove the content of these boxes, which replace earlier boxes.

    ``number``: of the review. The image is sent only if its cleaning is proven, as without boxes. Raises
    NotFound, FaultyInput, NotAllowedNow (also if the study cannot be run again).
    """
    from dicom_node.studies import choose

    with writing(settings) as session:
        review = _waiting_review(session, number)
        instance = session.get_one(Instance, review.instance_id)
        refuse_faulty_boxes(instance, boxes)
        drawn = [list(box) for box in boxes]
        session.merge(
            DrawnByHand(
                instance_id=instance.id,
                pixels_sha256=instance.pixels_sha256,
                boxes=drawn,
                at=by.now,
                actor=by.name,
                role=role,
            )
        )
        _decide(
            session,
            review,
            instance,
            ReviewVerdict.DRAWN,
            by,
            {"boxes": drawn, "role": role.value},
            boxes=len(boxes),
        )
        choose.rerun(session, review.study_id, settings)


def boxes_of(form: Mapping[str, Sequence[str]]) -> list[results.Box]:
    """The boxes in a form with fields ``left, top, right, bottom`` per box; empty rows are left out. Raises
    FaultyInput.
    """
    try:
        boxes = [edges for edges in zip(*(form.get(edge, ()) for edge in EDGES), strict=True) if any(edges)]
        return Boxes.model_validate({"boxes": boxes}).boxes if boxes else []
    except ValueError:  # also that of pydantic
        raise FaultyInput(f"up to {MOST_BOXES} boxes: edges are whole numbers of pixels") from None


def refuse_faulty_boxes(instance: Instance, boxes: Sequence[results.Box]) -> None:
    """Raise FaultyInput for invalid boxes, or boxes that lie outside the picture or cover too much of it."""
    rows, width = pictures.number_in(instance, "Rows"), pictures.number_in(instance, "Columns")
    if not boxes:
        raise FaultyInput("draw a box first, or give its edges")
    if not all(left < right <= width and top < bottom <= rows for left, top, right, bottom in boxes):
        raise FaultyInput(f"a box lies outside the picture of {width} × {rows} pixels, or is empty")
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if area > LARGEST_SHARE * rows * width:
        raise FaultyInput(f"the boxes cover more than {LARGEST_SHARE:.0%} of the picture")


def _decide(
    session: Session,
    review: CleaningReview,
    instance: Instance,
    verdict: ReviewVerdict,
    by: audit.Person,
    what: Mapping[str, object] = MappingProxyType({}),
    **fields: Any,
) -> None:
    """Store a person's verdict on the cleaning of an image, and note it in the audit.

    ``what``: further values that are needed to apply the decision again after a restore. ``fields``: of the
    audit.
    """
    results.end_reviews_of_image(session, instance.id, verdict, by.name)
    audit.note(
        session,
        by,
        AuditAction.CLEANING_JUDGED,
        study_id=review.study_id,
        review=review.id,
        verdict=verdict.value,
        cause=review.cause.value,
        what={
            "image": instance.sop_instance_uid,
            "pixels_sha256": instance.pixels_sha256,
            "verdict": verdict.value,
            **what,
        },
        **fields,
    )


def _waiting_review(session: Session, number: int) -> CleaningReview:
    """The review with this number, locked. Raises NotFound, NotAllowedNow if it does not wait any more."""
    row = existing(session, CleaningReview, number, "there is no such review", lock=True)
    if row.verdict is not None:
        raise NotAllowedNow("this image does not wait any more: load the list again")
    return row


def _reviews_query() -> Select[CleaningReview, Instance, str | None]:
    """The SQL query for reviews, each with its image and Study Instance UID."""
    return (
        select(CleaningReview, Instance, Study.study_instance_uid)
        .join(Instance, CleaningReview.instance_id == Instance.id)
        .join(Study, CleaningReview.study_id == Study.id)
    )


def _review_row(review: CleaningReview, instance: Instance, study: str | None) -> View:
    """A review as a row of lists."""
    made = (instance.attributes.get(key, "") for key in ("Manufacturer", "ManufacturerModelName"))
    return {
        **columns(review, "id", "study_id", "instance_id", "cause", "rule", "note", "created_at"),
        **columns(review, "verdict", "decided_at", "decided_by"),
        "study": study,
        "device": " ".join(filter(None, made)),
        "size": f"{instance.attributes.get('Columns', '?')} × {instance.attributes.get('Rows', '?')}",
        "withheld": review.cause is ReviewCause.WITHHELD,
        "purged": instance.purged,
    }


TRIED: Final = 50
"""Images that a rule is tried on, the newest of the device."""
_SEARCHED: Final = 5000  # of the newest images of the node, for those of the device
_CONDITIONS: Final = ("manufacturer", "model", "software", "modality", "rows", "columns")


class NewRule(Boxes):
    """A request for a new device rule, which removes text from all images of a device: its name and boxes."""

    name: str = Field(min_length=1, max_length=64, pattern=PRINTABLE)


def try_device_rule(
    session: Session, settings: Settings, number: int, name: str, boxes: Sequence[results.Box]
) -> View:
    """Show what a device rule of these boxes would do, without writing it: the text of its file, and the
    newest images of the device with the rectangles that it would remove.

    ``number``: of the review whose image it is made from. Raises NotFound, FaultyInput.
    """
    instance, header = _image_and_header(session, settings, number)
    rule, text = _device_rule(settings, instance, header, name, boxes)
    rows: list[View] = []
    door = Files(settings)
    newest = (
        select(Instance.id)
        .where(Instance.role == ObjectRole.SOURCE, Instance.purged.is_(False))
        .order_by(Instance.id.desc())
        .limit(_SEARCHED)
        .subquery()
    )
    of_device = [
        Instance.attributes[key].as_string() == instance.attributes[key]
        for key in ("Manufacturer", "ManufacturerModelName", "Rows", "Columns")
        if key in instance.attributes
    ]
    chosen = select(Instance).join(newest, Instance.id == newest.c.id).where(*of_device)
    for other in session.scalars(chosen.order_by(Instance.id.desc()).limit(TRIED)).all():
        try:
            about = open_dicom(door.here(session, other.path)).header
        except (PixelError, OSError, StorageError):
            continue
        if rule.match.fits(about):
            rows.append(
                {
                    "id": other.id,
                    "study_id": other.study_id,
                    "columns": about.columns,
                    "rows": about.rows,
                    "boxes": [
                        list(box) for one in rule.rectangles if (box := one.box(about.rows, about.columns))
                    ],
                }
            )
    return {"text": text, "name": rule.name, "images": rows, "boxes": [list(box) for box in boxes]}


def save_rule(
    settings: Settings,
    number: int,
    name: str,
    boxes: Sequence[results.Box],
    by: audit.Person,
    role: UserRole,
) -> str:
    """Write a device rule into the site's folder, where the node reads it at its next reload, and clean the
    image again.

    ``number``: of the review whose image it is made from. Returns why the image cannot be cleaned, "" if it
    can. Raises NotFound, FaultyInput, NotAllowedNow (the rule exists, or the node may not write to the
    folder).
    """
    with writing(settings) as session:
        instance, header = _image_and_header(session, settings, number)
        rule, text = _device_rule(settings, instance, header, name, boxes)
        folder = device_rules_of(settings) or settings.node.data_dir / DEVICE_RULES_FOLDER
        # Before the file: no rule is there that the audit does not know.
        audit.note(session, by, AuditAction.RULE_SAVED, name=rule.name, of="device", review=number)
        session.flush()
        try:
            write_new(folder / f"{rule.name}.toml", text)  # half a file would refuse all rules
        except FileExistsError:
            raise NotAllowedNow(
                f"there is a file {rule.name}.toml already: give the rule another name"
            ) from None
        except OSError as error:
            raise NotAllowedNow(
                f"device rules cannot be written here ({error.strerror}): put these lines into a file of "
                f"workers.device_rules_dir\n{text}"
            ) from None
    try:
        draw_boxes(settings, number, boxes, by, role)
    except (FaultyInput, NotAllowedNow) as error:
        return str(error)
    return ""


def _image_and_header(session: Session, settings: Settings, number: int) -> tuple[Instance, ImageHeader]:
    """The image of the review with this number, and its header. Raises NotFound."""
    review = session.get(CleaningReview, number)
    instance = session.get(Instance, review.instance_id) if review else None
    if instance is None or instance.purged:
        raise NotFound("there is no such image, or no longer")
    try:
        return instance, open_dicom(Files(settings).here(session, instance.path)).header
    except (PixelError, OSError, StorageError):
        raise NotFound("this image cannot be opened") from None


def _device_rule(
    settings: Settings, instance: Instance, header: ImageHeader, name: str, boxes: Sequence[results.Box]
) -> tuple[DeviceRule, str]:
    """A device rule of these boxes for devices like that of the image, and the text of its file. Raises
    FaultyInput.
    """
    refuse_faulty_boxes(instance, boxes)
    about = conditions_of(header)
    content: dict[str, Any] = {
        "name": name,
        "match": {key: about[key] for key in _CONDITIONS if key in about},
        "rectangles": [dict(zip(EDGES, box, strict=True)) for box in boxes],
    }
    try:
        rule = DeviceRule.model_validate(content)
    except ValidationError as error:
        if any(fault["loc"][:1] == ("name",) for fault in error.errors()):
            raise FaultyInput("name: small letters, digits, dots, - and _, up to 64") from None
        raise FaultyInput("the image names neither manufacturer nor model: no rule can be for it") from None
    try:
        taken = {one.name for one in read_rules(device_rules_of(settings))}
    except DeviceRuleError as error:
        raise FaultyInput(str(error)) from None
    if name in taken:
        raise FaultyInput(f"there is a device rule {name} already: give this one another name")
    rectangles = ",\n    ".join(map(toml_value, content["rectangles"]))
    return rule, (
        f"source = {toml_value(f'drawn at the console, {datetime.now(UTC):%Y-%m-%d}')}\n\n[[rule]]\n"
        f"name = {toml_value(content['name'])}\nmatch = {toml_value(content['match'])}\n"
        f"rectangles = [\n    {rectangles},\n]\n"
    )
