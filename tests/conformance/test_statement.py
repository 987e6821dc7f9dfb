"""The conformance statement against real objects: its tables of created instances and of report content."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from dicom_node import results
from dicom_node.config.settings import Settings
from dicom_node.dicom.identity import COPIED
from dicom_node.fetch.incoming import Incoming
from dicom_node.inbox.spool import Spool, WaitingObjects
from dicom_node.model.kinds import ResultKind
from dicom_node.scu import open_archive, open_worklist
from dicom_node.scu.dimse import DimseDestination
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
def statement() -> Iterator[object]:
    """The modules that write it."""
    sys.path.insert(0, str(DOCS))
    from statement import golden, objects

    yield golden, objects
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Objects of every kind, of drawn and of real images, by a name as the golden dumps have it."""
    folder = tmp_path_factory.mktemp("made")
    found = {name: read_result(one) for name, one in golden_lab.objects(folder)}
    for name in SOURCES:
        one = source(_source_file(folder, name))
        for number, item in enumerate(
            results.build(context(CALIBRATED, UNCALIBRATED), [one], everything(one))
        ):
            found[f"{name}{number}-{item.kind}"] = read_result(item)
    return {name: one for name, one in found.items() if not name.startswith("deidentified")}


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    return STATEMENT.partition(f"# {title}\n")[2].partition("\n##")[0]


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ") and not line.startswith(("| ---", "| attribute |", "| below |"))
    ]


def of_kind(made: dict[str, Dataset], pattern: str, uid: str) -> dict[str, Dataset]:
    return {name: one for name, one in made.items() if fnmatch(name, pattern) and str(one.SOPClassUID) == uid}


def test_every_attribute_of_a_created_object_is_in_its_table_with_its_presence(
    made: dict[str, Dataset], statement: tuple[object, object]
) -> None:
    created = statement[1].CREATED  # type: ignore[attr-defined]
    judged = 0
    for number, (title, pattern, uid) in enumerate(created, start=1):
        table = [row for row in rows(section(f"A.A.{number} {title}")) if len(row) == 7]
        stated = {keyword_for_tag(row[1].strip("()").replace(",", "")): row[4] for row in table}
        objects = of_kind(made, pattern, uid)
        assert objects, title
        for name, one in objects.items():
            judged += 1
            written = {element.keyword for element in one} - {*COPIED, "ContentSequence"}
            assert written <= stated.keys(), (title, name, written - stated.keys())
            for keyword, presence in stated.items():
                if presence != "ANAP":
                    assert keyword in one, (title, name, keyword)
                empty = keyword in one and one[keyword].value in (None, "", [])
                if presence == "ALWAYS":
                    assert not empty, (title, name, keyword)
                if presence == "EMPTY":
                    assert empty, (title, name, keyword)
    assert judged >= len(made) - 6, "kinds that no table describes: grey multi-frame pictures only"


def test_what_is_copied_is_stated_and_nothing_else(made: dict[str, Dataset]) -> None:
    stated = [row[1] for row in rows(section("Annex A.D Mapping of attributes")) if row[1].startswith("(")]
    assert [keyword_for_tag(tag.strip("()").replace(",", "")) for tag in stated] == list(COPIED)


def test_every_row_of_report_content_is_stated_and_written(
    made: dict[str, Dataset], statement: tuple[object, object]
) -> None:
    name_of = statement[0].concept  # type: ignore[attr-defined]
    stated = {
        (row[0], row[1], row[2], row[3])
        for row in rows(section("Annex A.B Structured Report content encoding"))
        if len(row) == 5
    }
    written: set[tuple[str, ...]] = set()

    def walk(item: Dataset, parent: str) -> None:
        for child in item.get("ContentSequence", ()):
            code = child.ConceptNameCodeSequence[0]
            value = str(code.get("CodeValue") or code.get("LongCodeValue"))
            concept = name_of(
                value, code.CodingSchemeDesignator, str(code.CodeMeaning), child.ValueType, parent
            )
            written.add((parent or "root", child.RelationshipType, child.ValueType, concept))
            walk(child, concept)

    for one in made.values():
        if one.Modality == "SR":
            walk(one, "")
    assert written == stated


def test_the_statement_names_each_kind_of_result_and_its_series(made: dict[str, Dataset]) -> None:
    series = rows(section("Annex A.A Information Object Definitions of created instances"))
    numbers = {int(row[1]) for row in series if row[1].isdigit()}
    assert {int(one.SeriesNumber) for one in made.values()} <= numbers
    named = set(re.findall(r"^\| (`\w+`) \|", STATEMENT, re.MULTILINE))
    assert {f"`{kind}`" for kind in ResultKind} <= named


def test_the_contexts_that_the_node_proposes_are_those_of_the_statement(tmp_path: Path) -> None:
    proposed: dict[str, set[str]] = {}
    by_get: dict[str, set[str]] = {}

    def note(event: evt.Event) -> None:
        requestor = event.assoc.requestor
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
    stated = {row[2]: row[3] for row in rows(section("7.2.1 Association initiation")) if row[2][:1].isdigit()}
    assert proposed.keys() == stated.keys()
    both = {"Explicit VR Little Endian", "Implicit VR Little Endian"}
    assert all(syntaxes == both for uid, syntaxes in proposed.items() if uid != Verification)
    storage = rows(section("5.2.2.1 SCP of the Storage SOP classes"))
    assert by_get.keys() == {row[1] for row in storage if len(row) == 3 and row[1][0].isdigit()}
    decoded = {
        row[2] for row in storage if len(row) == 4 and row[0].isdigit() and "not decoded" not in row[3]
    }
    assert {frozenset(syntaxes) for syntaxes in by_get.values()} == {frozenset(decoded)}
