"""An existing Orthanc with our script: images go to the node, results come back and stay."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from dicom_node.dicom.own_objects import MANUFACTURER, MODEL_NAME
from tests.outbox_lab import Outbox, a_result
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.waiting import wait_until
from tests.wire.orthanc_lab import Orthanc, start_orthanc

pytestmark = [pytest.mark.debian("orthanc"), pytest.mark.debian("dcmtk")]

FORWARDED = (
    *(UltrasoundImageStorage, UltrasoundMultiFrameImageStorage),
    *(ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation),
)
KEPT = (CTImageStorage, Comprehensive3DSRStorage, SecondaryCaptureImageStorage)
FOLDER = Path(__file__).resolve().parents[2] / "orthanc"


@pytest.fixture
def node() -> Iterator[Pacs]:
    """A storage SCP in the place of the node."""
    with run_pacs(Pacs(free_port(), ae_title="AINODE")) as node:
        yield node


@contextmanager
def existing_orthanc(
    folder: Path,
    node_port: int,
    *,
    retry_seconds: int = 1,
    further_script: str = "",
    node_host: str = "127.0.0.1",
    addresses: str = "",
) -> Iterator[Orthanc]:
    """An Orthanc with our configuration and script; ports, folders and the pace of retries are the test's."""
    config = json.loads((FOLDER / "orthanc.json").read_text(encoding="utf-8"))
    for key in ("StorageDirectory", "IndexDirectory", "DicomPort", "HttpPort", "LuaScripts"):
        del config[key]
    config["DicomModalities"]["ainode"] |= {"Host": node_host, "Port": node_port}
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "forward-to-node.lua"
    text = (FOLDER / script.name).read_text(encoding="utf-8")
    text = text.replace("RETRY_SECONDS = 30", f"RETRY_SECONDS = {retry_seconds}")
    text = text.replace("NODE_ADDRESSES = {}", f"NODE_ADDRESSES = {{ {addresses} }}")
    script.write_text(f"{further_script}\n{text}", encoding="utf-8")
    with start_orthanc(folder, lua=[script], config=config) as orthanc:
        yield orthanc


def storescu(orthanc: Orthanc, file: Path, calling: str = "US1") -> None:
    command = ["storescu", "--required", "-aet", calling, "-aec", orthanc.ae_title]
    subprocess.run([*command, "127.0.0.1", str(orthanc.dicom_port), str(file)], check=True)


def an_object(folder: Path, sop_class: UID, **attributes: Any) -> Path:
    ds = a_result(sop_class, generate_uid(), 16)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def of_our_equipment() -> dict[str, Any]:
    item = Dataset()
    item.Manufacturer, item.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    return {"ContributingEquipmentSequence": [item]}


def mark_of(orthanc: Orthanc, sop_instance_uid: str) -> str | None:
    """The metadata that the script wrote."""
    metadata = orthanc.get(f"/instances/{orthanc.id_of(sop_instance_uid)}/metadata?expand")
    mark: str | None = metadata.get("AiNode")
    return mark


def test_ultrasound_and_x_ray_go_to_the_node_and_other_objects_stay(tmp_path: Path, node: Pacs) -> None:
    with existing_orthanc(tmp_path, node.port) as pacs:
        others, images = ([an_object(tmp_path, one) for one in classes] for classes in (KEPT, FORWARDED))
        for file in (*others, *images):
            storescu(pacs, file)
        wait_until(lambda: [mark_of(pacs, file.stem) for file in images] == ["forwarded"] * len(images))
        time.sleep(0.5)
        assert sorted(node.received) == sorted(file.stem for file in images)
        assert [mark_of(pacs, file.stem) for file in others] == [None] * len(others)


def test_results_come_back_by_every_way_and_are_not_forwarded_again(tmp_path: Path, node: Pacs) -> None:
    with existing_orthanc(tmp_path, node.port) as pacs:
        image = an_object(tmp_path, UltrasoundImageStorage)
        storescu(pacs, image)
        wait_until(lambda: node.received == [image.stem])
        peer = Pacs(pacs.dicom_port, ae_title=pacs.ae_title).peer()
        outbox = Outbox(tmp_path / "node", [peer])
        results = outbox.add_study(["pacs"])
        outbox.run_until("confirmed")
        cleaned_by_dimse = an_object(tmp_path, UltrasoundImageStorage)
        storescu(pacs, cleaned_by_dimse, calling="AINODE")
        cleaned_by_rest = an_object(tmp_path, UltrasoundImageStorage, **of_our_equipment())
        pacs.upload(cleaned_by_rest.read_bytes())
        time.sleep(1)
        pacs.get("/system")
        another = an_object(tmp_path, UltrasoundImageStorage)
        storescu(pacs, another)
        wait_until(lambda: another.stem in node.received)
        assert node.received == [image.stem, another.stem]
        for uid in (*results, cleaned_by_dimse.stem, cleaned_by_rest.stem):
            assert mark_of(pacs, uid) == "result"


def test_a_stranger_who_says_that_it_is_the_node_keeps_no_image_from_it(tmp_path: Path, node: Pacs) -> None:
    """AE title and Device UID are public; the node's host is a name here: of the loopback, but another."""
    with existing_orthanc(tmp_path, node.port, node_host="localhost") as pacs:
        by_title = an_object(tmp_path, UltrasoundImageStorage)
        storescu(pacs, by_title, calling="AINODE")
        by_device = an_object(tmp_path, UltrasoundImageStorage, **of_our_equipment())
        storescu(pacs, by_device)
        by_rest = an_object(tmp_path, UltrasoundImageStorage, **of_our_equipment())
        pacs.upload(by_rest.read_bytes())
        claimed = [by_title.stem, by_device.stem, by_rest.stem]
        wait_until(lambda: sorted(node.received) == sorted(claimed))
        wait_until(lambda: [mark_of(pacs, uid) for uid in claimed] == ["forwarded"] * 3)
        log = pacs.log.read_text(encoding="utf-8")
        assert log.count("says that it is of the node and does not come from there") == 3


def test_a_node_behind_a_name_is_known_by_the_addresses_that_the_script_names(
    tmp_path: Path, node: Pacs
) -> None:
    with existing_orthanc(
        tmp_path, node.port, node_host="localhost", addresses="'192.0.2.1', '127.0.0.1'"
    ) as pacs:
        result, image = (an_object(tmp_path, UltrasoundImageStorage) for _ in range(2))
        storescu(pacs, result, calling="AINODE")
        storescu(pacs, image)
        wait_until(lambda: node.received == [image.stem])
        assert mark_of(pacs, result.stem) == "result"


def test_what_the_node_did_not_take_is_forwarded_when_it_is_back(tmp_path: Path) -> None:
    node = Pacs(free_port(), ae_title="AINODE")
    with existing_orthanc(tmp_path, node.port) as pacs:
        files = [an_object(tmp_path, UltrasoundImageStorage) for _ in range(3)]
        for file in files:
            storescu(pacs, file)
        time.sleep(1.5)
        assert [mark_of(pacs, file.stem) for file in files] == ["waiting"] * 3
        with run_pacs(node):
            # Any HTTP request is the clock: here the questions of the test.
            wait_until(lambda: [mark_of(pacs, file.stem) for file in files] == ["forwarded"] * 3)
        assert sorted(node.stored) == sorted(file.stem for file in files)


def test_what_waited_is_forwarded_after_a_crash_of_orthanc(tmp_path: Path) -> None:
    node = Pacs(free_port(), ae_title="AINODE")
    with existing_orthanc(tmp_path, node.port) as pacs:
        file = an_object(tmp_path, DigitalXRayImageStorageForPresentation)
        storescu(pacs, file)
        wait_until(lambda: mark_of(pacs, file.stem) == "waiting")
        pacs.kill()
        with run_pacs(node):
            pacs.start()
            wait_until(lambda: mark_of(pacs, file.stem) == "forwarded")
        assert list(node.stored) == [file.stem]


def test_the_script_knows_our_equipment() -> None:
    script = (FOLDER / "forward-to-node.lua").read_text(encoding="utf-8")
    assert f"NODE_MANUFACTURER = '{MANUFACTURER}'\nlocal NODE_MODEL = '{MODEL_NAME}'" in script


def test_a_script_of_the_site_keeps_its_functions(tmp_path: Path, node: Pacs) -> None:
    theirs = """
    function OnStoredInstance(instance) print('their script ran') end
    function IncomingHttpRequestFilter(method, uri) return uri ~= '/patients' end
    """
    with existing_orthanc(tmp_path, node.port, further_script=theirs) as pacs:
        file = an_object(tmp_path, UltrasoundImageStorage)
        storescu(pacs, file)
        wait_until(lambda: node.received == [file.stem])
        assert "their script ran" in pacs.log.read_text(encoding="utf-8")
        with pytest.raises(urllib.error.HTTPError):
            pacs.get("/patients")
