"""One image with all that was made of it, what stands in a result, and the way of a study."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_console.views import contents, timeline
from dicom_node.model.kinds import ResultKind
from dicom_node.model.roles import UserRole
from dicom_node.services import images, users
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, Result
from dicom_node.store.transitions import utc_now
from tests.console_lab import ConsoleLab, add_users, quick_hasher
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.console.illustrated import analysed


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inbox]:
    """A still and a cine of one study, analysed."""
    with pytest.MonkeyPatch.context() as patch, analysed(tmp_path_factory.mktemp("viewer")) as node:
        patch.setattr(users, "hasher", quick_hasher)
        add_users(node.settings)
        yield node


def result(database: Database, kind: ResultKind) -> Result:
    with database.read() as session:
        row = session.scalars(select(Result).where(Result.kind == kind).order_by(Result.id)).first()
        assert row is not None
        session.expunge(row)
        return row


def test_an_image_has_its_layers_and_marks(node: Inbox) -> None:
    with node.database.read() as session:
        still, moving = (images.view(session, node.settings, number) for number in (1, 2))
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


def test_the_page_of_an_image_offers_what_there_is(node: Inbox) -> None:
    browser = ConsoleLab(node.settings, node.database).browser(UserRole.VIEWER)
    assert browser.get("/studies/images/2?frame=2") == 200
    layers = re.findall(r"layer=(\d+)\"", browser.text)
    assert len(layers) == 3
    assert '<g class="mark present"' in browser.text
    assert ">Mark suspected, 0.75" in browser.text
    assert browser.get("/studies/images/2?frame=3") == 200
    assert '<g class="mark present off"' in browser.text
    for layer in layers:
        assert browser.get(f"/studies/images/2?frame=2&layer={layer}") == 200
        for address in re.findall(r'(?:href|src)="(/studies/\w+/\d+/\d+)"', browser.text):
            assert browser.get(address) == 200, address
            assert browser.headers["content-type"] == "image/png"
    assert [browser.get(f"/studies/images/2?{which}") for which in ("layer=99", "frame=4")] == [200, 404]
    assert [browser.get(f"/studies/{kind}/1/1") for kind in ("images", "results", "others")] == [
        200,
        404,
        400,
    ]


def test_every_page_of_a_study_says_whose_it_is_and_a_heat_map_what_it_is_of(node: Inbox) -> None:
    browser = ConsoleLab(node.settings, node.database).browser(UserRole.OPERATOR)
    heatmap = result(node.database, ResultKind.HEATMAP).id
    below = ["images/1", "images/1?layer=1", f"results/{heatmap}", f"results/{heatmap}/content", "1/withdraw"]
    for page in below:
        assert browser.get(f"/studies/{page}") == 200
        assert re.search(r'class="whose"><b>\w+.*ID-one', browser.text), page
    browser.get("/studies/1")
    assert browser.text.count("heat map: Mark") == 4, "a tile and a row for each of two"
    assert "AI score of Mark" not in browser.text and "<small>score</small>" in browser.text


def test_a_report_is_a_tree_of_its_items(node: Inbox) -> None:
    tree, whole = contents.contents(node.folder / result(node.database, ResultKind.SR).path)
    assert whole
    found = {(n.name, n.value, n.note) for n in flat(tree)}
    assert ("Imaging Measurement Report", "", "CONTAINER") in found
    assert ("Presence", "Suspected", "CODE") in found
    assert ("AI score of Mark", "0.75", "NUM") in found
    assert any(name == "Image Region" and value.startswith("POLYLINE (10, 10)") for name, value, _ in found)


@pytest.mark.parametrize("kind", [ResultKind.GSPS, ResultKind.SC, ResultKind.CLEANED])
def test_other_results_are_a_tree_of_their_attributes(node: Inbox, kind: ResultKind) -> None:
    tree, whole = contents.contents(node.folder / result(node.database, kind).path)
    assert whole
    found = {n.name: n.value for n in flat(tree)}
    assert found["SOP Instance UID"] == result(node.database, kind).sop_instance_uid
    assert found["Patient ID"] == "ID-one"
    browser = ConsoleLab(node.settings, node.database).browser(UserRole.VIEWER)
    assert browser.get(f"/studies/results/{result(node.database, kind).id}/content") == 200
    assert "Series Instance UID:" in browser.text


def test_a_tree_without_end_is_cut_off(tmp_path: Path) -> None:
    large = ultrasound("large")
    item = Dataset()
    item.CodeMeaning = "x" * 64
    large.ProcedureCodeSequence = [item] * 5000
    large.save_as(tmp_path / "large.dcm", enforce_file_format=True)
    tree, whole = contents.contents(tmp_path / "large.dcm")
    assert not whole
    assert len(list(flat(tree))) <= 3000


def flat(nodes: list[contents.Node]) -> Iterator[contents.Node]:
    for node in nodes:
        yield node
        yield from flat(node.children)


def test_the_timeline_goes_from_the_association_to_the_confirmation(node: Inbox) -> None:
    with node.database.write() as session:
        for delivery in session.scalars(select(Delivery)):
            delivery.sent_at = delivery.confirmed_at = utc_now()
        results = len(session.scalars(select(Result)).all())
    with node.database.read() as session:
        steps = timeline.timeline(session, 1)
    told = [re.sub(r"\d+", "N", step["what"]) for step in steps]
    assert told == [
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
    assert steps[6]["more"] == f"{results} results built"
    assert steps[0]["seconds"] is None
    assert all(step["seconds"] >= 0 for step in steps[1:])
