"""The conformance statement against real objects: its tables of created instances and of report content."""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_description, keyword_for_tag
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from dicom_console.web.parts import PARTS
from dicom_node import __version__, results
from dicom_node.config.sections import AssemblySettings, OutboxSettings
from dicom_node.config.settings import ListenerSettings, NodeSettings, PeerSettings, Settings
from dicom_node.dicom import commitment, performed_step
from dicom_node.dicom.identity import COPIED
from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.fetch.incoming import Incoming
from dicom_node.inbox.spool import Spool, WaitingObjects
from dicom_node.model.kinds import ResultKind
from dicom_node.outbox.commitment_answers import INDEXED_AFTER
from dicom_node.results.common.concepts import SCHEME, SCHEME_UID
from dicom_node.results.deidentify.profile import DUMMY_DATE, EDITION
from dicom_node.scp.connection import limits
from dicom_node.scp.contexts import STORAGE_CLASSES
from dicom_node.scp.performed_steps import KEPT_DAYS
from dicom_node.scp.policy import APPLICATION_CONTEXT
from dicom_node.scu import open_archive, open_worklist
from dicom_node.scu.archive import MOST_OBJECTS
from dicom_node.scu.dimse import DimseDestination
from dicom_node.scu.dimse_archive import LARGEST_BY_GET
from dicom_node.scu.worklist import MOST_ITEMS
from dicom_node.store.requested import MOST_OPEN
from tests import golden_lab
from tests.conformance.test_results import _source_file, everything
from tests.result_images import CALIBRATED, UNCALIBRATED, context, source
from tests.result_reading import read_result

DOCS = Path(__file__).resolve().parents[2] / "docs"
STATEMENT = (DOCS / "conformance.md").read_text(encoding="utf-8")
SUPPORTED = (
    Verification,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelGet,
    StorageCommitmentPushModel,
)
SOURCES = ("cr", "monochrome1", "us", "us_cine", "us_retired", "examples_palette", "examples_ybr_color")


@pytest.fixture(scope="module")
def statement() -> Iterator[ModuleType]:
    """The module that writes its tables."""
    sys.path.insert(0, str(DOCS))
    import statement

    yield statement
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Objects of every kind, of drawn and of real images, by a name as the golden dumps have it."""
    folder = tmp_path_factory.mktemp("made")
    found = {name: read_result(one) for name, one in golden_lab.objects(folder)}
    files = {name: _source_file(folder, name) for name in SOURCES}
    ds = dcmread(files["cr"])
    ds.ShutterShape = ["CIRCULAR", "RECTANGULAR"]
    ds.CenterOfCircularShutter, ds.RadiusOfCircularShutter = [20, 20], 10  # the rectangle lacks its edges
    ds.add_new(0x60020010, "US", ds.Rows)
    ds.save_as(folder / "crshuttered.dcm")
    for name, file in (files | {"crshuttered": folder / "crshuttered.dcm"}).items():
        one = source(file)
        built = results.build(context(CALIBRATED, UNCALIBRATED), [one], everything(one))
        found |= {f"{name}{number}-{item.kind}": read_result(item) for number, item in enumerate(built)}
    return {name: one for name, one in found.items() if not name.startswith("deidentified")}


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    return STATEMENT.partition(f"# {title}\n")[2].partition("\n##")[0]


def part(name: str) -> str:
    """What stands between two marks."""
    return STATEMENT.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]


def rows(text: str) -> list[list[str]]:
    """The rows of its tables, the headings too."""
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ") and not line.startswith("| ---")
    ]


def stated_presences(statement: ModuleType) -> dict[str, dict[str, str]]:
    """By instance and keyword."""
    found: dict[str, dict[str, str]] = {
        name: {} for group in statement.CREATED.values() for name, *_ in group
    }
    groups = {"All instances": tuple(found)} | {
        title: tuple(name for name, *_ in group) for title, group in statement.CREATED.items()
    }
    for number, (title, members) in enumerate(groups.items(), start=1):
        names: list[str] = []
        for row in rows(section(f"A.A.{number} {title}")):
            if row[0] == "attribute":
                names = row[2:-2]
                continue
            keyword = keyword_for_tag(row[1].strip("()").replace(",", "").replace("xx", "00"))
            for column, how in zip(names, row[2:-2], strict=True):
                for name in members if column.startswith("all") else [column]:
                    if how != statement.NOWHERE:
                        found[name][keyword] = how
    return found


def test_every_attribute_of_a_created_object_is_in_its_table_with_its_presence(
    made: dict[str, Dataset], statement: ModuleType
) -> None:
    judged, presences = 0, stated_presences(statement)
    for name, pattern, uid in (one for group in statement.CREATED.values() for one in group):
        stated = presences[name]
        objects = {
            key: one for key, one in made.items() if fnmatch(key, pattern) and str(one.SOPClassUID) == uid
        }
        assert objects, name
        for key, one in objects.items():
            judged += 1
            values = {element.keyword or "OverlayActivationLayer": element.value for element in one}
            written = values.keys() - {*COPIED, "ContentSequence"}
            assert written <= stated.keys(), (name, key, written - stated.keys())
            for keyword, presence in stated.items():
                if presence != "ANAP":
                    assert keyword in values, (name, key, keyword)
                empty = keyword in values and values[keyword] in (None, "", [])
                assert not (presence == "ALWAYS" and empty), (name, key, keyword)
                assert presence != "EMPTY" or empty, (name, key, keyword)
    assert judged >= len(made) - 6, "kinds that no table describes: grey multi-frame pictures only"


def test_what_is_copied_is_stated_and_nothing_else() -> None:
    stated = part("copied").strip().rstrip(".").split("; ")
    assert stated == [dictionary_description(keyword) for keyword in COPIED]


def test_every_row_of_report_content_is_stated_and_written(
    made: dict[str, Dataset], statement: ModuleType
) -> None:
    stated: set[tuple[str, ...]] = set()
    below = ""
    for row in rows(part("report content"))[1:]:
        if row[0].startswith("**"):
            below = row[0].strip("*")
        else:
            stated.add((below, *row[:3]))
    written: set[tuple[str, ...]] = set()

    def walk(item: Dataset, parent: str) -> None:
        for child in item.get("ContentSequence", ()):
            code = child.ConceptNameCodeSequence[0]
            value = str(code.get("CodeValue") or code.get("LongCodeValue"))
            concept = statement.concept(
                value, code.CodingSchemeDesignator, str(code.CodeMeaning), child.ValueType, parent
            )
            written.add((parent or "root", child.RelationshipType, child.ValueType, concept))
            walk(child, concept)

    for one in made.values():
        if one.Modality == "SR":
            walk(one, "")
    assert written == stated


def test_the_statement_names_each_kind_of_result_and_its_series(made: dict[str, Dataset]) -> None:
    kinds = rows(part("kinds of result"))[1:]
    assert {row[0].strip("`") for row in kinds} == {kind.value for kind in ResultKind}
    numbers = {int(number) for row in kinds for number in row[2].split(",")}
    assert {int(one.SeriesNumber) for one in made.values()} <= numbers


def _numbers() -> dict[str, str]:
    """Sentences of the statement with the numbers that the program has; of several lines in one."""
    node, listener, outbox, assembly = (
        NodeSettings(),
        ListenerSettings(),
        OutboxSettings(),
        AssemblySettings(),
    )
    peer = PeerSettings(name="x", ae_title="X")
    return {
        "address": f"| AE title, port | {node.ae_title}, {listener.port};",
        "associations": f"| {listener.maximum_associations}, of one peer {peer.maximum_associations} |",
        "PDU": f"| largest PDU | {listener.maximum_pdu_bytes} bytes, as acceptor and as initiator |",
        "times": f"association request {listener.acse_timeout_seconds:g} s, idle "
        f"{listener.network_timeout_seconds:g} s, answers to our requests {outbox.answer_seconds:g} s",
        "class": f"| Implementation Class UID | {IMPLEMENTATION_CLASS_UID} |",
        "version": f"| Implementation Version Name | {IMPLEMENTATION_VERSION_NAME} |",
        "product": f"| version | {__version__};",
        "too large": f"C001 too large ({listener.maximum_object_mib} MiB)",
        "refusals": f"refusals are given up after {outbox.refusals} tries",
        "strangers": f"at most {limits.STRANGERS} associations of unknown callers at a time, and "
        f"{limits.STRANGERS_OF_ONE_ADDRESS} of one address",
        "head": f"where the first {limits.HEAD} bytes of the data set show them",
        "reports": f"Limits: {commitment.MAXIMUM_BYTES // 1024} KiB, {commitment.MAXIMUM_OBJECTS} objects, "
        f"{limits.REPORTS_OF_ONE_ASSOCIATION} reports on one association",
        "wait": f"open for {peer.commitment_wait_seconds:g} s (`commitment_wait_seconds`)",
        "hours": f"no report for {peer.commitment_hours:g} h (`commitment_hours`)",
        "requests": f"Limits: {commitment.REQUEST_BYTES // 1024} KiB, {commitment.REQUEST_OBJECTS} objects; "
        f"{limits.REQUESTS_A_MINUTE} requests and {limits.OBJECTS_ASKED_A_MINUTE} objects of a peer in a "
        f"minute; {MOST_OPEN} requests that wait",
        "report again": f"sent again for {peer.commit_hours:g} h (`commit_hours`)",
        "indexed": f"not indexed {INDEXED_AFTER.total_seconds() // 60:g} minutes after the request | failed, "
        f"{commitment.NO_SUCH_OBJECT:04X} |",
        "class conflict": f"| of another SOP class | failed, {commitment.CLASS_CONFLICT:04X} |",
        "not committed": f"replaced by another version | failed, {commitment.PROCESSING_FAILURE:04X} |",
        "shown": f"what is not shown within {outbox.confirm_seconds / 60:g} minutes is sent again",
        "fetch": f"at most {peer.fetch_per_minute:g} a minute (`fetch_per_minute`), each within "
        f"{peer.retrieve_minutes:g} minutes",
        "get": f"at most {MOST_OBJECTS} objects of {LARGEST_BY_GET // 2**20} MiB each",
        "steps": f"Limits: {performed_step.MAXIMUM_BYTES // 2**20} MiB, {performed_step.MAXIMUM_OBJECTS:,} "
        f"objects, {performed_step.MAXIMUM_STUDIES} studies of a step, "
        f"{limits.STEP_REPORTS_OF_ONE_ASSOCIATION} requests on one association; a step is known for "
        f"{KEPT_DAYS} days",
        "quiet": f"after {assembly.mpps_minutes:g} minutes of quiet (`assembly.mpps_minutes`, event 1083)",
        "items": f"Of a search {MOST_ITEMS} items are looked at",
        "parts": f"{PARTS:,} parts and `console.upload_mib`",
        "slow": f"a message has a second more for each {limits.SLOWEST_BYTES_PER_SECOND} bytes",
        "aborted": f"one of more than {limits.LARGEST_REQUEST} bytes, {limits.CONTEXTS} presentation "
        f"contexts or {limits.USER_ITEMS} user items, another PDU of more than {limits.LARGEST_PDU} bytes "
        "(or the maximum offered, if that is more), a command set of more than "
        f"{limits.LARGEST_COMMAND} bytes",
        "retry": f"tried again, after {outbox.retry_seconds:g} s at first, for ever",
        "edition": f"Table E.1-1 of edition {EDITION}",
        "dates": f"Dates that an IOD requires are {DUMMY_DATE}",
        "scheme": f"designator `{SCHEME}`, UID `{SCHEME_UID}`",
        "context": f"| Application Context Name | {APPLICATION_CONTEXT} |",
    }


def test_numbers_in_its_sentences_are_those_of_the_program() -> None:
    text = " ".join(STATEMENT.split())
    assert [name for name, words in _numbers().items() if words not in text] == []


def test_each_section_is_there_once() -> None:
    headings = re.findall(r"^#{2,5} (.*)$", STATEMENT, re.MULTILINE)
    numbers = [
        heading.split()[0] for heading in headings if heading[0].isdigit() or heading.startswith("A.A")
    ]
    assert len(set(numbers)) == len(numbers)
    named = set(
        re.findall(
            r"(?<![\w.])([1-8](?:\.\d){1,3})(?=[\s,;:)|]|\.\s)",
            re.sub(r"PS3\.\d+ [\w.-]+|TLS 1\.\d|HL7 [\d.]+", "", STATEMENT),
        )
    )
    assert {one for one in named if one not in numbers} == set()


def test_tls_offers_the_ciphers_of_the_statement() -> None:
    assert "TLS 1.2 with ephemeral key exchange (ECDHE or DHE) and AES-GCM" in section(
        "Annex A.C Security details"
    )
    offered = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).get_ciphers()
    old = [one["name"] for one in offered if one["protocol"] != "TLSv1.3"]
    allowed = r"(ECDHE-(RSA|ECDSA)|DHE-RSA)-(AES(128|256)-(GCM-)?SHA(256|384)|CHACHA20-POLY1305)"
    assert [name for name in old if not re.fullmatch(allowed, name)] == []


def test_the_contexts_that_the_node_proposes_are_those_of_the_statement(tmp_path: Path) -> None:
    named: set[tuple[object, ...]] = set()
    proposed: dict[str, set[str]] = {}
    by_get: dict[str, set[str]] = {}

    def note(event: evt.Event) -> None:
        requestor = event.assoc.requestor
        us = (requestor.implementation_class_uid, requestor.implementation_version_name)
        named.add((*us, requestor.maximum_length))
        for one in requestor.requested_contexts:
            uid = str(one.abstract_syntax)
            if uid in requestor.role_selection:
                by_get[uid] = set(map(str, one.transfer_syntax))
            else:
                proposed.setdefault(uid, set()).update(syntax.name for syntax in one.transfer_syntax)

    ae = AE(ae_title="PACS")
    for uid in SUPPORTED:
        ae.add_supported_context(uid)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_REQUESTED, note)])
    kinds = [kind for kind in ResultKind if kind not in (ResultKind.REJECTION, ResultKind.ASSESSMENT)]
    for confirm in ("query", "commitment"):
        peer = {
            "name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": server.server_address[1],
            "may": ["send", "receive", "query"], "results": kinds, "confirm": confirm, "iocm": True,
            "assessments": True, "retrieve": {"query": "get", "commitment": "move"}[confirm],
            "worklist": ["*"],
        }  # fmt: skip
        settings = Settings.model_validate({"node": {"data_dir": tmp_path}, "peers": [peer]})
        DimseDestination(settings.peers[0], settings).test()
        spool = Spool(tmp_path / "spool", 0)
        sink = Incoming(spool, WaitingObjects(spool.incoming), settings, settings.peers[0], 1)
        open_archive(settings.peers[0], settings).retrieve("2.25.1", sink)
        open_archive(settings.peers[0], settings).test()
        open_worklist(settings.peers[0], settings).test()
    server.shutdown()
    pdu = ListenerSettings().maximum_pdu_bytes
    assert named == {(IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, pdu)}
    as_user = {row[1] for row in rows(part("SOP classes"))[1:] if row[2]}
    assert proposed.keys() == as_user
    both = {"Explicit VR Little Endian", "Implicit VR Little Endian"}
    assert all(syntaxes == both for uid, syntaxes in proposed.items() if uid != Verification)
    assert by_get.keys() == {one.uid for one in STORAGE_CLASSES}
    decoded = {row[1] for row in rows(part("transfer syntaxes"))[1:] if "kept" not in row[2]}
    assert {frozenset(syntaxes) for syntaxes in by_get.values()} == {frozenset(decoded)}
