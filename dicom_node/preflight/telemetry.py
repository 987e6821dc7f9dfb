"""What ``[telemetry]`` asks for: its package, a file that there is, a way that nobody reads along."""

from __future__ import annotations

from importlib.util import find_spec

from dicom_node.config.settings import Settings
from dicom_node.preflight.found import Found, Tried


def check_telemetry(settings: Settings) -> Found:
    """Mistakes in the settings of telemetry."""
    telemetry = settings.telemetry
    if not telemetry.endpoint:
        return
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.proto") is None:
        remedy = "needs opentelemetry-proto: pip install 'dicom-ai-node[telemetry]'"
        yield "telemetry.endpoint", telemetry.endpoint, remedy
    if telemetry.authorities and not telemetry.authorities.is_file():
        yield "telemetry.authorities", str(telemetry.authorities), "is no file"
    if telemetry.headers and telemetry.endpoint.startswith("http://"):
        yield Tried("telemetry", False, "its headers go over the network unencrypted (http): use https")
