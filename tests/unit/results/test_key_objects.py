"""Key objects: what they name for each destination, when there are some, and what the gate lets pass."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from highdicom.ko import KeyObjectSelectionDocument
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai_pipeline.contract import Decision, PipelineResult
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import ResultForm, ResultKind
from dicom_node.results import gate
from dicom_node.results.build import build, build_failure
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.source import SourceObject, read_sources
from tests.result_images import CALIBRATED, EFFUSION, context, finding
from tests.result_reading import coded, named, read_result
from tests.unit.results.report_lab import BOX, burned
from tests.validators import dciodvfy_errors

THREE = frozenset({ResultKind.SR, ResultKind.GSPS, ResultKind.KEY_OBJECTS})
FOR_THREE = context(CALIBRATED, kinds=[*THREE], form=ResultForm(key_objects=THREE), no_call=None)


def call(uid: str) -> PipelineResult:
    return PipelineResult((finding(EFFUSION, 0.83, uid, BOX),))


def no_call(uid: str) -> PipelineResult:
    return PipelineResult((finding(EFFUSION, 0.07, uid, decision=Decision.ABSENT),))


def key_objects(built: list[BuiltObject]) -> BuiltObject:
    [found] = [one for one in built if one.kind is ResultKind.KEY_OBJECTS]
    return found


@pytest.fixture(scope="module")
def built(one: SourceObject) -> list[BuiltObject]:
    return build(FOR_THREE, [one], call(one.image.uid))


@pytest.fixture
def read(built: list[BuiltObject]) -> Dataset:
    return read_result(key_objects(built))


def test_they_name_each_result_with_its_series_in_content_and_evidence(
    built: list[BuiltObject], read: Dataset
) -> None:
    document = KeyObjectSelectionDocument.from_dataset(read)
    references = document.content.get_references()
    others = [item for item in built if item.kind is not ResultKind.KEY_OBJECTS]
    assert [ref.referenced_sop_instance_uid for ref in references] == [one.sop_instance_uid for one in others]
    found = {document.resolve_reference(one.sop_instance_uid) for one in others}
    assert found == {(read.StudyInstanceUID, one.series_instance_uid, one.sop_instance_uid) for one in others}


def test_they_say_what_they_name_and_that_it_is_not_for_diagnosis(read: Dataset) -> None:
    [words] = named(read, "113012")
    assert words.TextValue == "AI results of this study: model chest-lite0 version 1; not for diagnostic use"
    assert len(words.TextValue) <= 120


def test_they_answer_the_request_of_the_image_and_have_no_body_part(read: Dataset) -> None:
    [request] = read.ReferencedRequestSequence
    assert request.AccessionNumber == "ACCCR"
    assert "BodyPartExamined" not in read
    assert "RequestAttributesSequence" not in read


def test_pictures_and_segmentations_are_named_as_images_the_others_are_not(one: SourceObject) -> None:
    kinds = [ResultKind.SR, ResultKind.SC, ResultKind.KEY_OBJECTS]
    made = build(replace(FOR_THREE, kinds=frozenset(kinds), form=ResultForm()), [one], call(one.image.uid))
    content = read_result(key_objects(made)).ContentSequence
    assert [item.ValueType for item in content if "ReferencedSOPSequence" in item] == ["COMPOSITE", "IMAGE"]


@pytest.mark.debian("dicom3tools")
def test_dciodvfy_finds_no_error(built: list[BuiltObject], tmp_path: Path) -> None:
    path = tmp_path / "kos.dcm"
    path.write_bytes(key_objects(built).data or b"")
    assert dciodvfy_errors(path) == []


@pytest.mark.parametrize(
    ("said", "no_call_of_rule", "there"),
    [(no_call, None, False), (no_call, {"sr", "kos"}, True), (call, None, True), (call, set(), True)],
    ids=["no call", "no call, but the rule wants them", "call", "call, nothing without one"],
)
def test_without_a_call_there_are_none_unless_the_rule_names_them(
    one: SourceObject, said: Callable[[str], Any], no_call_of_rule: set[str] | None, there: bool
) -> None:
    quiet = None if no_call_of_rule is None else frozenset(map(ResultKind, no_call_of_rule))
    made = build(replace(FOR_THREE, no_call=quiet), [one], said(one.image.uid))
    assert any(item.kind is ResultKind.KEY_OBJECTS for item in made) is there


def test_a_report_that_a_destination_does_not_get_is_not_named(one: SourceObject) -> None:
    """Of mere cleaning a peer gets the cleaned image, not the report."""
    wanted = frozenset({ResultKind.SR, ResultKind.CLEANED, ResultKind.KEY_OBJECTS})
    quiet = replace(FOR_THREE, kinds=wanted, form=ResultForm(key_objects=wanted))
    made = build(replace(quiet, no_call=frozenset(wanted)), [one], PipelineResult((burned(one.image.uid),)))
    names = {ref.ReferencedSOPInstanceUID for ref in _references(read_result(key_objects(made)))}
    got = {item.sop_instance_uid for item in made if item.not_beside.isdisjoint(wanted)}
    assert names == got - {key_objects(made).sop_instance_uid}


def test_there_are_none_where_they_would_name_nothing(one: SourceObject) -> None:
    alone = frozenset({ResultKind.KEY_OBJECTS})
    asked = replace(FOR_THREE, kinds=alone, form=ResultForm(key_objects=alone))
    assert build(asked, [one], call(one.image.uid)) == []


def test_a_failure_has_none(one: SourceObject) -> None:
    kinds = {item.kind for item in build_failure(FOR_THREE, [one], "the model file is missing")}
    assert ResultKind.KEY_OBJECTS not in kinds


def test_their_uid_follows_from_what_they_name(one: SourceObject, built: list[BuiltObject]) -> None:
    again = build(FOR_THREE, [one], call(one.image.uid))
    assert key_objects(again).data == key_objects(built).data
    fewer = THREE - {ResultKind.GSPS}
    less = build(
        replace(FOR_THREE, kinds=fewer, form=ResultForm(key_objects=fewer)), [one], call(one.image.uid)
    )
    assert key_objects(less).sop_instance_uid != key_objects(built).sop_instance_uid
    assert key_objects(less).series_instance_uid != key_objects(built).series_instance_uid


@pytest.mark.parametrize("results", [("sr", "kos"), ("sr", "sc")], ids=["with kos", "without"])
def test_a_peer_that_takes_them_has_a_form_of_its_own_results(results: tuple[str, ...]) -> None:
    peer = PeerSettings(name="a", ae_title="A", host="h", port=1, may=("receive",), results=results)
    assert peer.form.key_objects == (frozenset(peer.results) if "kos" in results else frozenset())


def _references(read: Dataset) -> list[Dataset]:
    return [ref for item in read.ContentSequence for ref in item.get("ReferencedSOPSequence") or []]


def _evidence(read: Dataset) -> list[Dataset]:
    [study] = read.CurrentRequestedProcedureEvidenceSequence
    return list(study.ReferencedSeriesSequence)


BREAKS: dict[str, tuple[str, Callable[[Dataset], object]]] = {
    "a rejection note": (
        "title of key objects is not Of Interest",
        lambda ds: setattr(ds, "ConceptNameCodeSequence", [coded("113001", "DCM", "Rejected")]),
    ),
    "no warning": (
        "do not say that they are not for diagnostic use",
        lambda ds: setattr(named(ds, "113012")[0], "TextValue", "AI results"),
    ),
    "an object of others": (
        "no source of this job",
        lambda ds: setattr(_references(ds)[0], "ReferencedSOPInstanceUID", "1.2.3"),
    ),
    "another class": (
        "no source of this job",
        lambda ds: setattr(_references(ds)[0], "ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.2"),
    ),
    "less in the content": ("name each result of the job once", lambda ds: ds.ContentSequence.pop()),
    "less in the evidence": (
        "name each result of the job once",
        lambda ds: ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence.pop(),
    ),
    "another modality": ("Modality of key objects is not KO", lambda ds: setattr(ds, "Modality", "SR")),
    "another patient": ("PatientID is not that of the source", lambda ds: setattr(ds, "PatientID", "else")),
}


@pytest.mark.parametrize(("said", "fault"), BREAKS.values(), ids=BREAKS)
def test_key_objects_with_this_fault_do_not_leave(
    one: SourceObject, built: list[BuiltObject], read: Dataset, said: str, fault: Callable[[Dataset], object]
) -> None:
    results = {
        item.sop_instance_uid: item.sop_class_uid for item in built if item.kind is not ResultKind.KEY_OBJECTS
    }

    def release(changed: Dataset) -> None:
        buffer = io.BytesIO()
        with quiet_pydicom():
            changed.save_as(buffer)
        kind, sources = ResultKind.KEY_OBJECTS, read_sources([one])
        gate.check(buffer.getvalue(), changed, FOR_THREE, kind, sources, results=results)

    release(read)
    fault(read)
    with pytest.raises(ResultRefused, match=said):
        release(read)


def test_the_title_is_one_that_hides_nothing(read: Dataset) -> None:
    title = read.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == (codes.DCM.OfInterest.value, "DCM")
