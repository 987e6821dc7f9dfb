"""Peers with whom TLS fails: the cause is named as OpenSSL has it, and the configuration's CA counts."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from werkzeug.wrappers import Request, Response

from dicom_connectors.oidc.settings import OidcSettings
from dicom_connectors.oidc.sign_in import probe
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import ConsoleSettings, ListenerSettings, Settings, TlsSettings
from dicom_node.base.lifecycle import UserRole
from dicom_node.deliver.scu import Connections, open_destination, tls_refusal
from dicom_node.deliver.scu.http import BoundedSession
from tests.certificates_lab import Authority, self_signed
from tests.hostile.web import answering


@contextmanager
def tls_server(context: ssl.SSLContext | None) -> Iterator[int]:
    """The port of a server that does the TLS handshake, and then reads for ever; None: it speaks no TLS."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                plain, _ = server.accept()
                with suppress(OSError), plain:
                    line = context.wrap_socket(plain, server_side=True) if context else plain
                    line.recv(4096)
                    line.sendall(b"220 mail.example.org ready\r\n")

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


REFUSALS = {
    "unknown": "its certificate is not accepted: unable to get local issuer certificate",
    "wants another certificate": "alert unknown ca",
    "plain": "wrong version number",
}


@pytest.mark.parametrize("transport", ["dimse", "hl7", "dicomweb"])
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_names_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, transport: str
) -> None:
    ours, foreign = Authority(tmp_path, "ours"), Authority(tmp_path, "foreign")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ours.certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*(foreign if kind == "unknown" else ours).certify("server"))
    if kind == "wants another certificate":
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(foreign.certificate)
    certificate, key = ours.certify("node")
    tls = TlsSettings(certificate=certificate, private_key=key, trusted=ours.certificate)
    with tls_server(None if kind == "plain" else context) as port:
        place: dict[str, Any] = {"host": "127.0.0.1", "port": port, "tls": True}
        if transport == "dicomweb":
            place = {"url": f"https://127.0.0.1:{port}"}
        peer = PeerSettings.model_validate(
            {"name": "pacs", "ae_title": "PACS", "may": ["receive"], "transport": transport, **place}
        )
        settings = Settings.model_validate({"outbox": {"answer_seconds": 5}, "peers": [peer.model_dump()]})
        settings = settings.model_copy(update={"listener": ListenerSettings(tls=tls)})
        [check, *_] = open_destination(peer, settings).test()
    assert not check.ok
    # By HTTP the node shows no certificate.
    shows_none = transport == "dicomweb" and kind == "wants another certificate"
    assert ("no TLS" if shows_none else REFUSALS[kind]) in check.text


def test_a_ca_of_the_configuration_counts_beside_one_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server").mkdir()
    certificate = self_signed(tmp_path / "server", "server")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Authority(tmp_path, "of the environment").certificate))
    with answering(certificate=certificate) as (url, _):
        assert BoundedSession(Connections(5), certificate[0]).get(url, timeout=5).ok
        with pytest.raises(requests.exceptions.SSLError) as refused:
            BoundedSession(Connections(5)).get(url, timeout=5)
    assert "self-signed certificate" in tls_refusal(refused.value)


@pytest.mark.parametrize("trusted", [True, False])
def test_the_check_asks_the_provider_of_the_hospitals_accounts(tmp_path: Path, trusted: bool) -> None:
    ours = self_signed(tmp_path, "provider")

    def answer(request: Request) -> Response:
        if request.path == "/keys":
            return Response('{"keys": []}')
        base = request.host_url.rstrip("/")
        places = dict.fromkeys(("authorization_endpoint", "token_endpoint", "jwks_uri"), f"{base}/keys")
        return Response(json.dumps({"issuer": base, **places}))

    with answering(answer, certificate=ours) as (url, asked):
        oidc = OidcSettings(issuer=url, client_id="node", client_secret="s", roles={"g": UserRole.READER})
        oidc = oidc.model_copy(update={"authorities": ours[0] if trusted else None})
        [tried] = probe(Settings(console=ConsoleSettings(url="https://console.example.org", oidc=oidc)))
    assert tried.ok is trusted
    assert asked == (["GET /.well-known/openid-configuration", "GET /keys"] if trusted else [])
    assert trusted or "self-signed certificate" in tried.text
