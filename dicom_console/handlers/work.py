"""What the node works off: jobs, deliveries, fetches and notifications, with the actions of an operator."""

from threading import Semaphore
from typing import Annotated, Any

from fastapi import Body, Response

from dicom_console.views import listing
from dicom_console.web.faces import (
    Asked,
    Faces,
    Name,
    Number,
    Visit,
    back_to,
    back_to_form,
    one_of,
    see_other,
)
from dicom_node.base.errors import FaultyInput
from dicom_node.base.lifecycle import DeliveryState, FetchState, JobState, UserRole
from dicom_node.base.store.views import View
from dicom_node.people import Because, Done, Row, audit, backup, queues
from dicom_node.people.queues import (
    Change,
    FetchChange,
    FetchRequest,
    StuckJobs,
    change_jobs,
    run_jobs_again,
    stuck_jobs,
)
from dicom_node.serve.nouns import FETCHES, JOBS, NOTIFICATIONS, OUTBOX

faces = Faces()

_TO_OUTBOX = back_to_form("/outbox")
_MOST_QUESTIONS = 62
"""Questions of one request, whose answers a browser waits for; for more there is the command."""
_MISSING_DAYS = 3
"""Today and so many days before, of which studies without a result are looked for."""
_PLACE = Semaphore(1)  # a peer that hangs holds it until the deadline of its answer
_ASKED_ALREADY = "A peer is being asked already: try again when it has answered."
_TO_FETCHES = back_to("/fetches")
_TEST_PLACES = Semaphore(2)  # a server that hangs holds its test for as long as it may


list_jobs = faces.list_of(JOBS)


@faces.page_of(list_jobs)
def _jobs_page(asked: Visit, found: Any) -> Response:
    named = asked.read(listing.named, asked.settings, found.jobs)
    return asked.list_page(JOBS, found, named=named, stuck=asked.read(stuck_jobs), states=list(JobState))


@faces.handler("POST", "/jobs/run-all", UserRole.OPERATOR, back_to("/jobs", state="queued"))
def run_all_jobs(asked: Asked, wanted: Annotated[StuckJobs, Body()]) -> Done:
    """Run all jobs that were held, failed or were cancelled; of one rule where one is named."""
    number = run_jobs_again(
        asked.settings, states=[JobState(wanted.state)], rule=wanted.rule, by=asked.person
    )
    return Done(objects=number)


@faces.handler("POST", "/jobs/{number}/{change}", UserRole.OPERATOR, back_to_form("/jobs"))
def change_job(asked: Asked, number: Number, change: Change) -> None:
    """Run a job again, put it first in the queue, or cancel it."""
    change_jobs(asked.settings, [number], change, asked.person)


list_deliveries = faces.list_of(OUTBOX)


@faces.page_of(list_deliveries)
def _outbox_page(asked: Visit, found: Any) -> Response:
    return asked.list_page(
        OUTBOX,
        found,
        to=asked.query("to"),
        named=asked.read(listing.named, asked.settings, found.deliveries),
        states=["open", *DeliveryState],
        dead=asked.read(listing.dead_by_destination),
        longest=audit.LONGEST_REASON,
        shortest=audit.SHORTEST_REASON,
    )


@faces.page("POST", "/outbox/retry-dead", UserRole.OPERATOR)
def retry_dead(asked: Asked) -> Response:
    """Send again all that was given up, to one destination or to all."""
    queues.send_again(asked.settings, dead=True, destination=_destination(asked), by=asked.person)
    return see_other("/outbox", state="open")


@faces.page("POST", "/outbox/discard-dead", UserRole.OPERATOR)
def discard_dead(asked: Asked) -> Response:
    """Discard all that was given up, to one destination or to all."""
    because, destination = asked.text("because"), _destination(asked)
    queues.discard_deliveries(
        asked.settings, because=because, dead=True, destination=destination, by=asked.person
    )
    return see_other("/outbox", state="discarded")


faces.verb_of(OUTBOX, "retry", _TO_OUTBOX)
faces.verb_of(OUTBOX, "discard", _TO_OUTBOX)


def _destination(asked: Visit) -> str:
    return asked.text("destination")[:64]


def _fetch_of_form(asked: Visit) -> FetchRequest:
    """Raises ValidationError."""
    fields = {name: asked.text(name) for name in ("peer", "first", "last", "rule")}
    modalities = asked.text("modalities").upper().replace(",", " ").split()
    return FetchRequest.model_validate(
        {**fields, "modalities": modalities, "per_minute": asked.text("per_minute") or 0}
    )


list_fetches = faces.list_of(FETCHES)


@faces.page_of(list_fetches)
def _fetches_page(asked: Visit, found: Any) -> Response:
    return asked.list_page(
        FETCHES,
        found,
        states=list(FetchState),
        named=asked.read(listing.named, asked.settings, found.fetches),
        progress=queues.fetches_by_peer(asked.settings),
        peers=[peer.name for peer in asked.settings.peers if "query" in peer.may],
        rules=[rule.name for rule in asked.settings.rules],
    )


@faces.handler("POST", "/fetches", UserRole.OPERATOR, _TO_FETCHES, reads=_fetch_of_form)
def ask(asked: Asked, given: Annotated[FetchRequest, Body()]) -> Row:
    """Have studies of a peer fetched that the node has not."""
    if given.questions > _MOST_QUESTIONS:
        raise FaultyInput("too many days for one request: ask for a month, or use dicom-node fetch")
    with one_of(_PLACE, _ASKED_ALREADY):
        return queues.request_fetches(asked.settings, given, asked.person)


@faces.page("POST", "/fetches/{name}/missing", UserRole.OPERATOR)
def missing(asked: Asked, name: str) -> Response:
    """Studies of the last days that should have a result, and have none; fetched where the form says so."""
    fetch_them = asked.text("fetch") == "true"
    with one_of(_PLACE, _ASKED_ALREADY):
        rows = queues.missing_studies(
            asked.settings, name, _MISSING_DAYS, asked.person, fetch_them=fetch_them
        )
    if fetch_them:
        return _TO_FETCHES(asked, None)
    audit.note_list(asked.site.database, asked.person, "fetches")
    return asked.page("missing_studies.html", rows=rows, peer=name, days=_MISSING_DAYS)


@faces.page("POST", "/fetches/{name}/{change}", UserRole.OPERATOR)
def change_fetches(asked: Asked, name: str, change: FetchChange) -> Response:
    """Fetch once more what was given up or cancelled of a peer, or do not fetch what waits for it."""
    queues.change_fetches(asked.settings, name, change, asked.person)
    return _TO_FETCHES(asked, None)


@faces.handler("GET", "/decisions", UserRole.OPERATOR)
def list_decisions(asked: Asked) -> list[Row]:
    """Decisions of persons that a restored database lacks and that could not be applied again yet."""
    audit.note_list(asked.site.database, asked.person, "decisions")
    return [Row(**row) for row in asked.read(backup.waiting_decisions)]


@faces.page_of(list_decisions)
def _decisions_page(asked: Visit, rows: list[Row]) -> Response:
    named = asked.read(listing.named, asked.settings, rows)
    shortest, longest = audit.SHORTEST_REASON, audit.LONGEST_REASON
    return asked.page("decisions.html", rows=rows, named=named, shortest=shortest, longest=longest)


@faces.handler("POST", "/decisions/{name}/settle", UserRole.ADMIN, back_to("/decisions"))
def settle_decision(asked: Asked, name: Name, why: Annotated[Because, Body()]) -> None:
    """Answer for a decision that cannot be applied again: deliveries wait for it no more."""
    backup.settle_decision(asked.settings, name, because=why.because, by=asked.person)


list_notifications = faces.list_of(NOTIFICATIONS)


def _notifications_page(asked: Visit, found: Any, tested: View | None = None) -> Response:
    configured = queues.notifiers(asked.settings)
    return asked.list_page(NOTIFICATIONS, found, configured=configured, tested=tested)


faces.page_of(list_notifications)(_notifications_page)


@faces.page("POST", "/notifications/{name}/test", UserRole.OPERATOR)
def test_notification(asked: Asked, name: str) -> Response:
    """Send a test message of this notification now, and show the outcome."""
    with one_of(_TEST_PLACES, "Other tests are under way: try again when they are done."):
        try:
            tested = queues.test_notifier(asked.settings, name, asked.person)
        except FaultyInput as error:
            tested = {"name": name, "ok": False, "text": str(error)}
    return _notifications_page(asked, list_notifications(asked, None, states=None), tested)


faces.verb_of(NOTIFICATIONS, "retry", back_to("/notifications"))
