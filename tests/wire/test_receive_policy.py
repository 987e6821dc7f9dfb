"""Who may associate and what for: AE titles, addresses, limits, TLS."""

from __future__ import annotations

import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from benchmarks.sender import Association, Rejected, associate, associate_request
from dicom_node.events import ASSOCIATION_REJECTED, STORE_REFUSED, TLS_FAILED
from tests.certificates_lab import Authority
from tests.wire.receiver import (
    EXPLICIT,
    PEERS,
    US,
    VERIFICATION,
    Receiver,
    receiving,
    ultrasound,
    wait_until,
)

STORAGE = [(US, [EXPLICIT])]
ECHO = [(VERIFICATION, [EXPLICIT])]
Contexts = list[tuple[str, list[str]]]
CALLING, CALLED, LIMIT = (1, 1, 3), (1, 1, 7), (2, 3, 2)  # PS3.8 Table 9-21


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    peers = [
        *PEERS,
        {"name": "elsewhere", "ae_title": "ELSEWHERE", "host": "192.0.2.1", "check_address": True},
        {"name": "here", "ae_title": "HERE", "host": "localhost", "check_address": True},
        {"name": "one", "ae_title": "ONE", "maximum_associations": 1},
    ]
    folder = tmp_path_factory.mktemp("listener")
    with receiving(folder, peers=peers, further_ae_titles=["AI2"], maximum_associations=12) as running:
        yield running


def open_for(
    receiver: Receiver, calling: str, called: str = "AINODE", contexts: Contexts = STORAGE
) -> Association:
    return associate(receiver.address, contexts, calling=calling, called=called)


def answer_to(
    receiver: Receiver, calling: str, called: str = "AINODE", contexts: Contexts = STORAGE
) -> object:
    """(result, source, reason) of the rejection, or "accepted"."""
    try:
        open_for(receiver, calling, called, contexts).release()
    except Rejected as rejected:
        return rejected.answer
    return "accepted"


@pytest.mark.parametrize(
    ("calling", "called", "contexts", "answer"),
    [
        ("SENDER", "AINODE", STORAGE, "accepted"),
        ("SENDER", "AI2", STORAGE, "accepted"),
        ("SENDER", "OTHER", STORAGE, CALLED),
        ("SENDER", "ainode", STORAGE, CALLED),
        ("STRANGER", "AINODE", STORAGE, CALLING),
        ("STRANGER", "AINODE", ECHO, "accepted"),
        ("STRANGER", "OTHER", ECHO, CALLED),
        ("STRANGER", "AINODE", ECHO + STORAGE, CALLING),
        ("HERE", "AINODE", STORAGE, "accepted"),
        ("ELSEWHERE", "AINODE", STORAGE, CALLING),
        ("PACS", "AINODE", STORAGE, "accepted"),  # known, but see below
    ],
)
def test_the_policy_decides(
    receiver: Receiver, calling: str, called: str, contexts: Contexts, answer: object
) -> None:
    assert answer_to(receiver, calling, called, contexts) == answer


def test_a_rejection_is_journalled_with_its_reason(receiver: Receiver) -> None:
    assert answer_to(receiver, "NOBODY") == CALLING
    event = receiver.events(ASSOCIATION_REJECTED)[-1]
    assert (event.fields["calling"], event.fields["address"]) == ("NOBODY", "127.0.0.1")
    assert (event.fields["result"], event.fields["source"], event.fields["reason"]) == CALLING


def test_a_peer_that_may_only_receive_is_not_authorised_to_store(receiver: Receiver) -> None:
    before = receiver.files()
    association = open_for(receiver, "PACS")
    assert association.store(1, ultrasound(1)) == 0x0124
    association.release()
    assert receiver.events(STORE_REFUSED)[-1].fields["status"] == "0124"
    assert receiver.files() == before


def test_a_peer_has_its_own_limit(receiver: Receiver) -> None:
    first = open_for(receiver, "ONE")
    assert answer_to(receiver, "ONE") == LIMIT
    assert answer_to(receiver, "SENDER") == "accepted"
    first.release()
    wait_until(lambda: answer_to(receiver, "ONE") == "accepted")


def test_all_together_have_a_limit_and_room_is_given_back(receiver: Receiver) -> None:
    wait_until(lambda: answer_to(receiver, "ONE") == "accepted")
    time.sleep(0.2)
    associations = [open_for(receiver, "SENDER") for _ in range(12)]
    assert answer_to(receiver, "SENDER") == LIMIT
    for number, association in enumerate(associations):
        if number % 2:
            association.abort()
        else:
            association.release()
    wait_until(lambda: answer_to(receiver, "SENDER") == "accepted")


def test_echo_may_be_kept_to_peers(tmp_path: Path) -> None:
    with receiving(tmp_path, echo_from="peers") as receiver:
        assert answer_to(receiver, "STRANGER", contexts=ECHO) == CALLING
        assert answer_to(receiver, "PACS", contexts=ECHO) == "accepted"


def test_unknown_callers_may_be_accepted_as_senders(tmp_path: Path) -> None:
    with receiving(tmp_path, unknown_callers="accept", check_called_ae=False) as receiver:
        association = open_for(receiver, "STRANGER", "WHATEVER")
        assert association.store(1, ultrasound(1)) == 0x0000
        association.release()


def answer_to_bytes(receiver: Receiver, request: bytes) -> tuple[int, ...]:
    """PDU type of the answer, and of a rejection its result, source and reason."""
    with socket.create_connection(receiver.address, timeout=60) as connection:
        connection.sendall(request)
        answer = connection.recv(10)
    return tuple(answer[:1] + answer[7:10]) if answer[0] == 3 else (answer[0],)


@pytest.mark.parametrize(
    ("version", "answer"), [(1, (2,)), (3, (2,)), (0xFFFF, (2,)), (2, (3, 1, 2, 2)), (0, (3, 1, 2, 2))]
)
def test_of_the_protocol_version_bit_0_alone_counts(
    receiver: Receiver, version: int, answer: tuple[int, ...]
) -> None:
    request = bytearray(associate_request(STORAGE, "SENDER", "AINODE", 16384))
    request[6:8] = struct.pack(">H", version)
    rejected = len(receiver.events(ASSOCIATION_REJECTED))
    assert answer_to_bytes(receiver, bytes(request)) == answer
    if answer[0] == 3:
        event = receiver.wait_for_event(ASSOCIATION_REJECTED, rejected + 1)[-1]
        assert event.fields["meaning"] == "protocol version not supported"


DICOM_CONTEXT = b"1.2.840.10008.3.1.1.1"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (b"1.2.840.10008.3.1.1.2", (3, 1, 1, 2)),
        (b"1.2.840.10008.3.1.1.11", (3, 1, 1, 2)),
        (b"", (3, 1, 1, 2)),
        (b"x" * 200, (7,)),  # no UID
        (b"\xff\xfe", (7,)),
    ],
)
def test_an_application_context_other_than_dicoms_is_rejected(
    receiver: Receiver, name: bytes, answer: tuple[int, ...]
) -> None:
    request = associate_request(STORAGE, "SENDER", "AINODE", 16384)
    item = struct.pack(">BBH", 0x10, 0, len(DICOM_CONTEXT)) + DICOM_CONTEXT
    other = struct.pack(">BBH", 0x10, 0, len(name)) + name
    body = request[6:].replace(item, other if name else b"")  # "": without the item
    assert answer_to_bytes(receiver, struct.pack(">BBI", 1, 0, len(body)) + body) == answer


def test_a_request_without_presentation_contexts_is_aborted(receiver: Receiver) -> None:
    assert answer_to_bytes(receiver, associate_request([], "SENDER", "AINODE", 16384)) == (7,)


@pytest.mark.parametrize("kind", [1, 2, 3], ids=["name", "name and passcode", "Kerberos"])
@pytest.mark.parametrize("setting", ["ignore", "answer", "refuse"])
def test_a_user_identity_is_ignored_answered_or_refused(tmp_path: Path, setting: str, kind: int) -> None:
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.positive_response_requested = kind, True
    identity.primary_field = b"technician"
    if kind == 2:
        identity.secondary_field = b"secret"
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(US, EXPLICIT)
    with receiving(tmp_path, user_identity=setting) as receiver:
        association = ae.associate("127.0.0.1", receiver.port, ae_title="AINODE", ext_neg=[identity])
        if setting == "refuse":
            assert association.is_rejected
            assert receiver.events(ASSOCIATION_REJECTED)[-1].fields["meaning"] == "user identity is not taken"
            assert answer_to(receiver, "SENDER") == "accepted"
        else:
            assert association.is_established
            answered = association.acceptor.user_identity is not None
            assert answered == (setting == "answer" and kind in (1, 2))
            association.release()
        journal = "".join(path.read_text() for path in (receiver.data_dir / "journal").iterdir())
        assert "technician" not in journal


@pytest.mark.parametrize("tell", [True, False], ids=["SIGHUP", "file alone"])
def test_a_new_policy_is_taken_without_a_restart(tmp_path: Path, tell: bool) -> None:
    with receiving(tmp_path) as receiver:
        assert answer_to(receiver, "NEW") == CALLING
        receiver.change(
            peers=[{"name": "new", "ae_title": "NEW"}], further_storage_classes=["1.2.840.10008.5.1.4.1.1.2"]
        )
        if tell:
            receiver.signal(signal.SIGHUP)
        wait_until(lambda: answer_to(receiver, "NEW") == "accepted")
        assert answer_to(receiver, "SENDER") == CALLING
        wait_until(lambda: _takes_ct(receiver))


def _takes_ct(receiver: Receiver) -> bool:
    association = open_for(receiver, "NEW", contexts=[("1.2.840.10008.5.1.4.1.1.2", [EXPLICIT])])
    association.release()
    return association.results == {1: 0}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(scope="module")
def tls_receiver(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Receiver]:
    certificate, key = authority.certify("listener")
    tls = {"certificate": certificate, "private_key": key, "trusted": authority.certificate}
    with receiving(tmp_path_factory.mktemp("listener"), tls=tls) as running:
        yield running


def client(authority: Authority, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if certificate:
        context.load_cert_chain(*certificate)
    return context


def test_a_certified_client_stores_over_tls(tls_receiver: Receiver, authority: Authority) -> None:
    context = client(authority, authority.certify("us1"))
    association = associate(tls_receiver.address, STORAGE, tls=context)
    for number in range(3):
        assert association.store(1, ultrasound(number, pixels=400_000)) == 0x0000
    association.release()
    assert len(tls_receiver.spool.pending()) >= 3


@pytest.mark.parametrize("stranger", [False, True], ids=["none", "of another authority"])
def test_a_client_without_our_certificate_is_refused(
    tls_receiver: Receiver, authority: Authority, tmp_path: Path, stranger: bool
) -> None:
    certificate = Authority(tmp_path, "theirs").certify("client") if stranger else None
    count = len(tls_receiver.events(TLS_FAILED))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        associate(tls_receiver.address, STORAGE, tls=client(authority, certificate))
    event = tls_receiver.wait_for_event(TLS_FAILED, count + 1)[-1]
    assert event.fields["address"] == "127.0.0.1"


def test_plain_dicom_is_refused_where_tls_is_asked_for(tls_receiver: Receiver) -> None:
    with pytest.raises(ConnectionError):
        associate(tls_receiver.address, STORAGE)


def test_a_silent_client_does_not_keep_others_from_the_handshake(
    tls_receiver: Receiver, authority: Authority
) -> None:
    with socket.create_connection(tls_receiver.address):
        context = client(authority, authority.certify("us2"))
        began = time.monotonic()
        associate(tls_receiver.address, STORAGE, tls=context).release()
        assert time.monotonic() - began < 10


@pytest.mark.debian("dcmtk")
def test_dcmtk_verifies_over_tls(tls_receiver: Receiver, authority: Authority) -> None:
    certificate, key = authority.certify("dcmtk")
    done = subprocess.run(
        [
            *("echoscu", "-aec", "AINODE", "+tls", str(key), str(certificate)),
            *("+cf", str(authority.certificate), "127.0.0.1", str(tls_receiver.port)),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
