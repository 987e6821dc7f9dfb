"""Studies: the list, the page of one study, and the actions of a person."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from typing import Annotated, Literal
from urllib.parse import parse_qsl, quote

from fastapi import Body, HTTPException, Query, Response

from dicom_console.forms import choices
from dicom_console.views import listing, models, pictures, search, thumbnails
from dicom_console.views.pictures import PictureKind
from dicom_console.views.search import Order, Search
from dicom_console.web.access import Asked, Number, Since, Visit, needs, see_other
from dicom_console.web.faces import Faces, back_to
from dicom_node.config.settings import Settings
from dicom_node.model.kinds import AuditAction, RejectionReason
from dicom_node.model.lifecycle import StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, deliveries, results, several, studies, users
from dicom_node.services.deliveries import To
from dicom_node.services.several import ChangedStudies, SeveralStudies
from dicom_node.services.studies import Studies, StudyRow, Wanted
from dicom_node.services.typed import Done, Row
from dicom_node.store import views

faces = Faces()
_BACK = back_to("/studies/{number}")
_FILTERS = ("state", "modality", "sender", "finding", "since", "until", "days", "order", "person")
_IN_ADDRESS = tuple(name for name in _FILTERS if name != "person")  # that one is of this session only

Date = Annotated[str, Query(max_length=10, pattern=r"^(\d{4}-\d\d-\d\d)?$")]
Modality = Annotated[str, Query(max_length=16, pattern=r"^[A-Z0-9_]*$")]
Finding = Annotated[str, Query(max_length=64, pattern=r"^[^\x00-\x1f]*$")]
Days = Annotated[int | None, Query(ge=1, le=366)]
Sender = Annotated[str, Query(max_length=16, pattern=r"^[ -\[\]-~]*$")]  # an AE title


@faces.handler("GET", "/studies", UserRole.VIEWER)
def list_studies(
    asked: Asked,
    state: Annotated[list[StudyState | Literal["held"]] | None, Query()] = None,
    modality: Modality = "",
    sender: Sender = "",
    finding: Finding = "",
    since: Date = "",
    until: Date = "",
    days: Days = None,
    order: Order = Order.RECEIVED,
    after: Since = None,
) -> Studies:
    """Studies; ``since`` and ``until`` are Study Dates, YYYY-MM-DD, ``sender`` is a calling AE title.

    ``finding``: only studies in whose newest reports this finding is present. ``days``: only studies that
    received something on so many days, today included.
    """
    about = _searched_for(asked)
    wanted = Search(
        patient=about.get("patient", ""),
        words=search.name_words(asked.site.settings, about.get("name", "")),
        accession=about.get("accession", ""),
        modality=modality,
        sender=sender.strip(),
        finding=finding.strip(),
        since=since.replace("-", ""),
        until=until.replace("-", ""),
        received=_first_of_days(days) if days else None,
        states=state or (),
        order=order,
    )
    audit.note_list(asked.site.database, asked.person, "studies")
    return _found(asked, wanted, after)


@faces.page_of(list_studies)
def _studies_page(asked: Visit, found: Studies) -> Response:
    filters = {"order": Order.RECEIVED.value}
    filters |= {key: value for key in _FILTERS if (value := asked.query(key))}
    database = asked.site.database
    with database.read() as session:
        names = search.names(session, asked.site.settings, [row["id"] for row in found.studies])
    return asked.page(
        "studies.html",
        rows=found.studies,
        names=names,
        more=found.next,
        first=not asked.query("after"),
        filters=filters,
        about=_searched_for(asked),
        states=[*StudyState, views.HELD],
        findings=models.findings(asked.site.settings),
        takers=_takers(asked.site.settings),
        rejections=list(RejectionReason),
        shortest=audit.SHORTEST_REASON,
        longest=audit.LONGEST_REASON,
    )


@faces.handler("POST", "/studies/search", UserRole.VIEWER)
def search_studies(asked: Asked, wanted: Annotated[Wanted, Body()], after: Since = None) -> Studies:
    """Studies of a patient, or with an accession number."""
    with asked.site.database.write() as session:
        by = [key for key, value in wanted if value]
        audit.note(session, asked.person, AuditAction.STUDY_SEARCHED, searched_by=by)
    words = search.name_words(asked.site.settings, wanted.name)
    return _found(asked, Search(patient=wanted.patient, words=words, accession=wanted.accession), after)


@faces.people.post("/studies/search")
@needs(UserRole.VIEWER)
def keep_search(asked: Asked) -> Response:
    """Keep what identifies a patient in the session, and the rest in the address."""
    about = {key: value for key in ("name", "patient", "accession") if (value := asked.text(key)[:64])}
    users.keep_search(asked.site.database, asked.token, about, asked.person)
    rest = {key: asked.text(key)[:16] for key in _IN_ADDRESS}
    rest["finding"] = asked.text("finding")[:64]
    rest["modality"] = rest["modality"].upper()
    return see_other("/studies", **rest, person="1" if about else "")


def _several(asked: Visit) -> SeveralStudies:
    """The request of the list's form, in which each ticked study is a field."""
    names = ("change", "peer", "because")
    sent = {name: asked.text(name) for name in names} | {"studies": asked.fields().get("study", [])}
    return SeveralStudies.model_validate(sent | {"reason": asked.text("reason") or RejectionReason.QUALITY})


@faces.handler("POST", "/studies/change", UserRole.OPERATOR)
def change_several(asked: Asked, wanted: Annotated[SeveralStudies, Body()]) -> ChangedStudies:
    """Do one thing to several studies; each is changed alone, and a row says why one was not."""
    numbers = list(dict.fromkeys(wanted.studies))
    with asked.site.database.read() as session:
        uids = [listing.uid(session, number) for number in numbers]
    rows = several.change_studies(asked.site.settings, uids, wanted, asked.person)
    return ChangedStudies(
        studies=[row.model_copy(update={"id": n}) for n, row in zip(numbers, rows, strict=True)]
    )


@faces.page_of(change_several, reads=_several)
def _changed_page(asked: Visit, changed: ChangedStudies) -> Response:
    refused = [row for row in changed.studies if not row["done"]]
    if not refused:
        return see_other("/studies", **_filters_of_form(asked))
    with asked.site.database.read() as session:
        names = search.names(session, asked.site.settings, [row["id"] for row in refused])
    return asked.page(
        "several.html",
        done=len(changed.studies) - len(refused),
        refused=refused,
        names=names,
        filters=_filters_of_form(asked),
    )


@faces.people.get("/studies/{number}/thumbnail")
@needs(UserRole.VIEWER)
def thumbnail(asked: Asked, number: Number) -> Response:
    """The small picture of an image in the list of studies; the list is in the audit."""
    with asked.site.database.read() as session:
        shown = pictures.find(session, asked.site.settings, PictureKind.IMAGES, number)
    return Response(thumbnails.jpeg(shown, asked.site.settings), media_type="image/jpeg")


@faces.handler("GET", "/studies/{number}", UserRole.VIEWER)
def show(asked: Asked, number: Number) -> StudyRow:
    """One study with its images, findings, results, jobs and events."""
    site = asked.site
    with site.database.read() as session:
        study = listing.show(session, site.settings, number)
    audit.note_sight(site.database, asked.person, number)
    return StudyRow(**study)


def _links(viewers: Mapping[str, str], study: StudyRow) -> dict[str, str]:
    """The address of the study in each viewer; none where the viewer goes by a number that it has not."""
    uid, accession = str(study["study"]), str(study["accession"] or "")
    if not re.fullmatch(r"[\d.]+", uid):
        return {}
    values = {"{study}": uid, "{accession}": quote(accession, safe="")}
    return {
        name: re.sub(r"{\w+}", lambda found: values[found[0]], address)
        for name, address in viewers.items()
        if accession or "{accession}" not in address
    }


@faces.page_of(show)
def _study_page(asked: Visit, study: StudyRow) -> Response:
    had = {sent["destination"] for row in study["results"] for sent in row["deliveries"]}
    takers = _takers(asked.site.settings)
    further = [name for name in takers if name not in had and study["withdrawn"] != "all"]
    return asked.page(
        "study.html",
        study=study,
        further=further,
        open_in=_links(asked.site.settings.console.open_in, study),
        shortest=audit.SHORTEST_REASON,
        longest=audit.LONGEST_REASON,
    )


@faces.handler("POST", "/studies/{number}/rerun", UserRole.OPERATOR, _BACK)
def rerun(asked: Asked, number: Number) -> list[Row]:
    """Apply the rules once more; a row for each rule that takes the study."""
    rows = studies.rerun_rules(asked.site.settings, [asked.study_uid(number)], asked.person)
    return [Row(**row) for row in rows]


@faces.handler("POST", "/studies/{number}/send", UserRole.OPERATOR, _BACK)
def send(asked: Asked, number: Number, to: Annotated[To, Body()]) -> Done:
    """Send the newest results to a further peer."""
    uid = asked.study_uid(number)
    return Done(objects=deliveries.send_study(asked.site.settings, uid, to.peer, asked.person))


@faces.people.get("/studies/{number}/withdraw")
@needs(UserRole.OPERATOR)
def ask_to_withdraw(asked: Asked, number: Number) -> Response:
    """Ask which results to withdraw and why; tell what happens to them, and what was withdrawn before."""
    with asked.site.database.read() as session:
        shown = results.show(session, asked.site.settings, number)
        study = listing.study_heading(session, asked.site.settings, number)
    audit.note_sight(asked.site.database, asked.person, number)
    return asked.page("withdraw.html", number=number, shown=shown, study=study, reasons=list(RejectionReason))


@faces.people.post("/studies/{number}/withdraw")
@needs(UserRole.OPERATOR)
def withdraw(asked: Asked, number: Number) -> Response:
    """Withdraw the chosen results."""
    chosen = [
        int(str(value)) for key, value in asked.form.multi_items() if key == "result" and _is_number(value)
    ]
    try:
        reason = RejectionReason(asked.text("reason"))
    except ValueError:
        raise HTTPException(400, "Say whether it is for quality or for the patient's safety.") from None
    results.withdraw(
        asked.site.settings,
        asked.study_uid(number),
        chosen,
        reason=reason,
        because=asked.text("because"),
        by=asked.person,
    )
    return see_other(f"/studies/{number}/withdraw")


@faces.people.get("/studies/{number}/versions")
@needs(UserRole.OPERATOR)
def versions(asked: Asked, number: Number) -> Response:
    """Show the versions and patients to choose from before a study leaves quarantine."""
    uid = asked.study_uid(number)
    audit.note_sight(asked.site.database, asked.person, number)
    rows = studies.versions(asked.site.settings, uid)
    with asked.site.database.read() as session:
        study = listing.brief(session, number)
    as_of = rows[0]["as_of"] if rows else ""
    return asked.page("versions.html", study=study, questions=choices.questions(rows), as_of=as_of)


@faces.people.post("/studies/{number}/release")
@needs(UserRole.OPERATOR)
def release(asked: Asked, number: Number) -> Response:
    """Release the study from quarantine with the chosen patient and versions."""
    picked = [str(value) for key, value in asked.form.multi_items() if key.startswith("take")]
    take = choices.applicable(picked)
    as_of = asked.text("as_of") if take else None  # a choice says among what it was made
    studies.release(asked.site.settings, asked.study_uid(number), take, asked.person, as_of=as_of)
    return see_other(f"/studies/{number}")


def _takers(settings: Settings) -> list[str]:
    return [one.name for one in settings.peers if "receive" in one.may and one.results]


def _first_of_days(days: int) -> datetime:
    """The midnight with which the first of so many days began in this machine's zone; today is the last."""
    midnight = datetime.combine(datetime.now().astimezone().date(), time()).astimezone()
    return midnight - timedelta(days=days - 1)


def _filters_of_form(asked: Visit) -> dict[str, str]:
    """The filters of the list from which a form was sent."""
    return {key: value[:64] for key, value in parse_qsl(asked.text("filters")[:512]) if key in _IN_ADDRESS}


def _is_number(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 9


def _searched_for(asked: Visit) -> dict[str, str]:
    """The patient or accession number that a person searched for: the session has it, no address."""
    return users.search_of(asked.site.database, asked.token) if asked.token and asked.query("person") else {}


def _found(asked: Visit, wanted: Search, after: int | None) -> Studies:
    with asked.site.database.read() as session:
        rows, more = search.search(session, wanted, after)
    return Studies(studies=[StudyRow(**row) for row in rows], next=more)
