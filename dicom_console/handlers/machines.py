"""Endpoints for monitoring programs: liveness, readiness and metrics."""

from __future__ import annotations

import hmac

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Gauge as PrometheusGauge
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from dicom_console.views import metrics
from dicom_console.views.durations import Durations
from dicom_console.web.access import ANYONE, Asked, Site, Visit, needs
from dicom_console.web.limits import port_of

router = APIRouter()

_THREADS = CapacityLimiter(2)  # of /readyz


@router.api_route("/healthz", methods=["GET", "HEAD"])
@needs(ANYONE)
async def healthz(asked: Asked) -> Response:
    """Answer that the console's process runs; the header X-Console identifies the process."""
    return PlainTextResponse("ok\n", headers={"X-Console": asked.site.mark})


@router.api_route("/readyz", methods=["GET", "HEAD"])
@needs(ANYONE)
async def readyz(asked: Asked) -> Response:
    """200 where the node takes objects, else 503 and why; in a thread that no page can take."""
    why = await run_sync(_not_ready, asked.site, limiter=_THREADS)
    return PlainTextResponse(f"{why or 'ready'}\n", 503 if why else 200)


@router.get("/metrics")
@needs(ANYONE)
def numbers(asked: Asked) -> Response:
    """Metrics in the text format of Prometheus, for callers with the token or on the metrics port."""
    if not _may_read(asked):
        raise HTTPException(403, "This needs console.metrics_token, or is asked for at console.metrics_port.")
    registry = CollectorRegistry()
    known: dict[str, PrometheusGauge] = {}
    with asked.site.database.read() as session:
        for one in metrics.gauges(session, asked.site.settings):
            labels = [name for name, _ in one.labels]
            if one.name not in known:
                known[one.name] = PrometheusGauge(
                    f"dicom_node_{one.name}", one.help, labels, registry=registry
                )
            gauge = known[one.name].labels(**dict(one.labels)) if labels else known[one.name]
            gauge.set(one.value)
        durations: Durations = asked.request.app.state.durations
        durations.add_new(session)
    shown = generate_latest(registry) + generate_latest(durations.registry)
    return Response(shown, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _not_ready(site: Site) -> str:
    with site.database.read() as session:
        return metrics.not_ready(session, site.settings)


def _may_read(asked: Visit) -> bool:
    console = asked.site.settings.console
    if port_of(asked.request.scope) == console.metrics_port:
        return True
    token = console.metrics_token.get_secret_value()
    given = asked.request.headers.get("authorization", "")
    return bool(token) and hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
