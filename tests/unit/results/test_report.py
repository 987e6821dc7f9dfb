"""What a report says, measures and is coded with, and how it is read back."""

import io
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts as dictionary
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from ai_pipeline import pipelines
from ai_pipeline.chest import ratio
from ai_pipeline.contract import (
    BURNED_IN,
    Code,
    Decision,
    DerivedImage,
    Finding,
    Heatmap,
    ImageKind,
    JudgedView,
    Measurement,
    PipelineResult,
    QualityNote,
)
from ai_pipeline.fetal_head import biometry
from ai_pipeline.images.render import YELLOW
from dicom_node.base.dicom.header import items, quiet_pydicom
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import RejectionReason, ResultKind
from dicom_node.results import anatomy, concepts, gate, standard, stated_report
from dicom_node.results.build import build
from dicom_node.results.context import ResultContext
from dicom_node.results.deidentified import profile
from dicom_node.results.page import summary_of
from dicom_node.results.rejection import build_rejection
from dicom_node.results.report import report_of
from dicom_node.results.source import SourceObject, as_judged, read_sources
from tests.result_images import (
    ANALYSED_AT,
    CALIBRATED,
    CARDIOMEGALY,
    DX,
    EFFUSION,
    INSTALLATION,
    LUNG,
    NODULE,
    UNCALIBRATED,
    US,
    US_MULTI_FRAME,
    context,
    film,
    finding,
    grey_image,
    source,
    speckle,
    still,
    without_text,
    write_image,
)
from tests.result_reading import code_of, coded, content, groups_of, named, of_type, read_result
from tests.unit.ai_pipeline.phantoms import ArrayImage
from tests.unit.heads import HEAD, drawn_head

LENGTH, CENTIMETRES = Code("410668003", "SCT", "Length"), Code("cm", "UCUM", "cm")

BOX = (50.5, 60.25, 150.0, 170.0)


TEXT = (10.0, 20.0, 60.0, 30.0)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> SourceObject:
    return film(tmp_path_factory.mktemp("film"))


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> SourceObject:
    return still(tmp_path_factory.mktemp("scan"))


def built(ctx: ResultContext, one: SourceObject, result: PipelineResult) -> dict[ResultKind, Dataset]:
    return {item.kind: read_result(item) for item in build(ctx, [one], result)}


def report(one: SourceObject, *findings: Finding, **given: Any) -> Dataset:
    return built(context(kinds=[ResultKind.SR]), one, PipelineResult(findings=findings, **given))[
        ResultKind.SR
    ]


def value(item: Dataset, name: str) -> str:
    (found,) = named(item, name)
    return str(found.ConceptCodeSequence[0].CodeValue)


def conclusion(read: Dataset) -> str:
    (found,) = named(read, "121077")
    return str(found.TextValue)


def burned(uid: str, *boxes: tuple[float, float, float, float]) -> Finding:
    if not boxes:
        return finding(BURNED_IN, None, uid, label="burned-in text", decision=Decision.ABSENT)
    return finding(BURNED_IN, 0.9, uid, *boxes, label="Burned-in text", model=UNCALIBRATED)


def test_the_conclusion_comes_first_and_names_all_findings_and_no_number(one: SourceObject) -> None:
    uid = one.image.uid
    found = [
        finding(CARDIOMEGALY, 0.83, uid, BOX),
        finding(NODULE, 0.4, uid, decision=Decision.INDETERMINATE),
        finding(EFFUSION, 0.07, uid, decision=Decision.ABSENT),
    ]
    read = report(one, *found)
    contained = [item for item in read.ContentSequence if item.RelationshipType == "CONTAINS"]
    assert contained[0].ConceptNameCodeSequence[0].CodeMeaning == "Conclusion"
    assert conclusion(read) == (
        "AI: Suspected: cardiomegaly. No call on nodule of lung. Not found: pleural effusion."
    )
    assert "not for diagnostic use, model chest-lite0 version 1" in contained[1].TextValue
    numbers = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in content(read)
        if item.get("ValueType") == "NUM" and "99AINODE" in str(item)
    ]
    assert sorted(numbers) == [7.0, 40.0, 41.0, 41.0, 83.0], "each once, with its cut-off unless absent"


def test_the_short_result_and_what_must_be_read_beside_it_stand_in_the_conclusion_once(
    one: SourceObject,
) -> None:
    notes = (
        QualityNote("unsure", "This AI is unsure about the image as a whole.", one.image.uid, on_faces=True),
        QualityNote("operating point", "specific: few false alarms."),
        QualityNote("not assessed", "Pneumonia, and bones.", names=("pneumonia",)),
    )
    found = finding(CARDIOMEGALY, 0.83, one.image.uid, BOX, certainty="low certainty")
    none = finding(EFFUSION, 0.07, one.image.uid, decision=Decision.ABSENT)
    faces = built(CTX, one, PipelineResult(findings=(found, none), quality=notes))
    lines = [
        "AI: This AI is unsure about the image as a whole.",
        "Suspected, low certainty: cardiomegaly.",
        "Not assessed: all else.",
    ]
    assert conclusion(faces[ResultKind.SR]) == "\r\n".join(lines)
    remarks = [str(item.TextValue) for item in named(faces[ResultKind.SR], "121106")]
    assert "operating point: specific: few false alarms." in remarks
    assert "not assessed: Pneumonia, and bones." in remarks
    assert not any("unsure about" in remark for remark in remarks)
    assert lines_of(faces[ResultKind.GSPS]) == [
        "AI, not for diagnostic use: This AI is unsure about the image as a whole.",
        "Suspected, low certainty: cardiomegaly.",
    ]


def lines_of(state: Dataset) -> list[str]:
    """The lines in the margin of a presentation state."""
    return str(state.GraphicAnnotationSequence[-1].TextObjectSequence[0].UnformattedTextValue).split("\r\n")


@pytest.mark.parametrize(
    ("unsure", "said"), [(True, "A lung is white."), (False, "Not found: pleural effusion.")]
)
def test_nothing_is_called_not_found_where_the_model_is_unsure(
    one: SourceObject, unsure: bool, said: str
) -> None:
    notes = (QualityNote("unsure", "A lung is white.", one.image.uid, on_faces=True),) * unsure
    rate = "of 100 such films, about 2 have it all the same"
    none = finding(EFFUSION, 0.07, one.image.uid, decision=Decision.ABSENT, reliability=rate)
    faces = built(CTX, one, PipelineResult(findings=(none,), quality=notes))
    read = faces[ResultKind.SR]
    assert value(read, "RESULT") == ("NOCALL" if unsure else "NONEFOUND")
    assert conclusion(read) == f"AI: {said}"
    assert said in " ".join(lines_of(faces[ResultKind.GSPS]))
    undetermined, absent = ("373068000" in str(read), "272519000" in str(read))
    assert (undetermined, absent) == (unsure, not unsure)
    remarks = "".join(str(item.TextValue) for item in named(read, "121106"))
    assert ("of 100 such films" in remarks) is not unsure


@pytest.mark.parametrize("looked_for", [True, False])
def test_a_number_does_not_hide_what_was_looked_for_in_vain(one: SourceObject, looked_for: bool) -> None:
    none = finding(EFFUSION, 0.07, one.image.uid, decision=Decision.ABSENT)
    found = PipelineResult(findings=(none,) * looked_for, measurements=measured(one.image.uid)[1:2])
    said = " ".join(lines_of(built(CTX, one, found)[ResultKind.GSPS]))
    assert "Heart width" in said
    assert ("Not found: pleural effusion" in said) is looked_for
    assert "states nothing" not in said


def test_how_many_such_calls_are_right_is_one_remark_on_the_image(one: SourceObject) -> None:
    found = [
        finding(CARDIOMEGALY, 0.83, one.image.uid, BOX, reliability="of 10 such calls, about 3 are right"),
        finding(EFFUSION, 0.01, one.image.uid, decision=Decision.ABSENT, reliability="of 100 such films, 2"),
        finding(NODULE, 0.3, one.image.uid, decision=Decision.INDETERMINATE),
    ]
    remarks = [str(item.TextValue) for item in named(report(one, *found), "121106")]
    assert (
        "reliability: cardiomegaly suspected: of 10 such calls, about 3 are right. "
        "pleural effusion not found: of 100 such films, 2."
    ) in remarks


def test_nothing_found_is_said_only_of_what_was_looked_for(one: SourceObject) -> None:
    uid = one.image.uid
    absent = finding(CARDIOMEGALY, 0.01, uid, decision=Decision.ABSENT)
    burned_in = "AI: burned-in annotation found; nothing else was looked for here."
    said = {
        "AI: Not found: cardiomegaly.": ("NONEFOUND", (absent,)),
        "AI: no burned-in text found; nothing else was looked for here.": ("ONLYCLEANED", (burned(uid),)),
        burned_in: ("ONLYCLEANED", (burned(uid, TEXT),)),
        "AI: this analysis states nothing about this image.": ("ONLYCLEANED", ()),
    }
    for words, (answer, found) in said.items():
        faces = built(CTX, one, PipelineResult(findings=found))
        assert conclusion(faces[ResultKind.SR]).startswith(words)
        shown = " ".join(lines_of(faces[ResultKind.GSPS])).replace(", not for diagnostic use", "")
        assert (value(faces[ResultKind.SR], "RESULT"), shown) == (answer, words)
        assert all("no finding" not in str(face).lower() for face in faces.values())


@pytest.mark.parametrize(
    ("given", "found", "side"),
    [
        ({"ImageLaterality": "B"}, {"site": LUNG}, []),  # both lungs make no finding bilateral
        ({"Laterality": "L"}, {}, []),  # of a part without sides
        ({"ImageLaterality": "L"}, {}, []),
        ({}, {"site": LUNG, "side": "R"}, ["24028007"]),
    ],
)
def test_a_side_is_said_where_the_part_has_one(
    tmp_path: Path, given: dict[str, str], found: dict[str, Any], side: list[str]
) -> None:
    one, breast = film(tmp_path, **given), still(tmp_path)
    read = report(one, finding(CARDIOMEGALY, 0.8, one.image.uid, BOX, **found))
    assert [item.ConceptCodeSequence[0].CodeValue for item in named(read, "272741003")] == side
    assert value(report(breast, finding(NODULE, 0.8, breast.image.uid, TEXT)), "272741003") == "7771000"


def test_the_report_of_a_cleaning_is_two_lines_with_its_measurements_behind_them(scan: SourceObject) -> None:
    uid = scan.image.uid
    notes = (
        QualityNote("burned_in", "removed: 1 text", uid),
        QualityNote("kept", "left in place: 2 caliper", uid),
        QualityNote("filled_share", "0.4% of the pixels were filled", uid),
    )
    length = Measurement(uid, "Length", LENGTH, 2.3, CENTIMETRES, (((10.0, 10.0), (50.0, 10.0)),))
    read = report(scan, burned(uid, TEXT), quality=notes, measurements=(length,))
    assert conclusion(read) == (
        "AI: burned-in annotation found; nothing else was looked for here.\r\n"
        "Burned-in annotation: removed: 1 text; left in place: 2 caliper."
    )
    (group,) = named(read, "125007")
    assert value(group, "121071") == "BURNEDINLENGTH"
    assert "removed: 1 text" not in "".join(str(item.TextValue) for item in named(read, "121106"))


def test_images_of_which_the_same_is_said_are_named_together(tmp_path: Path) -> None:
    study = {"StudyInstanceUID": "2.25.77", "SeriesInstanceUID": "2.25.78"}
    several = [still(tmp_path, f"us{number}", InstanceNumber=number, **study) for number in (1, 2, 3)]
    said = ("no burned-in annotation found", "removed: 1 text", "removed: 1 text")
    notes = [QualityNote("burned_in", text, one.image.uid) for one, text in zip(several, said, strict=True)]
    found = tuple(burned(one.image.uid, TEXT) for one in several)
    result = PipelineResult(findings=found, quality=tuple(notes))
    [made] = build(context(kinds=[ResultKind.SR]), several, result)
    assert conclusion(read_result(made)) == (
        "images 1, 2, 3: AI: burned-in annotation found; nothing else was looked for here.\r\n"
        "Burned-in annotation: image 1: no burned-in annotation found. images 2, 3: removed: 1 text."
    )


def test_the_examination_is_told_by_the_sources_codes_or_by_its_view(tmp_path: Path) -> None:
    local = coded("XR1", "99RIS", "XR CHEST AP PORTABLE")
    for given, performed in (
        ([], "Plain chest X-ray"),
        ([local, coded("36643-5", "LN", "XR Chest 2 Views")], local.CodeMeaning),
    ):
        read = report(film(tmp_path, **({"ProcedureCodeSequence": given} if given else {})))
        assert read.PerformedProcedureCodeSequence[0].CodeMeaning == performed
        assert value(read, "121058") == "43468-8"
        (procedure,) = named(read, "121058")
        sites = [item.ConceptCodeSequence[0].CodeMeaning for item in named(procedure, "363704007")]
        assert sites == ["Chest"], "the code of CID 100 names no body part"
    ultrasound = report(still(tmp_path))
    assert value(ultrasound, "121058") == "363679005"
    assert ultrasound.PerformedProcedureCodeSequence[0].CodeMeaning == "Diagnostic ultrasonography"


def test_all_faces_state_the_view_as_which_the_image_was_judged(tmp_path: Path) -> None:
    """Stamped AP, while the header says PA: one voice in library and summary."""
    one = film(tmp_path, ViewPosition="PA")
    result = PipelineResult(views=(JudgedView(one.image.uid, "AP"),))
    (library,) = named(built(CTX, one, result)[ResultKind.SR], "111028")
    assert value(library, "111031") == "399348003"
    of_job = report_of(context(), as_judged(read_sources([one]), result.views), result)
    assert "View: AP" in str(summary_of(of_job))


@pytest.mark.parametrize(
    ("image", "series", "said"),
    [("R", "L", ""), ("R", "", "R"), ("", "L", "L"), ("B", "L", ""), ("U", "", "")],
)
def test_all_faces_state_one_side(tmp_path: Path, image: str, series: str, said: str) -> None:
    one = still(tmp_path, BodyPartExamined="BREAST", Laterality=series, ImageLaterality=image)
    faces = built(CTX, one, PipelineResult(findings=(finding(NODULE, 0.8, one.image.uid, BOX, site=LUNG),)))
    stated = named(faces[ResultKind.SR], "272741003")
    assert [str(item.ConceptCodeSequence[0].CodeMeaning)[:1] for item in stated] == [said] * bool(said)
    assert faces[ResultKind.GSPS].Laterality == said


def test_the_image_library_tells_view_and_region_and_no_modality_that_is_none(tmp_path: Path) -> None:
    (library,) = named(report(source(write_image(tmp_path / "dx.dcm", DX, grey_image()))), "111028")
    assert (value(library, "111031"), value(library, "121139")) == ("272479007", "DX")
    (region,) = named(library, "123014")
    assert region.ConceptCodeSequence[0].CodeMeaning == "Chest"
    captured = still(tmp_path, Modality="OT", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    (library,) = named(report(captured), "111028")
    assert not named(library, "121139")


def test_every_reference_to_a_cine_names_its_frames(tmp_path: Path) -> None:
    cine = source(write_image(tmp_path / "cine.dcm", US_MULTI_FRAME, speckle(frames=3)))
    found = finding(NODULE, 0.6, cine.image.uid, (10, 10, 40, 40), frame=2)
    whole, with_box, with_line = (
        report(cine),
        report(cine, found),
        report(cine, measurements=(length(cine, frame=3),)),
    )
    for read in (whole, with_box, with_line):
        images = of_type(read, "IMAGE")
        assert images
        assert all(item.ReferencedSOPSequence[0].get("ReferencedFrameNumber") for item in images)
    [group] = groups_of(with_line)
    assert {int(item.ReferencedSOPSequence[0].ReferencedFrameNumber) for item in of_type(group, "IMAGE")} == {
        3
    }


# In no dictionary of pydicom or highdicom; their sources stand beside them.
CHECKED_BY_HAND = {("UMLS", "C0034375")} | {
    ("SCT", value)
    for value in (
        "705057003", "399208008", "309529002", "786838002", "46621007", "8186001", "233604007", "95436008",
        "87433001", "51615001", "39839004",
    )
}  # fmt: skip


FORMER = {(code.scheme_designator, code.value) for code in anatomy.FORMER_REGIONS.values()}


def _codes(value: object) -> Iterator[DicomCode]:
    if isinstance(value, DicomCode):
        yield value
    elif isinstance(value, Mapping | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _codes(part)


def _known_meanings(scheme: str, value: str) -> set[str]:
    words = {
        meaning
        for values in dictionary.get(scheme, {}).values()
        for code, (meaning, _cids) in values.items()
        if code == value
    }
    regions = standard.body_parts().values()
    words |= {code.meaning for code in regions if (code.scheme_designator, code.value) == (scheme, value)}
    return {word.lower().split(" (")[0] for word in words}


def _is_right(scheme: str, value: str, meaning: str) -> bool:
    """Ours, in a dictionary by these words, or CHECKED_BY_HAND, where its source is named."""
    if scheme == concepts.SCHEME or (scheme, value) in CHECKED_BY_HAND | FORMER:
        return True
    return meaning.lower() in _known_meanings(scheme, value)


def test_the_dictionaries_know_our_codes_and_those_of_cards_by_the_same_words() -> None:
    ours = {
        f"{name} {code.value}": code
        for module in (anatomy, concepts, profile)
        for name, value in vars(module).items()
        for code in _codes(value)
    }
    for one in (LENGTH, CENTIMETRES):
        ours[f"{one.meaning} {one.value}"] = DicomCode(one.value, one.scheme, one.meaning)
    cards = {
        f"{path.stem} {label['name']} {role}": label[role]
        for path in (Path(pipelines.__file__).parent / "cards").glob("*.toml")
        for label in tomllib.loads(path.read_text(encoding="utf-8")).get("labels", ())
        for role in ("code", "site")
        if role in label
    }
    assert len(ours) > 45
    assert len(cards) > 20
    wrong = {
        name for name, code in ours.items() if not _is_right(code.scheme_designator, code.value, code.meaning)
    }
    wrong |= {
        name
        for name, code in cards.items()
        if not (code["source"] and _is_right(code["scheme"], code["value"], code["meaning"]))
    }
    assert (wrong, {code for code in CHECKED_BY_HAND if _known_meanings(*code)}) == (set(), set())


def test_no_private_code_means_two_things_and_the_decision_is_no_part_of_its_name() -> None:
    calibrated = finding(CARDIOMEGALY, 0.5, "1.2")
    text = finding(BURNED_IN, 0.9, "1.2", label="Burned-in text", model=UNCALIBRATED)
    said = (
        text,
        replace(text, label="Burned-in banner"),
        calibrated,
        replace(calibrated, model=UNCALIBRATED),
    )
    numbers = [concepts.number_of(one) for one in said]
    assert len({number.value for number in numbers}) == len({number.meaning for number in numbers}) == 4
    assert all(len(number.value) <= 16 for number in numbers)
    values = [code.value for code in concepts.OURS.values()]
    assert len(set(values)) == len(values)
    assert {code.scheme_designator for code in concepts.OURS.values()} == {concepts.SCHEME}
    decided = [replace(calibrated, decision=decision) for decision in Decision]
    assert len({concepts.number_of(one).value for one in decided}) == 1


CHEST, HEAD_REGION, PELVIS, BREAST, WHOLE = "51185008", "69536005", "12921003", "76752008", "38266002"


OWN = {"chest_xray": CHEST, "fetal_head": HEAD_REGION, "ovarian": PELVIS}  # the others are for no one part


def region(value: str, scheme: str, meaning: str, part: str | None = None) -> dict[str, Any]:
    """Attributes with this Anatomic Region Sequence and Body Part Examined."""
    return {"AnatomicRegionSequence": [coded(value, scheme, meaning)], "BodyPartExamined": part}


# Attributes of a header, and what the report says; None: what the pipeline is made for.
HEADERS: dict[str, tuple[dict[str, Any], str | None]] = {
    "body part": ({"BodyPartExamined": "CHEST"}, CHEST),
    "body part in small letters": ({"BodyPartExamined": "chest"}, CHEST),
    "breast": ({"BodyPartExamined": "BREAST"}, BREAST),
    "no body part": ({"BodyPartExamined": None}, None),
    "empty body part": ({"BodyPartExamined": ""}, None),
    "body part that no table has": ({"BodyPartExamined": "ABDOM/RAD"}, None),
    "organ in a region": ({"BodyPartExamined": "OVARY"}, PELVIS),
    "code of an organ in a region": (region("15497006", "SCT", "Ovary"), PELVIS),
    "code of today": (region("816094009", "SCT", "Chest"), CHEST),
    "former code": (region("51185008", "SCT", "Chest"), CHEST),
    "SNOMED RT": (region("T-D3000", "SRT", "Chest"), CHEST),
    "SNOMED RT as SNM3": (region("T-D3000", "SNM3", "Chest"), CHEST),
    "organ in SNOMED RT": (region("T-87000", "SRT", "Ovary"), PELVIS),
    "word of a former edition": ({"BodyPartExamined": "SACRUM"}, "54735007"),
    "word of two words": ({"BodyPartExamined": "L SPINE"}, "122496007"),
    "fetus": ({"BodyPartExamined": "FETUS"}, PELVIS),
    "head in SNOMED RT": (region("T-D1100", "SRT", "Head"), HEAD_REGION),
    "two regions": (region("72696002", "SCT", "Knee", "CHEST"), None),
    "a part with its side": (region("18639004", "SCT", "Left kidney"), "113345001"),
    "entire part": (region("83418008", "SCT", "Entire fetus"), PELVIS),
    "finer than a region, with a body part": (region("43799004", "SCT", "Thoracic cavity", "CHEST"), CHEST),
    "finer than a region": (region("43799004", "SCT", "Thoracic cavity"), None),
    "private": (region("X", "99SITE", "Box"), None),
    "empty sequence": ({"AnatomicRegionSequence": [], "BodyPartExamined": None}, None),
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], SourceObject]:
    folder = tmp_path_factory.mktemp("headers")
    pixels = {DX: grey_image(32, 32), US: speckle(32, 32)}
    with quiet_pydicom():
        return {
            (kind, name): source(write_image(folder / f"{kind}-{number}.dcm", kind, pixels[kind], **header))
            for number, (name, (header, _)) in enumerate(HEADERS.items())
            for kind in pixels
        }


@pytest.mark.parametrize("pipeline", sorted(pipelines.PIPELINES))
def test_a_report_says_its_target_region(images: dict[tuple[str, str], SourceObject], pipeline: str) -> None:
    kind = DX if pipeline == "chest_xray" else US
    made = pipelines.create(pipeline)
    circumstances = context(kinds=[ResultKind.SR], pipeline=pipeline, region=made.card.region)
    headers = HEADERS if pipeline == "chest_xray" else ("breast", "head in SNOMED RT", "no body part")
    read = {header: read_sources([images[kind, header]])[0] for header in headers}
    regions = {header: anatomy.target_of(circumstances, one) for header, one in read.items()}
    found = {header: (region or codes.SCT.EntireBody).value for header, region in regions.items()}
    own = OWN.get(pipeline, WHOLE)
    assert found == {header: HEADERS[header][1] or own for header in headers}
    [report] = build(circumstances, [images[kind, "no body part"]], PipelineResult())
    [said] = named(read_result(report), "123014")
    assert said.ConceptCodeSequence[0].CodeValue == own


@pytest.mark.parametrize(
    ("code", "part"), [("80891009", "HEART"), ("64033007", "KIDNEY"), ("34402009", "RECTUM")]
)
def test_an_organ_is_no_endoscopy_of_it(tmp_path: Path, code: str, part: str) -> None:
    one = still(tmp_path, Laterality="L", **region(code, "SCT", "Organ"))
    state = built(CTX, one, PipelineResult(findings=(finding(NODULE, 0.8, one.image.uid, BOX),)))[
        ResultKind.GSPS
    ]
    assert standard.body_part_word(code) == state.BodyPartExamined == part
    assert ("Laterality" in state) is (part == "KIDNEY")


def test_every_organ_that_dicom_names_lies_in_a_region_of_the_context_group() -> None:
    nowhere = {"artery", "endo-arterial", "endo-vascular", "endo-venous", "joint", "lumen of blood vessel"}
    nowhere |= {"vein", "cardiovascular system", "phantom", "saphenous vein", "entire body"}
    for organ in standard.body_parts().values():
        if organ.meaning.lower() not in nowhere and anatomy.common_region(organ) is None:
            region = anatomy.region_of(organ)
            assert region is not None, organ.meaning
            assert anatomy.common_region(region) is not None, organ.meaning


@pytest.mark.parametrize("beside", [False, True], ids=["findings alone", "beside measurements"])
def test_findings_are_read_back_with_numbers_and_model(tmp_path: Path, beside: bool) -> None:
    one, path = film(tmp_path), tmp_path / "sr.dcm"
    found = (
        finding(CARDIOMEGALY, 0.83, one.image.uid, BOX),
        finding(NODULE, 0.4, one.image.uid, decision=Decision.INDETERMINATE),
        finding(EFFUSION, 0.07, one.image.uid, decision=Decision.ABSENT),
    )
    given = PipelineResult(findings=found, measurements=measured(one.image.uid)[:beside])
    [made] = build(context(kinds=[ResultKind.SR]), [one], given)
    path.write_bytes(made.data or b"")
    numbers = lambda row: sorted(value.split()[0] for value in row["numbers"].values())
    rows = [
        (row["finding"], row["decision"], numbers(row), bool(row["region"]), row["model"])
        for row in stated_report.findings(path)
    ]
    assert rows == [
        ("Cardiomegaly", "present", ["41.0", "83.0"], True, "chest-lite0 1"),
        ("Nodule of lung", "indeterminate", ["40.0", "41.0"], False, "chest-lite0 1"),
        ("Pleural effusion", "absent", ["7.0"], False, "chest-lite0 1"),
    ]
    assert "Suspected: cardiomegaly." in stated_report.read_report(path).conclusion
    assert [row["number"] for row in stated_report.measurements(path)] == ["0.543 {ratio}"] * beside
    drawn = {(row["finding"], row["number"]) for row in stated_report.places(path)}
    ratios = {("Cardiothoracic ratio", "0.543 {ratio}")} if beside else set()
    assert drawn == {("Cardiomegaly", "83.0 % (cut-off 41.0 %)"), *ratios}


CTX = context(CALIBRATED, kinds=[ResultKind.SR, ResultKind.GSPS, ResultKind.SC])


HEART = ((30.0, 60.0), (50.0, 60.0), (50.0, 70.0), (80.0, 70.0))


THORAX = ((10.0, 80.0), (50.0, 80.0), (50.0, 76.0), (102.0, 76.0))


def measured(uid: str) -> tuple[Measurement, ...]:
    mm = ratio.MILLIMETRES
    return (
        Measurement(
            uid,
            "Cardiothoracic ratio",
            ratio.CARDIOTHORACIC_RATIO,
            0.543,
            ratio.RATIO_UNIT,
            (HEART, THORAX),
            CALIBRATED,
            ratio.THORAX,
        ),
        Measurement(uid, "Heart width", ratio.WIDTH, 150.0, mm, (HEART,), CALIBRATED, ratio.HEART),
        Measurement(uid, "Thoracic width", ratio.WIDTH, 276.0, mm, (THORAX,), CALIBRATED, ratio.THORAX),
    )


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> dict[ResultKind, Dataset]:
    """Report, presentation state and picture, with a box beside the lines."""
    one = source(write_image(tmp_path_factory.mktemp("measured") / "dx.dcm", DX, grey_image()))
    box = finding(NODULE, 0.8, one.image.uid, (5, 5, 25, 25))
    return built(CTX, one, PipelineResult(findings=(box,), measurements=measured(one.image.uid)))


def pairs(data: list[float]) -> tuple[tuple[float, float], ...]:
    return tuple(zip(data[::2], data[1::2], strict=True))


def test_the_presentation_state_has_the_same_lines_under_the_same_tracking_uids(
    faces: dict[ResultKind, Dataset],
) -> None:
    tracked = {
        str(named(group, "112039")[0].TextValue): str(named(group, "112040")[0].UID)
        for group in groups_of(faces[ResultKind.SR])
    }
    drawn = list(items(faces[ResultKind.GSPS]))
    for identifier, line in (("AI Heart width, image 1", HEART), ("AI Thoracic width, image 1", THORAX)):
        pieces = [
            pairs(list(graphic.GraphicData))
            for graphic in drawn
            if graphic.get("GraphicType") == "INTERPOLATED" and graphic.TrackingUID == tracked[identifier]
        ]
        assert pieces == [(line[place], line[place + 1]) for place in range(3)]
    assert lines_of(faces[ResultKind.GSPS]) == [
        "AI, not for diagnostic use: Cardiothoracic ratio 0.54. Heart width 150 mm.",
        "Suspected: nodule of lung. Thoracic width 276 mm",
    ]


def test_the_picture_shows_the_lines(faces: dict[ResultKind, Dataset]) -> None:
    yellow = (faces[ResultKind.SC].pixel_array == YELLOW).all(axis=-1)
    for line in (HEART, THORAX):
        rows, columns = (np.array([point[axis] for point in line], int) for axis in (1, 0))
        assert all(yellow[row, min(columns) + 3] or yellow[row, max(columns) - 3] for row in rows)


def length(one: SourceObject, value: float = 2.31, frame: int | None = None) -> Measurement:
    line = ((10.5, 20.25), (90.0, 60.75))
    return Measurement(one.image.uid, "Length", LENGTH, value, CENTIMETRES, (line,), frame=frame)


def test_a_measurement_is_a_group_with_its_number_and_its_line_and_claims_no_probability(
    scan: SourceObject,
) -> None:
    [group] = groups_of(report(scan, measurements=(length(scan),)))
    [number] = of_type(group, "NUM")
    said = number.MeasuredValueSequence[0]
    unit = said.MeasurementUnitsCodeSequence[0].CodeValue
    assert (code_of(number), float(said.NumericValue), unit) == ("410668003", 2.31, "cm")
    [line] = of_type(number, "SCOORD")
    assert (line.GraphicType, list(line.GraphicData)) == ("POLYLINE", [10.5, 20.25, 90.0, 60.75])
    [image] = of_type(line, "IMAGE")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == scan.image.uid
    words = [item.ConceptCodeSequence[0].CodeMeaning.lower() for item in of_type(group, "CODE")]
    assert "read from image, for review" in words
    assert not named(group, "111012")


def test_impossible_measurements_do_not_leave(scan: SourceObject) -> None:
    good = length(scan)
    for wrong in (
        replace(good, source_uid="1.2.3"),
        replace(good, frame=2),
        replace(good, lines=(((10.0, 10.0), (9000.0, 10.0)),)),
        replace(good, lines=(((10.0, 10.0), (10.0 + 1e-9, 10.0)),)),
    ):
        with pytest.raises(ResultRefused):
            report(scan, measurements=(wrong,))


@pytest.mark.parametrize("graphic", [[1, 1, 1, 1], [1, 1, 5, 5, 1, 1], [1, 1, 5], [1, 1, 9000, 5]])
def test_the_gate_takes_no_other_graphic_for_a_length(scan: SourceObject, graphic: list[float]) -> None:
    read = report(scan, measurements=(length(scan),))
    [line] = of_type(read, "SCOORD")
    line.GraphicData = graphic
    buffer = io.BytesIO()
    with quiet_pydicom():
        read.save_as(buffer)
    ctx = context(kinds=[ResultKind.SR])
    with pytest.raises(ResultRefused, match=r"an open line|reaches out of its image"):
        gate.check(buffer.getvalue(), read, ctx, ResultKind.SR, read_sources([scan]))


OUTLINED = context(UNCALIBRATED, kinds=[ResultKind.SR, ResultKind.GSPS, ResultKind.SC])


ONLY_REPORT = context(UNCALIBRATED, kinds=[ResultKind.SR])


NAME = (slice(300, 330), slice(20, 120))


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> SourceObject:
    pixels, _ = drawn_head()
    pixels[NAME] = 255
    path = tmp_path_factory.mktemp("head") / "us.dcm"
    return source(write_image(path, US, pixels, BodyPartExamined="HEAD", Laterality=None))


def result_of(frame: SourceObject, *, cleaned: bool) -> PipelineResult:
    header, uid = frame.image.header, frame.image.uid
    taken = biometry.measurements(uid, header, HEAD, (0.2, 0.2), UNCALIBRATED, "1")
    return PipelineResult(
        images=without_text(frame, (0, *NAME))[:cleaned],
        measurements=taken,
        models=(UNCALIBRATED,),
        drawn_on="cleaned",
    )


@pytest.fixture(scope="module")
def outlined(frame: SourceObject) -> dict[ResultKind, Dataset]:
    """Report, presentation state and picture."""
    return built(OUTLINED, frame, result_of(frame, cleaned=True))


def test_the_picture_shows_the_outline_on_cleaned_pixels_and_no_name(
    frame: SourceObject, outlined: dict[ResultKind, Dataset]
) -> None:
    pixels = outlined[ResultKind.SC].pixel_array
    yellow = (pixels == YELLOW).all(axis=-1)
    assert all(yellow[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].any() for x, y in HEAD.polygon())
    assert (frame.image.display(0)[NAME] == 255).all()
    assert (pixels[NAME] == 0).all()


def test_without_a_verified_cleaned_image_there_is_no_picture_but_the_report(frame: SourceObject) -> None:
    found = result_of(frame, cleaned=True)
    for images in ((), (replace(found.images[0], verified=False),)):
        made = build(OUTLINED, [frame], replace(found, images=images))
        assert {one.kind for one in made} == {ResultKind.SR, ResultKind.GSPS}


def test_a_heat_map_lies_on_cleaned_pixels_too(frame: SourceObject) -> None:
    bare = frame.image.display(0)
    heat = Heatmap(np.zeros(bare.shape[:2], np.float32), "class activation")
    says = finding(NODULE, 0.9, frame.image.uid, model=UNCALIBRATED, evidence=heat)
    with_none, cleaned = (
        built(
            context(UNCALIBRATED, kinds=[ResultKind.HEATMAP]),
            frame,
            replace(result_of(frame, cleaned=cleaned), findings=(says,)),
        )
        for cleaned in (False, True)
    )
    assert ResultKind.HEATMAP not in with_none, "nothing is there that it may be drawn on"
    picture = cleaned[ResultKind.HEATMAP]
    assert picture.SyntheticData == "YES"
    assert (bare[NAME] == 255).all()
    assert (picture.pixel_array[NAME] < 200).any(axis=-1).all()


def test_the_codes_are_those_of_fetal_biometry() -> None:
    assert biometry.HEAD_CIRCUMFERENCE.value == codes.LN.HeadCircumference.value
    taken = biometry.measurements(
        "1.2.3", ArrayImage(drawn_head()[0][None]).header, HEAD, None, UNCALIBRATED, "1"
    )
    known = {str(code.value) for code in codes.CID12005.concepts.values()}
    assert {one.quantity.value for one in taken} <= known


def subjects(dataset: Dataset) -> list[list[str]]:
    """Subject context of the document, then of each measurement group: class and ID."""
    return [
        [
            item.ConceptCodeSequence[0].CodeValue if item.ValueType == "CODE" else str(item.TextValue)
            for item in place.ContentSequence
            if code_of(item) in {"121024", "121030"}
        ]
        for place in (dataset, *groups_of(dataset))
    ]


def test_of_several_fetuses_each_group_names_its_own_and_the_document_none(frame: SourceObject) -> None:
    result = result_of(frame, cleaned=False)
    first, second, third = result.measurements
    both = replace(result, measurements=(replace(first, fetus="A"), replace(second, fetus="B")))
    assert subjects(built(ONLY_REPORT, frame, both)[ResultKind.SR]) == [[], ["121026", "A"], ["121026", "B"]]
    twins = replace(result, measurements=(replace(first, fetus="A"), replace(first, fetus="B")))
    assert subjects(built(ONLY_REPORT, frame, twins)[ResultKind.SR]) == [[], ["121026", "A"], ["121026", "B"]]
    beside = replace(result, measurements=(first, replace(third, fetus="")))
    assert subjects(built(ONLY_REPORT, frame, beside)[ResultKind.SR]) == [[], ["121026", "1"], []]


def test_the_note_that_withdraws_a_report_on_a_fetus_has_the_fetus_as_subject(
    frame: SourceObject, tmp_path: Path
) -> None:
    path = tmp_path / "report.dcm"
    for fetus, wanted in (("B", ["121026", "B"]), ("", [])):
        result = result_of(frame, cleaned=False)
        of_it = replace(result, measurements=tuple(replace(one, fetus=fetus) for one in result.measurements))
        built(ONLY_REPORT, frame, of_it)[ResultKind.SR].save_as(path)
        note = build_rejection(
            [path], RejectionReason.QUALITY, "blurred", ANALYSED_AT, "AINODE", INSTALLATION
        )
        assert subjects(read_result(note))[0] == wanted


def absent(uid: str) -> Finding:
    return finding(EFFUSION, 0.07, uid, decision=Decision.ABSENT)


def suspected(uid: str) -> Finding:
    return finding(CARDIOMEGALY, 0.8, uid)


def withheld(uid: str) -> QualityNote:
    return QualityNote("cleaning_failed", "no cleaned picture: too much text", uid)


@pytest.mark.parametrize(
    ("found", "no_call", "sent"),
    [
        ((burned,), None, {"cleaned"}),
        ((absent, burned), None, {"sr", "cleaned"}),
        ((burned,), {"sr", "cleaned"}, {"sr", "cleaned"}),
        ((absent,), None, {"sr", "cleaned"}),
        ((absent,), set(), set()),
        ((absent, suspected), set(), {"sr", "gsps", "sc", "cleaned"}),
        ((burned, withheld), None, {"sr", "cleaned"}),
    ],
)
def test_without_a_call_only_what_the_rule_names_is_sent(
    one: SourceObject, found: Sequence[Callable[[str], Any]], no_call: set[str] | None, sent: set[str]
) -> None:
    uid = one.image.uid
    said = [make(uid) for make in found]
    notes = tuple(note for note in said if isinstance(note, QualityNote))
    image = DerivedImage(ImageKind.CLEANED, uid, one.image.stored(), "MONOCHROME2", "x", verified=True)
    result = PipelineResult(tuple(one for one in said if one not in notes), (image,), notes)
    quiet = context(
        kinds=[ResultKind.SR, ResultKind.GSPS, ResultKind.SC, ResultKind.CLEANED],
        no_call=None if no_call is None else frozenset(map(ResultKind, no_call)),
    )
    made = build(quiet, [one], result)
    assert {item.kind.value for item in made if ResultKind.CLEANED not in item.not_beside} == sent
    assert "sr" in {item.kind.value for item in made}, "the node has a report of each job"


def test_a_class_that_is_not_suggested_is_not_called_undetermined(scan: SourceObject) -> None:
    classes = tuple(
        replace(finding(code, 0.4, scan.image.uid, decision=Decision.INDETERMINATE), exclusive=True)
        for code in (NODULE, EFFUSION)
    )
    read = report(scan, *classes)
    assert conclusion(read).startswith("AI: No class suggested.")
    assert "Undetermined" not in str(read)
