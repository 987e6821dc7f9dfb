"""``[telemetry]``: where traces go."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from dicom_node.base.config.section import Secret, Section, checked_url


class TelemetrySettings(Section):
    """``[telemetry]``: sends a trace of each study to an OpenTelemetry collector, without patient data."""

    endpoint: Annotated[str, AfterValidator(checked_url)] = Field(
        "", examples=["http://127.0.0.1:4318/v1/traces"]
    )
    """URL that takes traces by OTLP over HTTP, often http://HOST:4318/v1/traces; empty: none are sent."""
    headers: dict[str, Secret] = Field({}, examples=[{"Authorization": "Bearer ${COLLECTOR_TOKEN}"}])
    """Headers of each request, such as the collector's login."""
    authorities: Path | None = Field(None, examples=["tls/house-ca.pem"])
    """PEM file of the CAs for the collector's certificate; not set: the system's CAs."""
    seconds: float = Field(5, gt=0, le=25)
    """How long one request may take; it carries up to 50 studies."""


class TracesPart(Section):
    """Mixin that adds the table ``[telemetry]`` to the node's settings."""

    telemetry: TelemetrySettings = TelemetrySettings()
