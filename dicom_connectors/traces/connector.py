"""What the node gets from this connector: a thread that sends, a check of its settings, a metric."""

from collections.abc import Iterator
from importlib.util import find_spec

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_connectors.traces.settings import TelemetrySettings, TracesPart
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import Gauge, Service, typed_section
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import StudyTrace
from dicom_node.people.preflight import Found, Tried


def services(database: Database, settings: Settings, owner: str) -> Iterator[Service]:
    """Yield the service that sends traces of studies, if a collector is configured."""
    if _section(settings).endpoint:
        from dicom_connectors.traces.sender import TraceSender  # of an extra

        yield Service("telemetry", TraceSender(database, settings, owner).run_once)


def check(settings: Settings) -> Found:
    """Yield mistakes in the settings ``[telemetry]``, and a warning if its headers go unencrypted."""
    telemetry = _section(settings)
    if not telemetry.endpoint:
        return
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.proto") is None:
        remedy = "needs opentelemetry-proto: pip install 'dicom-ai-node[telemetry]'"
        yield "telemetry.endpoint", telemetry.endpoint, remedy
    if telemetry.authorities and not telemetry.authorities.is_file():
        yield "telemetry.authorities", str(telemetry.authorities), "is no file"
    if telemetry.headers and telemetry.endpoint.startswith("http://"):
        yield Tried("telemetry", False, "its headers go over the network unencrypted (http): use https")


def metrics(session: Session) -> Iterator[Gauge]:
    """Yield the metric of traces that no collector accepted."""
    dropped = session.scalar(select(func.sum(StudyTrace.dropped)).where(StudyTrace.dropped > 0)) or 0
    yield Gauge("traces_dropped", "Traces of studies that no collector took.", dropped)


def _section(settings: Settings) -> TelemetrySettings:
    """Return the settings ``[telemetry]``."""
    return typed_section(settings, TracesPart).telemetry
