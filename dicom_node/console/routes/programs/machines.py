"""For programs that watch the node: whether it lives, whether it takes objects, and its numbers."""

from __future__ import annotations

import hmac
import ipaddress

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Gauge as PrometheusGauge
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from dicom_node.console.web.access import ANYONE, Asked, Visit, needs
from dicom_node.services.console import metrics

router = APIRouter()

PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""What programs ask: errors are text there, no pages."""


@router.get("/healthz")
@needs(ANYONE)
def healthz(asked: Asked) -> Response:
    """The console's process answers, and says by a mark which one it is."""
    return PlainTextResponse("ok\n", headers={"X-Console": asked.site.mark})


@router.get("/readyz")
@needs(ANYONE)
def readyz(asked: Asked) -> Response:
    """200 where the node takes objects, else 503 and why."""
    with asked.site.database.read() as session:
        why = metrics.not_ready(session, asked.site.settings)
    return PlainTextResponse(f"{why or 'ready'}\n", 503 if why else 200)


@router.get("/metrics")
@needs(ANYONE)
def numbers(asked: Asked) -> Response:
    """In the text format of Prometheus, for this machine or who has the token."""
    if not _may_read(asked):
        raise HTTPException(403, "From another machine this needs console.metrics_token.")
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
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _may_read(asked: Visit) -> bool:
    token = asked.site.settings.console.metrics_token.get_secret_value()
    if not token:
        try:
            return ipaddress.ip_address(asked.address).is_loopback
        except ValueError:
            return False
    given = asked.request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
