"""The listener's parts: contexts, deadlines, places, messages, policy, requests."""

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, strategies
from pydicom.uid import UID, UID_dictionary
from pynetdicom.dsutils import decode
from pynetdicom.pdu import A_ASSOCIATE_AC, P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from ai_pipeline.errors import CodestreamFault
from ai_pipeline.images.codestreams import check_decodable
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.uids import TRANSFER_SYNTAXES, SyntaxKind, TransferSyntax
from dicom_node.receive import limits, statuses
from dicom_node.receive.messages import (
    C_STORE_RQ,
    N_CREATE_RQ,
    Answer,
    Command,
    DeadlineSocket,
    Proposal,
    ProtocolViolation,
    acceptance,
    check_answer,
    encode_response,
    fragments,
    read_command,
    read_request,
)
from dicom_node.receive.policy import (
    OTHERS,
    VERIFICATION,
    AEPolicy,
    Entrance,
    Permission,
    PolicyFile,
    addresses,
    negotiate,
    network,
    refused_class,
)
from dicom_node.receive.storing import StoreRequest
from tests.certificates_lab import Authority
from tests.forked import run_python
from tests.node_lab import in_background
from tests.peers import a_peer, a_receiver

# Pixel data elsewhere, real-time video, never for the network.
NOT_FOR_STORAGE = ("JPIP", "SMPTE", "RFC 2557", "XML", "Papyrus")


def test_every_syntax_of_the_standard_is_accepted_that_can_carry_an_object() -> None:
    standard = {
        uid
        for uid, entry in UID_dictionary.items()
        if entry[1] == "Transfer Syntax" and not entry[0].startswith(NOT_FOR_STORAGE)
    }
    assert {one.uid for one in TRANSFER_SYNTAXES} == standard


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=attrgetter("uid"))
def test_what_is_called_decoded_here_is_and_nothing_else(syntax: TransferSyntax) -> None:
    kept = syntax.kind in (SyntaxKind.LOSSLESS_KEPT, SyntaxKind.LOSSY_KEPT)
    refused = pytest.raises(CodestreamFault, match="cannot be decoded") if kept else nullcontext()
    with refused:
        check_decodable(UID(syntax.uid))


def test_the_table_needs_nothing_that_pynetdicom_adds_to_the_dictionary_of_pydicom() -> None:
    """The process that inspects objects, and workers, do not import pynetdicom."""
    program = (
        "import sys; from dicom_node.base.dicom.uids import TRANSFER_SYNTAXES as table;"
        "assert 'pynetdicom' not in sys.modules;"
        "print(*(f'{one.uid}={one.name}' for one in table), sep=chr(10))"
    )
    alone = run_python(program)
    assert alone.stdout.splitlines() == [f"{one.uid}={one.name}" for one in TRANSFER_SYNTAXES]


@pytest.mark.parametrize(
    ("proposed", "shown"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2"),  # with its name
        ("1.3.46.670589.2.5.1.1", "1.3.46.670589.2.5.1.1"),
        ("1.2.Doe^John.3.4", ""),
    ],
)
def test_the_class_of_a_refused_context_is_found_again(proposed: str, shown: str) -> None:
    _, (refusal,) = negotiate({1: (proposed, ("1.2.840.10008.1.2",))}, {})
    assert refused_class(refusal) == shown


@contextmanager
def connected() -> Iterator[tuple[DeadlineSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(3)
        yield DeadlineSocket(ours, 5, 3), theirs


@pytest.mark.parametrize("seconds", [0.2, 1, 100, 200, 300, 600, 1000])
def test_a_deadline_of_any_length_can_be_set(seconds: float) -> None:
    with connected() as (reader, sender):
        for _ in range(200):
            reader.allow(seconds)
            sender.sendall(b"abc")
            assert reader.read(memoryview(bytearray(3))) == b"abc"


def test_a_silent_peer_is_given_up_at_its_deadline() -> None:
    with connected() as (reader, sender):
        sender.sendall(b"ab")
        reader.allow(0.2)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            reader.read(memoryview(bytearray(3)))
    assert 0.1 < time.monotonic() - began < 60


def test_a_thread_that_is_woken_never_reads_ciphertext(tmp_path: Path) -> None:
    """All that is sent are zeros; it is woken while more of them wait in the system than it has read."""
    authority = Authority(tmp_path, "ours")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.certify("listener"))
    client = ssl.create_default_context(cafile=str(authority.certificate))
    for _ in range(20):
        with connected() as (reader, theirs), over_tls(reader, theirs, context, client) as sender:
            data = bytearray(10**6)
            reading = in_background(lambda data=data, reader=reader: fill(reader, data))
            with suppress(OSError):
                sender.sendall(bytes(300_000))
            reader.interrupt()
            reading.join(10)
            assert not reading.is_alive()
        assert not any(data)


def fill(reader: DeadlineSocket, data: bytearray) -> None:
    with suppress(OSError):
        reader.read(memoryview(data))


@contextmanager
def over_tls(
    reader: DeadlineSocket, theirs: socket.socket, server: ssl.SSLContext, client: ssl.SSLContext
) -> Iterator[ssl.SSLSocket]:
    def accept() -> None:
        reader._socket.settimeout(3)
        reader._socket = server.wrap_socket(reader._socket, server_side=True)

    accepting = in_background(accept)
    with client.wrap_socket(theirs, server_hostname="127.0.0.1") as sender:
        accepting.join(10)
        with reader._socket:
            yield sender


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_address_is_what_one_machine_cannot_choose(address: str, counts_as: str) -> None:
    assert network(address) == counts_as


def test_places_are_kept_for_peers_and_one_address_does_not_take_all() -> None:
    entrance = Entrance()
    entrance.know(["192.0.2.1"])
    assert sum(entrance.enter(f"10.0.{number}.1") for number in range(200)) == limits.WAITING
    assert [entrance.enter("192.0.2.1") for _ in range(2)] == [True, True]
    entrance.leave("10.0.0.1")
    assert not entrance.enter("10.0.0.1")  # the peer has that place
    for _ in range(2):
        entrance.leave("192.0.2.1")
    assert entrance.enter("10.0.0.1")
    alone = Entrance()
    assert sum(alone.enter("10.0.0.1") for _ in range(200)) == limits.WAITING_OF_ONE_ADDRESS


def test_failures_are_told_at_once_and_then_once_a_minute() -> None:
    now = [0.0]
    failures = Entrance(lambda: now[0])
    failures.fail("10.0.0.1", "too_late")
    assert failures.due() == [("10.0.0.1", {"too_late": 1})]
    for _ in range(3):
        failures.fail("10.0.0.1", "no_place")
    assert failures.due() == []
    now[0] = 60.0
    assert failures.due() == [("10.0.0.1", {"no_place": 3})]
    assert failures.due() == []


def test_a_thousand_addresses_make_no_thousand_events() -> None:
    failures = Entrance(lambda: 0.0)
    for number in range(5000):
        failures.fail(f"10.{number >> 8}.{number & 255}.1", "too_late")
    told = dict(failures.due())
    assert len(told) <= limits.ADDRESSES_A_MINUTE + 1
    assert sum(counts["too_late"] for counts in told.values()) == 5000
    assert told[OTHERS]["too_late"] > 4000


def test_an_address_is_listed_so_often_a_minute() -> None:
    now = [0.0]
    failures = Entrance(lambda: now[0])
    assert sum(failures.count_listed("10.0.0.1") for _ in range(200)) == limits.LISTED_A_MINUTE
    now[0] = 61.0
    assert failures.count_listed("10.0.0.1")


COMMENTS = strategies.text(
    strategies.characters(exclude_categories=("C",)), max_size=80
)  # ours have no control characters


UIDS = strategies.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,8})){1,6}", fullmatch=True)


@given(UIDS, UIDS, strategies.integers(0, 65535), strategies.sampled_from(statuses.STATUSES), COMMENTS)
def test_pynetdicom_reads_our_response(
    cls: str, uid: str, number: int, status: statuses.Status, comment: str
) -> None:
    encoded = encode_response(Command(C_STORE_RQ, number, cls, uid), Answer(status, comment))
    ds = decode(BytesIO(encoded), True, True)
    assert (ds.AffectedSOPClassUID, ds.AffectedSOPInstanceUID) == (cls, uid)
    assert (ds.MessageIDBeingRespondedTo, ds.Status) == (number, status.code)
    assert (ds.CommandField, ds.CommandDataSetType) == (0x8001, 0x0101)
    assert ds.CommandGroupLength == len(encoded) - 12
    assert len(ds.get("ErrorComment", "")) <= 64


@pytest.mark.parametrize(
    "status", {*statuses.STEP_STATUSES, *statuses.REQUEST_STATUSES, *statuses.REPORT_STATUSES}
)
def test_each_failure_of_a_normalized_request_says_what_is_wrong(status: statuses.Status) -> None:
    asked = Command(N_CREATE_RQ, 1, "1.2", "1.2.3")
    ds = decode(BytesIO(encode_response(asked, Answer(status))), True, True)
    assert bool(ds.get("ErrorComment")) is bool(status.code)
    exactly = encode_response(asked, Answer(status, "more exactly"))
    assert decode(BytesIO(exactly), True, True).ErrorComment == "more exactly"


def test_a_data_set_without_end_is_cut_off() -> None:
    request = StoreRequest(Command(C_STORE_RQ, 1, "1.2", "1.2.3"), "1.2", "1.2.840.10008.1.2", 10)
    request.write(bytes(11))
    request.size = limits.DISCARDED
    with pytest.raises(ProtocolViolation):
        request.write(b"x")


@given(strategies.binary(max_size=200))
def test_any_bytes_are_a_command_or_malformed(data: bytes) -> None:
    with suppress(ProtocolViolation):
        assert 0 <= read_command(data).field < 2**16


@pytest.mark.parametrize("uid", ["", "1.2 .3", "x", "1" * 65])
def test_what_is_no_uid_names_no_instance(uid: str) -> None:
    assert not Command(C_STORE_RQ, 1, "1.2", uid).names_an_instance


@given(
    strategies.lists(
        strategies.tuples(strategies.integers(0, 255), strategies.binary(min_size=1, max_size=50)),
        min_size=1,
        max_size=5,
    )
)
def test_fragments_are_those_that_pynetdicom_sees(values: list[tuple[int, bytes]]) -> None:
    primitive = P_DATA()
    primitive.presentation_data_value_list.extend(values)
    encoded = P_DATA_TF(primitive).encode()
    stock = P_DATA_TF()
    stock.decode(encoded)
    assert [(context, bytes(value)) for context, value in fragments(memoryview(encoded)[6:])] == values
    assert stock.to_primitive().presentation_data_value_list == values


@given(strategies.binary(max_size=60))
def test_any_bytes_are_fragments_or_an_error(body: bytes) -> None:
    try:
        values = list(fragments(memoryview(body)))
    except ProtocolViolation:
        return
    assert b"".join(struct.pack(">IB", len(value) + 1, context) + value for context, value in values) == body


US = "1.2.840.10008.5.1.4.1.1.6.1"


def policy(peers: tuple[dict[str, Any], ...] = (), **listener: Any) -> AEPolicy:
    return AEPolicy.from_settings(Settings.model_validate({"listener": listener, "peers": peers}))


def proposal(
    calling: str = "US1", called: str = "AINODE", address: str = "192.0.2.7", classes: tuple[str, ...] = (US,)
) -> Proposal:
    return Proposal(calling, called, address, {n: (uid, ("1.2",)) for n, uid in enumerate(classes)})


US1 = a_peer("us1")


EVERYTHING = {
    "tls": {"certificate": "c.pem", "private_key": "k.pem", "trusted": "ca.pem"},
    "further_ae_titles": ["AI2"],
    "further_storage_classes": ["1.2.3"],
}


@pytest.mark.parametrize("one", [policy(), policy((US1,), **EVERYTHING)])
def test_a_policy_comes_back_from_json_as_it_was(one: AEPolicy) -> None:
    assert AEPolicy.from_json(one.to_json()) == one


def test_a_new_file_is_read_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    policy().write(path)
    file = PolicyFile(path)
    policy((US1,)).write(path)
    assert file.current() == policy((US1,))
    path.write_text("{", encoding="utf-8")
    assert file.current() == policy((US1,))
    path.unlink()
    assert file.current() == policy((US1,))
    policy().write(path)
    assert (seen := file.current()) == policy()
    policy().write(path)
    assert file.current() is not seen, "its certificates may be others"
    assert [path.name for path in tmp_path.iterdir()] == ["policy.json"]


UNKNOWN = statuses.CALLING_AE_NOT_RECOGNISED
AT = {**US1, "host": "192.0.2.1", "check_address": True}
PACS = a_receiver("pacs", host="h")
COMMITS = PACS | {
    "host": "192.0.2.1", "check_address": True, "confirm": "commitment", "commitment_host": "192.0.2.9"
}  # fmt: skip
ASKS = US1 | {"commit_after": "delivered", "host": "192.0.2.1", "port": 104, "check_address": True}
ASKS_AS_PACS = ASKS | {"commitment_ae_title": "PACS"}
RECEIVES = Permission("pacs", may_send=False, may_report=True)
ECHO = (VERIFICATION,)
PACS_SENDS = Permission("pacs", may_send=True)
MAY, MAY_NOT = Permission("us1", may_send=True), Permission("", may_send=False)


@pytest.mark.parametrize(
    ("one", "asked", "verdict"),
    [
        (policy(), proposal("CONSOLE"), UNKNOWN),
        (policy(), proposal(" CONSOLE "), UNKNOWN),
        (policy(), proposal("CONSOLE", classes=ECHO), MAY_NOT),
        (policy(), proposal(" CONSOLE ", classes=ECHO), MAY_NOT),
        (policy((AT,)), proposal("US1", address="192.0.2.1"), MAY),
        (policy((AT,)), proposal("US1", address="192.0.2.7"), UNKNOWN),
        (policy((US1, PACS)), proposal("US1"), MAY),
        (policy((US1, PACS)), proposal("PACS"), Permission("pacs", may_send=False)),
        (policy((PACS | {"ae_title": "US1"}, US1)), proposal("US1"), MAY),
        (policy((US1,)), proposal("US1 "), MAY),
        (policy((US1,)), proposal(called="OTHER"), statuses.CALLED_AE_NOT_RECOGNISED),
        (policy((US1,), check_called_ae=False), proposal(called="OTHER"), MAY),
        (policy((US1,), check_called_ae=False), proposal(called="A\\B"), statuses.CALLED_AE_NOT_RECOGNISED),
        (policy((COMMITS,)), proposal("PACS"), UNKNOWN),
        (policy((COMMITS,)), proposal("PACS", address="192.0.2.1"), replace(RECEIVES, may_report=False)),
        (policy((COMMITS,)), proposal("PACS", address="192.0.2.9"), RECEIVES),
        (policy((ASKS,)), proposal("US1", address="192.0.2.1"), replace(MAY, may_ask=True)),
        # Under the title of another peer, which may send, nobody asks for that one's objects.
        (policy((PACS | {"may": ["send"]}, ASKS_AS_PACS)), proposal("PACS", address="192.0.2.1"), PACS_SENDS),
        (policy(), replace(proposal(), has_version_1=False), statuses.PROTOCOL_VERSION_NOT_SUPPORTED),
        (
            policy(),
            replace(proposal(), application_context="1.2"),
            statuses.APPLICATION_CONTEXT_NOT_SUPPORTED,
        ),
        (policy(), proposal("STRANGER", classes=ECHO), MAY_NOT),
        (policy(), proposal("STRANGER", classes=(VERIFICATION, US)), UNKNOWN),
        (policy(), proposal("STRANGER", classes=(US,)), UNKNOWN),
        (policy(), proposal("STRANGER", classes=()), UNKNOWN),
    ],
)
def test_who_may_send_under_a_title_and_a_stranger_may_at_most_verify(
    one: AEPolicy, asked: Proposal, verdict: Permission | statuses.Rejection
) -> None:
    assert one.decide(asked) == verdict


@pytest.mark.parametrize(
    ("host", "address", "accepted"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("localhost", "127.0.0.1", True),
        ("no.such.host.invalid", "192.0.2.7", False),
        ("2001:db8::1", "2001:db8:0::1", True),
    ],
)
def test_the_address_counts_where_it_is_asked_for(host: str, address: str, accepted: bool) -> None:
    peer = US1 | {"host": host, "check_address": True}
    assert isinstance(policy((peer,)).decide(proposal(address=address)), Permission) == accepted
    assert isinstance(policy((US1 | {"host": host},)).decide(proposal(address=address)), Permission)
    assert ("192.0.2.7" in addresses(host)) == (host == "192.0.2.7")


def test_limits_hold_per_peer_and_for_all() -> None:
    one = policy((US1 | {"maximum_associations": 2},), maximum_associations=3)
    ours, theirs = ("us1", "192.0.2.7"), ("", "192.0.2.8")
    counts = [(MAY, [ours]), (MAY, [ours] * 2), (MAY_NOT, [ours] * 2), (MAY, [ours, theirs, theirs])]
    counts += [(MAY_NOT, [ours]), (MAY_NOT, [theirs])]  # which get half of the places
    assert [one.has_room(who, "h", there) for who, there in counts] == [True, False, True, False, True, False]


def test_strangers_leave_places_to_peers_and_to_each_other() -> None:
    one, of_one_address, of_all = policy((US1,)), 3, 10
    stranger = Permission("", may_send=False)
    here, elsewhere = ("", "192.0.2.7"), ("", "192.0.2.8")
    rest = [elsewhere] * (of_all - of_one_address)
    assert one.has_room(stranger, "192.0.2.7", [*rest, *[here] * (of_one_address - 1)])
    assert not one.has_room(stranger, "192.0.2.7", [here] * of_one_address)
    assert not one.has_room(stranger, "192.0.2.7", [elsewhere] * of_all)
    assert one.has_room(Permission("us1", may_send=True), "192.0.2.7", [elsewhere] * of_all)


_CONTEXT = b"1.2.840.10008.3.1.1.1"


_UNKNOWN = [kind for kind in range(256) if kind not in (0x10, 0x20, 0x30, 0x40, *range(0x50, 0x59))]


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def request(
    called: bytes = b"AINODE",
    calling: bytes = b"US1",
    chance: Random | None = None,
    version: bytes = b"OLD",
    identity: bytes = b"",
) -> memoryview:
    """A request; with ``chance`` items of unknown type stand among the known ones at each level."""

    def level(*items: bytes) -> bytes:
        among = list(items)
        for _ in range(chance.randrange(4) if chance else 0):
            strange = item(chance.choice(_UNKNOWN), chance.randbytes(chance.randrange(9)))
            among.insert(chance.randrange(len(among) + 1), strange)
        return b"".join(among)

    syntaxes = level(item(0x30, b"1.2.840.10008.1.1"), item(0x40, b"1.2.840.10008.1.2"))
    user = level(item(0x51, struct.pack(">I", 16384)), item(0x52, b"1.2.3"), item(0x55, version), identity)
    items = level(item(0x10, _CONTEXT), item(0x20, b"\1\0\0\0" + syntaxes), item(0x50, user))
    return memoryview(struct.pack(">H2x16s16s32x", 1, called.ljust(16), calling.ljust(16)) + items)


def read(request: memoryview) -> Proposal:
    return read_request(request, "192.0.2.7")


@pytest.mark.parametrize(
    "title", [b"US1\0", b"US1".ljust(16, b"\0"), b" US1 \0\0", b"US1\0US2", b"US1 \0 \0"]
)
def test_a_title_ends_at_a_nul(title: bytes) -> None:
    proposal = read(request(b"AINODE" + bytes(10), title))
    assert (proposal.calling_ae, proposal.called_ae) == ("US1", "AINODE")


@pytest.mark.parametrize("title", [b"\0US1", bytes(16), b"US\\1\0"])
def test_a_title_without_letters_before_the_nul_is_none(title: bytes) -> None:
    assert read(request(calling=title)).calling_ae in ("", "US\\x5c1")


@pytest.mark.parametrize(
    "given",
    [
        *({"chance": Random(seed)} for seed in range(50)),
        {"identity": item(0x58, b"\x09\0\0\1x\0\0")},
        *({"version": version} for version in (b"OLD\0", b"A version of 1998", b"V\xc9RSION")),
    ],
)
def test_items_of_unknown_type_identities_and_versions_are_skipped(given: dict[str, Any]) -> None:
    assert read(request(**given)) == read(request())


def test_pynetdicom_reads_our_acceptance() -> None:
    results = {1: (0, "1.2.840.10008.1.2"), 3: (4, "1.2.3")}
    answered = A_ASSOCIATE_AC()
    answered.decode(acceptance(request(), results, {"1.2.840.10008.1.20.1": (False, True)}, 16384))
    assert (answered.calling_ae_title, answered.called_ae_title) == ("US1", "AINODE")
    contexts = answered.presentation_context
    assert {one.context_id: (one.result, one.transfer_syntax) for one in contexts} == results
    [role] = answered.user_information.role_selection.values()
    assert (role.sop_class_uid, role.scu_role, role.scp_role) == ("1.2.840.10008.1.20.1", False, True)
    assert answered.user_information.maximum_length == 16384


@pytest.mark.parametrize("seed", range(20))
def test_an_answer_with_unknown_items_and_an_odd_version_is_read(seed: int) -> None:
    chance = Random(seed)

    def level(*items: bytes) -> bytes:
        strange = [item(chance.choice(_UNKNOWN), chance.randbytes(chance.randrange(9))) for _ in range(2)]
        return b"".join(chance.sample([*items, *strange], len(items) + 2))

    context = item(0x21, b"\1\0\0\0" + level(item(0x40, b"1.2.840.10008.1.2")))
    user = level(item(0x51, struct.pack(">I", 16384)), item(0x52, b"1.2"), item(0x55, b"V\xfc\0" * 9))
    items = level(item(0x10, _CONTEXT), context, item(0x50, user))
    head = struct.pack(">BxIH2x16s16s32x", 2, 68 + len(items), 1, b"PACS".ljust(16), b"AINODE".ljust(16))
    read = A_ASSOCIATE_AC()
    read.decode(bytes(check_answer(memoryview(head + items))))
    [accepted] = read.presentation_context
    assert (accepted.context_id, accepted.transfer_syntax) == (1, "1.2.840.10008.1.2")


def test_many_unknown_items_are_too_many() -> None:
    with pytest.raises(ProtocolViolation, match="too many"):
        read(memoryview(bytes(request()) + item(0x99, b"") * limits.REQUEST_ITEMS))
