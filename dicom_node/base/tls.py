"""TLS of the node's listeners, and why TLS failed, in words for who administers one of the two sides."""

import ssl
from pathlib import Path
from typing import Final

_OLD, _NONE = "it speaks an old version only: TLS 1.2 or newer is needed", "it speaks no TLS at this port"
_UNCERTIFIED = "a certificate of the client is needed"
_MEANINGS: Final = {
    "HTTP_REQUEST": _NONE,
    "PACKET_LENGTH_TOO_LONG": _NONE,
    "RECORD_LAYER_FAILURE": _NONE,
    "WRONG_VERSION_NUMBER": _NONE,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD,
    "UNSUPPORTED_PROTOCOL": _OLD,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": _UNCERTIFIED,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _UNCERTIFIED,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": f"{_UNCERTIFIED}, or another cipher",
    "UNEXPECTED_EOF_WHILE_READING": "it closed the connection: does it speak TLS at this port?",
}
"""What the reasons of OpenSSL mean that do not say it themselves."""


def tls_refusal(error: BaseException | None) -> str:
    """Why TLS failed, in the words of OpenSSL, if ``error`` or what led to it is an error of TLS; else ""."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__context__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if error is None:
        return ""
    reason = error.reason or "handshake failed"
    meaning = f" ({_MEANINGS[reason]})" if reason in _MEANINGS else ""
    return f"no TLS: {reason.replace('_', ' ').lower()}{meaning}"


def server_context(
    certificate: Path | str, private_key: Path | str, trusted: Path | str | None
) -> ssl.SSLContext:
    """Return a server context for TLS 1.2 or newer by BCP 195 (PS3.15 B.12).

    The arguments are paths of PEM files: our certificate, its key, and the authorities of which clients need
    a certificate (None or "": they need none). Raises OSError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, private_key)
    if trusted:
        context.load_verify_locations(trusted)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
