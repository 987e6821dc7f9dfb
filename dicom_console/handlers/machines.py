"""Endpoints for monitoring programs: liveness, readiness and metrics."""

from __future__ import annotations

import hmac

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import HTTPException, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Gauge as PrometheusGauge
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from dicom_console.views import metrics
from dicom_console.web.access import ANYONE, needs
from dicom_console.web.faces import Asked, Faces
from dicom_console.web.limits import port_of

faces = Faces()

_THREADS = CapacityLimiter(2)  # of /readyz


@faces.people.api_route("/healthz", methods=["GET", "HEAD"])
@needs(ANYONE)
async def healthz(asked: Asked) -> Response:
    """Answer that the console's process runs; the header X-Console identifies the process."""
    return PlainTextResponse("ok\n", headers={"X-Console": asked.site.mark})


@faces.people.api_route("/readyz", methods=["GET", "HEAD"])
@needs(ANYONE)
async def readyz(asked: Asked) -> Response:
    """200 where the node takes objects, else 503 and why; in a thread that no page can take."""
    why = await run_sync(asked.read, metrics.not_ready, asked.settings, limiter=_THREADS)
    return PlainTextResponse(f"{why or 'ready'}\n", 503 if why else 200)


@faces.page("GET", "/metrics", ANYONE)
def numbers(asked: Asked) -> Response:
    """Metrics in the text format of Prometheus, for callers with the token or on the metrics port."""
    console, given = asked.settings.console, asked.request.headers.get("authorization", "")
    token = console.metrics_token.get_secret_value()
    has_token = bool(token) and hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
    if not has_token and port_of(asked.request.scope) != console.metrics_port:
        raise HTTPException(403, "This needs console.metrics_token, or is asked for at console.metrics_port.")
    registry = CollectorRegistry()
    known: dict[str, PrometheusGauge] = {}
    with asked.site.database.read() as session:
        for one in metrics.gauges(session, asked.settings):
            labels = [name for name, _ in one.labels]
            if one.name not in known:
                known[one.name] = PrometheusGauge(
                    f"dicom_node_{one.name}", one.help, labels, registry=registry
                )
            gauge = known[one.name].labels(**dict(one.labels)) if labels else known[one.name]
            gauge.set(one.value)
        durations: metrics.Durations = asked.request.app.state.durations
        durations.add_new(session)
    shown = generate_latest(registry) + generate_latest(durations.registry)
    return Response(shown, media_type=CONTENT_TYPE_PLAIN_0_0_4)
