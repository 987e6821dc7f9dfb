"""Peers with whom TLS fails: the cause is named as OpenSSL has it, and the configuration's CA counts."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import product
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
from dicom_node.base.tls import tls_refusal
from dicom_node.deliver.scu import Connections, association, http, open_destination, tls_context
from dicom_node.deliver.scu.http import BoundedSession
from tests.certificates_lab import Authority, self_signed
from tests.hostile.web import answering

Sockets = Callable[[socket.socket], socket.socket]


@contextmanager
def tls_server(wrap: Sockets) -> Iterator[int]:
    """The port of a server that does what ``wrap`` does (a TLS handshake), and then reads for ever."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                plain, _ = server.accept()
                with suppress(OSError), plain:
                    line = wrap(plain)
                    line.recv(4096)
                    line.sendall(b"220 mail.example.org ready\r\n")

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


REFUSED = "its certificate is not accepted: "
REFUSALS = {
    "unknown": f"{REFUSED}unable to get local issuer certificate",
    "self-signed": f"{REFUSED}self-signed certificate",
    "expired": f"{REFUSED}certificate has expired",
    "of another host": f"{REFUSED}IP address mismatch",
    "wants another certificate": "alert unknown ca",
    "old": "it speaks an old version only: TLS 1.2 or newer is needed",
    "plain": "it speaks no TLS at this port",
    "silent": "it does not finish the TLS handshake",
}
BY_ALL = ("unknown", "wants another certificate", "plain", "silent")


@dataclass(frozen=True)
class Certificates:
    """Certificates of two authorities, and what a server of each kind does with a connection."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("ours", "foreign", "own"):
            (self.folder / name).mkdir()

    @cached_property
    def ours(self) -> Authority:
        return Authority(self.folder / "ours", "ours")

    @cached_property
    def foreign(self) -> Authority:
        return Authority(self.folder / "foreign", "foreign")

    @cached_property
    def node(self) -> TlsSettings:
        certificate, key = self.ours.certify("node")
        return TlsSettings(certificate=certificate, private_key=key, trusted=self.ours.certificate)

    def server(self, kind: str) -> Sockets:
        if kind == "plain":
            return lambda plain: plain
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if kind == "silent":
            return lambda plain: plain.recv(1, socket.MSG_WAITALL) and self._read(plain)
        context.load_cert_chain(*self._of(kind))
        if kind == "wants another certificate":
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.foreign.certificate)
        if kind == "old":
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            with pytest.warns(DeprecationWarning):
                context.maximum_version = ssl.TLSVersion.TLSv1_1
        return lambda plain: context.wrap_socket(plain, server_side=True)

    def _of(self, kind: str) -> tuple[Path, Path]:
        if kind == "self-signed":
            return self_signed(self.folder / "own", "server")
        given: dict[str, Any] = {"expired": {"days": -1}, "of another host": {"hosts": "DNS:pacs"}}
        return (self.foreign if kind == "unknown" else self.ours).certify("server", **given.get(kind, {}))

    def _read(self, plain: socket.socket) -> socket.socket:
        while plain.recv(4096):
            pass
        return plain


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize(
    ("kind", "transport"),
    [*((kind, "dimse") for kind in REFUSALS), *product(BY_ALL, ["hl7", "dicomweb"])],
)
def test_a_refusal_names_its_cause(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, kind: str, transport: str
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.ours.certificate))
    for module, name in ((association, "_ASSOCIATE_SECONDS"), (http, "CONNECT_SECONDS")):
        monkeypatch.setattr(module, name, 0.5 if kind == "silent" else 5.0)
    with tls_server(certificates.server(kind)) as port:
        place: dict[str, Any] = {"host": "127.0.0.1", "port": port, "tls": True}
        if transport == "dicomweb":
            place = {"url": f"https://127.0.0.1:{port}"}
        peer = PeerSettings.model_validate(
            {"name": "pacs", "ae_title": "PACS", "may": ["receive"], "transport": transport, **place}
        )
        seconds = 1 if kind == "silent" else 5
        settings = Settings.model_validate(
            {"outbox": {"answer_seconds": seconds}, "peers": [peer.model_dump()]}
        )
        settings = settings.model_copy(update={"listener": ListenerSettings(tls=certificates.node)})
        [check, *_] = open_destination(peer, settings).test()
    assert not check.ok
    # By HTTP the node shows no certificate.
    shows_none = transport == "dicomweb" and kind == "wants another certificate"
    assert ("no TLS" if shows_none else REFUSALS[kind]) in check.text


def test_a_deadline_that_cuts_a_handshake_does_not_blame_the_peer_for_closing(
    certificates: Certificates,
) -> None:
    connections = Connections(silence_seconds=10)
    context = tls_context(certificates.ours.certificate, connections)
    with (
        tls_server(certificates.server("silent")) as port,
        socket.create_connection(("127.0.0.1", port)) as plain,
        connections.within(0.1),
        pytest.raises(OSError),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    assert connections.without_answer("PACS") == "connected to PACS, but it does not finish the TLS handshake"


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
