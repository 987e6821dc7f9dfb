"""What lies on an image or beside it: outlined organs, and an image of an earlier study."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from ai_pipeline import pipelines
from ai_pipeline.contract import (
    Code,
    DerivedImage,
    ImageKind,
    ModelRef,
    PipelineResult,
    Progress,
    SourceImage,
)
from dicom_node.model.kinds import RejectionReason, ResultKind
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from dicom_node.store.accounts import Withdrawal
from dicom_node.store.tables import Result
from dicom_node.store.transitions import utc_now
from tests.console_lab import ConsoleLab, add_users, quick_hasher
from tests.inbox_lab import Inbox
from tests.modality import chest, ultrasound
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import Obedient, configuration, work

ORGANS = (Code("80891009", "SCT", "Heart"), Code("44029006", "SCT", "Left lung"))
MODEL = ModelRef("anatomy", "3", "e" * 64, "f" * 64)


class Outlined(Obedient):
    """Outlines two organs in each image."""

    card = replace(Obedient.card, name="outlined")

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        found = super().run(images, report, options)
        return replace(found, images=tuple(map(_outlines, images)))


def _outlines(image: SourceImage) -> DerivedImage:
    masks = np.zeros((2, image.header.rows, image.header.columns), np.uint8)
    masks[0, 50:90, 60:120], masks[1, 20:100, 130:200] = 255, 255
    return DerivedImage(ImageKind.ORGANS, image.uid, masks, "MONOCHROME2", "", models=(MODEL,), organs=ORGANS)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """An analysed film, and an earlier one of the same patient."""
    monkeypatch.setattr(users, "hasher", quick_hasher)
    monkeypatch.setitem(
        pipelines.PIPELINES,
        "outlined",
        EntryPoint("outlined", "tests.unit.console.test_masks:Outlined", pipelines.GROUP),
    )
    made = configuration()
    made["rules"][0] |= {"pipeline": "outlined", "options": {}, "when": {"modality": "*"}}
    made["peers"][1]["results"] = ["sr", "seg"]
    node = Inbox(tmp_path / "var", made)
    add_users(node.settings)
    pixels = np.linspace(0, 4000, 160 * 220).reshape(160, 220).astype("<u2")
    now, before = chest("now", pixels), chest("before", pixels)
    node.receive(
        changed(now, PatientID="P", StudyDate="20260301"),
        changed(before, PatientID="P", StudyDate="20240301"),
        changed(chest("other", pixels), PatientID="Q", StudyDate="20240301"),
        changed(ultrasound("us"), PatientID="P", StudyDate="20240302"),
        changed(chest("later", pixels), PatientID="P", StudyDate="20260401"),
    )
    node.settle()
    work(node)
    yield node
    node.close()


def test_each_organ_is_a_picture_of_its_own_and_may_be_switched_on(node: Inbox) -> None:
    browser = ConsoleLab(node.settings, node.database).browser(UserRole.VIEWER)
    assert browser.get("/studies/images/1") == 200
    assert 'data-shows="AI Heart"' in browser.text and 'data-shows="AI Left lung"' in browser.text
    with node.database.read() as session:
        number = session.scalars(select(Result.id).where(Result.kind == ResultKind.SEG)).first()
    assert browser.get(f"/studies/results/{number}/masks/2") == 200
    picture = np.asarray(Image.open(io.BytesIO(browser.content)))
    assert picture.shape == (160, 220, 4)
    assert picture[50, 150, 3] > 0 and picture[70, 80, 3] == 0  # the lung, and where the heart is
    for place in (f"/studies/results/{number}/masks/3", "/studies/results/1/masks/1"):
        assert browser.get(place) == 404
    assert browser.get(f"/studies/results/{number}/masks/x") == 400


def test_an_outline_that_was_withdrawn_is_not_offered(node: Inbox) -> None:
    with node.database.write() as session:
        for row in session.scalars(select(Result).where(Result.kind == ResultKind.SEG)):
            session.add(
                Withdrawal(
                    result_id=row.id, at=utc_now(), actor="a", reason=RejectionReason.QUALITY, because="wrong"
                )
            )
    browser = ConsoleLab(node.settings, node.database).browser(UserRole.VIEWER)
    assert browser.get("/studies/images/1") == 200
    assert "AI Heart" not in browser.text


def test_earlier_images_of_the_patient_and_modality_are_offered_and_shown_beside(node: Inbox) -> None:
    browser = ConsoleLab(node.settings, node.database).browser(UserRole.VIEWER)
    browser.get("/studies/images/1")
    assert browser.text.count("<option") == 1 + 1  # none, and the film of 2024
    assert browser.get("/studies/images/1?beside=2") == 200
    assert browser.text.count('class="viewer"') == 2
    assert 'href="/studies/images/2/1"' in browser.text
    for number in (3, 4, 5):  # another patient, another modality, a later study
        browser.get(f"/studies/images/1?beside={number}")
        assert browser.text.count('class="viewer"') == 1
