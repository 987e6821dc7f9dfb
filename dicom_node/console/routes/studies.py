"""The list of studies, the page of one, its pictures and what stands in its results."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Response

from dicom_node import services
from dicom_node.console.web.access import Asked, Number, Since, Visit, needs, see_other
from dicom_node.errors import NotFound
from dicom_node.model.kinds import ReaderVerdict, RejectionReason
from dicom_node.model.lifecycle import StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, withdrawal, work
from dicom_node.services.console import models, sign_in
from dicom_node.services.console.studies import (
    assessment,
    choices,
    contents,
    feedback,
    listing,
    pictures,
    search,
    viewer,
)
from dicom_node.services.console.studies.pictures import PictureKind, Shown
from dicom_node.services.console.studies.search import Order, Search
from dicom_node.store import views

router = APIRouter(prefix="/studies")

Date = Annotated[str, Query(max_length=10, pattern=r"^(\d{4}-\d\d-\d\d)?$")]
Modality = Annotated[str, Query(max_length=16, pattern=r"^[A-Z0-9_]*$")]
Finding = Annotated[str, Query(max_length=64, pattern=r"^[^\x00-\x1f]*$")]
Sender = Annotated[str, Query(max_length=16, pattern=r"^[ -\[\]-~]*$")]  # an AE title


@router.get("")
@needs(UserRole.VIEWER)
def list_studies(
    asked: Asked,
    state: StudyState | Literal["held"] | None = None,
    modality: Modality = "",
    sender: Sender = "",
    finding: Finding = "",
    since: Date = "",
    until: Date = "",
    order: Order = Order.RECEIVED,
    after: Since = None,
    person: bool = False,
) -> Response:
    """One page. ``person``: of the patient or accession number that was searched for: no address has it."""
    about = sign_in.search_of(asked.site.database, asked.token) if person else {}
    wanted = Search(
        patient=about.get("patient", ""),
        accession=about.get("accession", ""),
        modality=modality,
        sender=sender.strip(),
        finding=finding.strip(),
        since=since.replace("-", ""),
        until=until.replace("-", ""),
        states=(state,) if state else (),
        order=order,
    )
    audit.note_list(asked.site.database, asked.person, "studies")
    with asked.site.database.read() as session:
        rows, more = search.search(session, wanted, after)
    asked_for = {
        "state": state or "", "modality": modality, "sender": sender, "finding": finding,
        "since": since, "until": until, "order": order.value,
    }  # fmt: skip
    filters = {key: value for key, value in asked_for.items() if value} | ({"person": "1"} if person else {})
    return asked.page(
        "studies.html", rows=rows, more=more, first=after is None, filters=filters, about=about,
        states=[*StudyState, views.HELD], orders=list(Order), findings=models.findings(asked.site.settings),
    )  # fmt: skip


@router.post("/search")
@needs(UserRole.VIEWER)
def search_studies(asked: Asked) -> Response:
    """Keep what identifies a patient in the session, and the rest in the address."""
    about = {key: value for key in ("patient", "accession") if (value := asked.text(key)[:64])}
    sign_in.keep_search(asked.site.database, asked.token, about, asked.person)
    rest = {key: asked.text(key)[:16] for key in ("state", "modality", "sender", "since", "until", "order")}
    rest["finding"] = asked.text("finding")[:64]
    rest["modality"] = rest["modality"].upper()
    return see_other("/studies", **rest, person="1" if about else "")


@router.get("/{number}")
@needs(UserRole.VIEWER)
def show(asked: Asked, number: Number) -> Response:
    """The page of one study."""
    site = asked.site
    with site.database.read() as session:
        study = listing.show(session, site.settings, number)
    audit.note_sight(site.database, asked.person, number)
    had = {sent["destination"] for row in study["results"] for sent in row["deliveries"]}
    takers = (one for one in site.settings.peers if "receive" in one.may and one.results)
    further = [one.name for one in takers if one.name not in had and study["withdrawn"] != "all"]
    return asked.page(
        "study.html", study=study, further=further, shortest=work.SHORTEST, longest=work.LONGEST
    )


@router.post("/{number}/rerun")
@needs(UserRole.OPERATOR)
def rerun(asked: Asked, number: Number) -> Response:
    """Apply the rules once more."""
    services.rerun_studies(asked.site.settings, [_uid(asked, number)], asked.person)
    return see_other(f"/studies/{number}")


@router.post("/{number}/send")
@needs(UserRole.OPERATOR)
def send(asked: Asked, number: Number) -> Response:
    """Send the results to a further peer."""
    work.send_study(asked.site.settings, _uid(asked, number), asked.text("peer")[:64], asked.person)
    return see_other(f"/studies/{number}")


@router.post("/{number}/feedback")
@needs(UserRole.READER)
def judge(asked: Asked, number: Number) -> Response:
    """Assess a finding: accepted, modified, rejected, or missing."""
    try:
        verdict = ReaderVerdict(asked.text("verdict"))
    except ValueError:
        raise HTTPException(400, "Say accepted, modified, rejected or missing.") from None
    about = {key: asked.text(key)[:200] for key in ("finding", "tracking_uid", "model")}
    if verdict is ReaderVerdict.MISSING:
        about["finding"], _, about["model"] = about["finding"].partition(" | ")
    feedback.give(asked.site.settings, number, about, verdict, asked.person, asked.text("because"))
    return see_other(f"/studies/{number}#findings")


@router.post("/{number}/accept")
@needs(UserRole.READER)
def accept_results(asked: Asked, number: Number) -> Response:
    """Let the results leave that wait for it."""
    assessment.accept(asked.site.settings, _uid(asked, number), asked.person, as_of=asked.text("as_of"))
    return see_other(f"/studies/{number}")


@router.post("/{number}/reject")
@needs(UserRole.READER)
def reject_results(asked: Asked, number: Number) -> Response:
    """Let none of them leave."""
    assessment.reject(
        asked.site.settings,
        _uid(asked, number),
        asked.person,
        because=asked.text("because"),
        as_of=asked.text("as_of"),
    )
    return see_other(f"/studies/{number}")


@router.post("/{number}/assessment")
@needs(UserRole.READER)
def send_assessment(asked: Asked, number: Number) -> Response:
    """Send what this person said of the findings to peers that take it."""
    assessment.send(asked.site.settings, _uid(asked, number), asked.person)
    return see_other(f"/studies/{number}")


@router.get("/{number}/withdraw")
@needs(UserRole.OPERATOR)
def ask_to_withdraw(asked: Asked, number: Number) -> Response:
    """Which results, why, and what becomes of them; and what was withdrawn before."""
    with asked.site.database.read() as session:
        shown = withdrawal.show(session, asked.site.settings, number)
        study = listing.whose(session, asked.site.settings, number)
    audit.note_sight(asked.site.database, asked.person, number)
    return asked.page("withdraw.html", number=number, shown=shown, study=study, reasons=list(RejectionReason))


@router.post("/{number}/withdraw")
@needs(UserRole.OPERATOR)
def withdraw(asked: Asked, number: Number) -> Response:
    """Withdraw what was chosen."""
    chosen = [
        int(str(value)) for key, value in asked.form.multi_items() if key == "result" and _is_number(value)
    ]
    try:
        reason = RejectionReason(asked.text("reason"))
    except ValueError:
        raise HTTPException(400, "Say whether it is for quality or for the patient's safety.") from None
    withdrawal.withdraw(
        asked.site.settings,
        _uid(asked, number),
        chosen,
        reason=reason,
        because=asked.text("because"),
        by=asked.person,
    )
    return see_other(f"/studies/{number}/withdraw")


@router.get("/{number}/versions")
@needs(UserRole.OPERATOR)
def versions(asked: Asked, number: Number) -> Response:
    """What is to be chosen before a study leaves quarantine."""
    uid = _uid(asked, number)
    audit.note_sight(asked.site.database, asked.person, number)
    rows = services.study_versions(asked.site.settings, uid)
    with asked.site.database.read() as session:
        study = listing.brief(session, number)
    as_of = rows[0]["as_of"] if rows else ""
    return asked.page("versions.html", study=study, questions=choices.questions(rows), as_of=as_of)


@router.post("/{number}/release")
@needs(UserRole.OPERATOR)
def release(asked: Asked, number: Number) -> Response:
    """Let the study out of quarantine with what was chosen."""
    picked = [str(value) for key, value in asked.form.multi_items() if key.startswith("take")]
    take = choices.applicable(picked)
    as_of = asked.text("as_of") if take else None  # a choice says among what it was made
    services.release_study(asked.site.settings, _uid(asked, number), take, asked.person, as_of=as_of)
    return see_other(f"/studies/{number}")


@router.get("/images/{number}")
@needs(UserRole.VIEWER)
def image(asked: Asked, number: Number, frame: int = 1, layer: int = 0) -> Response:
    """One received image; ``layer``: the result that is shown in its place, 0: the image as it came."""
    site = asked.site
    with site.database.read() as session:
        shown = pictures.find(session, site.settings, PictureKind.IMAGES, number)
        found = viewer.view(session, site.settings, number)
    chosen = next((one for one in found["layers"] if one["id"] == layer), None)
    return _frame(asked, "image.html", shown, frame, image=found, layer=chosen)


@router.get("/results/{number}/content")
@needs(UserRole.VIEWER)
def content(asked: Asked, number: Number) -> Response:
    """What stands in a result object."""
    with asked.site.database.read() as session:
        shown = pictures.find(session, asked.site.settings, PictureKind.RESULTS, number)
        study = listing.whose(session, asked.site.settings, shown.study)
    audit.note_sight(asked.site.database, asked.person, shown.study)
    tree, whole = contents.contents(shown.path)
    return asked.page("content.html", shown=shown, study=study, number=number, tree=tree, whole=whole)


@router.get("/results/{number}")
@needs(UserRole.VIEWER)
def result(asked: Asked, number: Number, frame: int = 1) -> Response:
    """One frame of a result, with the way to the others."""
    with asked.site.database.read() as session:
        shown = pictures.find(session, asked.site.settings, PictureKind.RESULTS, number)
    return _frame(asked, "result.html", shown, frame, number=number)


@router.get("/{which}/{number}/{frame}")
@needs(UserRole.VIEWER)
def png(
    asked: Asked, which: PictureKind, number: Number, frame: int, longest: int = pictures.LARGEST
) -> Response:
    """The frame itself, of a received image or of a result."""
    with asked.site.database.read() as session:
        shown = pictures.find(session, asked.site.settings, which, number)
    audit.note_sight(asked.site.database, asked.person, shown.study)
    return Response(pictures.png(shown, asked.site.settings, frame, longest), media_type="image/png")


def _uid(asked: Visit, number: Number) -> str:
    """What the study is called. Raises NotFound."""
    with asked.site.database.read() as session:
        return listing.uid(session, number)


def _is_number(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 9


def _frame(asked: Visit, template: str, shown: Shown, frame: int, **values: Any) -> Response:
    audit.note_sight(asked.site.database, asked.person, shown.study)
    frames = pictures.frames(shown, asked.site.settings)
    if not 1 <= frame <= frames:
        raise NotFound("there is no such frame")
    with asked.site.database.read() as session:
        study = listing.whose(session, asked.site.settings, shown.study)
    return asked.page(template, shown=shown, study=study, frame=frame, frames=frames, **values)
