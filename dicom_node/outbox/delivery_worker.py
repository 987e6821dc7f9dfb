"""The delivery worker: finds due deliveries, and works for each destination in a separate thread.

A PACS that is down or slow delays only its own deliveries. No state is in memory: another delivery worker, or
this one after kill -9, continues from the table.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from dicom_node import scu
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.events import DELIVERY_OVERDUE, THREAD_FAILED
from dicom_node.outbox.commitments import enter_reports
from dicom_node.outbox.ledger import give_up_all
from dicom_node.outbox.route import OpenDestination, Route
from dicom_node.store import deliveries
from dicom_node.store.changes import SHORTEST
from dicom_node.store.database import Database
from dicom_node.store.entered import is_entered
from dicom_node.store.transitions import record, utc_now

_DATABASE_AWAY_SECONDS = 1.0
_NOT_YET_SECONDS = 5.0  # between looks whether a peer that was entered elsewhere is known
_WRITING_SECONDS = 5.0  # a call that was cut off returns at once, and its result is written
_FAILED_SECONDS, _LONGEST_PAUSE = 5.0, 300.0  # until a destination's thread that failed begins anew
_LOGGER = logging.getLogger(__name__)


class DeliveryWorker:
    """Delivers results. Any number of delivery workers, in any number of processes, may share one database.

    ``lease_seconds``: after this time without renewal another worker sends a dead worker's deliveries.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        open_destination: OpenDestination = scu.open_destination,
        lease_seconds: float = 15.0,
    ) -> None:
        self._database = database
        self._settings = settings
        self._not_yet: dict[str, float] = {}  # when to look again for a peer that was entered elsewhere
        self._threads: dict[str, threading.Thread] = {}
        self._owner = f"{socket.gethostname()[:32]}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._lease_seconds = lease_seconds
        self._open = open_destination
        self._routes = {peer.name: self._route(peer) for peer in settings.peers if "receive" in peer.may}

    def _route(self, peer: PeerSettings) -> Route:
        return Route(
            self._database,
            self._settings,
            peer,
            owner=self._owner,
            lease_seconds=self._lease_seconds,
            open_destination=self._open,
        )

    def run_once(self) -> int:
        """Send and confirm due deliveries, one study per destination, in this thread; returns how many."""
        enter_reports(self._database, self._settings)
        with self._database.read() as session:
            due = deliveries.due_destinations(session, utc_now())
        return sum(self._work(destination, self._routes.get(destination)) for destination in due)

    def run_forever(self, stop: threading.Event) -> None:
        """Deliver until ``stop`` is set, then finish objects being sent (within ``outbox.stop_seconds``)."""
        self._start_afresh()
        changes, pause, found = self._database.changes, SHORTEST, False
        while not stop.is_set():
            seen = changes.count
            try:
                found = self._dispatch(stop)
            except SQLAlchemyError as error:  # the loop outlives a database that is away for a while
                self._database.outage.noticed(error)
                stop.wait(_DATABASE_AWAY_SECONDS)
            pause = changes.pause(pause, found=found)
            changes.wait(seen, pause, stop)
        self._finish()

    def _start_afresh(self) -> None:
        """Make waiting deliveries due: peers that were away before the restart may be back."""
        with self._noticed(), self._database.write() as session:
            deliveries.hurry(session, utc_now())

    def _finish(self) -> None:
        """Wait for what is being sent, cut off what takes too long, hand back what is still held then."""
        _join(self._threads.values(), self._settings.outbox.stop_seconds)
        for route in self._routes.values():
            route.hang_up()
        _join(self._threads.values(), _WRITING_SECONDS)
        with self._noticed(), self._database.write() as session:
            deliveries.hand_back(session, self._owner)

    def _dispatch(self, stop: threading.Event) -> bool:
        """Start the threads of destinations for which something is due; whether there are any."""
        with self._noticed():
            enter_reports(self._database, self._settings)
        with self._database.read() as session:
            due = deliveries.due_destinations(session, utc_now())
        for destination in due:
            if time.monotonic() < self._not_yet.get(destination, 0.0):
                continue
            running, route = self._threads.get(destination), self._routes.get(destination)
            if running is not None and running.is_alive():
                if route is None or time.monotonic() < route.overdue_at:
                    continue
                route = self._abandoned(route)
            thread = threading.Thread(
                target=self._work_in_thread,
                args=(destination, route, stop),
                name=f"to {destination}",
                daemon=True,
            )
            self._threads[destination] = thread
            thread.start()
        return bool(due)

    def _abandoned(self, route: Route) -> Route:
        """Give up a route that is overdue; returns the new one in its place. Its leases end by themselves."""
        destination = route.peer.name
        route.hang_up()
        self._routes[destination] = new = self._route(route.peer)
        with self._database.write() as session:
            record(session, DELIVERY_OVERDUE, destination=destination)
        return new

    def _work_in_thread(self, destination: str, route: Route | None, stop: threading.Event) -> None:
        """Deliver until nothing is due, or ``route`` was abandoned: then another thread delivers.

        A defect gives an event; deliveries that met it are delayed.
        """
        pause = _FAILED_SECONDS
        while not stop.is_set() and self._routes.get(destination) is route:
            try:
                with self._noticed():
                    while self._work(destination, route) and not stop.is_set():
                        if self._routes.get(destination) is not route:
                            break
                return
            except Exception as error:  # noqa: BLE001  (whatever it was, other destinations go on)
                self._tell(destination, error)
            stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _tell(self, destination: str, error: Exception) -> None:
        """Where it happened goes to the log; neither it nor the event has the error's text."""
        _LOGGER.error("defect while delivering", exc_info=error)
        with self._noticed(), self._database.write() as session:
            record(session, THREAD_FAILED, thread=f"to {destination}", reason=type(error).__name__)

    def _work(self, destination: str, route: Route | None) -> int:
        if route is None:
            if is_entered(self._database, "peers", destination):  # this machine will know it in a moment
                self._not_yet[destination] = time.monotonic() + _NOT_YET_SECONDS
                return 0
            return give_up_all(self._database, self._settings, destination)
        return route.run_once()

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        """Give one event when the database is away. Work goes on later; held deliveries when leases end."""
        try:
            yield
        except SQLAlchemyError as error:
            self._database.outage.noticed(error)


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    """Wait for all these threads, ``seconds`` at most in total."""
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
