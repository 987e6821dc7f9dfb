"""Reports as HL7 messages: ORU^R01, and the acknowledgements of a receiver."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from pydicom import dcmread

from ai_pipeline.contract import Code, Measurement, PipelineResult
from dicom_connectors.hl7.destination import ACCEPTED, parsed_acknowledgement
from dicom_connectors.hl7.oru import MessageContext, SentReport, control_id, oru_of, withdrawal_of
from dicom_node.base.lifecycle import RejectionReason, ResultKind
from dicom_node.results.build import build
from dicom_node.results.rejection import build_rejection
from tests.golden_lab import written
from tests.result_images import (
    ANALYSED_AT,
    CR,
    INSTALLATION,
    context,
    finding,
    grey_image,
    source,
    write_image,
)

pytest.importorskip("hl7apy", reason="needs the extra hl7")

RIS = MessageContext("AINODE", "RIS")


HOSTILE = "a|b^c~d&e\\F\\g\rOBX|99|TX|evil||injected\n\x0bMSH|^~\\&\x1c\r ü 漢 \u2028end"


PLAIN = "a|b^c~d&e\\F\\g OBX|99|TX|evil||injected MSH|^~\\&  ü 漢  end"


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written(tmp_path_factory.mktemp("golden"))


def read(path: Path, with_context: MessageContext = RIS, rule: str = "") -> hl7.Message:
    return hl7.parse(oru_of(SentReport(path, rule), with_context).decode())


def read_withdrawal(
    folder: Path, withdrawn: list[Path], sent: list[SentReport], with_context: MessageContext = RIS
) -> hl7.Message:
    note = build_rejection(
        withdrawn, RejectionReason.SAFETY, "wrong|film", ANALYSED_AT, "AINODE", INSTALLATION
    )
    (folder / "note.dcm").write_bytes(note.data or b"")
    return hl7.parse(withdrawal_of(folder / "note.dcm", sent, with_context).decode())


def rows(message: hl7.Message) -> list[tuple[str, ...]]:
    """Type, observation, value, units and status of each OBX."""
    return [tuple(text(row, number) for number in (2, 3, 5, 6, 11)) for row in message["OBX"]]


def text(segment: Any, number: int) -> str:
    return str(segment[number]) if number < len(segment) else ""


def a_report(folder: Path, **attributes: Any) -> Path:
    """A report whose patient and study have these attributes."""
    one = source(write_image(folder / "cr.dcm", CR, grey_image(), **attributes))
    said = finding(Code("1", "99SITE", "A finding"), 0.9, one.image.uid)
    return report_of(folder, one, PipelineResult(findings=(said,)))


def report_of(folder: Path, one: Any, found: PipelineResult) -> Path:
    [built] = build(context(kinds=[ResultKind.SR]), [one], found)
    (folder / "sr.dcm").write_bytes(built.data or b"")
    return folder / "sr.dcm"


def test_a_report_becomes_patient_order_and_observations(golden: dict[str, Path]) -> None:
    message = read(golden["chest_xray-sr"], MessageContext("AINODE", "RIS", {}, "https://ai/studies/3"))
    report = dcmread(golden["chest_xray-sr"])
    header, patient, order, common = (message[name][0] for name in ("MSH", "PID", "OBR", "ORC"))
    assert [text(header, number) for number in (3, 5, 7, 9, 11, 12, 18)] == [
        *("AINODE", "RIS", "20250102111630+0100", "ORU^R01^ORU_R01", "P", "2.5.1", "UNICODE UTF-8")
    ]
    assert [text(patient, number) for number in (3, 5, 7, 8)] == [
        *("PID-CR^^^HOSPITAL^PI", "Test^CR^^^^^L^A", "19700101", "F")
    ]
    assert [text(order, number) for number in (3, 4, 7, 18, 25)] == [
        *(text(common, 3), "399208008^CR study^SCT", "20250102101500+0100", "ACCCR", "P")
    ]
    assert text(common, 1) == "RE"
    assert rows(message) == [
        ("TX", "121077^Conclusion^DCM", "AI: Cardiothoracic ratio 0.75.", "", "P"),
        ("TX", "121077^Conclusion^DCM", "Suspected: cardiomegaly. Not found: nodule of lung.", "", "P"),
        (
            *("TX", "121106^Comment^DCM"),
            *("AI result - not for diagnostic use, model chest-lite0 version 1", "", "P"),
        ),
        ("CWE", "8186001^Cardiomegaly^SCT", "415684004^Suspected^SCT", "", "P"),
        ("CWE", "786838002^Nodule of lung^SCT", "272519000^Absent^SCT", "", "P"),
        ("NM", "CARDIOTHORACIC^Cardiothoracic ratio^99AINODE", "0.75", "{ratio}^{ratio}^UCUM", "P"),
        ("ST", "110180^Study Instance UID^DCM", str(report.StudyInstanceUID), "", "P"),
        ("RP", "113014^DICOM Study^DCM", "https://ai/studies/3^^TEXT^HTML", "", "P"),
    ]
    assert [text(row, 4) for row in message["OBX"]] == [
        *("121077.1", "121077.2", "121106.1", "8186001.1", "786838002.1", "CARDIOTHORACIC.1"),
        *("110180.1", "113014.1"),
    ]


@pytest.mark.parametrize("name", ["chest_xray-sr", "fetal_head-sr", "failure-sr", "command-sr", "rejection"])
def test_messages_are_what_the_tables_of_2_5_1_allow(golden: dict[str, Path], name: str) -> None:
    report = SentReport(golden["chest_xray-sr" if name == "rejection" else name])
    if name == "rejection":
        message = withdrawal_of(golden[name], [report, SentReport(golden["fetal_head-sr"])], RIS)
    else:
        message = oru_of(report, RIS)
    assert parse_message(message.decode(), validation_level=VALIDATION_LEVEL.TOLERANT).validate()


def test_a_failure_says_that_the_ai_did_not_run(golden: dict[str, Path]) -> None:
    first, *_ = rows(read(golden["failure-sr"]))
    assert first[2] == "AI did not run: the model file is missing"


def test_the_same_file_gives_the_same_bytes(golden: dict[str, Path]) -> None:
    path = golden["chest_xray-sr"]
    assert oru_of(SentReport(path), RIS) == oru_of(SentReport(path), RIS)
    number = text(read(path)["MSH"][0], 10)
    assert number == control_id(str(dcmread(path).SOPInstanceUID))
    assert len(number) == 20


def test_a_report_that_replaces_another_deletes_the_rows_that_it_lacks(
    golden: dict[str, Path], tmp_path: Path
) -> None:
    newer, former = SentReport(a_report(tmp_path)), SentReport(golden["chest_xray-sr"])
    message = hl7.parse(oru_of(newer, RIS, [former]).decode())
    places = [(text(row, 3).partition("^")[0], text(row, 4)) for row in message["OBX"]]
    assert len(set(places)) == len(places)
    assert [text(row, 1) for row in message["OBX"]] == [str(number + 1) for number in range(len(places))]
    status = {place: row[4] for place, row in zip(places, rows(message), strict=True)}
    assert status["1", "1.1"] == status["121077", "121077.1"] == "P"
    assert status["8186001", "8186001.1"] == status["CARDIOTHORACIC", "CARDIOTHORACIC.1"] == "D"


def test_a_withdrawal_takes_back_each_row_that_was_sent_and_nothing_else(
    golden: dict[str, Path], tmp_path: Path
) -> None:
    chest, failed = golden["chest_xray-sr"], golden["failure-sr"]
    context = MessageContext("AINODE", "RIS", {"OBR-19": "{report}"}, "https://ai/studies/3")
    sent = [read(chest, context, "chest"), read(failed, context, "second")]
    names = [chest, failed, golden["chest_xray-sc"]]
    reports = [SentReport(chest, "chest"), SentReport(failed, "second")]
    taken_back = read_withdrawal(tmp_path, names, reports, context)

    def orders(message: hl7.Message) -> list[tuple[str, ...]]:
        same = [("ORC", 3), ("OBR", 3), ("OBR", 4), ("OBR", 7), ("OBR", 18), ("OBR", 19)]
        return list(
            zip(*([text(row, number) for row in message[name]] for name, number in same), strict=True)
        )

    def identified(message: hl7.Message) -> list[tuple[str, ...]]:
        return [tuple(text(row, number) for number in (2, 3, 4, 5, 6, 19)) for row in message["OBX"]]

    assert orders(taken_back) == [*orders(sent[0]), *orders(sent[1])]
    assert identified(taken_back) == [*identified(sent[0]), *identified(sent[1])]
    assert [text(row, 25) for row in taken_back["OBR"]] == ["X", "X"]
    assert {row[4] for row in rows(taken_back)} == {"W"}
    assert text(sent[0]["PID"][0], 3) == text(taken_back["PID"][0], 3)
    assert [hl7.Message.unescape(taken_back, text(row, 3)) for row in taken_back["NTE"]] == [
        "AI result withdrawn. Rejected for Patient Safety Reasons: wrong|film"
    ] * 2
    # The second report never went to this receiver.
    assert identified(read_withdrawal(tmp_path, names, reports[:1], context)) == identified(sent[0])


def test_numbers_of_one_quantity_are_told_apart_by_their_codes(tmp_path: Path) -> None:
    one = source(write_image(tmp_path / "cr.dcm", CR, grey_image()))

    def width(site: Code) -> Measurement:
        line = (((1.0, 1.0), (9.0, 1.0)),)
        millimetres = Code("mm", "UCUM", "mm")
        quantity = Code("103355008", "SCT", "Width")
        return Measurement(one.image.uid, site.meaning, quantity, 8.0, millimetres, line, None, site)

    heart, chest = Code("80891009", "SCT", "Heart"), Code("51185008", "SCT", "Chest")
    path = report_of(tmp_path, one, PipelineResult(measurements=(width(heart), width(chest))))
    numbers = [row[1].split("^") for row in rows(read(path)) if row[0] == "NM"]
    assert [code[1] for code in numbers] == ["Width of Heart", "Width of Chest"]
    assert len({code[0] for code in numbers}) == 2
    assert all(code[2] == "99AINODE" for code in numbers)
    assert [code[3:] for code in numbers] == [["103355008", "Width", "SCT"]] * 2


def test_the_side_of_a_finding_is_coded_beside_it(tmp_path: Path) -> None:
    one = source(write_image(tmp_path / "cr.dcm", CR, grey_image()))
    lung = Code("39607008", "SCT", "Lung")
    said = [
        replace(finding(Code("1", "99SITE", "A finding"), 0.9, one.image.uid), site=lung, side=side)
        for side in "LR"
    ]
    message = read(report_of(tmp_path, one, PipelineResult(findings=tuple(said))))
    coded = [row for row in message["OBX"] if text(row, 2) == "CWE"]
    values = [(text(row, 4), text(row, 3), text(row, 5)) for row in coded]
    suspected, sites = "415684004^Suspected^SCT", "39607008^Lung^SCT"
    left, right = "7771000^Left^SCT", "24028007^Right^SCT"
    (of_left, *_), *_, (of_right, *_) = values
    assert of_left != of_right
    assert values == [
        (of_left, "1^A finding^99SITE", suspected),
        (of_left, "363698007^Finding Site^SCT", sites),
        (of_left, "272741003^Laterality^SCT", left),
        (of_right, "1^A finding^99SITE", suspected),
        (of_right, "363698007^Finding Site^SCT", sites),
        (of_right, "272741003^Laterality^SCT", right),
    ]


def test_numbers_of_twins_name_their_fetus(golden: dict[str, Path]) -> None:
    message = read(golden["fetal_head-sr"])
    subjects = [text(row, 5) for row in message["OBX"] if text(row, 3).startswith("121030^")]
    assert subjects
    assert set(subjects) == {"fetus 1"}


def test_each_rule_has_its_own_filler_order_number(golden: dict[str, Path], tmp_path: Path) -> None:
    first = read(golden["chest_xray-sr"], rule="chest")
    newer, other = read(golden["failure-sr"], rule="chest"), read(golden["failure-sr"], rule="second")
    same_study = {dcmread(golden[name]).StudyInstanceUID for name in ("chest_xray-sr", "failure-sr")}
    numbers = [text(one["OBR"][0], 3) for one in (first, newer, other)]
    assert len(same_study) == 1
    assert numbers[0] == numbers[1] != numbers[2]
    assert all(0 < len(number) <= 22 for number in numbers)  # as long as 2.5.1 allows
    assert all(text(one["OBR"][0], 3) == text(one["ORC"][0], 3) for one in (first, newer, other))


def test_hostile_text_of_a_header_stays_in_its_field(golden: dict[str, Path], tmp_path: Path) -> None:
    report = dcmread(golden["chest_xray-sr"])
    for keyword in ("PatientID", "IssuerOfPatientID", "StudyDescription", "AccessionNumber"):
        report[keyword]._value = HOSTILE  # as a faulty file brings it past all checks of pydicom
    for item in report.ContentSequence:
        if item.ValueType == "TEXT":
            item["TextValue"]._value = HOSTILE.replace("\r", "\x0b")
    report.PatientName = "Evil|A\x1c^Given&\x0b^^^=漢\\字"
    report.save_as(tmp_path / "sr.dcm", enforce_file_format=False)
    message = oru_of(
        SentReport(tmp_path / "sr.dcm"),
        MessageContext("AINODE", "RIS", {"OBR-5": "{accession}", "MSH-6": "|"}),
    )
    assert not {0x0A, 0x0B, 0x1C} & set(message)
    parsed = hl7.parse(message.decode())
    assert {str(segment[0]) for segment in parsed} == {"MSH", "PID", "ORC", "OBR", "OBX"}
    assert len(parsed["MSH"]) == len(parsed["PID"]) == len(parsed["OBR"]) == 1
    whole = parsed.unescape
    assert whole(str(parsed["PID"][0][3][0][0])) == PLAIN
    assert whole(str(parsed["PID"][0][3][0][3][0])) == PLAIN
    assert whole(str(parsed["OBR"][0][5])) == whole(str(parsed["OBR"][0][18])) == PLAIN
    assert str(parsed["MSH"][0][6]) == "\\F\\"
    assert [whole(str(row[5])) for row in parsed["OBX"] if str(row[2]) == "TX"][-1].startswith(
        "a|b^c~d&e\\F\\g"
    )
    assert str(parsed["PID"][0][5]) == "Evil\\F\\A^Given\\T\\^^^^^L^A~漢\\E\\字^^^^^^L^I"


@pytest.mark.parametrize("name", ["", "Namesake^Ann"])
def test_a_patient_without_an_id_makes_no_pid(tmp_path: Path, name: str) -> None:
    nobody = {"PatientName": name, "PatientID": "", "IssuerOfPatientID": None}
    message = read(a_report(tmp_path, **nobody), MessageContext("AINODE", "RIS", {"PV1-19": "{study_id}"}))
    assert {str(segment[0]) for segment in message} == {"MSH", "ORC", "OBR", "OBX"}
    assert text(message["OBR"][0], 18) == "ACCCR"
    given = MessageContext("AINODE", "RIS", {"PID-3": "{accession}"})
    assert text(read(a_report(tmp_path, **nobody), given)["PID"][0], 3) == "ACCCR"


def test_a_space_before_a_patient_id_is_a_part_of_it(tmp_path: Path) -> None:
    assert text(read(a_report(tmp_path, PatientID=" 47"))["PID"][0], 3).startswith(" 47^")


def test_a_patient_without_a_name_has_a_name_of_type_unspecified(tmp_path: Path) -> None:
    patient = read(a_report(tmp_path, PatientName="", PatientBirthDate=""))["PID"][0]
    assert [text(patient, number) for number in (3, 5, 7)] == ["PID-CR^^^HOSPITAL^PI", "^^^^^^U", ""]


def test_null_of_hl7_is_never_sent(tmp_path: Path) -> None:
    """A value "" in quotes tells a receiver to delete what it has."""
    message = read(a_report(tmp_path, PatientName='""^""', StudyDescription='""'))
    assert '""' not in str(message["PID"][0]) + str(message["OBR"][0])


def test_fields_are_filled_as_the_site_says(golden: dict[str, Path]) -> None:
    fields = {
        "PID-3.5": "MR",
        "OBR-3": "{accession}",
        "OBR-4.1": "XRCH",
        "OBR-4.3": "L",
        "MSH-6": "RIS {study_id}",
        "ORC-5": "CM",
        "PV1-19": "{patient_id}",
    }
    message = read(golden["chest_xray-sr"], MessageContext("AINODE", "RIS", fields))
    segment = {name: message[name][0] for name in ("MSH", "PID", "PV1", "ORC", "OBR")}
    assert text(segment["PID"], 3) == "PID-CR^^^HOSPITAL^MR"
    assert text(segment["OBR"], 3) == text(segment["ORC"], 3) == "ACCCR"
    assert text(segment["OBR"], 4) == "XRCH^CR study^L"
    assert text(segment["MSH"], 6) == "RIS 1"
    assert text(segment["ORC"], 5) == "CM"
    assert text(segment["PV1"], 2) == "U"
    assert text(segment["PV1"], 19) == "PID-CR"


MSH = b"MSH|^~\\&|RIS||AINODE||2025||ACK^R01^ACK|7|P|2.5.1\r"


@pytest.mark.parametrize(
    ("segments", "shown", "text"),
    [
        (b"MSA|AA|N1\r", "AA", ""),
        (b"MSA|AA|N1|all is well, Mr Probe\r", "AA", ""),
        (b"MSA|AE|N1\rERR|||101^Required field missing|E||||Mr Probe\r", "AE 101", "required field missing"),
        (b"MSA|AE|N1\nERR|PID^1^3^101&Required\n", "AE", "found an error"),
        (b"MSA|AE|N1\rERR|PID^1^3^103\r", "AE 103", "table value not found"),
        (b"MSA|AR|N1|no|||204^Unknown\r", "AR 204", "unknown key identifier"),
        (b"MSA|CR|N1\rERR|||Probe^Mr\r", "CR", "rejects the message"),
    ],
)
def test_codes_are_read_and_texts_are_not(segments: bytes, shown: str, text: str) -> None:
    answer = parsed_acknowledgement(MSH + segments)
    assert answer is not None
    assert answer.control_id == "N1"
    assert answer.shown == shown
    assert text in answer.text
    assert "Probe" not in f"{answer.shown}{answer.text}"


@pytest.mark.parametrize(
    ("msa", "control_id"),
    [
        (b"MSA| AA |N1", "N1"),
        (b"MSA|aa|N1^X", "N1"),
        (b"MSA|AA |", ""),
        (b"MSA|CA", ""),
        (b"MSA|AA||", ""),
    ],
)
def test_padding_and_components_change_nothing(msa: bytes, control_id: str) -> None:
    for before in (b"", b"\xef\xbb\xbf"):
        answer = parsed_acknowledgement(before + MSH + msa + b"\r")
        assert answer is not None
        assert answer.code in ACCEPTED
        assert answer.control_id == control_id


def test_other_delimiters_are_those_of_the_answer() -> None:
    answer = parsed_acknowledgement(b"MSH#*~\\&#RIS\rMSA#AE#N1\rERR###101*x\r")
    assert answer is not None
    assert (answer.shown, answer.control_id) == ("AE 101", "N1")


@pytest.mark.parametrize(
    "block",
    [b"", b"MSH", b"MSH|^", MSH, MSH + b"MSA\r", MSH + b"MSA|ZZ|N1\r", b"MSA|AA|N1\r", b"\xff" * 9000],
)
def test_what_is_no_acknowledgement_is_none(block: bytes) -> None:
    assert parsed_acknowledgement(block) is None
