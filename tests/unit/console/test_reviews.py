"""The review desk, the viewer of an image, and the release of a study."""

import html
import io
import json
import re
import tomllib
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import select

from ai_pipeline import pipelines
from ai_pipeline.burnin.devices.rules import read_rules
from ai_pipeline.contract import (
    Code,
    DerivedImage,
    ImageKind,
    ModelRef,
    PipelineResult,
    Progress,
    SourceImage,
)
from dicom_console.views import contents, dicomweb, timeline
from dicom_node.config.sections import DEVICE_RULES_FOLDER
from dicom_node.model.kinds import AuditAction, ResultKind, ReviewVerdict
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services import images
from dicom_node.services.studies import rerun_rules
from dicom_node.store.tables import CleaningReview, Delivery, Instance, Result
from dicom_node.store.transitions import utc_now
from tests.console_lab import Browser, ConsoleLab, audited
from tests.inbox_lab import Inbox
from tests.modality import chest, ultrasound
from tests.unit.console.scrubbed import PLACE, image, scrubbing
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import Obedient, configuration, work

BOX = {"left": "0", "top": "0", "right": "130", "bottom": "30"}


@pytest.fixture
def desk(open_with_users: Callable[..., Inbox]) -> Inbox:
    return open_with_users(scrubbing())


@pytest.fixture
def desk_console(desk: Inbox) -> ConsoleLab:
    return ConsoleLab(desk.settings, desk.database)


def waiting(desk: Inbox) -> list[tuple[int, str]]:
    return [(row.id, row.cause.value) for row in desk.rows(CleaningReview) if row.verdict is None]


def scrubbed(desk: Inbox, *series: str) -> None:
    """A study with an image for each name."""
    desk.settle(*(image(name, number) for number, name in enumerate(series, start=1)))
    work(desk)


def cleaned(desk: Inbox) -> list[Path]:
    """The files of cleaned images, the oldest first."""
    return [desk.folder / row.path for row in desk.rows(Result) if row.kind is ResultKind.CLEANED]


def test_images_that_are_withheld_widened_or_in_doubt_wait_with_their_places(
    desk_console: ConsoleLab, desk: Inbox
) -> None:
    scrubbed(desk, "WIDE", "CLEAN", "NAME", "DOUBT")
    assert [cause for _, cause in waiting(desk)] == ["widened", "withheld", "in_doubt"]
    assert [row.places for row in desk.rows(CleaningReview)] == [[list(PLACE)]] * 3
    assert len(cleaned(desk)) == 3, "all but what is withheld are sent"
    browser = desk_console.at("/reviews", UserRole.OPERATOR)
    assert "text is still found" in browser.text and "may hold letters" in browser.text
    assert 'points="8,4 120,4 120,20 8,20 8,4 "' in browser.page("/reviews/2")
    assert "images to look at" in browser.page("/")


def test_a_cleaned_image_that_left_is_told_though_another_rule_made_one_that_stayed(
    desk_console: ConsoleLab, desk: Inbox
) -> None:
    scrubbed(desk, "WIDE")
    [left] = [row for row in desk.rows(Result) if row.kind is ResultKind.CLEANED]
    same = {column.name: getattr(left, column.name) for column in Result.__table__.columns}
    desk.add(Result(**same | {"id": None, "sop_instance_uid": "2.25.9"}))
    assert "A cleaned image of it went to pacs" in desk_console.at("/reviews/1", UserRole.OPERATOR).text


def test_what_was_accepted_is_not_asked_again(desk_console: ConsoleLab, desk: Inbox) -> None:
    scrubbed(desk, "WIDE", "NAME")
    browser = desk_console.browser(UserRole.OPERATOR)
    for number, _ in waiting(desk):
        assert browser.post(f"/reviews/{number}/accept") == 303
        assert browser.post(f"/reviews/{number}/accept") == 409
    fields = audited(desk.database, AuditAction.CLEANING_JUDGED)
    assert [row["verdict"] for row in fields] == ["accepted", "accepted"]
    study = desk.study(image("WIDE").StudyInstanceUID)
    rerun_rules(desk.settings, [str(study.study_instance_uid)])
    work(desk)
    assert waiting(desk) == [] and len(desk.rows(CleaningReview)) == 2
    assert len(cleaned(desk)) == 1, "what was withheld stays here"


def test_an_image_leaves_once_a_box_covers_what_was_left(desk_console: ConsoleLab, desk: Inbox) -> None:
    scrubbed(desk, "CLEAN", "NAME")
    [(number, _)] = waiting(desk)
    before = cleaned(desk)
    browser = desk_console.browser(UserRole.OPERATOR)
    assert browser.post(f"/reviews/{number}/boxes", act="clean", **BOX) == 303
    assert [row.state for row in desk.jobs()] == [JobState.SUCCEEDED, JobState.QUEUED]
    work(desk)
    first, new = cleaned(desk)
    assert waiting(desk) == [] and [first] == before, "the other image is the same object as before"
    made = dcmread(new)
    assert not made.pixel_array[:30, :130].any() and made.pixel_array[40:].any()
    assert "1 place was marked by a person (operator) on 20" in made.DerivationDescription
    assert "verified that no text is left" in made.DerivationDescription
    [fields] = audited(desk.database, AuditAction.CLEANING_JUDGED)
    assert (fields["verdict"], fields["boxes"]) == ("drawn", 1)
    assert "operator" not in str(made.get("OperatorsName", ""))


def test_an_image_that_fails_the_proof_with_its_boxes_stays_here_and_waits_again(
    desk_console: ConsoleLab, desk: Inbox
) -> None:
    scrubbed(desk, "NAME")
    browser = desk_console.browser(UserRole.OPERATOR)
    assert browser.post("/reviews/1/boxes", act="clean", **{**BOX, "right": "40"}) == 303
    work(desk)
    assert cleaned(desk) == []
    assert [row.verdict for row in desk.rows(CleaningReview)] == [ReviewVerdict.DRAWN, None]
    assert 'name="right" min="0" max="240" value="40"' in browser.page("/reviews/2"), (
        "what was drawn is still there"
    )
    browser.post("/reviews/2/boxes", act="clean", **BOX)
    work(desk)
    assert len(cleaned(desk)) == 1 and waiting(desk) == []


def test_boxes_that_are_none_are_refused(desk_console: ConsoleLab, desk: Inbox) -> None:
    scrubbed(desk, "NAME")
    browser = desk_console.browser(UserRole.OPERATOR)
    for edges, says in (
        (dict.fromkeys(BOX, ""), "draw a box first"),
        ({"right": "241"}, "outside the picture"),
        ({"left": "130"}, "outside the picture"),
        ({"left": "-1"}, "whole numbers"),
        ({"left": "1e3"}, "whole numbers"),
        ({"right": "999999"}, "whole numbers"),
        ({"right": "240", "bottom": "180"}, "more than 50%"),
    ):
        assert browser.post("/reviews/1/boxes", act="clean", **{**BOX, **edges}) == 400, edges
        assert says in browser.text, edges
    assert len(waiting(desk)) == 1 and len(desk.jobs()) == 1


def tried(browser: Browser, **fields: str) -> int:
    return browser.post("/reviews/1/boxes", act="try", name="room3-banner", **{**BOX, **fields})


def test_a_box_becomes_a_device_rule_that_was_tried_before(desk_console: ConsoleLab, desk: Inbox) -> None:
    scrubbed(desk, "NAME", "CLEAN")
    desk.settle(image("OTHER", 3, ManufacturerModelName="Scan 8"), image("NEW", 4, SoftwareVersions="3"))
    work(desk)
    operator, admin = desk_console.browser(UserRole.OPERATOR), desk_console.browser(UserRole.ADMIN)
    assert tried(operator) == 200
    assert operator.text.count("<figure>") == 2, "of this model and software only"
    assert "Save the rule" not in operator.text
    assert operator.post("/reviews/1/boxes", act="save", name="room3-banner", **BOX) == 403
    assert admin.post("/reviews/1/boxes", act="save", name="room3-banner", **BOX) == 200
    file = desk.settings.node.data_dir / DEVICE_RULES_FOLDER / "room3-banner.toml"
    [rule] = tomllib.loads(file.read_text(encoding="utf-8"))["rule"]
    assert rule["match"] == {
        "manufacturer": "Maker [[]X]",
        "model": "Scan 7",
        "software": "2.1",
        "modality": "US",
        "rows": 180,
        "columns": 240,
    }
    assert rule["rectangles"] == [{"left": 0, "top": 0, "right": 130, "bottom": 30}]
    assert [one.name for one in read_rules(file.parent) if one.name == rule["name"]] == ["room3-banner"]
    [fields] = audited(desk.database, AuditAction.RULE_SAVED)
    assert fields["name"] == "room3-banner"
    work(desk)
    assert waiting(desk) == [], "and the image was cleaned with the box"


def test_a_device_rule_makes_new_objects_of_its_images_only(desk_console: ConsoleLab, desk: Inbox) -> None:
    scrubbed(desk, "CLEAN")
    desk.settle(image("NAME", 2, ManufacturerModelName="Scan 8"))
    work(desk)
    before = {row.sop_instance_uid for row in desk.rows(Result)}
    [(number, _)] = waiting(desk)
    desk_console.browser(UserRole.ADMIN).post(f"/reviews/{number}/boxes", act="save", name="eight", **BOX)
    work(desk)
    after = {row.sop_instance_uid for row in desk.rows(Result)}
    assert before < after and len(after - before) == 1


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
def node_masks(open_with_users: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch) -> Inbox:
    """An analysed film, and an earlier one of the same patient."""
    entry = EntryPoint("outlined", f"{__name__}:Outlined", pipelines.GROUP)
    monkeypatch.setitem(pipelines.PIPELINES, "outlined", entry)
    made = configuration()
    made["rules"][0] |= {"pipeline": "outlined", "options": {}, "when": {"modality": "*"}}
    made["peers"][1]["results"] = ["sr", "seg"]
    node_masks = open_with_users(made)
    pixels = np.linspace(0, 4000, 160 * 220).reshape(160, 220).astype("<u2")
    node_masks.settle(
        changed(chest("now", pixels), PatientID="P", StudyDate="20260301"),
        changed(chest("before", pixels), PatientID="P", StudyDate="20240301"),
        changed(chest("other", pixels), PatientID="Q", StudyDate="20240301"),
        changed(ultrasound("us"), PatientID="P", StudyDate="20240302"),
        changed(chest("later", pixels), PatientID="P", StudyDate="20260401"),
    )
    work(node_masks)
    return node_masks


def test_each_organ_is_a_picture_of_its_own_and_may_be_switched_on(node_masks: Inbox) -> None:
    browser = ConsoleLab(node_masks.settings, node_masks.database).browser(UserRole.VIEWER)
    assert (
        'data-shows="AI Heart"' in browser.page("/studies/images/1")
        and 'data-shows="AI Left lung"' in browser.text
    )
    number = node_masks.scalars(select(Result.id).where(Result.kind == ResultKind.SEG))[0]
    assert browser.get(f"/studies/results/{number}/masks/2") == 200
    picture = np.asarray(Image.open(io.BytesIO(browser.content)))
    assert picture.shape == (160, 220, 4)
    assert picture[50, 150, 3] > 0 and picture[70, 80, 3] == 0  # the lung, and where the heart is
    for place in (f"/studies/results/{number}/masks/3", "/studies/results/1/masks/1"):
        assert browser.get(place) == 404
    assert browser.get(f"/studies/results/{number}/masks/x") == 400


PIXELS = np.arange(64 * 64, dtype="<u2").reshape(64, 64)


@pytest.fixture
def browser(console: ConsoleLab) -> Browser:
    return console.browser(UserRole.VIEWER)


def test_values_come_after_the_modality_lut(browser: Browser, inbox: Inbox) -> None:
    inbox.settle(changed(chest("one", PIXELS), RescaleIntercept=-1024))
    assert browser.get("/studies/images/1/1/samples") == 200
    window = {"centre": 2048.0, "width": 4096.0, "function": "LINEAR"}
    assert json.loads(browser.headers["X-Samples"]) == {"type": "i2", "window": window, "inverted": False}
    values = np.frombuffer(browser.content, "<i2").reshape(64, 64)
    assert np.array_equal(values, PIXELS.astype(int) - 1024)


def test_colours_come_as_rgb(browser: Browser, inbox: Inbox) -> None:
    inbox.settle(image := ultrasound("one"))
    browser.get("/studies/images/1/1/samples")
    assert (browser.headers["X-Samples"], browser.content) == ('{"type": "rgb"}', image.PixelData)


def test_a_purged_or_broken_file_is_not_found(browser: Browser, inbox: Inbox) -> None:
    inbox.settle(chest("one", PIXELS))
    file = inbox.folder / inbox.rows(Instance)[0].path
    file.write_bytes(file.read_bytes()[:600])
    assert browser.get("/studies/images/1/1/samples") == 404
    inbox.put(Instance, 1, purged=True)
    assert browser.get("/studies/images/1/1/samples") == 404


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        ({"CineRate": "24"}, 24.0),
        ({"RecommendedDisplayFrameRate": "30"}, 30.0),
        ({"FrameTime": "40"}, 25.0),
        ({"FrameTime": "0"}, 15.0),
        ({"CineRate": "-5"}, 15.0),
        ({"CineRate": "9999"}, 60.0),
        ({}, 15.0),
    ],
)
def test_cines_play_as_the_file_says_within_bounds(
    browser: Browser, inbox: Inbox, given: dict[str, str], rate: float
) -> None:
    inbox.settle(changed(chest("one", PIXELS), **given))
    found = re.search(r'data-about="([^"]*)"', browser.page("/studies/images/1"))
    assert found and json.loads(html.unescape(found[1]))["rate"] == rate


SIDE, FRAMES = 1023, 512  # frames that begin within a byte, 64 MiB of them


def test_one_frame_of_a_large_object_costs_no_more_than_a_frame(tmp_path: Path) -> None:
    image, path = ultrasound("one"), tmp_path / "seg.dcm"
    image.Rows = image.Columns = SIDE
    image.NumberOfFrames, image.SamplesPerPixel, image.PhotometricInterpretation = FRAMES, 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 1
    image.HighBit, image.file_meta.TransferSyntaxUID = 0, ExplicitVRLittleEndian
    image.PixelData = bytes((SIDE * SIDE * FRAMES + 7) // 8)
    image.save_as(path, enforce_file_format=True)
    start = dcmread(path, defer_size=1024).get_item("PixelData", keep_deferred=True).value_tell
    pixel = 5  # the sixth pixel of the last frame but one is set
    position = (FRAMES - 2) * SIDE * SIDE + pixel
    with path.open("r+b") as file:
        file.seek(start + position // 8)
        file.write(bytes([1 << position % 8]))
    tracemalloc.start()
    [frame] = dicomweb.frames(path, [FRAMES - 1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    bits = np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")[: SIDE * SIDE]
    assert np.flatnonzero(bits).tolist() == [pixel] and peak < 2**24


def result(node: Inbox, kind: ResultKind) -> Result:
    return next(row for row in node.rows(Result) if row.kind is kind)


def test_an_image_has_its_layers_and_marks(node: Inbox) -> None:
    still, moving = (node.read(images.view, node.settings, number) for number in (1, 2))
    assert (still["before"], still["after"], moving["before"], moving["after"]) == (None, 2, 1, None)
    for shown, frames in ((still, []), (moving, [2])):
        names = ["Cleaned", "Heat map: Mark", "Drawn into the picture"]
        assert [layer["name"] for layer in shown["layers"]] == names
        assert [layer["same_size"] for layer in shown["layers"]] == [True, False, False]
        [mark] = shown["marks"]
        assert (mark["text"], mark["decision"], mark["frames"]) == ("Mark", "present", frames)
        assert set(mark["points"]) == {(10.0, 10.0), (30.0, 10.0), (30.0, 25.0), (10.0, 25.0)}
    assert (still["columns"], still["rows"]) == (240, 180)
    assert {layer["id"] for layer in still["layers"]}.isdisjoint(layer["id"] for layer in moving["layers"])


def test_every_page_of_a_study_says_whose_it_is_and_a_heat_map_what_it_is_of(node: Inbox) -> None:
    browser = ConsoleLab(node.settings, node.database).browser(UserRole.OPERATOR)
    heatmap = result(node, ResultKind.HEATMAP).id
    below = ["images/1", "images/1?layer=1", f"results/{heatmap}", f"results/{heatmap}/content", "1/withdraw"]
    for page in below:
        assert re.search(r'class="whose"><b>\w+.*ID-one', browser.page(f"/studies/{page}")), page
    assert browser.page("/studies/1").count("heat map: Mark") == 4, "a tile and a row for each of two"
    assert "AI score of Mark" not in browser.text and "<small>score</small>" in browser.text


def test_a_report_is_a_tree_of_its_items(node: Inbox) -> None:
    tree, whole = contents.contents(node.folder / result(node, ResultKind.SR).path)
    found = {(n.name, n.value, n.note) for n in flat(tree)}
    assert whole and found >= {
        ("Imaging Measurement Report", "", "CONTAINER"),
        ("Presence", "Suspected", "CODE"),
        ("AI score of Mark", "0.75", "NUM"),
    }
    assert any(name == "Image Region" and value.startswith("POLYLINE (10, 10)") for name, value, _ in found)


def test_a_tree_without_end_is_cut_off(tmp_path: Path) -> None:
    item = Dataset()
    item.CodeMeaning = "x" * 64
    large = changed(ultrasound("large"), ProcedureCodeSequence=[item] * 5000)
    large.save_as(tmp_path / "large.dcm", enforce_file_format=True)
    tree, whole = contents.contents(tmp_path / "large.dcm")
    assert not whole and len(list(flat(tree))) <= 3000


def flat(nodes: list[contents.Node]) -> Iterator[contents.Node]:
    for node in nodes:
        yield node
        yield from flat(node.children)


def test_the_timeline_goes_from_the_association_to_the_confirmation(node: Inbox) -> None:
    node.put(Delivery, sent_at=utc_now(), confirmed_at=utc_now())
    steps = node.read(timeline.timeline, 1)
    assert [re.sub(r"\d+", "N", step["what"]) for step in steps] == [
        "MODALITY opened an association",
        "N objects received from MODALITY",
        "association released",
        "complete: nothing more came in the quiet time",
        "job N queued by rule rule",
        "job N started",
        "job N succeeded",
        "N of N results sent to pacs",
        "N of N results confirmed in pacs",
    ]
    assert steps[6]["more"] == f"{len(node.rows(Result))} results built"
    assert steps[0]["seconds"] is None and all(step["seconds"] >= 0 for step in steps[1:])


def test_a_person_chooses_between_two_versions_of_an_image(console: ConsoleLab, inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image)
    inbox.settle(changed(image, PixelData=bytes(255 - value for value in image.PixelData)), calling="QUICK")
    browser = console.at("/studies/1", UserRole.OPERATOR)
    assert 'href="/studies/1/versions"' in browser.text
    assert re.findall(r"<dd>(MODALITY|QUICK)</dd>", browser.page("/studies/1/versions")) == [
        "MODALITY",
        "QUICK",
    ]
    seen = browser.field("as_of")
    pictures = re.findall(r'src="(/studies/received/[^"]+)"', browser.text)
    shown = [(browser.get(address), browser.content)[1] for address in pictures]
    assert len(set(shown)) == len(shown) == 2
    assert browser.post("/studies/1/release") == 409 and "choose first" in browser.text
    assert browser.post("/studies/1/release", take1="2") == 409  # nobody says what was looked at
    assert browser.post("/studies/1/release", take1="2", as_of=seen) == 303
    assert inbox.study(image.StudyInstanceUID).state is StudyState.RECEIVING
    assert inbox.file_of(image.SOPInstanceUID).PixelData != image.PixelData
    assert console.audited("study_released") == [{"taken": [2]}]
    assert browser.post("/studies/1/release", take1="2", as_of=seen) == 409
