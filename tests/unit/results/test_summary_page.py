"""The summary page: one object for all images of a job, with a picture that names nobody else's text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ai_pipeline.contract import (
    BURNED_IN,
    Decision,
    DerivedImage,
    Finding,
    ImageKind,
    ModelRef,
    PipelineResult,
    QualityNote,
)
from ai_pipeline.images.page import PagePicture
from dicom_node import results
from dicom_node.config.settings import PeerSettings
from dicom_node.model.kinds import ResultKind
from dicom_node.results import Pseudonyms, ResultContext, SourceObject
from dicom_node.results.sc import page
from tests.deidentified_lab import HERE, result_of, write_named
from tests.result_images import (
    CALIBRATED,
    CARDIOMEGALY,
    CR,
    EFFUSION,
    NODULE,
    US,
    context,
    finding,
    grey_image,
    source,
    speckle,
    write_image,
)
from tests.result_reading import read_result

BLUE = (0, 90, 200)  # no letter has it, nor its edges
ONE_STUDY = {"StudyInstanceUID": "2.25.7", "SeriesInstanceUID": "2.25.8"}
ONLY_PAGE = (ResultKind.SUMMARY,)


def film(folder: Path, number: int = 1, **attributes: Any) -> SourceObject:
    given = {"InstanceNumber": number, **ONE_STUDY, **attributes}
    return source(write_image(folder / f"film{number}.dcm", CR, grey_image(), **given))


def ultrasound(folder: Path) -> SourceObject:
    """A scan that is as blue as its letters would be legible."""
    return source(write_image(folder / "us.dcm", US, np.full((90, 120, 3), BLUE, np.uint8)))


def built(
    images: Sequence[SourceObject], result: PipelineResult, ctx: ResultContext | None = None
) -> results.BuiltObject:
    [made] = results.build(ctx or context(kinds=ONLY_PAGE), images, result)
    assert made.kind is ResultKind.SUMMARY
    return made


def shows_scan(one: results.BuiltObject) -> bool:
    pixels: npt.NDArray[np.uint8] = read_result(one).pixel_array
    return bool((pixels == BLUE).all(axis=-1).any())


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the page is drawn of, by the names of its parameters."""
    given: dict[str, Any] = {}
    draw = page.draw_page

    def note(*parts: Any) -> Any:
        names = ("title", "head", "shown", "captions", "results", "foot")
        given.update(zip(names, parts, strict=True))
        return draw(*parts)

    monkeypatch.setattr(page, "draw_page", note)
    yield given


def absent(image: SourceObject) -> Finding:
    return finding(NODULE, 0.01, image.image.uid, decision=Decision.ABSENT)


def test_it_is_a_secondary_capture_of_all_images(tmp_path: Path) -> None:
    images = [film(tmp_path, 1), film(tmp_path, 2)]
    read_back = read_result(built(images, PipelineResult()))
    assert read_back.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert (read_back.SeriesNumber, read_back.InstanceNumber) == (9009, 2)
    assert read_back.SeriesDescription == "AI summary - not for diagnostic use - chest_xray"
    assert read_back.BurnedInAnnotation == "YES"
    assert read_back.PatientName == "Test^CR" and read_back.StudyInstanceUID == "2.25.7"
    assert "PixelSpacing" not in read_back and not read_back.PatientOrientation
    references = [item.ReferencedSOPInstanceUID for item in read_back.SourceImageSequence]
    assert references == [image.image.uid for image in images]
    assert read_back.pixel_array.shape == (1200, 1600, 3)


def test_a_late_image_makes_another_page_and_the_same_images_the_same_one(tmp_path: Path) -> None:
    images = [film(tmp_path, 1), film(tmp_path, 2)]
    first, again, late = (built(some, PipelineResult()) for some in (images[:1], images[:1], images))
    assert first == again and first.data == again.data
    assert first.sop_instance_uid != late.sop_instance_uid
    assert first.series_instance_uid == late.series_instance_uid


def test_an_image_with_what_is_suspected_is_in_the_picture_and_first_in_words(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    images = [film(tmp_path, number, ViewPosition=view) for number, view in ((1, "PA"), (2, "AP"), (3, "PA"))]
    uids = [image.image.uid for image in images]
    unclear = finding(CARDIOMEGALY, 0.3, uids[0], decision=Decision.INDETERMINATE)
    suspected = finding(EFFUSION, 0.8, uids[1], (10, 20, 90, 100), side="L", certainty="high certainty")
    note = QualityNote("turned", "The image was turned.", uids[1], on_faces=True)
    hidden = QualityNote("rotation", "not for faces", uids[1])
    missing = QualityNote("not assessed", "…", uids[1], names=("pneumonia",))
    result = PipelineResult((unclear, suspected, absent(images[2])), quality=(note, hidden, missing))
    built(images, result)
    assert said["results"] == [
        "image 2: AI: Suspected, high certainty: left pleural effusion.\nNot assessed: pneumonia.\n"
        "The image was turned.",
        "image 1: AI: Nothing suspected. Cannot exclude: cardiomegaly.",
        "image 3: AI: Not found: nodule of lung.",
    ]
    assert said["captions"] == ["Image 2, view: AP; box: class activation, approximate place"]
    assert [one.regions[0].bounds for one in said["shown"].findings] == [(10, 20, 90, 100)]
    assert said["title"] == "AI summary - not for diagnostic use"
    assert said["foot"] == [
        "AI result - not for diagnostic use. Analysed 2025-01-02 11:16, 3 images.",
        "Model: chest-lite0 1",
    ]


def test_images_with_the_same_result_are_named_together(tmp_path: Path, said: dict[str, Any]) -> None:
    images = [film(tmp_path, number) for number in range(1, 13)]
    built(images, PipelineResult(tuple(map(absent, images))))
    numbers = ", ".join(map(str, range(1, 13)))
    assert said["results"] == [f"images {numbers}: AI: Not found: nodule of lung."]
    assert said["captions"] == ["Image 1, view: PA"]


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ({"PatientName": "Müller^Jörg^Karl"}, "Müller, Jörg Karl"),
        ({"PatientName": "Hong^Gildong=洪^吉洞=홍^길동"}, "Hong, Gildong"),
        ({"PatientName": "홍^길동=洪^吉洞"}, "Name: (in letters that this page cannot show)"),
        ({"PatientName": "山田^太郎=山田^太郎=Yamada^Tarou"}, "Yamada, Tarou"),
        ({"PatientName": ""}, "Name: not given"),
    ],
)
def test_the_name_is_that_of_the_header(
    tmp_path: Path, said: dict[str, Any], header: dict[str, str], wanted: str
) -> None:
    built([film(tmp_path, **header, StudyDescription="Thorax")], PipelineResult())
    assert said["head"] == [
        wanted,
        "ID: PID-CR | Born: 1970-01-01 | Sex: F",
        "Study: 2025-01-02 | Accession number: ACCCR | Thorax",
    ]


def test_many_models_are_counted() -> None:
    models = tuple(ModelRef(f"model-with-a-long-name-{n}", "1", "a" * 64, "b" * 64) for n in range(12))
    assert page._models(context(*models)).endswith(" and 5 more")
    assert page._models(context(CALIBRATED)) == "Model: chest-lite0 1"


@pytest.mark.parametrize("drawn_on", ["source", "cleaned"])
@pytest.mark.parametrize("verified", [True, False])
def test_of_an_ultrasound_only_a_verified_cleaned_image_is_shown(
    tmp_path: Path, said: dict[str, Any], drawn_on: Any, verified: bool
) -> None:
    """Also where the pipeline finds nothing: names are burned into ultrasound."""
    image = ultrasound(tmp_path)
    cleaned = DerivedImage(
        ImageKind.CLEANED, image.image.uid, image.image.stored()[None], "RGB", "text", verified=verified
    )
    for images in [(cleaned,), ()]:
        result = PipelineResult((absent(image),), images, drawn_on=drawn_on)
        shown = verified and bool(images)
        one = built([image], result)
        assert shows_scan(one) is shown
        assert said["results"] == ["AI: Not found: nodule of lung."], "the words are there all the same"
        assert ("SyntheticData" in read_result(one)) is shown
        if not shown:
            assert said["shown"].startswith("No picture: names may be burned into this image")


def test_a_picture_in_which_text_was_looked_for_is_not_shown_as_it_came(tmp_path: Path) -> None:
    """A grabbed picture of any modality."""
    path = write_image(tmp_path / "us.dcm", US, np.full((90, 120, 3), BLUE, np.uint8), Modality="OT")
    image = source(path)
    text = replace(finding(NODULE, None, image.image.uid, (1, 1, 9, 9)), code=BURNED_IN)
    assert not shows_scan(built([image], PipelineResult((text,))))


def test_of_a_cine_the_frame_of_the_first_finding_is_shown(tmp_path: Path, said: dict[str, Any]) -> None:
    path = write_image(tmp_path / "cine.dcm", "1.2.840.10008.5.1.4.1.1.3.1", speckle(frames=5), CineRate=25)
    image = source(path)
    stored = np.stack([image.image.stored(number) for number in range(5)])
    cleaned = DerivedImage(ImageKind.CLEANED, image.image.uid, stored, "RGB", "text", verified=True)
    suspected = finding(NODULE, 0.8, image.image.uid, (10, 10, 40, 40), frame=4)
    built([image], PipelineResult((suspected,), (cleaned,), drawn_on="cleaned"))
    assert said["captions"] == ["Frame 4 of 5, cleaned image; box: class activation, approximate place"]
    assert (said["shown"].display == image.image.display(3)).all()


def test_where_the_ai_did_not_run_the_page_says_so_and_shows_nothing(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    [failure] = results.build_failure(context(kinds=ONLY_PAGE), [film(tmp_path)], "the model is missing")
    assert failure.kind is ResultKind.SUMMARY
    assert said["results"] == ["AI did not run: the model is missing"]
    assert said["shown"] == "No picture: the AI did not run."
    assert failure.sop_instance_uid != built([film(tmp_path)], PipelineResult()).sop_instance_uid


def test_images_of_both_sides_give_a_page_of_none(tmp_path: Path) -> None:
    sides = [film(tmp_path, n, BodyPartExamined="HAND", Laterality=side) for n, side in ((1, "L"), (2, "R"))]
    assert read_result(built(sides[:1], PipelineResult())).Laterality == "L"
    both = read_result(built(sides, PipelineResult()))
    assert "BodyPartExamined" not in both and both.Laterality == ""


def test_a_picture_in_the_page_keeps_the_shape_of_its_pixels(tmp_path: Path, said: dict[str, Any]) -> None:
    built([film(tmp_path, PixelSpacing=[0.4, 0.2])], PipelineResult())
    assert isinstance(said["shown"], PagePicture) and said["shown"].pixel_height == pytest.approx(2.0)


def test_a_destination_that_may_not_know_the_patient_gets_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="summary may identify the patient"):
        PeerSettings.model_validate(
            {"name": "x", "ae_title": "X", "results": ["cleaned", "summary"], "deidentify": True}
        )
    image = source(write_named(tmp_path / "us.dcm"))
    ctx = context(kinds=tuple(ResultKind), pipeline="ultrasound", rule="ultrasound")
    made = results.build_deidentified(ctx, [image], result_of(image, verified=True), Pseudonyms.of(HERE, ""))
    assert made.objects and ResultKind.SUMMARY not in {one.kind for one in made.objects}


def test_only_destinations_that_ask_for_it_get_it() -> None:
    """The default of a destination that was configured before is as it was."""
    assert ResultKind.SUMMARY not in PeerSettings(name="x", ae_title="X").results
