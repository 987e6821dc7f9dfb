"""The listener, asked by hand-made messages: contexts, limits, policy, TLS, shared ports, its stop."""

import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from benchmarks.sender import (
    Aborted,
    Association,
    Rejected,
    Stored,
    associate,
    associate_request,
    command_set,
    load,
    p_data,
    store_command,
)
from dicom_node.base.dicom.uids import TRANSFER_SYNTAXES
from dicom_node.base.events import (
    ASSOCIATION_ABORTED,
    ASSOCIATION_ACCEPTED,
    ASSOCIATION_RELEASED,
    ECHOED,
    LISTENER_STOPPED,
    STORE_REFUSED,
    TLS_FAILED,
)
from dicom_node.receive.policy import STORAGE_CLASSES
from dicom_node.receive.spool import read_arrival
from tests.certificates_lab import Authority
from tests.peers import a_peer
from tests.ports import free_port
from tests.waiting import wait_until
from tests.wire.receiver import EXPLICIT, IMPLICIT, PEERS, US, VERIFICATION, Receiver, receiving
from tests.wire.receiver import ultrasound as small_object

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE = [(US, [EXPLICIT])]
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
RLE, JPEG_LS, J2K_LOSSLESS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
BASELINE, DEFLATED, BIG_ENDIAN = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A listener that knows a few more peers."""
    peers = [
        *PEERS,
        a_peer("elsewhere", host="192.0.2.1", check_address=True),
        a_peer("here", host="localhost", check_address=True),
    ]
    listener = {
        "further_ae_titles": ["AI2"],
        "maximum_associations": 12,
        "acse_timeout_seconds": 2,
    }
    with receiving(tmp_path_factory.mktemp("listener"), peers=peers, **listener) as running:
        yield running
        assert running.process.poll() is None, "the listener died"


@pytest.mark.debian("dcmtk")
@pytest.mark.parametrize("program", ["echoscu", "storescu", "dcmsend"])
def test_dcmtk_echoes_and_stores(receiver: Receiver, program: str) -> None:
    before = set(receiver.spool.pending())
    files = [] if program == "echoscu" else [TEST_FILES / "examples_rgb_color.dcm"]
    command = [program, "-aet", "STORESCU", "-aec", "AINODE", "127.0.0.1", str(receiver.port)]
    done = subprocess.run([*command, *map(str, files)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = set(receiver.spool.pending()) - before
    assert [pydicom.dcmread(one).PixelData for one in kept] == [
        pydicom.dcmread(one).PixelData for one in files
    ]
    assert files or receiver.wait_for_event(ECHOED)


def test_every_class_is_accepted_in_every_syntax(receiver: Receiver) -> None:
    for storage_class in STORAGE_CLASSES:
        contexts = [(storage_class, [syntax.uid]) for syntax in TRANSFER_SYNTAXES]
        association = associate(receiver.address, contexts)
        assert list(association.accepted.values()) == [syntax.uid for syntax in TRANSFER_SYNTAXES]
        association.release()


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ([IMPLICIT, EXPLICIT], EXPLICIT),
        ([BASELINE, RLE, EXPLICIT], EXPLICIT),
        ([BASELINE, IMPLICIT, JPEG_LS], JPEG_LS),
        ([IMPLICIT, J2K_LOSSLESS], J2K_LOSSLESS),
        ([BIG_ENDIAN, DEFLATED, IMPLICIT], IMPLICIT),
        ([BIG_ENDIAN, DEFLATED], DEFLATED),
        ([BASELINE, BIG_ENDIAN], BIG_ENDIAN),
        ([BASELINE], BASELINE),
        (["1.2.3.4.5", "1.2.840.10008.1.2.4.102"], "1.2.840.10008.1.2.4.102"),
    ],
)
def test_of_several_syntaxes_the_best_is_taken(receiver: Receiver, offered: list[str], taken: str) -> None:
    association = associate(receiver.address, [(US, offered)])
    assert association.accepted == {1: taken}
    association.release()


def test_unknown_classes_and_syntaxes_are_refused_by_context(receiver: Receiver) -> None:
    offered = [
        (US, ["1.2.3.4.5"]),
        ("1.2.3.4", [EXPLICIT]),
        (STORAGE_COMMITMENT, [EXPLICIT]),
        (US, [EXPLICIT]),
    ]
    association = associate(receiver.address, offered)
    assert association.results == {1: 4, 3: 3, 5: 3, 7: 0}  # PS3.8 Table 9-18
    association.release()


def test_the_spooled_file_says_how_the_object_came(receiver: Receiver) -> None:
    before = set(receiver.spool.pending())
    item = small_object(11, syntax=IMPLICIT)
    association = associate(receiver.address, [(US, [IMPLICIT])])
    assert association.store(1, item, priority=1) == 0x0000
    association.release()
    (path,) = set(receiver.spool.pending()) - before
    arrival = read_arrival(path)
    assert (arrival.calling_ae, arrival.called_ae, arrival.address) == ("SENDER", "AINODE", "127.0.0.1")
    assert arrival.priority == 1
    meta = pydicom.dcmread(path).file_meta
    assert meta.TransferSyntaxUID == IMPLICIT
    assert meta.MediaStorageSOPInstanceUID == item.sop_instance_uid
    assert arrival.association in {
        event.fields["association"] for event in receiver.events(ASSOCIATION_ACCEPTED)
    }


@pytest.mark.parametrize("seed", range(3))
def test_messages_sent_ahead_and_cut_anywhere_are_answered_each(receiver: Receiver, seed: int) -> None:
    """Of PDVs in PDUs of any size and segments of any length (PS3.8 E.1); within: tests/unit."""
    chance = random.Random(seed)
    items = [small_object(1000 * (seed + 1) + n, chance.randrange(40000)) for n in range(4)]
    association = associate(receiver.address, STORAGE)
    association.peer_pdu = chance.choice([1000, 16384])
    data = b"".join(association.encode_store(1, one) for one in items)
    for start, end in pairwise([0, *sorted(chance.randrange(len(data)) for _ in range(20)), len(data)]):
        association.sock.sendall(data[start:end])
        time.sleep(0.002)  # so that it comes by itself
    assert [association.read_status() for _ in items] == [0x0000] * 4
    association.release()
    kept = {one.sop_instance_uid: one.data_set for one in map(load, receiver.spool.pending())}
    assert [kept[one.sop_instance_uid] for one in items] == [one.data_set for one in items]


SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LIMIT = 16384
DICOM_CONTEXT = b"1.2.840.10008.3.1.1.1"
AFTERWARDS = pytest.mark.usefixtures("nothing_is_left_behind")


@pytest.fixture
def nothing_is_left_behind(receiver: Receiver) -> Iterator[None]:
    """After each test the listener still answers, and no temporary file is left."""
    yield
    association = associate(receiver.address, STORAGE)
    assert association.store(1, small_object(99)) == 0x0000
    association.release()
    receiver.wait_until_nothing_is_open()


def gone(association: Association) -> bool:
    """Whether the peer aborts or closes, within the time of the socket."""
    association.sock.settimeout(10)
    try:
        association.read_response()
    except (ConnectionError, TimeoutError) as error:
        return not isinstance(error, TimeoutError)
    finally:
        association.sock.close()
    return False


def command_pdus(command: bytes, context_id: int = 1) -> bytes:
    return b"".join(p_data(context_id, command, True, LIMIT))


def with_context_name(name: bytes) -> bytes:
    """An association request with this application context in place of DICOM's; empty: without the item."""
    request = associate_request(STORAGE, "SENDER", "AINODE", LIMIT)
    item = struct.pack(">BBH", 0x10, 0, len(DICOM_CONTEXT)) + DICOM_CONTEXT
    body = request[6:].replace(item, struct.pack(">BBH", 0x10, 0, len(name)) + name if name else b"")
    return struct.pack(">BBI", 1, 0, len(body)) + body


CUT: set[tuple[int, ...]] = {(), (7,)}
NOT_SUPPORTED = {(3, 1, 1, 2)}  # PS3.8 Table 9-21


@pytest.mark.parametrize(
    ("request_", "answers"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", CUT),
        (b"\x16\x03\x01\x02\x00\x01\x00", CUT),
        (bytes(64), CUT),
        (b"\xff" * 6, CUT),
        (b"\x01", CUT),
        (with_context_name(b"x" * 200), NOT_SUPPORTED),  # no UID
        (with_context_name(b"\xff\xfe"), NOT_SUPPORTED),
        (with_context_name(b"1.2.840.10008.3.1.1.2"), NOT_SUPPORTED),
        (with_context_name(b"1.2.840.10008.3.1.1.11"), NOT_SUPPORTED),
        (with_context_name(b""), NOT_SUPPORTED),
    ],
)
@AFTERWARDS
def test_what_is_no_request_of_dicom_gets_no_association(
    receiver: Receiver, request_: bytes, answers: set[tuple[int, ...]]
) -> None:
    """The PDU type of the answer, and of a rejection its result, source and reason."""
    with socket.create_connection(receiver.address, timeout=60) as connection:
        connection.sendall(request_)
        if answers is CUT:
            connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(100)
    assert tuple(answer[:1] + answer[7:10] if answer[:1] == b"\3" else answer[:1]) in answers


@AFTERWARDS
def test_a_store_abandoned_half_way_leaves_nothing(receiver: Receiver) -> None:
    before = set(receiver.files())
    aborted = len(receiver.events(ASSOCIATION_ABORTED))
    for ending in ("abort", "close"):
        association = associate(receiver.address, STORAGE)
        encoded = association.encode_store(1, small_object(1, pixels=300_000))
        association.sock.sendall(encoded[: len(encoded) // 2])
        wait_until(lambda: len(receiver.files()) > len(before))
        if ending == "abort":
            association.abort()
        else:
            association.sock.close()
        wait_until(lambda: set(receiver.files()) == before)
    assert [
        event.fields["objects"] for event in receiver.wait_for_event(ASSOCIATION_ABORTED, aborted + 2)[-2:]
    ] == [0, 0]


@pytest.mark.parametrize(
    ("sop_class", "uid", "status"),
    [
        *((US, uid, 0xC000) for uid in ("", "abc", "1.2.3 4", "1" * 65, "1.2\\1.3", "é")),
        *((other, "1.2.3", 0x0122) for other in (SECONDARY_CAPTURE, "1.2.3.4", VERIFICATION)),
    ],
)
@AFTERWARDS
def test_an_impossible_instance_or_another_class_than_the_contexts_is_refused(
    receiver: Receiver, sop_class: str, uid: str, status: int
) -> None:
    before, item = receiver.files(), small_object(1)
    association = associate(receiver.address, STORAGE)
    assert association.store(1, Stored(sop_class, uid, EXPLICIT, item.data_set)) == status
    assert association.store(1, item) == 0x0000
    association.release()
    assert receiver.events(STORE_REFUSED)[-1].fields["status"] == f"{status:04X}"
    assert len(receiver.files()) == len(before) + 1


@pytest.mark.parametrize(
    "pdus",
    [
        b"".join(p_data(1, b"data without command", False, LIMIT)),
        command_pdus(b"no command set"),
        command_pdus(store_command(US, "1.2.3", 1)[:30]),
        command_pdus(command_set({0x0100: b"\x01\x00"})),
        command_pdus(store_command(US, "1.2.3", 1)) * 2,
        command_pdus(store_command(US, "1.2.3", 1), context_id=3),
        command_pdus(store_command(US, "1.2.3", 1)) + b"".join(p_data(3, b"x", False, LIMIT)),
        command_pdus(command_set({0x0100: b"\x77\x77", 0x0110: b"\x01\x00", 0x0800: b"\x01\x01"})),
        struct.pack(">BBIIB", 4, 0, 5, 1, 1),  # a PDV without message control header
        struct.pack(">BBIIBB", 4, 0, 6, 900, 1, 2),  # a PDV longer than its PDU
        struct.pack(">BBIH", 4, 0, 2, 0),
        struct.pack(">BBI", 9, 0, 0),  # no such PDU
        struct.pack(">BBI", 6, 0, 4) + bytes(4),  # A-RELEASE-RP to nothing
        associate_request(STORAGE, "SENDER", "AINODE", LIMIT),  # a second time
    ],
    ids=lambda pdus: pdus[:12].hex(),
)
@AFTERWARDS
def test_what_breaks_the_protocol_ends_the_association(receiver: Receiver, pdus: bytes) -> None:
    association = associate(receiver.address, STORAGE)
    association.sock.sendall(pdus)
    assert gone(association)


def test_an_idle_association_is_aborted(tmp_path: Path) -> None:
    with receiving(tmp_path, network_timeout_seconds=0.5) as impatient:
        association = associate(impatient.address, STORAGE)
        stalled = associate(impatient.address, STORAGE)
        stalled.sock.sendall(stalled.encode_store(1, small_object(1))[:2000])  # stops within a PDU
        began = time.monotonic()
        with pytest.raises(Aborted):
            association.read_response()
        assert gone(stalled)
        assert time.monotonic() - began < 60
        association.sock.close()
        assert len(impatient.wait_for_event(ASSOCIATION_ABORTED, 2)) == 2
        wait_until(lambda: impatient.files() == [])


ECHO = [(VERIFICATION, [EXPLICIT])]
Contexts = list[tuple[str, list[str]]]
CALLING, CALLED, TOO_MANY = (1, 1, 3), (1, 1, 7), (2, 3, 2)  # PS3.8 Table 9-21


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


def test_all_together_have_a_limit_and_room_is_given_back(receiver: Receiver) -> None:
    time.sleep(0.2)
    associations = [open_for(receiver, "SENDER") for _ in range(12)]
    assert answer_to(receiver, "SENDER") == TOO_MANY
    for number, association in enumerate(associations):
        if number % 2:
            association.abort()
        else:
            association.release()
    wait_until(lambda: answer_to(receiver, "SENDER") == "accepted")


@pytest.mark.parametrize("kind", [1, 2, 3], ids=["name", "name and passcode", "ticket"])
def test_a_user_identity_is_ignored(receiver: Receiver, kind: int) -> None:
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(US, EXPLICIT)
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.positive_response_requested = kind, True
    identity.primary_field = b"technician"
    if kind == 2:
        identity.secondary_field = b"secret"
    association = ae.associate("127.0.0.1", receiver.port, ae_title="AINODE", ext_neg=[identity])
    assert association.is_established
    assert association.acceptor.user_identity is None
    association.release()
    assert "technician" not in "".join(path.read_text() for path in (receiver.data_dir / "journal").iterdir())


@pytest.mark.parametrize("tell", [True, False], ids=["SIGHUP", "file alone"])
def test_a_new_policy_is_taken_without_a_restart(tmp_path: Path, tell: bool) -> None:
    with receiving(tmp_path) as receiver:
        assert answer_to(receiver, "NEW") == CALLING
        receiver.change(peers=[a_peer("new")], further_storage_classes=["1.2.840.10008.5.1.4.1.1.2"])
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
    with receiving(
        tmp_path_factory.mktemp("listener"),
        tls={"certificate": certificate, "private_key": key, "trusted": authority.certificate},
    ) as running:
        yield running


def client(authority: Authority, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if certificate:
        context.load_cert_chain(*certificate)
    return context


def test_a_certified_client_stores_over_tls(tls_receiver: Receiver, authority: Authority) -> None:
    association = associate(tls_receiver.address, STORAGE, tls=client(authority, authority.certify("us1")))
    for number in range(3):
        assert association.store(1, small_object(number, pixels=400_000)) == 0x0000
    association.release()
    assert len(tls_receiver.spool.pending()) >= 3


def test_replaced_certificates_are_served_once_they_fit(tmp_path: Path, authority: Authority) -> None:
    (certificate, key), others = authority.certify("before"), authority.certify("after")
    before, tls = certificate.read_text(), {"certificate": certificate, "private_key": key}
    with receiving(tmp_path, tls=tls) as receiver:
        shutil.copy(others[0], certificate)
        receiver.change(tls=tls)
        time.sleep(1.5)  # it looks once a second
        assert ssl.get_server_certificate(receiver.address) == before
        shutil.copy(others[1], key)
        wait_until(lambda: ssl.get_server_certificate(receiver.address) == others[0].read_text())


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("no certificate", "a certificate of the client is needed"),
        ("of another authority", "its certificate is not accepted: unable to get local issuer certificate"),
        ("expired", "its certificate is not accepted: certificate has expired"),
        ("plain DICOM", "it speaks no TLS at this port"),
    ],
)
def test_a_client_without_our_certificate_is_refused(
    tls_receiver: Receiver, authority: Authority, tmp_path: Path, case: str, why: str
) -> None:
    certificate = authority.certify("late", days=-1) if case == "expired" else None
    if case == "of another authority":
        certificate = Authority(tmp_path, "theirs").certify("client")
    context = None if case == "plain DICOM" else client(authority, certificate)
    count = len(tls_receiver.events(TLS_FAILED))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        associate(tls_receiver.address, STORAGE, tls=context)
    told = tls_receiver.wait_for_event(TLS_FAILED, count + 1)[-1].fields
    assert told["address"] == "127.0.0.1"
    assert why in str(told["reason"])


def test_a_second_listener_does_not_touch_the_spool_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(tmp_path, alone=True) as first:
        assert first.cpu_seconds() < 1.5, "it starts at once"
        association = associate(first.address, STORAGE)
        encoded = association.encode_store(1, small_object(1))
        association.sock.sendall(encoded[:-500])
        wait_until(lambda: len(first.files()) == 1)
        code = "import dicom_node.receive.listener as m; m._LOCK_SECONDS = 0.2; raise SystemExit(m.main())"
        second = subprocess.run(
            [sys.executable, "-c", code, "--data-dir", str(tmp_path)],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.PIPE,
        )
        assert second.returncode == 69
        assert "another listener" in second.stdout
        association.sock.sendall(encoded[-500:])
        assert association.read_status() == 0x0000
        association.release()


def test_sigterm_lets_associations_finish_and_aborts_the_rest(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        busy, idle = associate(receiver.address, STORAGE), associate(receiver.address, STORAGE)
        encoded = busy.encode_store(1, small_object(1, pixels=200_000))
        busy.sock.sendall(encoded[:1000])
        receiver.signal(signal.SIGTERM)
        time.sleep(0.7)
        with pytest.raises(ConnectionError):
            associate(receiver.address, STORAGE)
        assert busy.exchange(encoded[1000:]) == 0x0000
        busy.release()
        assert receiver.process.wait(60) == 0
        idle.sock.close()
        assert len(receiver.spool.pending()) == len(receiver.files()) == 1
        kinds = [event.type for event in receiver.events()]
        assert kinds.count(ASSOCIATION_RELEASED) == kinds.count(ASSOCIATION_ABORTED) == 1
        assert kinds[-1] == LISTENER_STOPPED


def test_128_senders_at_once_lose_nothing(tmp_path: Path) -> None:
    with receiving(
        tmp_path,
        maximum_associations=128,
        peers=[a_peer("sender", maximum_associations=128)],
    ) as receiver:
        statuses: list[int] = []
        together = threading.Barrier(128)

        def send(first: int) -> None:
            association = associate(receiver.address, STORAGE)
            together.wait(60)
            statuses.extend(association.store(1, small_object(first + k)) for k in range(2))
            association.release()

        threads = [threading.Thread(target=send, args=(10 * k,)) for k in range(128)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [0x0000] * 256
        assert len({load(path).sop_instance_uid for path in receiver.spool.pending()}) == 256


def test_an_object_of_any_size_takes_the_memory_of_one_pdu(tmp_path: Path) -> None:
    fragment = bytes(100_000)
    with receiving(tmp_path) as receiver:
        association = associate(receiver.address, STORAGE)
        assert association.store(1, small_object(1, pixels=200_000)) == 0x0000
        before = most_memory(receiver)
        association.sock.sendall(b"".join(p_data(1, store_command(US, "1.2.3", 2), True, 16384)))
        for header in (*[0] * 1500, 2):
            association.sock.sendall(struct.pack(">BxIIBB", 4, 100_006, 100_002, 1, header) + fragment)
        assert association.read_status() == 0x0000
        association.release()
        assert most_memory(receiver) - before <= 2 * 2**20


def most_memory(receiver: Receiver) -> int:
    """Bytes of resident memory at its highest."""
    return 1024 * int(Path(f"/proc/{receiver.process.pid}/status").read_text().split("VmHWM:")[1].split()[0])


def test_two_listeners_share_a_port_and_one_goes_on_alone(tmp_path: Path) -> None:
    shared = {"port": free_port(), "share_port": True}
    with receiving(tmp_path, **shared) as first, receiving(tmp_path, place="listener-2", **shared) as second:
        store_each(first, range(16))
        listeners = {read_arrival(path).association.rpartition("-")[0] for path in first.spool.pending()}
        assert len(listeners) == 2, "the system deals connections among them"
        second.kill()
        store_each(first, range(16, 24))
        assert len({load(path).sop_instance_uid for path in first.spool.pending()}) == 24


def store_each(receiver: Receiver, numbers: Iterable[int]) -> None:
    """Each on an association of its own."""
    for number in numbers:
        association = associate(receiver.address, STORAGE)
        assert association.store(1, small_object(number, pixels=50)) == 0x0000
        association.release()
