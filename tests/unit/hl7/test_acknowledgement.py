"""Acknowledgements: codes are read, texts are not; what is none is none."""

from __future__ import annotations

import pytest

from dicom_node.hl7 import parsed_acknowledgement

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
    assert answer is not None and answer.control_id == "N1" and answer.shown == shown
    assert text in answer.text and "Probe" not in f"{answer.shown}{answer.text}"


def test_other_delimiters_are_those_of_the_answer() -> None:
    answer = parsed_acknowledgement(b"MSH#*~\\&#RIS\rMSA#AE#N1\rERR###101*x\r")
    assert answer is not None and (answer.shown, answer.control_id) == ("AE 101", "N1")


@pytest.mark.parametrize(
    "block",
    [b"", b"MSH", b"MSH|^", MSH, MSH + b"MSA|AA\r", MSH + b"MSA|ZZ|N1\r", b"MSA|AA|N1\r", b"\xff" * 9000],
)
def test_what_is_no_acknowledgement_is_none(block: bytes) -> None:
    assert parsed_acknowledgement(block) is None
