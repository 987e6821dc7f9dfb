"""Numbers of headers that are none: a real node takes them, and no page and no answer fails.

Each hostile value stands in all numbers of an image that it can do without, then in Number of Frames alone,
then in those of a region of an ultrasound image, an item of a sequence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian
from sqlalchemy import select

from dicom_node.config import loading
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from dicom_node.store.database import Database
from dicom_node.store.tables import Instance, Job, Result, Study
from tests.console_lab import ConsoleLab, add_users, quick_hasher, routes
from tests.modality import quick_ultrasound
from tests.node_lab import ULTRASOUND, Node, running, site_config, store
from tests.ports import free_port

pytestmark = [
    pytest.mark.timeout(600),
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")),
]

VALUES = {
    "5,000 digits": b"9" * 5000,
    "1e999": b"1e999",
    "NaN": b"NaN",
    "negative": b"-7",
    "blank": b" ",
    "U+FFFF": "\uffff".encode(),
    "backslashes": b"1\\\\2\\",
    "control characters": b"\x1b\x07\r\n",
    "figures of Arabic": "\u0663".encode(),
    "nothing": b"",
}
NUMBERS = (
    *("InstanceNumber", "SeriesNumber", "AcquisitionNumber", "PatientAge", "PatientWeight"),
    *("StudyDate", "StudyTime", "SeriesDate", "ContentDate", "AcquisitionDateTime"),
    *("PixelSpacing", "PixelAspectRatio", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"),
    *("FrameTime", "CineRate", "RecommendedDisplayFrameRate", "LossyImageCompressionRatio", "HeartRate"),
    "LongitudinalTemporalOffsetFromEvent",  # FD: eight bytes a number
)
OF_A_REGION = ("PhysicalDeltaX", "PhysicalDeltaY", "RegionFlags", "RegionLocationMinX0", "ReferencePixelX0")


def with_raw(dataset: Dataset, keyword: str, raw: bytes) -> None:
    """These very bytes as the value: in Implicit VR Little Endian nothing says what it should be."""
    dataset.add(DataElement(Tag(keyword), "OB", raw + b" " * (len(raw) % 2)))


def studies() -> Iterator[Dataset]:
    for number, raw in enumerate(VALUES.values()):
        image = quick_ultrasound(f"numbers-{number}")
        for keyword in NUMBERS:
            with_raw(image, keyword, raw)
        yield image
        image = quick_ultrasound(f"frames-{number}")
        with_raw(image, "NumberOfFrames", raw)
        yield image
        image = quick_ultrasound(f"regions-{number}")
        region = Dataset()
        for keyword in OF_A_REGION:
            with_raw(region, keyword, raw)
        image.SequenceOfUltrasoundRegions = [region]
        yield image


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleLab]:
    """The console of a node that received them, and came to an end with each."""
    node = Node(
        tmp_path_factory.mktemp("numbers"),
        site_config(free_port(), ULTRASOUND, ("sr", "gsps", "sc", "cleaned")),
    )
    sent = list(studies())
    for image in sent:
        image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    with running(node), pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "hasher", quick_hasher)
        for image in sent:
            assert store(node.port, [image], "US1") == [0]
        node.wait_for(("delivering", "delivered", "not_applicable", "quarantined", "failed"), count=len(sent))
        assert node.stop() == 0
        settings = loading.load([node.config])
        database = Database(settings.database_url)
        add_users(settings)
        yield ConsoleLab(settings, database)
        database.dispose()


def test_the_images_are_analysed_whatever_stands_in_numbers_that_they_can_do_without(lab: ConsoleLab) -> None:
    with lab.database.read() as session:
        chosen = select(Study.study_instance_uid, Study.state, Study.reason)
        wrong: list[tuple[str, str, str]] = []
        found = {str(uid): (str(state), reason) for uid, state, reason in session.execute(chosen)}
    for (name, raw), image, frames, regions in zip(VALUES.items(), *_by_kind(), strict=True):
        # Study Date and Time are copied into results: what is not ASCII there is quarantined.
        analysed = [regions, *([image] * raw.isascii() if raw.strip() else [image, frames])]
        for one in (image, frames, regions):
            state, reason = found[str(one.StudyInstanceUID)]
            if (state in ("delivering", "delivered")) != (one in analysed) or state == "failed":
                wrong.append((name, state, reason))
    assert wrong == []


def _by_kind() -> tuple[list[Dataset], list[Dataset], list[Dataset]]:
    sent = list(studies())
    return sent[::3], sent[1::3], sent[2::3]


def test_no_page_fails(lab: ConsoleLab) -> None:
    """But for the events around the moment of each event: they are two thirds of all links, and one page."""
    browser = lab.browser(UserRole.ADMIN)
    waiting, seen, failed = (
        ["/", "/events?at=2026-01-02T10:15:00Z", *addresses(lab, "/")],
        set[str](),
        list[str](),
    )
    while waiting:
        path = waiting.pop()
        if path in seen or path.startswith(("/live", "/static", "/readyz")):  # the node ended
            continue
        seen.add(path)
        if browser.get(path) >= 500:
            failed.append(path)
        elif b"<html" in browser.content[:200]:
            links = re.findall(r'(?:href|src)="(/[^"#]*)', browser.text)
            waiting += [link.replace("&amp;", "&") for link in links if "?at=" not in link]
    assert failed == []
    assert len(seen) > 60


def test_no_answer_of_the_rest_api_fails(lab: ConsoleLab) -> None:
    token = users.add_token(lab.settings, UserRole.ADMIN.value, "a test", 1)
    client = lab.browser().client
    paths = list(addresses(lab, "/api/"))
    assert len(paths) > 30
    answers = {path: client.get(path, headers={"Authorization": f"Bearer {token}"}) for path in paths}
    assert {path: answer.text for path, answer in answers.items() if answer.status_code >= 500} == {}


def addresses(lab: ConsoleLab, prefix: str) -> Iterator[str]:
    """Every address below this one, of every row that there is, and of a few that there are not."""
    with lab.database.read() as session:
        tables = (Study, Instance, Result, Job)
        numbers = {row for table in tables for row in session.scalars(select(table.id))}
    for route in routes(lab.app.routes):
        if "GET" not in route.methods or not route.path.startswith(prefix):
            continue
        if "{number}" in route.path or "{frame}" in route.path:
            for number in (*sorted(numbers | {0, 10**9}), "9" * 5000, "NaN"):
                address = route.path.replace("{number}", str(number)).replace("{frame}", "1")
                for which in ("images", "results", "cleaned"):
                    yield address.replace("{which}", which)
        elif "{" not in route.path:
            yield route.path
