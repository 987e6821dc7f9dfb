"""What the node gets from this connector besides the way to sign in: a check of its settings."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import urlsplit

from dicom_connectors.oidc.settings import OidcConsole
from dicom_node.config.settings import Settings
from dicom_node.connectors import part
from dicom_node.preflight.found import Found


def check(settings: Settings) -> Found:
    """Mistakes in the section ``[console.oidc]``."""
    console = settings.console
    if not (oidc := part(console, OidcConsole).oidc):
        return
    if find_spec("authlib") is None:
        yield "console.oidc", oidc.issuer, "needs authlib: pip install 'dicom-ai-node[oidc]'"
    if oidc.authorities and not oidc.authorities.is_file():
        yield "console.oidc.authorities", str(oidc.authorities), "is no file"
    host = urlsplit(console.url).hostname or ""
    if host not in {"localhost", console.host, *(name.casefold() for name in console.hosts)}:
        remedy = "browsers come back from the provider by this name: list it in console.hosts"
        yield "console.url", console.url, remedy
