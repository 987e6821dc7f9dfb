"""The delivery worker: finds due deliveries, and works for each destination in a separate thread.

A PACS that is down or slow delays only its own deliveries. No state is in memory: another delivery worker, or
this one after kill -9, continues from the table.
"""

import itertools
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.base.config.loading import is_behind
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.events import DELIVERY_DEAD, DELIVERY_OVERDUE, EventType
from dicom_node.base.runner import outlast
from dicom_node.base.store import deliveries
from dicom_node.base.store.database import SHORTEST, Database
from dicom_node.base.store.locks import lock_studies
from dicom_node.base.store.tables import Study
from dicom_node.base.store.transitions import (
    pass_lease_on,
    record,
    settle_studies,
    try_move,
    utc_now,
)
from dicom_node.deliver import scu
from dicom_node.deliver.commitment_requests import enter_reports
from dicom_node.deliver.route import BATCH, OpenDestination, Route

_STOP_SECONDS = 20.0  # that objects being sent may take when the node stops; then they are sent later
_WRITING_SECONDS = 5.0  # a call that was cut off returns at once, and its result is written
_NUMBERS = itertools.count()  # of routes: two of one process are two owners, and a restart counts anew


class DeliveryWorker:
    """Delivers results. Any number of delivery workers, in any number of processes, may share one database.

    ``owner``: the process, under a name that it has after a restart, too, so that it goes on at once after a
    kill; "" for a new name. ``lease_seconds``: after this time without renewal another worker sends a dead
    worker's deliveries. ``open_destination``: makes the client of a peer.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        open_destination: OpenDestination = scu.open_destination,
        lease_seconds: float = 15.0,
        owner: str = "",
    ) -> None:
        """Prepare a route to each peer that may receive; the parameters are explained at the class."""
        self._database, self._settings, self._open = database, settings, open_destination
        self._threads: dict[str, threading.Thread] = {}
        self._lease_seconds, self._owner = lease_seconds, owner or uuid.uuid4().hex
        self._routes = {peer.name: self._route(peer) for peer in settings.peers if "receive" in peer.may}

    def _route(self, peer: PeerSettings) -> "Route":
        """Make a new route to this peer, with an owner's name of its own."""
        owner = f"{self._owner[:56]}/{next(_NUMBERS)}"
        return Route(self._database, self._settings, peer, owner, self._lease_seconds, self._open)

    def run_once(self) -> int:
        """Send and confirm due deliveries, one study per destination, in this thread; returns how many."""
        enter_reports(self._database, self._settings)
        try:
            return sum(self._routes[destination].run_once() for destination in self._due_destinations())
        finally:
            self._release_leases()

    def _due_destinations(self) -> list[str]:
        """The names of configured destinations with due deliveries.

        Deliveries to unknown names are given up, unless the peers in the database are newer than the settings
        read here.
        """
        with self._database.read() as session:
            due = deliveries.due_destinations(
                session, utc_now(), [route.owner for route in self._routes.values()]
            )
        unknown = [name for name in due if name not in self._routes]
        if unknown and not is_behind(self._settings):
            give_up_unknown(self._database, unknown)
        return [name for name in due if name in self._routes]

    def run_forever(self, stop: threading.Event) -> None:
        """Deliver until ``stop`` is set, then finish objects being sent for at most 20 seconds."""
        # Make waiting deliveries due: peers that were away before the restart may be back.
        with self._recording_outages(), self._database.write() as session:
            deliveries.hurry(session, utc_now())
        changes, pause = self._database.changes, SHORTEST
        while not stop.is_set():
            seen = changes.count
            found = False
            with self._recording_outages():  # the loop outlives a database that is away for a while
                found = self._dispatch(stop)
            pause = changes.pause(pause, found=found)
            changes.wait(seen, min(pause, self._lease_seconds / 3), stop)
        # Wait for what is being sent, cut off what takes too long, hand back what is still held then.
        _join(self._threads.values(), _STOP_SECONDS)
        for route in self._routes.values():
            route.hang_up()
        _join(self._threads.values(), _WRITING_SECONDS)
        with self._recording_outages():
            self._release_leases()

    def _release_leases(self) -> None:
        """Release the leases of all routes, so that another worker may send at once."""
        for route in self._routes.values():
            route.release_its_lease()

    def _dispatch(self, stop: threading.Event) -> bool:
        """Start a thread for each destination with due deliveries that has none; returns whether any delivery
        is due.
        """
        with self._recording_outages():
            enter_reports(self._database, self._settings)
        with self._database.read() as session:
            stopped = [one for one in self._routes.values() if deliveries.any_stopped(session, one.sending)]
        for one in self._routes.values():
            one.renew()
            if one in stopped:
                one.cut_off()
        due = self._due_destinations()
        for destination in due:
            running, route = self._threads.get(destination), self._routes[destination]
            if running is not None and running.is_alive():
                if time.monotonic() < route.overdue_at:
                    continue
                route = self._replace_route(route)
            thread = self._threads[destination] = threading.Thread(
                target=self._work_in_thread,
                args=(route, stop),
                name=f"to {destination}",
                daemon=True,
            )
            thread.start()
        return bool(due)

    def _replace_route(self, overdue: "Route") -> "Route":
        """Replace a route that takes too long by a new route, to which its lease is passed; returns the new
        one.
        """
        overdue.hang_up()
        route = self._routes[overdue.peer.name] = self._route(overdue.peer)
        with self._database.write() as session:
            pass_lease_on(session, deliveries.lane(route.peer.name), overdue.owner, route.owner)
            record(session, DELIVERY_OVERDUE, destination=route.peer.name)
        return route

    def _work_in_thread(self, route: "Route", stop: threading.Event) -> None:
        """Deliver on ``route`` until nothing is due, or until it is replaced and another thread delivers."""

        def deliver() -> None:
            """Make rounds of delivery until nothing is due."""
            with self._recording_outages():
                while not stop.is_set() and self._routes[route.peer.name] is route and route.run_once():
                    pass

        def say(event: EventType, **fields: Any) -> None:
            """Record an event with these fields, in a transaction of its own."""
            with self._recording_outages(), self._database.write() as session:
                record(session, event, **fields)

        outlast(deliver, f"to {route.peer.name}", stop, say)

    @contextmanager
    def _recording_outages(self) -> Iterator[None]:
        """Context manager: a database error inside is recorded as an outage and not raised; the work goes on
        later.
        """
        try:
            yield
        except SQLAlchemyError as error:
            self._database.outage.note_error(error)


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    """Wait for all these threads, ``seconds`` at most in total."""
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))


def give_up_unknown(database: Database, destinations: Sequence[str]) -> None:
    """Give up due deliveries to peers that are no longer configured; of each, those of one study per call."""
    now = utc_now()
    for destination in destinations:
        with database.write() as session:
            study = deliveries.due_study(session, destination, now)
            lock_studies(session, Study.id == study)
            batch = deliveries.due_batch(session, destination, study or 0, now, BATCH)
            for delivery in batch:
                try_move(
                    session,
                    delivery,
                    DELIVERY_DEAD,
                    reason="no peer of this name may receive: configure it, then retry",
                    transaction_uid="",
                )
            deliveries.discard_withdrawn(session, batch)
            settle_studies(session, (delivery.item.study_id for delivery in batch))
