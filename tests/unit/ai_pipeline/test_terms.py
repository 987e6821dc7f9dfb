"""What a message may repeat of a header: terms of the standard, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ai_pipeline.chest import intended_use as chest
from ai_pipeline.contract import ImageHeader
from ai_pipeline.errors import PixelError
from ai_pipeline.fetal_head import intended_use as fetal_head
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.ovarian import intended_use as ovarian
from ai_pipeline.terms import shown_term, shown_uid_name
from dicom_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from tests.modality import ultrasound
from tests.unit.ai_pipeline.phantoms import image_header
from tests.unit.inbox.objects import changed

HEADER = image_header()


@pytest.mark.parametrize(
    ("keyword", "value", "shown"),
    [
        ("Modality", "MG", "MG"),
        ("Modality", "ZQXCANARY", "unknown (9 characters)"),
        ("Modality", "us", "unknown (2 characters)"),
        ("Modality", "", "unknown"),
        ("Modality", "US\\SMITH", "US\\unknown (5 characters)"),
        ("BodyPartExamined", "KNEE", "KNEE"),
        ("BodyPartExamined", "SMITH JANE", "unknown (10 characters)"),
        ("ViewPosition", "LL", "LL"),
        ("ViewPosition", "JANE", "unknown (4 characters)"),
        ("PhotometricInterpretation", "PALETTE COLOR", "PALETTE COLOR"),
    ],
)
def test_terms_of_the_standard_are_shown_and_of_others_the_length(
    keyword: str, value: str, shown: str
) -> None:
    assert shown_term(keyword, value) == shown


def test_a_uid_is_named_where_the_standard_defines_it() -> None:
    assert shown_uid_name("1.2.840.10008.1.2.4.50") == "JPEG Baseline (Process 1) (1.2.840.10008.1.2.4.50)"
    assert shown_uid_name("1.2.840.10008.1.2.4.112") == "JPEG XL (1.2.840.10008.1.2.4.112)"
    assert shown_uid_name("1.2.3.18770213") == "unknown (14 characters)"


def test_messages_name_a_transfer_syntax_as_the_conformance_statement_does() -> None:
    shown = {syntax.uid: shown_uid_name(syntax.uid) for syntax in TRANSFER_SYNTAXES}
    names = {syntax.uid: syntax.name.removesuffix(" (Retired)") for syntax in TRANSFER_SYNTAXES}
    assert shown == {uid: f"{name} ({uid})" for uid, name in names.items()}


@pytest.mark.parametrize(
    "refused_by_header", [chest.refused_by_header, fetal_head.refused_by_header, ovarian.refused_by_header]
)
@pytest.mark.parametrize("attribute", ["modality", "body_part", "view_position"])
def test_no_pipeline_repeats_a_code_string_that_may_be_a_name(
    refused_by_header: Callable[[ImageHeader], str | None], attribute: str
) -> None:
    header = replace(HEADER, **{attribute: "ZQXCANARY"})
    assert "ZQXCANARY" not in (refused_by_header(header) or "")
    with_modality = replace(header, modality="DX" if "chest" in refused_by_header.__module__ else "US")
    assert "ZQXCANARY" not in (refused_by_header(with_modality) or "")


def test_a_photometric_interpretation_is_not_repeated_by_the_decoder(tmp_path: Path) -> None:
    """One that looks like the decoder's own words."""
    dataset = changed(ultrasound("two"), PhotometricInterpretation="JPEGCANARY")
    dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    with pytest.raises(PixelError) as failed:
        open_dicom(tmp_path / "one.dcm").stored()
    assert "CANARY" not in str(failed.value)
