"""Orthanc with its real Python plugin has what it receives cleaned, and never stores what is not."""

import io
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE

from ai_pipeline.burnin.tools import shared_tools
from ai_pipeline.serve.tasks import Answer, Outcome, Task
from tests import ROOT
from tests.modality import part_10, ultrasound_from
from tests.ports import free_port
from tests.ultrasound_lab import SIZE, Reader, decoded, picture
from tests.unit.ai_pipeline.serve.serve_lab import Scripted, Service, served
from tests.unit.ai_pipeline.serve.test_karnak import Cleaning
from tests.waiting import wait_until
from tests.wire.orthanc_lab import Orthanc, start_orthanc

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancPython.so")
SCRIPT = ROOT / "orthanc" / "clean_received.py"
SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
NOWHERE = "http://127.0.0.1:9"
DONE = Answer(Outcome.CLEANED, media_type="application/dicom")
WITHHELD = Answer(Outcome.WITHHELD, "no cleaned picture: text is left")
pytestmark = pytest.mark.debian("orthanc", "orthanc-python")


class Blackened(Scripted):
    """Answers with the object that came, in black and with a UID of its own: quick."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(*answers)
        self._one_by_one = threading.Lock()  # callers come side by side, and ``cleaned`` is of one task

    def answer(self, task: Task, source: int, target: int, waits: Callable[[], bool]) -> Answer:
        with self._one_by_one:
            return self._blackened(task, source, target, waits)

    def _blackened(self, task: Task, source: int, target: int, waits: Callable[[], bool]) -> Answer:
        dataset = dcmread(io.BytesIO(os.pread(source, 1 << 20, 0)))
        dataset.PixelData = bytes(len(dataset.PixelData))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SOPInstanceUID}.1"
        equipment = Dataset()
        equipment.Manufacturer, equipment.ManufacturerModelName = "DICOM AI Node project", "ai-pipeline"
        dataset.ContributingEquipmentSequence = [equipment]
        self.cleaned = part_10(dataset)
        return super().answer(task, source, target, waits)


def an_image(name: str, sop_class: str = "") -> Dataset:
    image = ultrasound_from(name, np.full((8, 8, 3), 200, np.uint8))
    if sop_class:
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = sop_class
    return image


def is_black(content: bytes) -> bool:
    return not dcmread(io.BytesIO(content)).pixel_array.any()


@contextmanager
def orthanc_with(
    folder: Path, settings: dict[str, Any], *, change: str = "", **config: Any
) -> Iterator[Orthanc]:
    """An Orthanc with the script; ``change``: Python that follows it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = SCRIPT.read_text(encoding="utf-8").replace("RETRY_SECONDS = 30.0", "RETRY_SECONDS = 0.5")
    (folder / SCRIPT.name).write_text(text.replace("\nregister()\n", f"\n{change}\nregister()\n"), "utf-8")
    config |= {"PythonScript": str(folder / SCRIPT.name), "CleanReceived": settings}
    with start_orthanc(folder, plugins=[PLUGIN], config=config) as orthanc:
        yield orthanc


def stored_by(orthanc: Orthanc, image: Dataset) -> int:
    """Store an object by C-STORE; returns the status."""
    entity = AE("US1")
    entity.add_requested_context(image.SOPClassUID, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", orthanc.dicom_port, ae_title=orthanc.ae_title)
    assert association.is_established
    status: int = association.send_c_store(image).Status
    association.release()
    return status


def state_of(orthanc: Orthanc, uid: str) -> str:
    metadata: dict[str, str] = orthanc.get(f"/instances/{orthanc.id_of(uid)}/metadata?expand")
    return metadata.get("4201", "")


@pytest.fixture(scope="module")
def cleaning() -> Iterator[Service]:
    with served(DONE, cleaning=Blackened([DONE])) as service:
        yield service


def replacing(service: Service, **settings: Any) -> dict[str, Any]:
    return {"Url": service.url, "Ultrasound": "Replace", "SecondaryCapture": "Replace", **settings}


def test_a_stored_study_holds_no_name(tmp_path: Path) -> None:
    Cleaning.tools = shared_tools()
    reader = Reader(side=240)
    images = [ultrasound_from(f"study {seed}", picture(seed, SIZE, colour=True)) for seed in (3, 4)]
    with (
        served(cleaning=Cleaning()) as service,
        orthanc_with(tmp_path, replacing(service)) as orthanc,
    ):
        assert [stored_by(orthanc, image) for image in images] == [SUCCESS, SUCCESS]
        held = [orthanc.fetch(uid) for uid in orthanc.instances()]
    assert len(held) == 2
    assert [secret for content in held for secret in reader.secrets(decoded(content)[0])] == []
    assert not {image.SOPInstanceUID for image in images} & {
        dcmread(io.BytesIO(c)).SOPInstanceUID for c in held
    }
    assert {dcmread(io.BytesIO(content)).StudyInstanceUID for content in held} == {
        image.StudyInstanceUID for image in images
    }


@pytest.mark.parametrize("way", ["C-STORE", "REST"])
def test_only_the_kinds_that_are_set_are_replaced(tmp_path: Path, cleaning: Service, way: str) -> None:
    capture, other = (
        an_image(name, uid) for name, uid in (("sc", SecondaryCaptureImageStorage), ("ct", CTImageStorage))
    )
    ultrasound = an_image("us")
    with orthanc_with(tmp_path, replacing(cleaning, SecondaryCapture="Keep")) as orthanc:
        for image in (ultrasound, capture, other):
            assert stored_by(orthanc, image) == 0 if way == "C-STORE" else orthanc.upload(part_10(image))
        assert is_black(orthanc.fetch(f"{ultrasound.SOPInstanceUID}.1"))
        for image in (capture, other):
            assert not is_black(orthanc.fetch(image.SOPInstanceUID))
        assert len(orthanc.instances()) == 3


def test_the_same_object_again_is_stored_once(tmp_path: Path, cleaning: Service) -> None:
    with orthanc_with(tmp_path, replacing(cleaning)) as orthanc:
        assert [stored_by(orthanc, an_image("twice")) for _ in range(2)] == [SUCCESS, SUCCESS]
        assert len(orthanc.instances()) == 1


def refused(orthanc: Orthanc, image: Dataset) -> int:
    """The status of C-STORE for an object that is not stored, nor by REST."""
    status = stored_by(orthanc, image)
    with pytest.raises(OSError, match="500"):
        orthanc.upload(part_10(image))
    assert orthanc.instances() == []
    return status


def test_without_the_service_nothing_is_stored_and_the_sender_tries_again(tmp_path: Path) -> None:
    with orthanc_with(tmp_path, {"Url": NOWHERE, "Ultrasound": "Replace"}) as orthanc:
        assert refused(orthanc, an_image("us")) == OUT_OF_RESOURCES
        assert stored_by(orthanc, an_image("ct", CTImageStorage)) == SUCCESS


def test_what_is_withheld_is_not_stored_and_the_sender_does_not_try_again(tmp_path: Path) -> None:
    with served(WITHHELD) as service, orthanc_with(tmp_path, replacing(service)) as orthanc:
        assert refused(orthanc, an_image("us")) == CANNOT_UNDERSTAND
        assert "text is left" in orthanc.log.read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize("name", ["Withheld", "Unavailable"])
def test_what_is_discarded_by_setting_is_a_success_and_gone(tmp_path: Path, name: str) -> None:
    with served(WITHHELD) as service:
        url = service.url if name == "Withheld" else NOWHERE
        with orthanc_with(tmp_path, {"Url": url, "Ultrasound": "Replace", name: "Discard"}) as orthanc:
            assert stored_by(orthanc, an_image("us")) == SUCCESS
            assert orthanc.upload(part_10(an_image("us")))["Status"] == "FilteredOut"
            assert orthanc.instances() == []


def test_a_service_that_hangs_costs_one_deadline(tmp_path: Path) -> None:
    ended = threading.Event()
    with served(DONE, before=lambda: ended.wait(60)) as service:
        with orthanc_with(tmp_path, replacing(service, DeadlineSeconds=2)) as orthanc:
            begin = time.monotonic()
            assert stored_by(orthanc, an_image("first")) == OUT_OF_RESOURCES
            first = time.monotonic()
            assert stored_by(orthanc, an_image("second")) == OUT_OF_RESOURCES
            assert stored_by(orthanc, an_image("ct", CTImageStorage)) == SUCCESS
            others = time.monotonic()
        ended.set()
    assert 1.5 < first - begin < 10
    assert others - first < 2


@pytest.mark.parametrize("padding", [" ", "\\1.2.3", "\0\0"], ids=["blank", "two values", "zeros"])
def test_an_odd_sop_class_is_no_way_past(tmp_path: Path, cleaning: Service, padding: str) -> None:
    image = an_image("odd")
    uid = str(image.SOPClassUID)
    content = part_10(image)
    meta = 132 + 12 + int.from_bytes(content[140:144], "little")
    at = content.index(b"\x08\x00\x16\x00UI", meta)
    length = int.from_bytes(content[at + 6 : at + 8], "little")
    value = (uid + padding).encode()
    value += b"\0" * (len(value) % 2)
    odd = content[: at + 6] + len(value).to_bytes(2, "little") + value + content[at + 8 + length :]
    with orthanc_with(tmp_path, replacing(cleaning)) as orthanc:
        orthanc.upload(odd)
        assert orthanc.instances() == [f"{image.SOPInstanceUID}.1"]


def another(**attributes: str) -> bytes:
    image = an_image("us")
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    return part_10(image)


def answer_of(content: bytes, kind: bytes = b"application/dicom", length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, size, content)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(answer_of(another(PatientID="another")), id="another patient"),
        pytest.param(answer_of(another(StudyInstanceUID="1.2.3")), id="another study"),
        pytest.param(answer_of(another(SOPClassUID=CTImageStorage)), id="another kind"),
        pytest.param(answer_of(part_10(an_image("us")), length=10**6), id="cut"),
        pytest.param(
            answer_of(part_10(an_image("us"))).replace(b"Content-Length", b"X"), id="without length"
        ),
        pytest.param(answer_of(part_10(an_image("us")), b"text/html"), id="another type"),
        pytest.param(answer_of(bytes(128) + b"DICM" + b"nonsense" * 9), id="no DICOM"),
        pytest.param(answer_of(b""), id="nothing"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", id="elsewhere"),
        pytest.param(b"220 smtp.example.org ESMTP\r\n", id="no HTTP"),
    ],
)
def test_an_answer_that_is_none_stores_nothing(tmp_path: Path, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                with caller:
                    caller.recv(1 << 20)
                    caller.sendall(answer)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with orthanc_with(tmp_path, {"Url": url, "Ultrasound": "Replace", "DeadlineSeconds": 3}) as orthanc:
            assert stored_by(orthanc, an_image("us")) == OUT_OF_RESOURCES
            assert orthanc.instances() == []
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_a_defect_of_the_script_stores_nothing(tmp_path: Path, cleaning: Service) -> None:
    """The plugin by itself stores what it received when a callback raises."""
    change = "def _read(content):\n    raise KeyboardInterrupt\n"
    with orthanc_with(tmp_path, replacing(cleaning), change=change) as orthanc:
        assert refused(orthanc, an_image("us")) == OUT_OF_RESOURCES


def copied(orthanc: Orthanc, image: Dataset) -> None:
    """Wait until the copy of an image is stored beside it."""
    copy = f"{image.SOPInstanceUID}.1"
    wait_until(lambda: copy in orthanc.instances() and state_of(orthanc, copy) == "copy", what="the copy")
    wait_until(lambda: state_of(orthanc, image.SOPInstanceUID) == "cleaned", what="the mark")
    assert is_black(orthanc.fetch(copy))
    assert not is_black(orthanc.fetch(image.SOPInstanceUID))


@pytest.mark.parametrize(
    "config", [{}, {"AuthenticationEnabled": True, "RegisteredUsers": {"a": "b"}}], ids=["open", "password"]
)
def test_a_copy_is_stored_beside_the_original_once(
    tmp_path: Path, cleaning: Service, config: dict[str, Any]
) -> None:
    images = [an_image(name) for name in ("one", "two")]
    with orthanc_with(tmp_path, {"Url": cleaning.url, "Ultrasound": "Copy"}, **config) as orthanc:
        for image in images:
            assert stored_by(orthanc, image) == SUCCESS
        for image in images:
            copied(orthanc, image)
        time.sleep(1.5)
        assert len(orthanc.instances()) == 4


def test_many_senders_at_once_lock_nothing_up(tmp_path: Path, cleaning: Service) -> None:
    """Callbacks, the thread that copies and Orthanc's own threads wait for two locks."""
    images = [
        an_image(f"{kind} {number}", sop_class)
        for number in range(8)
        for kind, sop_class in (("us", ""), ("sc", SecondaryCaptureImageStorage), ("ct", CTImageStorage))
    ]
    settings = replacing(cleaning, SecondaryCapture="Copy", DeadlineSeconds=20)
    with orthanc_with(tmp_path, settings) as orthanc, ThreadPoolExecutor(6) as pool:
        by_rest = [pool.submit(orthanc.upload, part_10(image)) for image in images[::2]]
        by_dicom = [pool.submit(stored_by, orthanc, image) for image in images[1::2]]
        assert {done.result(60)["Status"] for done in by_rest} == {"Success"}
        assert {done.result(60) for done in by_dicom} == {SUCCESS}
        wait_until(lambda: len(orthanc.instances()) == len(images) + 8, 60, "all copies")


def test_a_copy_of_what_is_withheld_is_not_made(tmp_path: Path) -> None:
    image = an_image("us")
    with (
        served(WITHHELD) as service,
        orthanc_with(tmp_path, {"Url": service.url, "Ultrasound": "Copy"}) as orthanc,
    ):
        assert stored_by(orthanc, image) == SUCCESS
        wait_until(lambda: state_of(orthanc, image.SOPInstanceUID) == "withheld", what="the mark")
        assert orthanc.instances() == [image.SOPInstanceUID]


def test_a_copy_waits_for_the_service_also_over_a_crash(tmp_path: Path) -> None:
    image, later = an_image("before"), an_image("after")
    port = free_port()
    settings = {"Url": f"http://127.0.0.1:{port}", "Ultrasound": "Copy"}
    with orthanc_with(tmp_path, settings) as orthanc:
        assert stored_by(orthanc, image) == SUCCESS
        wait_until(lambda: state_of(orthanc, image.SOPInstanceUID) == "waiting", what="the mark")
        orthanc.kill()
        orthanc.start()
        assert stored_by(orthanc, later) == SUCCESS
        with served(cleaning=Blackened([DONE]), port=port):
            copied(orthanc, image)
            copied(orthanc, later)


def test_orthanc_does_not_start_with_faulty_settings(tmp_path: Path) -> None:
    faulty = {"Url": "ftp://x", "Ultrasound": "replace", "DeadlineSeconds": 0, "Token": 1, "Secret": 1}
    with pytest.raises(AssertionError, match="Orthanc ended"), orthanc_with(tmp_path, faulty):
        pass
    log = (tmp_path / "orthanc.log").read_text(encoding="utf-8", errors="replace")
    for name in faulty:
        assert f"{name}: " in log or f"{name}, " in log


def test_every_setting_is_in_the_documentation() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    table = text.partition("_DEFAULTS")[2].partition("\n}\n")[0]
    names = [line.split('"')[1] for line in table.splitlines() if line.startswith('    "')]
    page = (ROOT / "docs" / "connect" / "orthanc-cleaning.md").read_text(encoding="utf-8")
    assert len(names) == 10
    assert [name for name in names if f"`{name}`" not in page] == []
