"""Server-sent events: a page is notified of a change, and then loads itself again.

All open streams share one database query per second; without an open stream there is no query.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from dicom_console.views import changes
from dicom_console.web.access import Asked, Visit, needs
from dicom_node.model.roles import UserRole
from dicom_node.store.database import Database

router = APIRouter()

STREAMS, STREAMS_OF_A_SESSION = 40, 6
"""Open at the same time: together, and of one browser. Others see pages that stand still."""
POLL_SECONDS = 1.0
CHECK_SECONDS = 10.0
"""How often it is asked whether the session still lasts; each time the connection is tried, too."""


class Live:
    """The open streams, and the mark of the newest change, which they share."""

    def __init__(self) -> None:
        self.stops_when: Callable[[], bool] = lambda: False
        self._open: Counter[str] = Counter()
        self._mark, self._asked_at = "", 0.0
        self._asking = asyncio.Lock()

    def is_stopping(self) -> bool:
        """Whether the console is ending; streams do not end by themselves."""
        return self.stops_when()

    def refuse_too_many(self, token: str) -> None:
        """Raise HTTPException if too many streams are open, in all or in this session."""
        if self._open.total() >= STREAMS or self._open[token] >= STREAMS_OF_A_SESSION:
            raise HTTPException(503, "Too many pages are open: this one does not update by itself.")

    @contextmanager
    def place(self, token: str) -> Iterator[None]:
        """Count one open stream of this session while the scope lasts."""
        self._open[token] += 1
        try:
            yield
        finally:
            self._open[token] -= 1
            self._open += Counter()  # forgets those without a stream

    async def mark(self, database: Database) -> str:
        """The mark of the newest change, read now or less than a second ago."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= POLL_SECONDS:
                self._asked_at = time.monotonic()
                self._mark = await run_in_threadpool(changes.newest, database)
        return self._mark


@router.get("/live")
@needs(UserRole.VIEWER, counts=False)
async def live(asked: Asked) -> Response:
    """A message for each change, "away" without a database, "ended" when the session is over."""
    streams: Live = asked.request.app.state.live
    streams.refuse_too_many(asked.token)
    return StreamingResponse(
        _messages(asked, streams), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def _messages(asked: Visit, streams: Live) -> AsyncIterator[str]:
    shown, checked_at = "", time.monotonic()
    site = asked.site
    idle = site.settings.console.idle_minutes
    with streams.place(asked.token):
        yield "retry: 5000\n\n"
        while not streams.is_stopping():
            mark = await streams.mark(site.database)
            if mark != shown:
                shown = mark
                yield "event: away\ndata:\n\n" if mark == changes.AWAY else f"data: {mark}\n\n"
            if time.monotonic() - checked_at >= CHECK_SECONDS:
                checked_at = time.monotonic()
                if not await run_in_threadpool(changes.session_lasts, site.database, asked.token, idle):
                    yield "event: ended\ndata:\n\n"
                    return
                yield ":\n\n"
            await asyncio.sleep(POLL_SECONDS)
