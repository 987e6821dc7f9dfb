"""Numbers of a header that are none."""

import re
from collections.abc import Iterator
from contextlib import closing

import pytest
import sqlalchemy
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    ImplicitVRLittleEndian,
)

from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.tables import Instance, Job, Result, Study
from dicom_node.people import users
from tests.console_lab import ConsoleLab, add_users, console_of, quick_hasher, routes
from tests.inbox_lab import Inbox
from tests.modality import (
    quick_ultrasound,
)
from tests.unit.jobs.worker_lab import configuration, work

# What else is no number: tests/unit/ai_pipeline/images/test_header.py
VALUES = {
    "5,000 digits": b"9" * 5000,
    "NaN": b"NaN",
    "backslashes and control characters": b"1\\\\2\\\x1b\x07\r\n",
}


def with_raw(dataset: Dataset, keyword: str, raw: bytes) -> None:
    """These very bytes as the value: in Implicit VR Little Endian nothing says what it should be."""
    dataset.add(DataElement(Tag(keyword), "OB", raw + b" " * (len(raw) % 2)))


def studies() -> Iterator[tuple[str, Dataset]]:
    """Of each value: in all numbers that an image can do without, and in Number of Frames."""
    for number, (name, raw) in enumerate(VALUES.items()):
        image, region = quick_ultrasound(f"numbers-{number}"), Dataset()
        for keyword in (
            *("InstanceNumber", "SeriesNumber", "AcquisitionNumber", "PatientAge", "PatientWeight"),
            *("StudyDate", "StudyTime", "SeriesDate", "ContentDate", "AcquisitionDateTime", "FrameTime"),
            *("PixelSpacing", "PixelAspectRatio", "WindowCenter", "WindowWidth", "RescaleSlope"),
            *("RescaleIntercept", "CineRate", "RecommendedDisplayFrameRate", "HeartRate"),
            "LossyImageCompressionRatio",
            "LongitudinalTemporalOffsetFromEvent",  # FD: eight bytes a number
        ):
            with_raw(image, keyword, raw)
        for keyword in (
            *("PhysicalDeltaX", "PhysicalDeltaY", "RegionFlags", "RegionLocationMinX0"),
            "ReferencePixelX0",
        ):
            with_raw(region, keyword, raw)
        image.SequenceOfUltrasoundRegions = [region]
        frames = quick_ultrasound(f"frames-{number}")
        with_raw(frames, "NumberOfFrames", raw)
        for kind, one in ((name, image), (f"{name} of frames", frames)):
            one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            yield kind, one


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleLab]:
    """The console of a node that received and analysed them."""
    config = configuration()
    config["rules"][0] |= {"pipeline": "ultrasound", "options": {}}
    config["peers"][1]["results"] = ["sr", "gsps", "sc", "cleaned"]
    with closing(Inbox(tmp_path_factory.mktemp("numbers") / "var", config)) as node:
        node.settle(*(image for _, image in studies()))
        work(node)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(users, "hasher", quick_hasher)
            add_users(node.settings)
            yield console_of(node)


def test_the_images_are_analysed_whatever_stands_in_numbers_that_they_can_do_without(lab: ConsoleLab) -> None:
    with lab.database.read() as session:
        found = {str(row.study_instance_uid): (str(row.state), row.reason) for row in session.query(Study)}
    for kind, image in studies():
        state, reason = found[str(image.StudyInstanceUID)]
        assert (state in ("delivering", "delivered")) == (not kind.endswith(" of frames")), (
            kind,
            state,
            reason,
        )
        assert state != "failed", (kind, reason)


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


def addresses(lab: ConsoleLab, prefix: str) -> Iterator[str]:
    """Every address below this one, of every row that there is, and of a few that there are not."""
    with lab.database.read() as session:
        tables = (Study, Instance, Result, Job)
        numbers = {row for table in tables for row in session.scalars(sqlalchemy.select(table.id))}
    for route in routes(lab.app.routes):
        if "GET" not in route.methods or not route.path.startswith(prefix):
            continue
        if "{number}" in route.path or "{frame}" in route.path:
            for number in (*sorted(numbers | {0, 10**9}), "9" * 5000, "NaN"):
                address = route.path.replace("{number}", str(number)).replace("{frame}", "1")
                kinds = ("images", "results", "cleaned") if "{which}" in address else ("",)
                yield from (address.replace("{which}", which) for which in kinds)
        elif "{" not in route.path:
            yield route.path
