"""DICOMweb requests: keys that are repeated, what is preferred, methods that are not there."""

from __future__ import annotations

import pytest

from dicom_console.handlers import dicomweb
from dicom_console.views import qido
from dicom_console.web.accept import MediaRange
from dicom_node.model.roles import UserRole
from tests.console_lab import ConsoleLab


def test_the_first_value_of_a_key_counts_and_a_warning_names_the_key() -> None:
    given = [("ModalitiesInStudy", "US"), ("00080061", "CT"), ("PatientID", "A")]
    query = qido.query_of(qido.Level.STUDY, given)
    assert (query.value("ModalitiesInStudy"), query.ignored) == ("US", ("00080061",))


@pytest.mark.parametrize(("weight", "media"), [(0.5, "multipart/related"), (1.0, "application/dicom")])
def test_one_part_is_sent_as_the_client_prefers(weight: float, media: str) -> None:
    dicom = "application/dicom"
    accepted = [MediaRange(dicom, False, "", weight), MediaRange(dicom, True, "", 0.7)]
    assert str(dicomweb._parts(accepted, dicom, ["1.2"], []).media_type).startswith(media)  # type: ignore[list-item]


def test_a_method_that_an_address_has_not_is_answered_with_those_that_it_has(console: ConsoleLab) -> None:
    answer = console.browser(UserRole.VIEWER).client.put("/studies")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
