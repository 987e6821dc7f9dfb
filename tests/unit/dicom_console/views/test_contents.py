"""What the pages of an image and of a report show."""

import re
from collections.abc import Iterator
from pathlib import Path

from dicom_console.views import contents
from dicom_node.base.lifecycle import ResultKind, UserRole
from dicom_node.people import pictures
from tests.console_lab import console_of
from tests.inbox_lab import Inbox
from tests.modality import data_set, ultrasound
from tests.unit.dicom_console.decisions_lab import result
from tests.unit.receive.objects import changed


def test_an_image_has_its_layers_and_marks(node: Inbox) -> None:
    still, moving = (node.read(pictures.image_view, node.settings, number) for number in (1, 2))
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
    browser = console_of(node).browser(UserRole.OPERATOR)
    heatmap = result(node, ResultKind.HEATMAP).id
    for page in [
        "images/1",
        "images/1?layer=1",
        f"results/{heatmap}",
        f"results/{heatmap}/content",
        "1/withdraw",
    ]:
        assert re.search(r'class="whose"><b>\w+.*ID-one', browser.page(f"/studies/{page}")), page
    assert browser.page("/studies/1").count("heat map: Mark") == 4, "a tile and a row for each of two"
    assert "AI score of Mark" not in browser.text
    assert " score</small>" in browser.text


def test_a_report_is_a_tree_of_its_items(node: Inbox) -> None:
    tree, whole = contents.contents(node.folder / result(node, ResultKind.SR).path)
    found = {(n.name, n.value, n.note) for n in flat(tree)}
    assert whole
    assert found >= {
        ("Imaging Measurement Report", "", "CONTAINER"),
        ("Presence", "Suspected", "CODE"),
        ("AI score of Mark", "0.75", "NUM"),
    }
    assert any(name == "Image Region" and value.startswith("POLYLINE (10, 10)") for name, value, _ in found)


def test_a_tree_without_end_is_cut_off(tmp_path: Path) -> None:
    large = changed(ultrasound("large"), ProcedureCodeSequence=[data_set(CodeMeaning="x" * 64)] * 5000)
    large.save_as(tmp_path / "large.dcm", enforce_file_format=True)
    tree, whole = contents.contents(tmp_path / "large.dcm")
    assert not whole
    assert len(list(flat(tree))) <= 3000


def flat(nodes: list[contents.Node]) -> Iterator[contents.Node]:
    for node in nodes:
        yield node
        yield from flat(node.children)
