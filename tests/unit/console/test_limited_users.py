"""A user who sees some senders only changes nothing that is of all, and passes no check unseen."""

from __future__ import annotations

import pytest

from dicom_node.config.settings import PeerSettings
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from tests.archive_lab import peer
from tests.console_lab import PASSWORD, ConsoleLab
from tests.unit.console.test_uploads import ANNA, FORM, picture


@pytest.mark.parametrize(
    ("path", "fields", "said"),
    [
        ("/patients/register", ANNA, "sees some only"),
        ("/patients/register", ANNA | {"PatientID": "P-78"}, "sees some only"),
        ("/upload", ANNA | {"PatientName": "Other^Anna", "Modality": "US"}, "another name"),
        ("/fetches", FORM, "sees some only"),
        ("/fetches/archive/missing", {"fetch": "true"}, "sees some only"),
    ],
)
def test_what_is_of_all_senders_is_refused(
    console: ConsoleLab, path: str, fields: dict[str, str], said: str
) -> None:
    archive = PeerSettings.model_validate(peer(1, ae_title="ARCHIVE"))
    console.take(console.settings.model_copy(update={"peers": (*console.settings.peers, archive)}))
    assert console.browser(UserRole.OPERATOR).post("/patients/register", **ANNA) == 303
    users.add_user(console.settings, "limited", UserRole.OPERATOR, PASSWORD, senders=["CONSOLE"])
    browser = console.browser()
    browser.sign_in("limited")
    status = (
        browser.upload(("a.png", picture()), **fields) if path == "/upload" else browser.post(path, **fields)
    )
    assert status in (400, 409) and said in browser.text
