"""Jobs, deliveries, fetches and notifications, with an operator's actions on them."""

from collections.abc import Callable, Mapping
from threading import Semaphore
from typing import Annotated, Any, Final

from fastapi import Body, Response

from dicom_console.views import listing
from dicom_console.web.faces import (
    ConsoleRequest,
    CurrentRequest,
    Faces,
    Name,
    back_to,
    back_to_form,
    one_of,
    see_other,
)
from dicom_node.base.actions.nouns import FETCHES, JOBS, NOTIFICATIONS, OUTBOX
from dicom_node.base.errors import FaultyInput
from dicom_node.base.lifecycle import DeliveryState, FetchState, JobState
from dicom_node.base.store import views
from dicom_node.base.store.views import View
from dicom_node.people import Because, Done, Row, fetches, lost_decisions, notifications, outbox
from dicom_node.people.fetches import FetchChange, FetchRequest
from dicom_node.people.jobs import StuckJobs, cancel_jobs, put_jobs_first, run_jobs_again, stuck_jobs

faces = Faces()

_TO_JOBS = back_to_form("/jobs")
_TO_OUTBOX = back_to_form("/outbox")
_MOST_QUESTIONS = 62
"""Questions of one request, whose answers a browser waits for; for more there is the command."""
_MISSING_DAYS = 3
"""Today and so many days before, of which studies without a result are looked for."""
_PLACE = Semaphore(1)  # a peer that hangs holds it until the deadline of its answer
_ASKED_ALREADY = "A peer is being asked already: try again when it has answered."
_TO_FETCHES = back_to("/fetches")
_CHANGES_OF_FETCHES: Final[Mapping[FetchChange, Callable[..., object]]] = {
    "again": fetches.fetch_again,
    "cancel": fetches.cancel_fetches,
}
_TEST_PLACES = Semaphore(2)  # a server that hangs holds its test for as long as it may


list_jobs = faces.list_of(views.list_jobs)


@faces.page_of(list_jobs)
def _jobs_page(request: ConsoleRequest, found: Any) -> Response:
    """Return the page of jobs."""
    named = request.named(found.jobs)
    return request.list_page(JOBS, found, named=named, stuck=request.read(stuck_jobs), states=list(JobState))


@faces.handler("POST", "/jobs/run-all", run_jobs_again, back_to("/jobs", state="queued"))
def run_all_jobs(request: CurrentRequest, wanted: Annotated[StuckJobs, Body()]) -> Done:
    """Run all held, failed or cancelled jobs again, or only those of one rule if the request names it."""
    number = run_jobs_again(
        request.settings, states=[JobState(wanted.state)], rule=wanted.rule, by=request.person
    )
    return Done(objects=number)


faces.action_of(run_jobs_again, _TO_JOBS)
faces.action_of(put_jobs_first, _TO_JOBS, "put_first")
faces.action_of(cancel_jobs, _TO_JOBS)


list_deliveries = faces.list_of(views.list_deliveries)


@faces.page_of(list_deliveries)
def _outbox_page(request: ConsoleRequest, found: Any) -> Response:
    """Return the page of deliveries."""
    return request.list_page(
        OUTBOX,
        found,
        to=request.query("to"),
        named=request.named(found.deliveries),
        states=["open", *DeliveryState],
        dead=request.read(listing.dead_by_destination),
    )


@faces.page("POST", "/outbox/retry-dead", outbox.send_again)
def retry_dead(request: CurrentRequest) -> Response:
    """Send all given-up deliveries again, to one destination or to all."""
    outbox.send_again(request.settings, dead=True, destination=_destination(request), by=request.person)
    return see_other("/outbox", state="open")


@faces.page("POST", "/outbox/discard-dead", outbox.discard_deliveries)
def discard_dead(request: CurrentRequest) -> Response:
    """Discard all given-up deliveries, to one destination or to all, for the reason in the form."""
    because, destination = request.text("because"), _destination(request)
    outbox.discard_deliveries(
        request.settings, because=because, dead=True, destination=destination, by=request.person
    )
    return see_other("/outbox", state="discarded")


faces.action_of(outbox.send_again, _TO_OUTBOX)
faces.action_of(outbox.discard_deliveries, _TO_OUTBOX)


def _destination(request: ConsoleRequest) -> str:
    """Return the destination chosen in the form; "" for all."""
    return request.text("destination")[:64]


def _fetch_of_form(request: ConsoleRequest) -> FetchRequest:
    """Return the request to fetch studies that a form describes.

    Raises ValidationError if it is not valid.
    """
    fields = {name: request.text(name) for name in ("peer", "first", "last", "rule")}
    modalities = request.text("modalities").upper().replace(",", " ").split()
    return FetchRequest.model_validate(
        {**fields, "modalities": modalities, "per_minute": request.text("per_minute") or 0}
    )


list_fetches = faces.list_of(fetches.list_fetches)


@faces.page_of(list_fetches)
def _fetches_page(request: ConsoleRequest, found: Any) -> Response:
    """Return the page of fetches."""
    return request.list_page(
        FETCHES,
        found,
        states=list(FetchState),
        named=request.named(found.fetches),
        progress=fetches.fetches_by_peer(request.settings),
        peers=[peer.name for peer in request.settings.peers if "query" in peer.may],
        rules=[rule.name for rule in request.settings.rules],
    )


@faces.handler("POST", "/fetches", fetches.request_fetches, _TO_FETCHES, reads=_fetch_of_form)
def ask(request: CurrentRequest, given: Annotated[FetchRequest, Body()]) -> Row:
    """Queue the fetch of studies that a peer has and that are missing here."""
    if given.questions > _MOST_QUESTIONS:
        raise FaultyInput("too many days for one request: ask for a month, or use dicom-node fetch")
    with one_of(_PLACE, _ASKED_ALREADY):
        return fetches.request_fetches(request.settings, given, request.person)


@faces.page("POST", "/fetches/{name}/missing", fetches.missing_studies)
def missing(request: CurrentRequest, name: str) -> Response:
    """Show the studies of the last days that a peer has and that should have a result here but have none;
    fetch them if the form says so.
    """
    fetch_them = request.text("fetch") == "true"
    with one_of(_PLACE, _ASKED_ALREADY):
        rows = fetches.missing_studies(
            request.settings, name, _MISSING_DAYS, request.person, fetch_them=fetch_them
        )
    if fetch_them:
        return _TO_FETCHES(request, None)
    request.note_list("fetches")
    return request.page("missing_studies.html", rows=rows, peer=name, days=_MISSING_DAYS)


@faces.page("POST", "/fetches/{name}/{change}", fetches.fetch_again)
def change_fetches(request: CurrentRequest, name: str, change: FetchChange) -> Response:
    """Fetch a peer's failed or cancelled studies again, or cancel its waiting fetches.

    ``name``: of the peer.
    """
    _CHANGES_OF_FETCHES[change](request.settings, name, request.person)
    return _TO_FETCHES(request, None)


@faces.handler("GET", "/decisions", lost_decisions.waiting_decisions)
def list_decisions(request: CurrentRequest) -> list[Row]:
    """Return decisions of persons that a restored database lacks and that could not be applied again yet."""
    request.note_list("decisions")
    return [Row(**row) for row in request.read(lost_decisions.waiting_decisions)]


@faces.page_of(list_decisions)
def _decisions_page(request: ConsoleRequest, rows: list[Row]) -> Response:
    """Return the page of decisions that wait to be applied to a restored database."""
    return request.page("decisions.html", rows=rows, named=request.named(rows))


@faces.handler("POST", "/decisions/{name}/settle", lost_decisions.settle_decision, back_to("/decisions"))
def settle_decision(request: CurrentRequest, name: Name, why: Annotated[Because, Body()]) -> None:
    """Close a decision that cannot be applied again.

    It is a person's decision that a restored database lacks; deliveries no longer wait for it.
    """
    lost_decisions.settle_decision(request.settings, name, because=why.because, by=request.person)


list_notifications = faces.list_of(notifications.list_notifications)


def _notifications_page(request: ConsoleRequest, found: Any, tested: View | None = None) -> Response:
    """Return the page of notifications. ``tested``: the outcome of a test just done, None without one."""
    configured = notifications.notifiers(request.settings)
    return request.list_page(NOTIFICATIONS, found, configured=configured, tested=tested)


faces.page_of(list_notifications)(_notifications_page)


@faces.page("POST", "/notifications/{name}/test", notifications.test_notifier)
def test_notification(request: CurrentRequest, name: str) -> Response:
    """Send a test message of this notification now, and show the outcome."""
    with one_of(_TEST_PLACES, "Other tests are under way: try again when they are done."):
        try:
            tested = notifications.test_notifier(request.settings, name, request.person)
        except FaultyInput as error:
            tested = {"name": name, "ok": False, "text": str(error)}
    return _notifications_page(request, list_notifications(request, None, states=None), tested)


faces.action_of(notifications.notify_again, back_to("/notifications"))
